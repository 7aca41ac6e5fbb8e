//! The fake engine round the real ledger: offers it events, commits what it is to record, and runs what is then due.
//! Every choice that the real engine leaves to chance (order, delay, repetition, loss) is made by the seed. How effects
//! are carried out is in `carrying`, how the daemon ends and begins again in `fate`.

use std::{collections::BTreeMap, time::Duration};

use bgd::{
    engine::ledger::{Due, Entry, Ledger, Offer, Unrecorded},
    rules::{
        app::{App, Idle, Instance, Pipeline, Stage, StageGroup, Telling},
        barrier::OnFailure,
        canary::{CanaryStep, Share},
        effect::{Action, Effect, Note},
        event::{Ask, Event},
        ids::{Color, DeployId, EffectId, ReleaseId},
        step::{self, Blocked, Context, Policy, Step},
        time::Time,
    },
};

use crate::{
    carrying::Task,
    defects::{Defect, Habit, Machine},
    figures::Figures,
    front::{Kind, Route},
    oracle::{Moment, Oracle},
    record::{Record, Transaction},
    rng::Rng,
    sharing, tasking,
    world::{self, Quality, World},
};

/// Ends of effects of this life that may be told once more, much later.
const REMEMBERED: usize = 16;
/// The longest wait before a commit is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(80);
/// Things that may happen in a healed world before it has to be at rest.
const PATIENCE: u32 = 3000;
/// When a schedule begins: far enough from zero for a clock to be set back.
const EPOCH: Time = Time(1_795_247_472_034);

/// What the seed decides before anything happens.
#[derive(Debug, Clone)]
pub struct Setup {
    pub policy: Policy,
    pub front: Kind,
    /// In percent: effects that fail, and steps that are the daemon's last.
    pub faults: usize,
    pub crashes: usize,
    /// Good releases kept; none for a retention that keeps only what is asked for.
    pub keep: usize,
    /// In percent: how much of nature's and the operators' doings takes place.
    pub bustle: usize,
    /// Some commits bring contract migrations.
    pub migrates: bool,
    /// The record is a real database.
    pub real_store: bool,
}

impl Setup {
    pub fn new(rng: &mut Rng, real_store: bool) -> Self {
        let seconds = |choice: u64| Duration::from_secs(choice);
        let mut policy = Policy {
            tasks: Vec::new(),
            warmup: rng.percent(25),
            canary_deadline: None,
            canary: if rng.percent(60) { steps(rng) } else { Vec::new() },
            hold_inconclusive: rng.percent(30),
            backup: rng.percent(30),
            watch: seconds(rng.pick(&[0, 30, 30])),
            standby: seconds(rng.pick(&[0, 0, 60])),
            restart: rng.percent(85),
            before_start: rng.percent(30),
            after_live: rng.percent(30),
            after_failed: rng.percent(30),
            on_failure: rng.pick(&[OnFailure::Stay, OnFailure::Stay, OnFailure::Flip]),
            workers: false,
        };
        // Without a further draw, so that a seed means what it meant.
        if policy.after_failed {
            policy.tasks = tasking::rules();
        }
        Self {
            policy,
            front: rng.pick(&[Kind::Builtin, Kind::Nginx]),
            faults: rng.pick(&[0, 2, 7]),
            crashes: rng.pick(&[0, 1, 3]),
            keep: rng.pick(&[0, 1, 2]),
            bustle: rng.pick(&[20, 50, 100]),
            migrates: rng.percent(40),
            real_store,
        }
    }
}

/// Shares that grow, as a configuration has to have them; the last may be without an end.
fn steps(rng: &mut Rng) -> Vec<CanaryStep> {
    let (mut percent, mut steps) = (rng.pick(&[0, 1, 5, 20]), Vec::new());
    let count = 1 + rng.below(3);
    for at in 1..=count {
        let endless = at == count && rng.percent(30);
        let hold = (!endless).then(|| Duration::from_secs(rng.pick(&[5, 15, 30])));
        steps.push(CanaryStep { share: Share::percent(percent).unwrap(), hold });
        percent += rng.pick(&[1, 10, 30]);
    }
    steps
}

