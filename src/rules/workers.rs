//! Workers: processes without a port that work for the live release and for no other. Here is which releases' workers
//! are to work, and what has to be done to those that are found. Pure: the room `worker` looks and acts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    deploy::Release,
    ids::{Color, ReleaseId, WorkerName},
};

/// When the workers of a new release take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Takeover {
    /// Right after the flip.
    #[default]
    Live,
    /// When the watch ended well.
    Watched,
}

/// One kind of worker, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPlan {
    pub name: WorkerName,
    /// How many work at the same time.
    pub instances: u16,
    /// The next release's start only when all former ones have ended.
    pub exclusive: bool,
    pub takeover: Takeover,
}

/// One of the instances of a worker. Written as `queue` for the first and `queue.2` for the second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerSlot {
    pub name: WorkerName,
    /// Index within its kind, from 0.
    pub index: u16,
}

impl WorkerSlot {
    /// Number within its kind for people, from 1.
    pub fn number(&self) -> u16 {
        self.index.saturating_add(1)
    }
}

impl fmt::Display for WorkerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.pad(self.name.as_str()),
            _ => f.pad(&format!("{}.{}", self.name, self.number())),
        }
    }
}

/// The releases whose workers are to work; workers of any other release are told to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct WantedWorkers {
    /// For workers that take over right after the flip.
    pub live: Option<WorkersOf>,
    /// For workers that take over when the watch ended well.
    pub watched: Option<WorkersOf>,
    /// The traffic is about to move away from `live`: its workers are told to take no new work.
    pub quiet: bool,
}

/// A release that workers work for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersOf {
    pub release: Release,
    /// The color on which it is live.
    pub color: Color,
}

impl WantedWorkers {
    /// The release that workers of this kind work for.
    pub fn of(&self, takeover: Takeover) -> Option<&WorkersOf> {
        match takeover {
            Takeover::Live => self.live.as_ref(),
            Takeover::Watched => self.watched.as_ref(),
        }
    }

    /// Whether workers of this kind are to take no new work.
    fn is_quiet(&self, takeover: Takeover) -> bool {
        self.quiet && takeover == Takeover::Live
    }
}

/// A worker whose processes live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundWorker {
    /// The id of its shim.
    pub id: String,
    pub slot: WorkerSlot,
    pub release: ReleaseId,
    pub duty: Duty,
}

/// What a worker was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// It takes work.
    Working,
    /// It was told to take no new work, which can't be taken back.
    Quiet,
    /// It was told to end, and finishes its work.
    Leaving,
}

/// What has to be done to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOrder {
    Start(WorkerSlot, WorkersOf),
    /// Tell the worker of this shim to take no new work.
    Quiet(String),
    /// Tell the worker of this shim to end.
    Leave(String),
}

/// What has to be done so that exactly the wanted workers work: first who leaves, then who starts.
pub fn orders(wanted: &WantedWorkers, plans: &[WorkerPlan], found: &[FoundWorker]) -> Vec<WorkerOrder> {
    let mut orders = Vec::new();
    let mut kept: Vec<&FoundWorker> = Vec::new();
    for one in found.iter().filter(|one| one.duty != Duty::Leaving) {
        let plan = plans.iter().find(|plan| plan.name == one.slot.name && one.slot.index < plan.instances);
        let stays = plan.is_some_and(|plan| stays(wanted, plan, one));
        if !stays || kept.iter().any(|other| other.slot == one.slot) {
            orders.push(WorkerOrder::Leave(one.id.clone()));
            continue;
        }
        if plan.is_some_and(|plan| wanted.is_quiet(plan.takeover)) && one.duty == Duty::Working {
            orders.push(WorkerOrder::Quiet(one.id.clone()));
        }
        kept.push(one);
    }
    for plan in plans.iter().filter(|plan| !wanted.is_quiet(plan.takeover)) {
        let Some(of) = wanted.of(plan.takeover) else { continue };
        let former =
            |one: &&FoundWorker| one.slot.name == plan.name && !kept.iter().any(|other| other.id == one.id);
        if plan.exclusive && found.iter().any(|one| former(&one)) {
            continue;
        }
        let slots = (0..plan.instances).map(|index| WorkerSlot { name: plan.name.clone(), index });
        let missing = slots.filter(|slot| !kept.iter().any(|one| one.slot == *slot));
        orders.extend(missing.map(|slot| WorkerOrder::Start(slot, of.clone())));
    }
    orders
}

