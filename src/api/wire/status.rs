//! The status of the daemon and its apps: the schema of `bgd status --json`, exactly as in the contract.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Why, record::StepRecord};
use crate::rules::{
    canary::Share,
    ids::{AppName, Color, CommitId, DeployId, ReleaseId},
    time::Stamp,
    words::{AppState, DeployKind, HoldEnd, IdleState, Outcome, Phase},
};

/// `bgd status --json`. All keys are always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    pub daemon: DaemonReport,
    /// What bgd started, still runs, and is in no file.
    pub unconfigured: Vec<UnconfiguredReport>,
    /// One for each app.
    pub apps: Vec<AppReport>,
}

/// One instance of an app that is in no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnconfiguredReport {
    /// Of which app.
    pub name: AppName,
    /// On which color.
    pub color: Color,
    /// Where, as far as that is known.
    pub port: Option<u16>,
    pub pid: Option<u32>,
    pub since: Stamp,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// False when the record was read without it.
    pub running: bool,
    pub version: Option<String>,
    pub pid: Option<u32>,
    pub started_at: Option<Stamp>,
    /// The configuration on disk was refused when it was last read, and an older one is in force: what helps.
    pub config_refused: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    pub name: AppName,
    /// In one word.
    pub state: AppState,
    /// Why it is degraded, beyond the health of what is live: the front, or the record.
    pub trouble: Option<String>,
    /// What receives the traffic.
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
    /// The way back.
    pub rollback: RollbackReport,
    /// Why nothing is being deployed.
    pub why: Option<Why>,
}

/// What receives the traffic.
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
    /// The last health check; `None` before the first.
    pub healthy: Option<bool>,
    /// Since when it is live.
    pub since: Stamp,
    /// All that it has, also those that do not run right now.
    pub instances: Vec<InstanceReport>,
    /// It died and is not started again: `watch.restart` is off.
    pub given_up: bool,
    /// Starts since it last was up for long, each after a death that came soon; with the one under way or waited for.
    pub restarts: u32,
    /// Since when its process is up; `None` while it is down.
    pub up_since: Option<Stamp>,
    /// While it waits to be started again: how long that wait is in all, in milliseconds.
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
    /// The last health check; `None` before the first, and while it is not asked.
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
    /// What runs there.
    pub release: Option<ReleaseId>,
    pub commit: Option<CommitId>,
    /// Its main process.
    pub pid: Option<u32>,
    /// In one word.
    pub state: IdleState,
    /// All that it has or would have.
    pub instances: Vec<InstanceReport>,
    /// It stands behind the watched release, and takes what that one refuses to take (`watch.backup`).
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
    /// Where it goes.
    pub color: Option<Color>,
    pub phase: Phase,
    pub started_at: Stamp,
    /// Since when it is in this phase.
    pub phase_since: Option<Stamp>,
    /// How long the phase lasts by the configuration, in milliseconds: the watch; the drain at most. `None` of the
    /// others, and of a watch that waits for traffic.
    pub phase_ms: Option<u64>,
    /// How it will end, once that is decided and only cleaning up is left.
    pub ending: Option<Outcome>,
}

/// The share of the traffic that the deploy under way has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    /// Which step, from 1.
    pub step: usize,
    /// Of how many.
    pub steps: usize,
    /// What was asked of the front, in percent.
    pub wanted: Share,
    /// What it was of the requests since then, in percent with two decimals; `None` where nobody counts.
    pub measured: Option<String>,
    /// Since when the share is in force.
    pub since: Stamp,
    /// An operator set the share; it stays until he says otherwise.
    pub by_hand: bool,
    /// What was seen of too little traffic, while that keeps the step from ending; or that the front refuses the next.
    pub held: Option<String>,
    /// What follows, in percent; 100 is the switch.
    pub next_share: Share,
    /// When; `None`: when an operator says so, or when there was enough traffic.
    pub next_at: Option<Stamp>,
}

/// Why automatic deploys are off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    pub by: String,
    pub reason: String,
    pub since: Stamp,
    /// What ends it.
    pub until: Option<HoldEnd>,
}

/// The remote, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteReport {
    pub branch: String,
    pub head: Option<CommitId>,
    /// The last good look.
    pub checked_at: Option<Stamp>,
    /// What is wrong with it now.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// How many refs it lists at each look, where it is therefore asked more seldom than `poll` says.
    pub refs: Option<u64>,
    /// The next look: after `poll`, later while it can't be read.
    pub next_at: Option<Stamp>,
}

/// The deploy that ended last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReport {
    pub id: DeployId,
    pub commit: Option<CommitId>,
    /// How it ended.
    pub outcome: Outcome,
    /// Where it failed.
    pub phase: Option<Phase>,
    /// What went wrong.
    pub error: Option<String>,
    /// The next thing to do.
    pub hint: Option<String>,
    pub finished_at: Stamp,
    pub steps: Vec<StepRecord>,
    /// The front could not be moved: the release took the place of another on the port that it routes to.
    pub replaced: bool,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// Whether `bgd flip` has somewhere to go.
    pub possible: bool,
    /// Where.
    pub to: Option<CommitId>,
    /// Whether it still runs.
    pub warm: bool,
}