/// What status would say beside the state.
#[derive(Debug, Default, Clone, Copy)]
pub struct Shown {
    /// The record can't be written.
    pub unrecorded: bool,
    /// The front is not as bgd left it.
    pub front: bool,
}

pub struct Daemon {
    pub(crate) machine: Machine,
    pub(crate) habit: Habit,
    pub rng: Rng,
    pub setup: Setup,
    pub world: World,
    pub(crate) ledger: Ledger,
    pub(crate) record: Record,
    pub(crate) tasks: BTreeMap<EffectId, Task>,
    pub inbox: Vec<Event>,
    /// Ends of effects that were told already.
    pub(crate) told: Vec<Event>,
    pub(crate) fresh: DeployId,
    /// The wall clock, which jumps.
    pub wall: Time,
    /// The clock that does not.
    pub steady: Time,
    /// What could not be recorded yet; nothing else happens until it is.
    pub(crate) stuck: Option<Box<Entry>>,
    /// A flip is under way, by an account apart from the ledger's: it alone does without a record.
    pub(crate) flip: bool,
    /// The last effect that it asked for without one.
    licensed: EffectId,
    /// How far the front's numbers are ahead of the record's.
    pub(crate) ahead: u64,
    /// Somebody touched the front since it was looked at.
    pub(crate) unseen: bool,
    pub(crate) shown: Shown,
    pub(crate) oracle: Oracle,
    /// As it was when the record was last written, while that can't be done.
    pub(crate) remembered: Option<Oracle>,
    pub figures: Figures,
    pub trace: Option<Vec<String>>,
}

impl Daemon {
    pub fn new(setup: Setup, defect: &Defect) -> Self {
        let (machine, habit) = defect.parts();
        Self {
            machine,
            habit,
            rng: Rng::new(0),
            world: World::new(setup.front, habit),
            ledger: Ledger::new(App::default(), machine),
            record: Record::new(setup.real_store),
            tasks: BTreeMap::new(),
            inbox: Vec::new(),
            told: Vec::new(),
            fresh: DeployId(1),
            wall: EPOCH,
            steady: Time(0),
            stuck: None,
            flip: false,
            licensed: EffectId(0),
            ahead: 0,
            unseen: false,
            shown: Shown::default(),
            oracle: Oracle::default(),
            remembered: None,
            figures: Figures { real_stores: u64::from(setup.real_store), ..Figures::default() },
            trace: None,
            setup,
        }
    }