fn stays(wanted: &WantedWorkers, plan: &WorkerPlan, one: &FoundWorker) -> bool {
    let takes_work = one.duty == Duty::Working || wanted.is_quiet(plan.takeover);
    takes_work && wanted.of(plan.takeover).is_some_and(|of| of.release.id == one.release)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ids::CommitId;

    fn of(number: u64) -> WorkersOf {
        let commit: CommitId = format!("{number:07x}{:033x}", 0).parse().unwrap();
        let id = ReleaseId::new("20261121T101112Z", number, &commit);
        let release = Release { id, commit, subject: String::new(), author: String::new() };
        WorkersOf { release, color: Color::Blue }
    }

    fn slot(name: &str, index: u16) -> WorkerSlot {
        WorkerSlot { name: name.parse().unwrap(), index }
    }

    fn plan(name: &str, instances: u16) -> WorkerPlan {
        WorkerPlan { name: name.parse().unwrap(), instances, exclusive: false, takeover: Takeover::Live }
    }

    fn found(id: &str, (name, index): (&str, u16), release: u64, duty: Duty) -> FoundWorker {
        FoundWorker { id: id.to_owned(), slot: slot(name, index), release: of(release).release.id, duty }
    }

    fn live(number: u64) -> WantedWorkers {
        WantedWorkers { live: Some(of(number)), watched: Some(of(number)), quiet: false }
    }

    fn leave(id: &str) -> WorkerOrder {
        WorkerOrder::Leave(id.to_owned())
    }

    fn start(name: &str, index: u16, release: u64) -> WorkerOrder {
        WorkerOrder::Start(slot(name, index), of(release))
    }

    #[test]
    fn former_workers_leave_and_new_ones_start_at_once() {
        let plans = [plan("queue", 2)];
        let former = [found("a", ("queue", 0), 1, Duty::Working), found("b", ("queue", 1), 1, Duty::Quiet)];
        let all = orders(&live(2), &plans, &former);
        assert_eq!(all, [leave("a"), leave("b"), start("queue", 0, 2), start("queue", 1, 2)]);
        let leaving = former.map(|one| FoundWorker { duty: Duty::Leaving, ..one });
        assert_eq!(orders(&live(2), &plans, &leaving), [start("queue", 0, 2), start("queue", 1, 2)]);
        let mut both = leaving.to_vec();
        both.extend([found("c", ("queue", 0), 2, Duty::Working), found("d", ("queue", 1), 2, Duty::Working)]);
        assert_eq!(orders(&live(2), &plans, &both), []);
        // On the way back they can't be called back: others of that release start beside them.
        let back = orders(&live(1), &plans, &both);
        assert_eq!(back, [leave("c"), leave("d"), start("queue", 0, 1), start("queue", 1, 1)]);
    }

    #[test]
    fn an_exclusive_worker_starts_when_all_former_ones_have_ended() {
        let plans = [WorkerPlan { exclusive: true, ..plan("clock", 1) }, plan("queue", 1)];
        let former = found("a", ("clock", 0), 1, Duty::Working);
        assert_eq!(
            orders(&live(2), &plans, std::slice::from_ref(&former)),
            [leave("a"), start("queue", 0, 2)]
        );
        let leaving = FoundWorker { duty: Duty::Leaving, ..former };
        assert_eq!(orders(&live(2), &plans, &[leaving]), [start("queue", 0, 2)]);
        assert_eq!(orders(&live(2), &plans, &[]), [start("clock", 0, 2), start("queue", 0, 2)]);
    }

    #[test]
    fn what_no_plan_names_leaves() {
        let all = [
            found("a", ("queue", 0), 1, Duty::Working),
            found("b", ("queue", 1), 1, Duty::Working),
            found("c", ("mail", 0), 1, Duty::Working),
        ];
        assert_eq!(orders(&live(1), &[plan("queue", 1)], &all), [leave("b"), leave("c")]);
        let nothing = WantedWorkers::default();
        assert_eq!(orders(&nothing, &[plan("queue", 1)], &all), [leave("a"), leave("b"), leave("c")]);
    }

    #[test]
    fn a_quiet_worker_stays_while_the_traffic_moves_and_is_replaced_if_it_stays() {
        let plans = [plan("queue", 1), WorkerPlan { takeover: Takeover::Watched, ..plan("mail", 1) }];
        let working = [found("a", ("queue", 0), 1, Duty::Working), found("m", ("mail", 0), 1, Duty::Working)];
        let moving = WantedWorkers { quiet: true, ..live(1) };
        assert_eq!(orders(&moving, &plans, &working), [WorkerOrder::Quiet("a".to_owned())]);
        let quiet = [FoundWorker { duty: Duty::Quiet, ..working[0].clone() }, working[1].clone()];
        assert_eq!(orders(&moving, &plans, &quiet), []);
        assert_eq!(orders(&live(1), &plans, &quiet), [leave("a"), start("queue", 0, 1)]);
        assert_eq!(orders(&moving, &plans, &[]), [start("mail", 0, 1)]);
    }

    #[test]
    fn workers_that_wait_for_the_watch_stay_with_the_former_release() {
        let plans = [WorkerPlan { takeover: Takeover::Watched, ..plan("mail", 1) }];
        let wanted = WantedWorkers { live: Some(of(2)), watched: Some(of(1)), quiet: false };
        let working = [found("m", ("mail", 0), 1, Duty::Working)];
        assert_eq!(orders(&wanted, &plans, &working), []);
        assert_eq!(orders(&live(2), &plans, &working), [leave("m"), start("mail", 0, 2)]);
    }
}
