//! The status of the daemon and its apps: the schema of `bgd status --json`, exactly as in the contract.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Why,
    record::{LastRun, StepRecord},
};
use crate::rules::{
    canary::Share,
    ids::{AppName, Color, CommitId, CronName, DeployId, ReleaseId, TaskName, WorkerName},
    time::Stamp,
    words::{AppState, CronOutcome, DeployKind, GateKind, HoldEnd, IdleState, Moment, Outcome, Phase},
};

/// `bgd status --json`. All keys are always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this schema: 1.
    pub schema: u32,
    pub daemon: DaemonReport,
    /// Running instances that bgd started, of apps that no configuration file names.
    pub unconfigured: Vec<UnconfiguredReport>,
    /// One for each configured app.
    pub apps: Vec<AppReport>,
}

/// One instance of an app that no configuration file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnconfiguredReport {
    pub name: AppName,
    pub color: Color,
    /// Its port, where known.
    pub port: Option<u16>,
    pub pid: Option<u32>,
    pub since: Stamp,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// False when the command read the record itself, without the daemon.
    pub running: bool,
    pub version: Option<String>,
    pub pid: Option<u32>,
    pub started_at: Option<Stamp>,
    /// Advice for when the configuration on disk was refused at the last read and an older one is in force.
    pub config_refused: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    pub name: AppName,
    /// The state as a fixed word.
    pub state: AppState,
    /// Why it is degraded for another reason than the live release's health: the front, or the record.
    pub trouble: Option<String>,
    /// The release that receives the traffic.
    pub live: Option<LiveReport>,
    /// The other color.
    pub idle: Option<IdleReport>,
    pub deploy: Option<DeployReport>,
    /// The share of the traffic that the deploy under way has.
    pub canary: Option<CanaryReport>,
    /// Why automatic deploys are off.
    pub hold: Option<HoldReport>,
    pub remote: RemoteReport,
    /// The deploy that ended last.
    pub last: Option<LastReport>,
    /// Whether, and where to, `bgd flip` goes back.
    pub rollback: RollbackReport,
    /// The contract migration that the live release is from before: the schema is ahead of it.
    pub schema_ahead: Option<BarrierReport>,
    /// Why nothing is being deployed.
    pub why: Option<Why>,
    /// The first closed gate. Left out by a daemon that is older than this key.
    #[serde(default)]
    pub gate: Option<GateReport>,
    /// Its workers, and those that are in no file any more and still leave.
    #[serde(default)] // A daemon that is older than this key has none.
    pub workers: Vec<WorkerReport>,
    /// The schedules; none from a daemon that is older than this key.
    #[serde(default)]
    pub cron: Vec<CronReport>,
    /// One for each configured task, in the order of the file; none from a daemon that is older than this key.
    #[serde(default)]
    pub tasks: Vec<TaskReport>,
}

/// A closed gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    pub kind: GateKind,
    /// The commit that it keeps back.
    pub commit: CommitId,
    /// One line for people.
    pub text: String,
    /// When it opens by itself, where that is known.
    pub opens_at: Option<Stamp>,
}

/// One kind of worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    pub name: WorkerName,
    /// The release that it works for; `None` when nothing is live.
    pub release: Option<ReleaseId>,
    pub commit: Option<CommitId>,
    /// One for each configured instance while it is to work.
    pub instances: Vec<WorkerInstanceReport>,
    /// Processes that finish their work.
    pub leaving: Vec<LeavingReport>,
    /// The host that has it; `None` without a fleet.
    pub host: Option<String>,
}

/// One process of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInstanceReport {
    /// Its main process; `None` while it does not run.
    pub pid: Option<u32>,
    pub since: Option<Stamp>,
    /// How often it was started again for this release.
    pub restarts: u32,
}

/// One process that was told to leave and finishes its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingReport {
    pub release: ReleaseId,
    pub commit: Option<CommitId>,
    pub pid: Option<u32>,
    /// When it is killed at the latest.
    pub ends_by: Option<Stamp>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronReport {
    pub name: CronName,
    /// The expression as written.
    pub schedule: String,
    /// When it is due next; `None` while the app is not in service, and without the daemon.
    pub next_at: Option<Stamp>,
    /// The run under way; of several the newest.
    pub running: Option<CronRunning>,
    /// What came of its last due time.
    pub last: Option<CronLast>,
}

