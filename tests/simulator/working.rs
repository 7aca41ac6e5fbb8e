//! Workers in the fake world: the real orders of `rules::workers` carried out on processes that end late, die, and
//! outlive the daemon. It has chance of its own, so that schedules without workers stay what they are.
//!
//! What must hold: a worker works for what was live at some time; of an exclusive one at most one lives; a leaving one
//! ends by its first deadline; at rest exactly the workers of what is live work.

use std::{collections::BTreeSet, time::Duration};

use bgd::rules::{
    app::{App, Pipeline, Stage},
    effect::Action,
    event::Event,
    ids::ReleaseId,
    step::{Context, Step, step},
    time::Time,
    workers::{
        Duty, FoundWorker, Takeover, WantedWorkers, WorkerOrder, WorkerPlan, WorkerSlot, WorkersOf, orders,
    },
};

use crate::{defects::Habit, rng::Rng, world::World};

/// How long a worker may take to leave.
const GRACE: Duration = Duration::from_secs(15);

pub struct Working {
    plans: Vec<WorkerPlan>,
    /// In the daemon's memory.
    wanted: Option<WantedWorkers>,
    processes: Vec<Busy>,
    /// What the front was ever led to.
    served: BTreeSet<ReleaseId>,
    started: u64,
    rng: Rng,
}

/// A worker that lives.
struct Busy {
    found: FoundWorker,
    /// When it is killed at the latest, as its shim has it.
    ends_by: Option<Time>,
    /// When it was told to leave.
    told: Option<Time>,
}

impl Working {
    pub fn new() -> Self {
        let plan = |name: &str, instances, exclusive, takeover| WorkerPlan {
            name: name.parse().unwrap(),
            instances,
            exclusive,
            takeover,
        };
        Self {
            plans: vec![
                plan("queue", 2, false, Takeover::Live),
                plan("clock", 1, true, Takeover::Live),
                plan("mail", 1, true, Takeover::Watched),
            ],
            wanted: None,
            processes: Vec::new(),
            served: BTreeSet::new(),
            started: 0,
            rng: Rng::new(7),
        }
    }

    pub fn want(&mut self, wanted: &WantedWorkers) {
        self.wanted = Some(wanted.clone());
    }

    /// The front was led there, whether or not it still runs.
    pub fn note_routed(&mut self, release: &ReleaseId) {
        self.served.insert(release.clone());
    }

    /// The daemon is gone; its shims are not.
    pub fn forget(&mut self) {
        self.wanted = None;
    }

    pub fn lose_power(&mut self) {
        self.processes.clear();
    }

    pub fn are_any(&self) -> bool {
        !self.processes.is_empty()
    }

    pub fn use_release(&self, release: &ReleaseId) -> bool {
        self.processes.iter().any(|one| one.found.release == *release)
    }

    /// At rest in a healed world.
    pub fn judge_settled(&self, app: &App) -> Result<(), String> {
        let mut right = BTreeSet::new();
        for (plan, live) in self.plans.iter().flat_map(|plan| app.live().map(|live| (plan, live))) {
            let slots = (0..plan.instances).map(|index| WorkerSlot { name: plan.name.clone(), index });
            right.extend(slots.map(|slot| (slot, live.release.id.clone())));
        }
        let working = self.processes.iter().filter(|one| one.found.duty == Duty::Working);
        let working: Vec<_> =
            working.map(|one| (one.found.slot.clone(), one.found.release.clone())).collect();
        let set: BTreeSet<_> = working.iter().cloned().collect();
        if set == right && set.len() == working.len() {
            return Ok(());
        }
        Err(format!("at work are {working:?}, for what is live: {right:?}"))
    }
}

impl World {
    /// Time passes for workers, and the daemon's supervision looks after them; what it would tell.
    pub fn tend_workers(&mut self, now: Time) -> Vec<Event> {
        self.note_served();
        let mut news = self.end_workers(now);
        for _ in 0..8 {
            let Some(wanted) = self.working.wanted.clone() else { break };
            let mut plans = self.working.plans.clone();
            if self.habit() == Habit::StartsExclusiveWorkersAtOnce {
                plans.iter_mut().for_each(|plan| plan.exclusive = false);
            }
            let found: Vec<_> = self.working.processes.iter().map(|one| one.found.clone()).collect();
            let all = orders(&wanted, &plans, &found);
            if all.is_empty() {
                break;
            }
            all.into_iter().for_each(|order| self.obey_worker(order, now));
        }
        self.judge_workers(now);
        if !self.healed {
            return news;
        }
        // Nobody is held up any more.
        let left = self.working.processes.iter().filter(|one| one.found.duty == Duty::Leaving);
        news.extend(left.map(|one| Event::WorkerLeft { release: one.found.release.clone() }));
        let before = self.working.processes.len();
        self.working.processes.retain(|one| one.found.duty != Duty::Leaving);
        if before > self.working.processes.len() {
            news.extend(self.tend_workers(now));
        }
        news
    }

