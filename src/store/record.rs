//! What the record says about a deploy and about events, in the shapes that history, show, status and the
//! event stream share. Plain data; reading and writing is in `store`.

use serde::{Deserialize, Serialize};

use crate::{
    os::printable::one_line,
    rules::{
        ids::{AppName, Color, CommitId, DeployId, ReleaseId},
        time::{Stamp, Time},
        words::{DeployKind, EventKind, Outcome, Phase},
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
    /// The user id of who asked; `None` for the poller, and where it is not known.
    pub uid: Option<u32>,
    /// The commit, once known.
    pub commit: Option<CommitId>,
    /// First line of the commit message.
    pub subject: Option<String>,
    pub author: Option<String>,
    /// The release, once checked out.
    pub release: Option<ReleaseId>,
    /// Where it started.
    pub color: Option<Color>,
    /// `None` while under way.
    pub outcome: Option<Outcome>,
    /// Where it is, or where it failed; `None` when it went well.
    pub phase: Option<Phase>,
    /// What went wrong, one line.
    pub error: Option<String>,
    /// The next thing to do.
    pub hint: Option<String>,
    /// When it was begun.
    pub started_at: Stamp,
    /// When its outcome was decided.
    pub finished_at: Option<Stamp>,
    pub steps: Vec<StepRecord>,
    /// What the public saw of the flip; `None` where it was not measured from beginning to end.
    pub meter: Option<MeterRecord>,
    /// The front could not be moved: the release took the place of another on the port that it routes to.
    pub replaced: bool,
}

/// What the public saw while the traffic moved, measured by requests that bgd sent through the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterRecord {
    /// How many were sent.
    pub requests: u64,
    /// How many of them got no complete answer, or 502, 503 or 504.
    pub lost: u64,
    /// The longest time between two answers; never much less than the time between two requests.
    pub longest_gap_ms: u64,
}

/// One deploy with everything, as `bgd show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployDetail {
    pub deploy: DeployRecord,
    /// The last lines of the build's or the instance's output, at a failure.
    pub log_tail: Vec<String>,
    /// The last probe answers, oldest first.
    pub probes: Vec<String>,
    /// The events of this deploy, oldest first.
    pub events: Vec<EventRecord>,
}

/// One event: one line in `bgd events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counter over all apps; `--since` takes it.
    pub seq: u64,
    pub at: Stamp,
    /// Which app; `None` for the daemon's own.
    pub app: Option<AppName>,
    pub deploy: Option<DeployId>,
    /// What it tells of.
    pub kind: EventKind,
    /// Who caused it: user name, `poller`, `daemon`.
    pub by: String,
    /// The user id of who asked, in the events of an operator's act.
    pub uid: Option<u32>,
    /// One line for people; no control characters, no secrets.
    pub text: String,
}

impl EventRecord {
    /// An event that bgd causes itself and that is not about an app. The store gives it its number.
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
