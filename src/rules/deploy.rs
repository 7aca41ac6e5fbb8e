//! A deploy: who wants it and why, the release that it makes, and how it ends. Where it is: `rules::stage`.

use serde::{Deserialize, Serialize};

use super::{
    event::Want,
    ids::{CommitId, DeployId, ReleaseId},
    time::Time,
    words::{DeployKind, Failure, Outcome},
};

/// A commit, checked out in its own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its directory's name.
    pub id: ReleaseId,
    /// Its commit.
    pub commit: CommitId,
    /// First line of the commit message, one printable line.
    pub subject: String,
    /// The commit's author.
    pub author: String,
}

/// A deploy under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Its number.
    pub id: DeployId,
    /// Why it exists.
    pub kind: Kind,
    /// Who asked.
    pub by: String,
    /// When.
    pub started: Time,
    /// When the current phase began.
    pub phase_since: Time,
}

/// Why a deploy exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A new commit on the branch.
    Push,
    /// `bgd deploy`.
    Manual {
        /// What was asked for.
        want: Want,
        /// What was live then; the tip that has gone live since satisfies it.
        #[serde(default)]
        live: Option<ReleaseId>,
        /// The tip at that time; a later one is newer than what was asked for.
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
    /// Its number.
    pub id: DeployId,
    /// What was asked for.
    pub want: Want,
    /// Who asked.
    pub by: String,
    /// What was live then.
    #[serde(default)]
    pub live: Option<ReleaseId>,
    /// The tip at that time.
    pub tip: Option<CommitId>,
}

/// How a deploy ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In one word.
    pub outcome: Outcome,
    /// Why, when it went wrong.
    pub failure: Option<Failure>,
}

impl End {
    /// It went well.
    pub fn live() -> Self {
        Self { outcome: Outcome::Live, failure: None }
    }
}