    /// For a trace only.
    pub(crate) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if let Some(mut trace) = self.trace.take() {
            trace.push(brief(&line(self)));
            self.trace = Some(trace);
        }
    }

    pub fn app(&self) -> &App {
        self.ledger.app()
    }

    fn context(&self) -> Context {
        let (now, fresh, policy) = (self.wall, self.fresh, self.setup.policy.clone());
        Context { now, utc: utc(now), fresh, unrecorded: false, policy }
    }

    pub fn advance(&mut self, wait: Duration) {
        self.wall = self.wall.plus(wait);
        self.steady = self.steady.plus(wait);
    }

    /// What reaches the daemon waits for its turn while a step can't be recorded, save for a flip.
    pub fn hear(&mut self, event: Event) -> Result<(), String> {
        if self.stuck.is_none() {
            return self.deliver(&event);
        }
        if !is_flip(&event) {
            self.inbox.push(event);
            return Ok(());
        }
        self.flip = true;
        self.hurry()?;
        // What arrived before it keeps its place.
        while !self.inbox.is_empty() && self.rng.percent(40) {
            let before = self.inbox.remove(0);
            self.flip = true;
            self.deliver(&before)?;
            self.hurry()?;
        }
        self.deliver(&event)
    }

    /// A flip waits behind what is stuck.
    fn hurry(&mut self) -> Result<(), String> {
        match self.stuck.take() {
            Some(mut entry) => {
                entry.hurry();
                self.carry_out(entry)
            }
            None => Ok(()),
        }
    }

    /// Offer, commit, run.
    pub(crate) fn deliver(&mut self, event: &Event) -> Result<(), String> {
        let Some(mut entry) = self.decide(event)? else { return self.after() };
        if self.habit == Habit::ActsBeforeCommit {
            self.run(&entry.step().effects)?;
        }
        if self.habit == Habit::ActsWithoutRecord {
            entry.hurry();
        }
        self.carry_out(entry)
    }

    fn carry_out(&mut self, entry: Box<Entry>) -> Result<(), String> {
        let due = self.write(entry)?;
        if let Some(due) = due.filter(|_| self.habit != Habit::ActsBeforeCommit) {
            self.run(&due.effects)?;
        }
        self.after()
    }

    /// `None`: it changes nothing, and is not recorded.
    pub(crate) fn decide(&mut self, event: &Event) -> Result<Option<Box<Entry>>, String> {
        self.tell(|_| format!("event {event:?}"));
        let offer = self.ledger.offer(event.clone(), self.context());
        let context = Context { unrecorded: self.ledger.is_behind(), ..self.context() };
        let step = (self.machine)(self.ledger.app(), event, &context);
        self.figures.steps += 1;
        match offer {
            Offer::Record(entry) if *entry.step() == step => {
                self.flip |= is_flip(event);
                Ok(Some(entry))
            }
            Offer::Nothing(due) if due.notes == step.notes => {
                if step.next != *self.ledger.app() || !step.effects.is_empty() {
                    return Err("a step that changes something goes unrecorded".to_owned());
                }
                self.oracle.judge_answer(event, &step)?;
                Ok(None)
            }
            Offer::Record(_) | Offer::Nothing(_) => Err("the step is not deterministic".to_owned()),
        }
    }

    /// What is to be carried out: its step is in the record, or must do without. `None`: it is stuck.
    fn write(&mut self, entry: Box<Entry>) -> Result<Option<Due>, String> {
        if self.world.disk_full {
            return self.refuse(entry);
        }
        self.record.commit(&self.transaction(&entry))?;
        self.recorded(entry).map(Some)
    }

    fn refuse(&mut self, mut entry: Box<Entry>) -> Result<Option<Due>, String> {
        self.figures.unrecorded += 1;
        self.tell(|_| "  NOT RECORDED".to_owned());
        if self.habit == Habit::FlipsForEver && self.licensed > EffectId(0) {
            entry.hurry();
        }
        let (before, event) = (self.ledger.app().clone(), entry.event().clone());
        let refusal = self.ledger.refused(entry);
        self.shown.unrecorded = self.habit != Habit::HidesWhatIsUnrecorded;
        let mut due = match refusal {
            Unrecorded::Act(due) => due,
            Unrecorded::Wait(entry) => {
                self.stuck = Some(entry);
                return Ok(None);
            }
        };
        if self.habit == Habit::PrunesUnrecorded {
            let context = Context { unrecorded: true, ..self.context() };
            due.effects = (self.machine)(&before, &event, &context).effects;
        }
        Oracle::judge_unrecorded(&due.notes)?;
        if self.flip {
            self.licensed = self.ledger.app().last_effect;
        }
        self.remembered.get_or_insert_with(|| self.oracle.clone());
        self.adopt(&before, &event, &due)?;
        Ok(Some(due))
    }

    pub(crate) fn transaction<'a>(&self, entry: &'a Entry) -> Transaction<'a> {
        let late = entry.notes().len() - entry.step().notes.len();
        let lost = if self.habit == Habit::LosesUnwritten { late } else { 0 };
        Transaction { now: self.wall, entry, lost }
    }

    pub(crate) fn recorded(&mut self, entry: Box<Entry>) -> Result<Due, String> {
        self.remembered = None;
        let (before, event) = (self.ledger.app().clone(), entry.event().clone());
        let due = self.ledger.recorded(entry);
        if due.caught_up {
            self.shown.unrecorded = false;
            self.inbox.push(Event::Ticked);
        }
        self.adopt(&before, &event, &due)?;
        Ok(due)
    }

    fn adopt(&mut self, before: &App, event: &Event, due: &Due) -> Result<(), String> {
        self.flip &= !matches!(self.app().pipeline, Pipeline::Resting);
        self.tell(|it| {
            let app = it.app();
            format!(
                "  -> {:?}\n     serving {:?}\n     idle {:?}\n     hold {:?}\n     effects {:?}",
                app.pipeline, app.serving, app.idle, app.hold, due.effects
            )
        });
        self.count(due);
        let Due { effects, notes, answer, .. } = due;
        let (effects, notes, answer) = (effects.clone(), notes.clone(), answer.clone());
        let step = &Step { next: self.ledger.app().clone(), effects, notes, answer };
        let (world, policy) = (&self.world, &self.setup.policy);
        self.oracle.judge(&Moment { before, event, step, world, policy })
    }

    fn count(&mut self, due: &Due) {
        if due.uses(self.fresh) {
            self.fresh.0 += 1;
        }
        for noted in &due.notes {
            match &noted.note {
                Note::DeployStarted => self.figures.deploys += 1,
                Note::ShareChanged(_) => self.figures.shares += 1,
                Note::DeployEnded(end) => self.figures.outcomes[end.outcome as usize] += 1,
                _ => {}
            }
        }
    }

    pub(crate) fn run(&mut self, effects: &[Effect]) -> Result<(), String> {
        effects.iter().cloned().try_for_each(|effect| self.spawn(effect))
    }

    /// Nothing acts that the record does not know of, save for a flip while that is said.
    pub(crate) fn judge_order(&self, effect: EffectId) -> Result<(), String> {
        let licensed = self.shown.unrecorded && effect <= self.licensed;
        if effect <= self.record.last_effect() || licensed {
            return Ok(());
        }
        Err(format!("effect {effect} acts, and the record does not know of it"))
    }

    pub(crate) fn after(&mut self) -> Result<(), String> {
        for (color, release) in std::mem::take(&mut self.world.ended) {
            self.inbox.push(Event::InstanceDied {
                color,
                release,
                how: "exit 1".to_owned(),
                last_words: Vec::new(),
            });
        }
        if self.setup.policy.workers {
            let news = self.world.tend_workers(self.steady);
            self.inbox.extend(news);
        }
        if let Some(crime) = self.world.crimes.first() {
            return Err(crime.clone());
        }
        if !self.record.is_of(self.app()) && !self.shown.unrecorded {
            return Err("the record does not agree, and nobody says so".to_owned());
        }
        if self.stuck.is_some() && !self.shown.unrecorded {
            return Err("a step could not be recorded, and nobody says so".to_owned());
        }
        if self.is_quiet() {
            return self.oracle.judge_quiet((self.ledger.app(), self.shown), &self.world, &self.setup.policy);
        }
        Ok(())
    }

    /// All effects had time to act: only timers and watches are left, and nothing is unread.
    pub(crate) fn is_quiet(&self) -> bool {
        let waits = |task: &Task| matches!(task.effect.action, Action::Wake { .. } | Action::Watch { .. });
        self.inbox.is_empty()
            && self.stuck.is_none()
            && !self.unseen
            && !self.owes_a_record()
            && self.health_news().is_empty()
            && self.due().is_empty()
            && self.tasks.values().all(waits)
    }

    /// Reads one event; which one is chance, and so is whether it arrives twice.
    pub fn read(&mut self) -> Result<bool, String> {
        if self.unseen && (self.inbox.is_empty() || self.rng.percent(30)) {
            self.look_at_front();
            return Ok(true);
        }
        if let Some(entry) = self.stuck.take() {
            self.carry_out(entry)?;
            return Ok(self.stuck.is_none());
        }
        if self.owes_a_record() {
            return self.catch_up().map(|()| true);
        }
        if self.inbox.is_empty() {
            self.inbox = self.health_news();
            return Ok(!self.inbox.is_empty());
        }
        let at = self.rng.below(self.inbox.len());
        let event = self.inbox.remove(at);
        if self.world.healed {
            self.deliver(&event)?;
            return Ok(true);
        }
        if self.rng.percent(4) {
            self.figures.repeated += 1;
            self.inbox.push(event.clone());
        }
        if matches!(event, Event::Done { .. }) && self.told.len() < REMEMBERED {
            self.told.push(event.clone());
        }
        if self.rng.percent(self.setup.crashes) {
            self.deliver_and_die(&event)?;
        } else {
            self.deliver(&event)?;
        }
        Ok(true)
    }

    fn owes_a_record(&self) -> bool {
        self.ledger.is_behind() && !self.world.disk_full && self.habit != Habit::RecordsNothingLater
    }

    /// What came of a flip that did without a record.
    fn catch_up(&mut self) -> Result<(), String> {
        match self.ledger.overdue() {
            Some(entry) => self.carry_out(entry),
            None => Ok(()),
        }
    }

    /// What ended long ago is told once more.
    pub fn repeat_late(&mut self) {
        if !self.told.is_empty() {
            let at = self.rng.below(self.told.len());
            let event = self.told.remove(at);
            self.figures.late += 1;
            self.inbox.push(event);
        }
    }

    /// The front's looker: tells the machine when a hand sent the traffic to where nothing runs.
    pub fn look_at_front(&mut self) {
        self.unseen = false;
        self.shown.front = self.world.front.trouble();
        if let Some(crate::front::Hand::To(color)) = self.world.front.hand
            && self.world.on(color).is_none()
        {
            self.inbox.push(Event::FrontRestarted);
        }
    }

    /// The monitors of the live and the warm color: what they have to tell and the state does not have yet.
    fn health_news(&self) -> Vec<Event> {
        let live = self.app().live().filter(|live| matches!(live.instance, Instance::Up { .. }));
        let live = live.map(|live| (live.color, &live.release.id, live.healthy));
        let warm = match &self.app().idle {
            Idle::Warm { release, healthy, .. } => {
                Some((self.app().idle_color(), &release.id, Some(*healthy)))
            }
            Idle::Vacant | Idle::Taken | Idle::Draining { .. } | Idle::Stopping { .. } => None,
        };
        let news = |(color, release, known): (Color, &ReleaseId, Option<bool>)| {
            let process = self.world.on(color).filter(|it| it.release.id == *release && !it.ending)?;
            let (release, healthy) = (release.clone(), process.healthy);
            let answer = "503".to_owned();
            (known != Some(healthy)).then_some(Event::HealthChanged { color, release, healthy, answer })
        };
        live.into_iter().chain(warm).filter_map(news).collect()
    }

    pub fn poll(&mut self) -> Result<(), String> {
        match self.world.tip {
            Some(tip) => self.hear(Event::HeadSeen(world::commit(tip))),
            None => Ok(()),
        }
    }

    pub fn ask(&mut self, ask: Ask) -> Result<(), String> {
        self.figures.flips += u64::from(ask.is_flip());
        let event = Event::Asked { by: "operator".to_owned(), ask };
        if self.stuck.is_none() && !self.world.healed && self.rng.percent(self.setup.crashes) {
            return self.deliver_and_die(&event);
        }
        self.hear(event)
    }

    /// Ends all faults; what was sick recovers, save what never could.
    pub fn heal(&mut self) {
        self.tell(|_| "HEALED".to_owned());
        self.world.healed = true;
        self.world.front.broken = false;
        self.mend_front();
        self.world.strangers.clear();
        self.world.disk_full = false;
        let sick = self.world.processes.iter().filter(|it| !it.healthy && !it.ending);
        let sick: Vec<_> = sick.map(|it| (it.color, it.release.clone())).collect();
        for (color, release) in sick {
            if self.world.quality(&release) != Quality::NeverHealthy {
                self.set_health(color, true);
            }
        }
        self.world.kill_if(|process| process.ending);
    }

    pub fn mend_front(&mut self) {
        // In the middle of a switch whoever does it goes by the file alone.
        let moving = matches!(self.app().pipeline, Pipeline::TakingDown { .. })
            || matches!(self.app().pipeline.stage(), Some(Stage::Sharing(_)))
            || self.app().pipeline.group() == Some(StageGroup::Pivot);
        let live = self.app().live().filter(|_| !moving || self.app().rerouting.is_some());
        let right = live.map(|live| Route {
            to: Some((live.color, live.release.id.clone())),
            canary: sharing::in_force(self.app()),
            ..Route::default()
        });
        // What bgd is writing is in the file already.
        let writing = self.is_routing().then(|| self.world.front.file().clone());
        self.world.front.mend(writing.or(right));
        self.unseen = true;
    }

    /// Runs until nothing moves; an error when that takes too long.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if self.read()? || self.act()? {
                continue;
            }
            let wait = self.tasks.values().map(|task| task.due.since(self.steady)).min();
            if let Some(wait) = wait.filter(|wait| *wait < world::UNTIL_CALLED_OFF / 2) {
                self.advance(wait);
                continue;
            }
            let before = self.app().clone();
            self.poll()?;
            if *self.app() != before || !self.is_quiet() {
                continue;
            }
            if !self.tasks.is_empty() {
                self.end_the_endless()?;
                continue;
            }
            match step::wanted(self.app(), self.wall) {
                Err(Blocked::RetryLater(at)) if at.since(self.wall) > LONGEST_RETRY => {
                    return Err(format!("a try waits for {:?}", at.since(self.wall)));
                }
                Err(Blocked::RetryLater(at)) => {
                    self.advance(at.since(self.wall));
                    self.deliver(&Event::Ticked)?;
                }
                _ => {
                    if self.setup.policy.workers {
                        self.world.working.judge_settled(self.ledger.app())?;
                    }
                    let seen = (self.ledger.app(), self.shown);
                    return self.oracle.judge_settled(seen, &self.world, &self.setup.policy);
                }
            }
        }
        Err(format!("it does not come to rest: {:?} {:?}", self.app().pipeline, self.app().idle))
    }

    /// A step without an end waits for an operator.
    fn end_the_endless(&mut self) -> Result<(), String> {
        let by_hand = self.app().canary.as_ref().is_some_and(|canary| canary.by_hand);
        let resumes = by_hand && self.rng.percent(50);
        self.ask(if resumes { Ask::ResumeSteps } else { Ask::Promote })
    }

    /// Whether the front is being told again and again.
    pub fn insists(app: &App) -> bool {
        app.rerouting.is_some_and(|it| matches!(it.telling, Telling::Now { .. } | Telling::Later { .. }))
    }
}

fn is_flip(event: &Event) -> bool {
    matches!(event, Event::Asked { ask, .. } if ask.is_flip())
}

/// As a release is named; the calendar of this world has days of 24 hours and nothing else.
fn utc(now: Time) -> String {
    let seconds = now.0 / 1000;
    let (day, hour, minute) = (seconds / 86_400 % 100_000_000, seconds / 3600 % 24, seconds / 60 % 60);
    format!("{day:08}T{hour:02}{minute:02}{:02}Z", seconds % 60)
}

/// Debug text without what does not matter in a trace.
fn brief(line: &str) -> String {
    let mut text = line.replace("Release { id: ", "r");
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
    text.replace("000000000000000000000000000000000", "")
}
