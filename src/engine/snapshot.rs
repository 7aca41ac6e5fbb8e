//! The outside view of an app's task: a copy of its state and of what it sees, renewed after each step. `bgd status`
//! reads only this, so that it never waits for git, a build, a disk or a remote.

use std::{collections::BTreeMap, sync::Arc};

use super::traffic::Counted;
use crate::{
    config::settings::{AppSettings, CronSettings},
    instance::InstanceStatus,
    rules::{
        app::App,
        ids::{Color, CommitId, CronName, TaskName},
        time::Time,
    },
    shim::Slot,
    store::{
        CronRow, Store, StoreError,
        record::{DeployRecord, LastRun},
    },
    worker::WorkerSeen,
};

/// An app at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The settings in force.
    pub settings: Arc<AppSettings>,
    /// The machine's state.
    pub app: App,
    /// False until the daemon has looked at the world once; before that this is the record's view.
    pub observed: bool,
    /// The instances that run.
    pub instances: BTreeMap<Slot, InstanceStatus>,
    /// The number of instances last started on each color.
    pub given: BTreeMap<Color, u16>,
    /// The workers, those that leave among them.
    pub workers: Vec<WorkerSeen>,
    /// The deploy that ended last.
    pub last: Option<DeployRecord>,
    /// The last ended run of each task.
    pub last_runs: BTreeMap<TaskName, LastRun>,
    /// Why the record can't be written, if so: the app serves on, and nothing else happens.
    pub unrecorded: Option<String>,
    /// The front's present trouble.
    pub front_error: Option<String>,
    /// Requests since the route last changed, if they are counted.
    pub counted: Counted,
    /// The remote as the poller last saw it.
    pub remote: RemoteSeen,
    /// The schedules, in the order of the configuration; empty until they were looked at.
    pub crons: Vec<CronSeen>,
}

impl Snapshot {
    /// The number of instances last started on a color; the configured number if unknown.
    pub fn number_on(&self, color: Color) -> u16 {
        self.given.get(&color).copied().unwrap_or(self.settings.instances)
    }

    /// The running instances of a color.
    pub fn running_on(&self, color: Color) -> usize {
        self.on(color).count()
    }

    /// The instances of a color that are known to be healthy.
    pub fn serving_on(&self, color: Color) -> usize {
        self.on(color).filter(|seen| seen.healthy == Some(true)).count()
    }

    fn on(&self, color: Color) -> impl Iterator<Item = &InstanceStatus> {
        self.instances.iter().filter(move |(slot, _)| slot.color == color).map(|(_, seen)| seen)
    }
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronSeen {
    pub name: CronName,
    /// As written in the configuration.
    pub schedule: String,
    /// When it is due next; `None` while the app is not in service.
    pub next: Option<Time>,
    /// The run under way; with several the newest.
    pub running: Option<CronRow>,
    /// The main process of the run under way.
    pub pid: Option<i32>,
    /// What came of its last due time.
    pub last: Option<CronRow>,
}

impl CronSeen {
    /// The schedules of an app as the record has them: without the next time and the process.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn recorded(settings: &AppSettings, store: &Store) -> Result<Vec<Self>, StoreError> {
        if settings.crons.is_empty() {
            return Ok(Vec::new());
        }
        let (mut last, running) =
            (store.last_crons(&settings.name)?, store.unfinished_crons(&settings.name)?);
        let seen = |cron: &CronSettings| Self {
            name: cron.rule.name.clone(),
            schedule: cron.rule.schedule.text().to_owned(),
            next: None,
            running: running.iter().rfind(|row| row.name == cron.rule.name).cloned(),
            pid: None,
            last: last.remove(&cron.rule.name),
        };
        Ok(settings.crons.iter().map(seen).collect())
    }
}

/// The remote as the poller last saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteSeen {
    /// The tip of the branch.
    pub head: Option<CommitId>,
    /// The time of the last successful look.
    pub checked_at: Option<Time>,
    /// The present error.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The number of refs in each look, if it is so high that bgd looks less often than `poll` says.
    pub crowd: Option<u64>,
    /// The time of the next look, unless something asks for an earlier one.
    pub next_at: Option<Time>,
}
