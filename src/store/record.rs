//! Deploys and events as recorded, in the shapes that history, show, status and the event stream share. Plain data;
//! reading and writing is in `store`.

use serde::{Deserialize, Serialize};

use crate::{
    os::printable::one_line,
    rules::{
        ids::{AppName, Color, CommitId, DeployId, ReleaseId},
        time::{Stamp, Time},
        words::{DeployKind, EventKind, GateKind, Outcome, Phase, TaskOutcome},
    },
};

/// One finished or running step of a deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// `fetch`, `checkout`, `build`, …
    pub name: String,
    pub ms: u64,
}

/// One deploy, as `bgd history` lists it. All keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRecord {
    pub id: DeployId,
    pub app: AppName,
    /// Why it was made.
    pub kind: DeployKind,
    /// Who asked for it, or `poller`.
    pub by: String,
    /// User id of the person who asked; `None` for the poller, and where unknown.
    pub uid: Option<u32>,
    /// The commit, once known.
    pub commit: Option<CommitId>,
    /// First line of the commit message.
    pub subject: Option<String>,
    pub author: Option<String>,
    /// The release, once checked out.
    pub release: Option<ReleaseId>,
    /// The color that the release was started on.
    pub color: Option<Color>,
    /// `None` while under way.
    pub outcome: Option<Outcome>,
    /// The phase it is in, or failed in; `None` when it succeeded.
    pub phase: Option<Phase>,
    /// The error, one line.
    pub error: Option<String>,
    /// The next thing to do.
    pub hint: Option<String>,
    /// When it began, or was queued.
    pub started_at: Stamp,
    /// When its outcome was decided.
    pub finished_at: Option<Stamp>,
    pub steps: Vec<StepRecord>,
    /// The flip as measured through the front; `None` where it was not measured from beginning to end.
    pub meter: Option<MeterRecord>,
    /// The front could not be moved, so the release took over the port that the front routes to.
    pub replaced: bool,
    /// The closed gates that it passed, because it was asked for by hand. Left out by an older daemon.
    #[serde(default)]
    pub passed_gates: Vec<GateKind>,
}

/// The effect of a flip on the public, measured by requests that bgd sent through the front while the traffic moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterRecord {
    /// Number of requests sent.
    pub requests: u64,
    /// Requests without a complete answer, or answered 502, 503 or 504.
    pub lost: u64,
    /// The longest time between two answers; never much less than the time between two requests.
    pub longest_gap_ms: u64,
}

/// The run of a task or hook in a deploy, as `bgd show` lists it. All keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub name: String,
    /// The moment of the deploy; of a hook its name.
    pub when: String,
    /// `None` while it runs.
    pub outcome: Option<TaskOutcome>,
    /// Its exit code; `None` after a signal, and where nothing is known.
    pub exit: Option<i32>,
    /// How long it took; `None` while it runs.
    pub ms: Option<u64>,
    /// The number of the run in its deploy, from 1.
    #[serde(rename = "try")]
    pub attempt: u32,
    /// The host that ran it, in a fleet.
    pub host: Option<String>,
    /// Its last lines of output.
    pub tail: Vec<String>,
}

/// The last ended run of a task, as `bgd status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub deploy: DeployId,
    pub commit: Option<CommitId>,
    pub outcome: TaskOutcome,
    /// Its exit code; `None` after a signal, and where nothing is known.
    pub exit: Option<i32>,
    /// Who asked for the deploy, or `poller`.
    pub by: String,
    pub started_at: Stamp,
    pub finished_at: Option<Stamp>,
}

/// One deploy in full, as `bgd show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployDetail {
    pub deploy: DeployRecord,
    /// The last lines of the build's or the instance's output, at a failure.
    pub log_tail: Vec<String>,
    /// The last probe answers, oldest first.
    pub probes: Vec<String>,
    /// The events of this deploy, oldest first.
    pub events: Vec<EventRecord>,
    /// The runs of its tasks and hooks, in the order of their starts; none from a daemon that is older than this key.
    #[serde(default)]
    pub tasks: Vec<TaskRecord>,
}

/// One event: one line in `bgd events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counter over all apps; `--since` takes it.
    pub seq: u64,
    pub at: Stamp,
    /// `None` for events of the daemon itself.
    pub app: Option<AppName>,
    pub deploy: Option<DeployId>,
    pub kind: EventKind,
    /// Who caused it: a user name, `poller` or `bgd`.
    pub by: String,
    /// User id of the operator; only in events of an operator's act.
    pub uid: Option<u32>,
    /// One line for people; no control characters, no secrets.
    pub text: String,
}

impl EventRecord {
    /// An event caused by bgd itself and not about an app. The store assigns `seq`.
    pub fn new(kind: EventKind, at: Time, text: &str) -> Self {
        Self {
            seq: 0,
            at: Stamp(at),
            app: None,
            deploy: None,
            kind,
            by: "bgd".to_owned(),
            uid: None,
            text: one_line(text),
        }
    }
}
