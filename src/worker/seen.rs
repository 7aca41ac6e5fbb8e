//! What status shows of the workers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Tries, WorkerNews, Workers, look::Found};
use crate::{
    config::settings::AppSettings,
    rules::{
        app::Release,
        backoff,
        ids::{CommitId, ReleaseId, WorkerName},
        time::Time,
        words::Fate,
        workers::{Duty, WantedWorkers, WorkerPlan, WorkerSlot, WorkersOf},
    },
    shim::Handle,
};

/// Deaths in a row after which a worker counts as one that does not get to work.
const FAILS: u32 = 2;

/// One kind of worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSeen {
    pub name: WorkerName,
    /// The release that it works for; `None` when it is not to work.
    pub of: Option<(ReleaseId, CommitId)>,
    /// One for each configured instance while it is to work.
    pub instances: Vec<WorkerInstanceSeen>,
    pub leaving: Vec<LeavingSeen>,
}

/// One process that works, or is to work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerInstanceSeen {
    /// Its main process; `None` while it does not run.
    pub pid: Option<u32>,
    pub since: Option<Time>,
    /// Starts after the first one of this release.
    pub restarts: u32,
    /// Deaths in a row, and how it ended last.
    pub deaths: Option<(u32, String)>,
}

/// One process that was told to leave and finishes its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingSeen {
    pub release: ReleaseId,
    /// `None` when the record does not know the release any more.
    pub commit: Option<CommitId>,
    pub pid: Option<u32>,
    /// When it is killed at the latest.
    pub ends_by: Option<Time>,
}

impl WorkerSeen {
    /// The releases that its processes use.
    pub fn releases(&self) -> impl Iterator<Item = &ReleaseId> {
        let working = self.of.as_ref().map(|(release, _)| release);
        working.into_iter().chain(self.leaving.iter().map(|one| &one.release))
    }
}

impl WorkerInstanceSeen {
    /// How it ended last, if it dies again and again; after a long uptime it does not.
    pub fn failure(&self, now: Time) -> Option<&str> {
        let (deaths, how) = self.deaths.as_ref()?;
        let steady = self.since.is_some_and(|since| now.since(since) >= backoff::STEADY);
        (*deaths >= FAILS && !steady).then_some(how)
    }
}

impl Workers {
    /// Renews what status shows.
    pub(super) fn show(&self, wanted: &WantedWorkers, found: &[Found]) {
        let leave = found.iter().any(Found::is_leaving);
        let known = if leave { self.record.releases() } else { Vec::new() };
        let mut book = self.book();
        let seen = View { found, wanted, known: &known, tries: &book.tries }.of(&self.settings);
        if book.seen != seen {
            book.seen = seen;
            book.news.push(WorkerNews::Seen);
        }
    }
}

/// What status shows of these shims' workers without the daemon. One that can't be asked is left out.
pub(crate) async fn recorded(
    handles: Vec<Handle>,
    settings: &AppSettings,
    wanted: &WantedWorkers,
    known: &[(Release, Fate)],
) -> Vec<WorkerSeen> {
    let mut found = Vec::new();
    for handle in handles {
        let (Some(slot), Ok(status)) = (handle.role().worker().cloned(), handle.status().await) else {
            continue;
        };
        if !status.tree.is_empty() {
            found.push(Found::new(handle, slot, Some(&status)));
        }
    }
    View { found: &found, wanted, known, tries: &BTreeMap::new() }.of(settings)
}

struct View<'a> {
    found: &'a [Found],
    wanted: &'a WantedWorkers,
    /// The releases in the record.
    known: &'a [(Release, Fate)],
    tries: &'a BTreeMap<(WorkerSlot, ReleaseId), Tries>,
}

impl View<'_> {
    /// One of each kind that is configured, then those that are only found.
    fn of(&self, settings: &AppSettings) -> Vec<WorkerSeen> {
        let plans = settings.workers.iter().map(|one| &one.plan);
        let mut seen: Vec<WorkerSeen> = plans.map(|plan| self.kind(plan)).collect();
        let found: BTreeSet<&WorkerName> = self.found.iter().map(|one| &one.worker.slot.name).collect();
        let named: Vec<WorkerName> = seen.iter().map(|one| one.name.clone()).collect();
        let others = found.into_iter().filter(|name| !named.contains(name));
        seen.extend(others.map(|name| WorkerSeen {
            name: name.clone(),
            of: None,
            instances: Vec::new(),
            leaving: self.leaving(name),
        }));
        seen
    }

    fn kind(&self, plan: &WorkerPlan) -> WorkerSeen {
        let (name, of) = (&plan.name, self.wanted.of(plan.takeover));
        let slots = (0..plan.instances).map(|index| WorkerSlot { name: name.clone(), index });
        WorkerSeen {
            name: name.clone(),
            of: of.map(|of| (of.release.id.clone(), of.release.commit.clone())),
            instances: of.map_or(Vec::new(), |of| slots.map(|slot| self.instance(slot, of)).collect()),
            leaving: self.leaving(name),
        }
    }

    fn instance(&self, slot: WorkerSlot, of: &WorkersOf) -> WorkerInstanceSeen {
        let works = |one: &&Found| {
            one.worker.slot == slot && one.worker.release == of.release.id && one.worker.duty != Duty::Leaving
        };
        let one = self.found.iter().find(works);
        let tries = self.tries.get(&(slot.clone(), of.release.id.clone())).cloned();
        WorkerInstanceSeen {
            pid: one.and_then(pid),
            since: one.map(since),
            restarts: tries.as_ref().map_or(0, |tries| tries.restarts),
            deaths: tries.and_then(|Tries { attempt, how, .. }| Some((attempt, how?))),
        }
    }

    fn leaving(&self, name: &WorkerName) -> Vec<LeavingSeen> {
        let leaving = self.found.iter().filter(|one| one.is_leaving() && one.worker.slot.name == *name);
        let seen = |one: &Found| {
            let release = &one.worker.release;
            let known = self.known.iter().find(|(known, _)| known.id == *release);
            LeavingSeen {
                release: release.clone(),
                commit: known.map(|(known, _)| known.commit.clone()),
                pid: pid(one),
                ends_by: one.ends_by_ms.map(Time),
            }
        };
        leaving.map(seen).collect()
    }
}

fn pid(one: &Found) -> Option<u32> {
    one.handle.main_pid().and_then(|pid| u32::try_from(pid).ok())
}

fn since(one: &Found) -> Time {
    Time(one.handle.started_ms())
}