/// A run of a schedule under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronRunning {
    pub release: Option<ReleaseId>,
    pub due_at: Stamp,
    /// `None` while its process is being started.
    pub started_at: Option<Stamp>,
    pub pid: Option<u32>,
}

/// What came of a due time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronLast {
    /// The release that was live.
    pub release: Option<ReleaseId>,
    pub due_at: Stamp,
    pub outcome: CronOutcome,
    /// The exit code; of a signal 128 and its number; `None` where nothing ran or nothing is known.
    pub exit: Option<i32>,
    /// `None` where nothing ran.
    pub started_at: Option<Stamp>,
    pub finished_at: Option<Stamp>,
}

/// A configured task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    pub name: TaskName,
    pub when: Moment,
    /// `host`: it runs once on this host.
    pub once: String,
    /// The run that ended last.
    pub last: Option<LastRun>,
}

/// The release that receives the traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveReport {
    pub color: Color,
    /// Its port; `None` of an app that listens on unix sockets.
    pub port: Option<u16>,
    /// Its unix socket, if it has one.
    pub socket: Option<PathBuf>,
    pub release: ReleaseId,
    pub commit: CommitId,
    /// First line of the commit message.
    pub subject: Option<String>,
    pub author: Option<String>,
    /// The main process; `None` while it is being restarted.
    pub pid: Option<u32>,
    /// Result of the last health check; `None` before the first.
    pub healthy: Option<bool>,
    /// Since when it is live.
    pub since: Stamp,
    /// All instances, including those that are not running.
    pub instances: Vec<InstanceReport>,
    /// The live instance died and stays down, because `watch.restart` is off.
    pub given_up: bool,
    /// Restarts in a row, each after an early death; includes the one under way or waited for.
    pub restarts: u32,
    /// Since when its process is up; `None` while it is down.
    pub up_since: Option<Stamp>,
    /// While it waits to be started again: the whole length of that wait, in milliseconds.
    pub restart_wait_ms: Option<u64>,
    /// Resident memory of all its instances, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time of all its instances in percent of one core.
    pub cpu_percent: Option<f64>,
}

/// One of a color's instances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Its port; `None` when it listens on a socket.
    pub port: Option<u16>,
    /// Its unix socket, if it has one.
    pub socket: Option<PathBuf>,
    /// Its main process; `None` while it does not run.
    pub pid: Option<u32>,
    /// Result of the last health check; `None` before the first, and while the instance is not checked.
    pub healthy: Option<bool>,
    /// Resident memory of its processes, in bytes; `None` while it does not run, and without the daemon.
    pub memory_bytes: Option<u64>,
    /// Processor time in percent of one core since the last look, or since its start.
    pub cpu_percent: Option<f64>,
}

impl LiveReport {
    /// Where it listens, for people: `port 9501`, `3 instances from port 9501 on`, `socket /run/bgd/a/shop/blue.sock`.
    pub fn place(&self) -> String {
        match self.instances.len() {
            0 if self.port.is_none() && self.socket.is_none() => "static site".to_owned(),
            0 | 1 => self.first_place(),
            several => format!("{several} instances from {} on", self.first_place()),
        }
    }

    /// Where the first of its instances listens.
    pub fn first_place(&self) -> String {
        let socket = || self.socket.as_deref().unwrap_or(Path::new("?")).display().to_string();
        self.port.map_or_else(|| format!("socket {}", socket()), |port| format!("port {port}"))
    }
}