    /// The daemon came back: it sees to it that leaving ones end, and does not begin their time anew.
    pub fn adopt_workers(&mut self, now: Time) {
        if self.habit() == Habit::RenewsWorkersDeadlines {
            for one in self.working.processes.iter_mut().filter(|one| one.ends_by.is_some()) {
                one.ends_by = Some(now.plus(GRACE));
            }
        }
    }

    fn note_served(&mut self) {
        let Some(color) = self.front.truth.live else { return };
        let here = self.on(color).cloned();
        let passed_on = here.as_ref().filter(|it| it.passes_on).and_then(|_| self.on(color.other()).cloned());
        let served = here.into_iter().chain(passed_on).map(|process| process.release.id);
        self.working.served.extend(served);
    }

    fn end_workers(&mut self, now: Time) -> Vec<Event> {
        let mut news = Vec::new();
        let (healed, working) = (self.healed, &mut self.working);
        let rng = &mut working.rng;
        working.processes.retain(|one| {
            let Busy { found, ends_by, .. } = one;
            match ends_by {
                Some(by) => {
                    let ends = *by <= now || rng.percent(5);
                    if ends {
                        news.push(Event::WorkerLeft { release: found.release.clone() });
                    }
                    !ends
                }
                None if !healed && rng.next() % 500 == 0 => {
                    let (worker, release) = (found.slot.clone(), found.release.clone());
                    news.push(Event::WorkerDied {
                        worker,
                        release,
                        how: "exit 1".into(),
                        last_words: Vec::new(),
                    });
                    false
                }
                None => true,
            }
        });
        news
    }

    fn obey_worker(&mut self, order: WorkerOrder, now: Time) {
        match order {
            WorkerOrder::Start(slot, of) => {
                let release = of.release.id;
                if !self.working.served.contains(&release) {
                    self.crimes.push(format!("worker {slot} of {release}, which was never live"));
                }
                if !self.directories.get(&release).is_some_and(|directory| directory.built) {
                    self.crimes.push(format!("worker {slot} of {release}, which was deleted"));
                }
                self.working.started += 1;
                let id = self.working.started.to_string();
                let found = FoundWorker { id, slot, release, duty: Duty::Working };
                self.working.processes.push(Busy { found, ends_by: None, told: None });
            }
            WorkerOrder::Quiet(id) => {
                for one in self.working.processes.iter_mut().filter(|one| one.found.id == id) {
                    one.found.duty = Duty::Quiet;
                }
            }
            WorkerOrder::Leave(id) => {
                for one in self.working.processes.iter_mut().filter(|one| one.found.id == id) {
                    one.found.duty = Duty::Leaving;
                    one.ends_by = Some(now.plus(GRACE));
                    one.told.get_or_insert(now);
                }
            }
        }
    }

    fn judge_workers(&mut self, now: Time) {
        for plan in self.working.plans.iter().filter(|plan| plan.exclusive) {
            let alive = self.working.processes.iter().filter(|one| one.found.slot.name == plan.name);
            let alive: Vec<_> = alive.map(|one| &one.found.release).collect();
            if alive.len() > 1 {
                self.crimes.push(format!("there are several of {}: of {alive:?}", plan.name));
            }
        }
        let late = |one: &&Busy| one.told.is_some_and(|told| now.since(told) > GRACE);
        if let Some(one) = self.working.processes.iter().find(late) {
            let FoundWorker { slot, release, .. } = &one.found;
            self.crimes.push(format!("worker {slot} of {release} is there after its deadline"));
        }
    }
}

/// The new release's begin with the switch.
pub fn begins_early(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let new = match made.next.pipeline.work() {
        Some(work) if matches!(work.stage, Stage::Switching(_)) => {
            WorkersOf { release: work.release.clone(), color: work.color }
        }
        _ => return made,
    };
    for effect in &mut made.effects {
        if let Action::Workers(wanted) = &mut effect.action {
            *wanted = WantedWorkers { live: Some(new.clone()), quiet: false, ..wanted.clone() };
        }
    }
    made
}

pub fn forgets_the_way_back(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(app.pipeline.stage(), Some(Stage::Reverting { .. })) {
        made.effects.retain(|effect| !matches!(effect.action, Action::Workers(_)));
    }
    made
}

pub fn forgets_in_a_restart(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        made.effects.retain(|effect| !matches!(effect.action, Action::Workers(_)));
    }
    made
}

pub fn stays_when_down(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(made.next.pipeline, Pipeline::TakingDown { .. }) {
        made.effects.retain(|effect| !matches!(effect.action, Action::Workers(_)));
    }
    made
}
