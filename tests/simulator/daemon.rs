//! The fake engine: steps, commits, runs effects as tasks, crashes between any two of these, and comes back. Every
//! choice that the real one leaves to chance (order, delay, repetition, loss) is made by the seed.

use std::{collections::BTreeMap, time::Duration};

use bgd::rules::{
    app::{App, Release, Telling},
    effect::{Action, Effect, Note},
    event::{Ask, Event, Facts, Routed},
    ids::{Color, DeployId, EffectId, ReleaseId},
    step::{Context, Policy, Step},
    time::Time,
    words::{Nature, Phase},
};

use crate::{
    oracle::Oracle,
    rng::Rng,
    world::{self, Quality, World},
};

/// The machine, or a wrapper with a defect around it.
pub type Machine = fn(&App, &Event, &Context) -> Step;

struct Task {
    action: Action,
    due: Time,
    /// For a prune: what was there when it was asked for.
    present: Vec<ReleaseId>,
}

/// What a schedule did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub steps: u64,
    pub deploys: u64,
    pub crashes: u64,
    pub flips: u64,
    /// Ends of deploys: live, failed, superseded, cancelled, rolled back.
    pub outcomes: [u64; 5],
}

pub struct Daemon {
    machine: Machine,
    pub rng: Rng,
    pub world: World,
    pub app: App,
    journal: String,
    tasks: BTreeMap<EffectId, Task>,
    pub inbox: Vec<Event>,
    fresh: u64,
    known: Vec<Release>,
    pub now: Time,
    pub policy: Policy,
    /// In percent: effects that fail, and steps that are the daemon's last.
    faults: usize,
    crashes: usize,
    /// In percent: how much of nature's and the operators' doings takes place.
    pub bustle: usize,
    oracle: Oracle,
    pub figures: Figures,
    pub trace: Option<Vec<String>>,
}

impl Daemon {
    pub fn new(seed: u64, machine: Machine) -> Self {
        let mut rng = Rng::new(seed);
        let seconds = |choice: u64| Duration::from_secs(choice);
        let policy = Policy {
            watch: seconds(rng.pick(&[0, 30, 30])),
            standby: seconds(rng.pick(&[0, 0, 60])),
            restart: rng.percent(85),
            before_start: rng.percent(30),
            after_live: rng.percent(30),
            after_failed: rng.percent(30),
        };
        let (faults, crashes) = (rng.pick(&[0, 2, 7]), rng.pick(&[0, 1, 3]));
        let bustle = rng.pick(&[20, 50, 100]);
        Self {
            machine,
            rng,
            world: World::new(),
            app: App::default(),
            journal: serde_json::to_string(&App::default()).unwrap(),
            tasks: BTreeMap::new(),
            inbox: Vec::new(),
            fresh: 1,
            known: Vec::new(),
            now: Time(1_000_000),
            policy,
            faults,
            crashes,
            bustle,
            oracle: Oracle::default(),
            figures: Figures::default(),
            trace: None,
        }
    }