/// The color that receives no traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    pub color: Color,
    /// Its port; `None` of an app that listens on unix sockets.
    pub port: Option<u16>,
    /// Its unix socket, if it has one.
    pub socket: Option<PathBuf>,
    /// The release that runs on it, if any.
    pub release: Option<ReleaseId>,
    pub commit: Option<CommitId>,
    /// Its main process.
    pub pid: Option<u32>,
    /// The state as a fixed word.
    pub state: IdleState,
    /// One for each instance that the color has, or would have when started.
    pub instances: Vec<InstanceReport>,
    /// It is the backup of the watched release: the front sends it the connections that the watched release refuses
    /// (`watch.backup`).
    pub backup: bool,
    /// Resident memory of all its instances, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time of all its instances in percent of one core.
    pub cpu_percent: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployReport {
    pub id: DeployId,
    /// Why it was made; `None` only from a daemon that is older than this key.
    pub kind: Option<DeployKind>,
    /// Its commit, once known.
    pub commit: Option<CommitId>,
    /// The color that the release is deployed to.
    pub color: Option<Color>,
    pub phase: Phase,
    pub started_at: Stamp,
    /// When it entered this phase.
    pub phase_since: Option<Stamp>,
    /// Configured length of the phase, in milliseconds: the period of a watch, or the limit of a drain. `None` in
    /// other phases, and in a watch that waits for traffic.
    pub phase_ms: Option<u64>,
    /// How it will end, once that is decided and only cleaning up is left.
    pub ending: Option<Outcome>,
    /// The task under way.
    #[serde(default)]
    pub task: Option<TaskName>,
}

/// The share of the traffic that the deploy under way has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    /// The current step, counted from 1.
    pub step: usize,
    /// Number of steps in the plan.
    pub steps: usize,
    /// The share that the front was set to, in percent.
    pub wanted: Share,
    /// The canary's measured part of the requests since then, in percent with two decimals; `None` where requests are
    /// not counted.
    pub measured: Option<String>,
    /// Since when the share is in force.
    pub since: Stamp,
    /// An operator set the share, which stays until an operator changes it.
    pub by_hand: bool,
    /// Why the step does not end: too little traffic, with the counts, or a front that refuses the next share.
    pub held: Option<String>,
    /// The next share, in percent; 100 is the flip.
    pub next_share: Share,
    /// When the next share is due; `None` while it waits for an operator, for enough traffic, or for the front.
    pub next_at: Option<Stamp>,
    /// When the step is discarded unless an operator promotes it. Left out by a daemon that is older than this key.
    #[serde(default)]
    pub deadline_at: Option<Stamp>,
}

/// Why automatic deploys are off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    pub by: String,
    pub reason: String,
    pub since: Stamp,
    /// The event that ends the hold.
    pub until: Option<HoldEnd>,
}

/// The remote, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteReport {
    pub branch: String,
    pub head: Option<CommitId>,
    /// When the remote was last read successfully.
    pub checked_at: Option<Stamp>,
    /// Why the remote can't be read now.
    pub error: Option<String>,
    /// What to do about the error.
    pub hint: Option<String>,
    /// Number of refs that the remote lists, when they are so many that it is polled less often than `poll` says.
    pub refs: Option<u64>,
    /// When it is polled next: after `poll`, later while it can't be read.
    pub next_at: Option<Stamp>,
}

/// The deploy that ended last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReport {
    pub id: DeployId,
    pub commit: Option<CommitId>,
    /// How it ended.
    pub outcome: Outcome,
    /// The phase it failed in.
    pub phase: Option<Phase>,
    /// The error, one line.
    pub error: Option<String>,
    /// The next thing to do.
    pub hint: Option<String>,
    pub finished_at: Stamp,
    pub steps: Vec<StepRecord>,
    /// The front could not be moved, so the release took over the port that the front routes to.
    pub replaced: bool,
}

/// The release that `bgd flip` goes back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// Whether `bgd flip` has somewhere to go.
    pub possible: bool,
    /// The commit that it goes back to.
    pub to: Option<CommitId>,
    /// Whether that release still runs.
    pub warm: bool,
    /// The barrier that stands in the way, so that only `bgd flip --force` goes back.
    pub barrier: Option<BarrierReport>,
    /// Whether bgd goes back by itself when the watch fails; a daemon that is older than this key does not say.
    #[serde(default)]
    pub automatic: bool,
}

/// A contract migration that has changed the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarrierReport {
    /// The deploy that migrated.
    pub deploy: DeployId,
    pub release: ReleaseId,
    pub commit: CommitId,
    /// When its first command was about to run.
    pub since: Stamp,
    /// `contract: ` and the file or the commit that says so.
    pub text: String,
}
