//! A deploy: who asked for it and why, the release that it makes, and how it ends. `rules::stage` says how far it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    barrier::Migration,
    event::Want,
    ids::{CommitId, DeployId, ReleaseId, TaskName},
    time::Time,
    words::{DeployKind, Failure, Outcome},
};

/// A commit, checked out in its own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its directory's name.
    pub id: ReleaseId,
    pub commit: CommitId,
    /// First line of the commit message, one printable line.
    pub subject: String,
    /// The commit's author.
    pub author: String,
}

/// A deploy under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    pub id: DeployId,
    pub kind: Kind,
    /// Who asked.
    pub by: String,
    pub started: Time,
    /// When the current phase began.
    pub phase_since: Time,
    /// What its release changes in the database; records of older releases do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// An operator sends it over a barrier; in records of older releases nobody does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The clock of the current step, and the tasks that ran; empty in records from before there were tasks.
    #[serde(default, skip_serializing_if = "Progress::is_new")]
    pub progress: Progress,
}

/// The part of a deploy's course that its stage does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Progress {
    /// When the current step began, if later than its phase.
    pub step_since: Option<Time>,
    /// When the hook or task under way began.
    pub aside_since: Option<Time>,
    /// Time of hooks and tasks within the current step: they have steps of their own.
    pub aside: Duration,
    /// The tasks that ended well in this deploy. A deploy may come to a moment again, after a restart of bgd.
    pub ran: Vec<TaskName>,
}

impl Progress {
    fn is_new(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a deploy exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A new commit on the branch.
    Push,
    /// `bgd deploy`.
    Manual {
        /// The commit that was asked for.
        want: Want,
        /// The live release at the time of the request: a tip that has gone live since satisfies it.
        #[serde(default)]
        live: Option<ReleaseId>,
        /// The tip at the time of the request; another one is newer than the request.
        tip: Option<CommitId>,
    },
    /// `bgd flip` to a release that was live before.
    Rollback,
    /// `bgd up`.
    Up,
}

impl Kind {
    /// The word in the record.
    pub fn word(&self) -> DeployKind {
        match self {
            Self::Push => DeployKind::Push,
            Self::Manual { .. } => DeployKind::Manual,
            Self::Rollback => DeployKind::Rollback,
            Self::Up => DeployKind::Up,
        }
    }
}

/// A deploy asked for by hand, waiting for its turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    pub id: DeployId,
    /// The commit that was asked for.
    pub want: Want,
    /// Who asked.
    pub by: String,
    /// The live release at the time of the request.
    #[serde(default)]
    pub live: Option<ReleaseId>,
    /// The tip at the time of the request.
    pub tip: Option<CommitId>,
    /// An operator sends it over a barrier; in records of older releases nobody does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// How a deploy ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub outcome: Outcome,
    /// The cause, when it did not end well.
    pub failure: Option<Failure>,
}

impl End {
    /// A good end.
    pub fn live() -> Self {
        Self { outcome: Outcome::Live, failure: None }
    }
}