    /// For a trace only.
    fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if let Some(mut trace) = self.trace.take() {
            trace.push(brief(&line(self)));
            self.trace = Some(trace);
        }
    }

    fn context(&self) -> Context {
        Context {
            now: self.now,
            utc: "20261121T101112Z".to_owned(),
            fresh: DeployId(self.fresh),
            policy: self.policy.clone(),
        }
    }

    /// Step, commit, run.
    pub fn deliver(&mut self, event: &Event) -> Result<(), String> {
        let effects = self.commit(event)?;
        for effect in effects {
            self.spawn(effect);
        }
        self.after()
    }

    /// Step and commit, then die before, in or after the effects.
    pub fn deliver_and_crash(&mut self, event: &Event) -> Result<(), String> {
        let effects = self.commit(event)?;
        for effect in effects {
            if self.rng.percent(50) {
                self.tell(|_| format!("  half run before the crash: {:?}", effect.action));
                let _lost = self.world.obey(&effect.action);
            }
        }
        if let Some(crime) = self.world.crimes.first() {
            return Err(crime.clone());
        }
        self.crash()
    }

    fn commit(&mut self, event: &Event) -> Result<Vec<Effect>, String> {
        let context = self.context();
        self.tell(|_| format!("event {event:?}"));
        let step = (self.machine)(&self.app, event, &context);
        if step != (self.machine)(&self.app, event, &context) {
            return Err("the step is not deterministic".to_owned());
        }
        let before = std::mem::replace(&mut self.app, step.next.clone());
        self.tell(|it| {
            format!(
                "  -> {:?}\n     serving {:?}\n     idle {:?}\n     hold {:?}\n     effects {:?}",
                it.app.pipeline, it.app.serving, it.app.idle, it.app.hold, step.effects
            )
        });
        self.journal = serde_json::to_string(&self.app).map_err(|error| error.to_string())?;
        let back: App = serde_json::from_str(&self.journal).map_err(|error| error.to_string())?;
        if back != self.app {
            return Err("the journal does not give the state back".to_owned());
        }
        self.figures.steps += 1;
        for noted in &step.notes {
            self.known.extend(noted.release.clone().filter(|_| matches!(noted.note, Note::ReleaseNamed)));
            let used = match &noted.note {
                Note::DeployStarted => {
                    self.figures.deploys += 1;
                    noted.deploy.as_ref().map(|deploy| deploy.id)
                }
                Note::Queued(queued) => Some(queued.id),
                Note::DeployEnded(end) => {
                    self.figures.outcomes[end.outcome as usize] += 1;
                    None
                }
                _ => None,
            };
            if used == Some(DeployId(self.fresh)) {
                self.fresh += 1;
            }
        }
        self.oracle.judge(&before, event, &step, (&self.world, self.now))?;
        Ok(step.effects)
    }

    fn after(&mut self) -> Result<(), String> {
        for (color, release) in std::mem::take(&mut self.world.ended) {
            self.inbox.push(Event::InstanceDied {
                color,
                release,
                how: "exit 1".to_owned(),
                last_words: Vec::new(),
            });
        }
        if let Some(crime) = self.world.crimes.first() {
            return Err(crime.clone());
        }
        if self.is_quiet() { self.oracle.judge_quiet(&self.app, &self.world, &self.policy) } else { Ok(()) }
    }

    /// All effects had time to act: only timers and watches are left, and nothing is unread.
    fn is_quiet(&self) -> bool {
        self.inbox.is_empty()
            && self
                .tasks
                .values()
                .all(|task| matches!(task.action, Action::Wake { .. } | Action::Watch { .. }))
    }

    fn spawn(&mut self, effect: Effect) {
        if let Action::Cancel(other) = &effect.action {
            // The cancelled one may have acted already; it reports nothing more.
            if let Some(task) = self.tasks.remove(other)
                && self.rng.percent(50)
            {
                let _lost = self.world.obey(&task.action);
            }
            return;
        }
        let due = self.now.plus(world::takes(&effect.action, self.policy.watch));
        let present = self.world.directories.keys().cloned().collect();
        self.tasks.insert(effect.id, Task { action: effect.action, due, present });
    }

    fn due(&self) -> Vec<EffectId> {
        let fails_early = |action: &Action| match action {
            Action::Watch { release, color } => self
                .world
                .processes
                .get(color)
                .is_none_or(|process| process.release.id != release.id || !process.healthy),
            _ => false,
        };
        let due = |task: &Task| task.due <= self.now || fails_early(&task.action);
        self.tasks.iter().filter(|(_, task)| due(task)).map(|(id, _)| *id).collect()
    }

    /// One task comes to its end; its report is on the way.
    pub fn act(&mut self) -> Result<bool, String> {
        if !self.world.healed && self.rng.percent(15) {
            self.doom()?;
        }
        let due = self.due();
        if due.is_empty() {
            return Ok(false);
        }
        let effect = self.rng.pick(&due);
        let task = self.tasks.remove(&effect).unwrap();
        let can_fail = !self.world.healed && !matches!(task.action, Action::Wake { .. });
        let result = if can_fail && self.rng.percent(self.faults) {
            let nature = self.rng.pick(&[Nature::Transient, Nature::Deterministic, Nature::FrontStuck]);
            // A front that is stuck says so before it touches anything.
            if nature != Nature::FrontStuck && self.rng.percent(50) {
                let _hidden = self.world.obey(&task.action);
            }
            Err(world::failure(Phase::Building, nature, "an injected fault"))
        } else {
            self.prune(&task);
            self.world.obey(&task.action)
        };
        self.tell(|_| {
            format!("act {effect} {:?} = {:?}", task.action, result.as_ref().map_err(|it| &it.cause))
        });
        self.inbox.push(Event::Done { effect, result });
        self.after()?;
        Ok(true)
    }

    fn prune(&mut self, task: &Task) {
        if let Action::Prune { protect } = &task.action {
            for release in task.present.iter().filter(|release| !protect.contains(release)) {
                self.world.directories.remove(release);
            }
        }
    }

    /// Reads one event; which one is chance, and so is whether it arrives twice.
    pub fn read(&mut self) -> Result<bool, String> {
        if self.inbox.is_empty() {
            return Ok(false);
        }
        let at = self.rng.below(self.inbox.len());
        let event = self.inbox.remove(at);
        if !self.world.healed {
            if self.rng.percent(4) {
                self.inbox.push(event.clone());
            }
            if self.rng.percent(self.crashes) {
                self.deliver_and_crash(&event)?;
                return Ok(true);
            }
        }
        self.deliver(&event)?;
        Ok(true)
    }

    pub fn poll(&mut self) -> Result<(), String> {
        match self.world.tip {
            Some(tip) => self.deliver(&Event::HeadSeen(world::commit(tip))),
            None => Ok(()),
        }
    }

    pub fn ask(&mut self, ask: Ask) -> Result<(), String> {
        if ask == Ask::Flip {
            self.figures.flips += 1;
        }
        let event = Event::Asked { by: "operator".to_owned(), ask };
        if !self.world.healed && self.rng.percent(self.crashes) {
            return self.deliver_and_crash(&event);
        }
        self.deliver(&event)
    }

    /// The daemon is killed, the world goes on without it, and it comes back.
    pub fn crash(&mut self) -> Result<(), String> {
        self.figures.crashes += 1;
        self.tell(|_| "CRASH".to_owned());
        for task in std::mem::take(&mut self.tasks).into_values() {
            if self.rng.percent(30) {
                let _unheard = self.world.obey(&task.action);
            }
        }
        self.inbox.clear();
        self.app = serde_json::from_str(&self.journal).map_err(|error| error.to_string())?;
        let could_be_asked = !self.rng.percent(10);
        self.while_away(could_be_asked);
        self.world.ended.clear();
        let facts = Facts {
            routed: match self.world.front.to {
                _ if !could_be_asked => Routed::Unknown,
                Some(color) => Routed::Color(color),
                None => Routed::Nothing,
            },
            running: self
                .world
                .processes
                .iter()
                .map(|(color, process)| (*color, process.release.id.clone()))
                .collect(),
            builds: self.world.builds.iter().cloned().collect(),
            known: self.known.clone(),
        };
        self.oracle.forget_tasks();
        let event = Event::Recovered(facts);
        if self.rng.percent(10) { self.deliver_and_crash(&event) } else { self.deliver(&event) }
    }

    fn while_away(&mut self, may_interfere: bool) {
        if self.rng.percent(15) {
            self.tell(|_| "REBOOT".to_owned());
            self.world.processes.clear();
            self.world.builds.clear();
            if self.rng.percent(50) {
                self.front_restarts();
            }
        }
        for color in Color::ALL {
            if self.rng.percent(10) {
                self.world.kill(color);
            }
        }
        if may_interfere && self.rng.percent(3) {
            let color = self.rng.pick(&Color::ALL);
            self.tell(|_| format!("somebody routes to {color}"));
            self.world.front.to = Some(color);
        }
    }

    /// The front's process is a new one: it routes nothing and knows no generation.
    pub fn front_restarts(&mut self) {
        self.world.front.to = None;
        self.world.front.generation.0 = 0;
    }

    /// A process ends or changes its mind by itself.
    pub fn nature_takes_its_course(&mut self) -> Result<(), String> {
        let color = self.rng.pick(&Color::ALL);
        let Some(process) = self.world.processes.get(&color).cloned() else { return Ok(()) };
        let doomed = process.proven && self.world.front.to == Some(color);
        match self.world.quality(&process.release) {
            Quality::DiesWatched if doomed => self.world.kill(color),
            Quality::SickWatched if doomed && process.healthy => self.set_health(color, false),
            Quality::NeverHealthy => {}
            _ if self.rng.percent(20) => self.world.kill(color),
            _ if self.rng.percent(20) => self.set_health(color, !process.healthy),
            _ => {}
        }
        self.after()
    }

    /// What was pushed to fail its watch does so.
    fn doom(&mut self) -> Result<(), String> {
        let watched = self.tasks.values().find_map(|task| match &task.action {
            Action::Watch { release, color } => Some((self.world.quality(release), *color)),
            _ => None,
        });
        match watched {
            Some((Quality::DiesWatched, color)) => self.world.kill(color),
            Some((Quality::SickWatched, color)) => self.set_health(color, false),
            _ => {}
        }
        self.after()
    }

    fn set_health(&mut self, color: Color, healthy: bool) {
        if let Some(process) = self.world.processes.get_mut(&color) {
            process.healthy = healthy;
            let release = process.release.id.clone();
            self.inbox.push(Event::HealthChanged { color, release, healthy, answer: "503".to_owned() });
        }
    }

    /// Ends all faults; what was sick recovers, save what never could.
    pub fn heal(&mut self) {
        self.tell(|_| "HEALED".to_owned());
        self.world.healed = true;
        self.world.front.broken = false;
        for color in Color::ALL {
            let Some(process) = self.world.processes.get(&color) else { continue };
            if !process.healthy && self.world.quality(&process.release) != Quality::NeverHealthy {
                self.set_health(color, true);
            }
        }
    }

    /// Runs until nothing moves; an error when that takes too long.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3000 {
            if self.read()? || self.act()? {
                continue;
            }
            if let Some(next) = self.tasks.values().map(|task| task.due).min() {
                self.now = next.max(self.now);
                continue;
            }
            let before = self.app.clone();
            self.poll()?;
            if self.app != before || !self.is_quiet() || !self.tasks.is_empty() {
                continue;
            }
            match bgd::rules::step::wanted(&self.app, self.now) {
                Err(bgd::rules::step::Blocked::RetryLater(at)) => {
                    self.now = at;
                    self.deliver(&Event::Ticked)?;
                }
                _ => return self.oracle.judge_settled(&self.app, &self.world, &self.policy),
            }
        }
        Err(format!("it does not come to rest: {:?} {:?}", self.app.pipeline, self.app.idle))
    }

    /// Whether the front is being told again and again.
    pub fn insists(app: &App) -> bool {
        app.rerouting.is_some_and(|it| matches!(it.telling, Telling::Now { .. } | Telling::Later { .. }))
    }
}

/// Debug text without what does not matter in a trace.
fn brief(line: &str) -> String {
    let mut text = line.replace("ReleaseId(\"20261121T101112Z-", "(\"").replace("Release { id: ", "r");
    let cuts = [
        (", commit: CommitId(", "author: \"author\" }"),
        (", by: \"operator\"", " }"),
        (", by: \"poller\"", " }"),
        (", hint: None", "}"),
        (", since: Time(", ")"),
    ];
    for (from, to) in cuts {
        while let Some(start) = text.find(from) {
            let Some(length) = text[start..].find(to) else { break };
            text.replace_range(start..start + length + to.len(), "");
        }
    }
    text.replace("0000000000000000000000000000000000", "")
}
