//! Events: the only input of the machine. Past tense; data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    barrier::SchemaNews,
    canary::Share,
    deploy::Release,
    gate::GateLook,
    ids::{Color, CommitId, EffectId, ReleaseId},
    task::Ran,
    words::Failure,
    workers::WorkerSlot,
};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The poller saw the tip of the branch.
    HeadSeen(CommitId),
    /// The poller saw the tip of an app with gates, and asked them.
    GatesSeen(Box<GateLook>),
    /// An operator made a request.
    Asked {
        /// The user who asked.
        by: String,
        ask: Ask,
    },
    /// An effect ended.
    Done {
        /// The number of the effect.
        effect: EffectId,
        result: Result<Done, Failure>,
    },
    /// An instance's whole process tree is gone.
    InstanceDied {
        color: Color,
        release: ReleaseId,
        /// Exit code or signal, for people.
        how: String,
        /// The end of its log.
        #[serde(default)]
        last_words: Vec<String>,
    },
    /// A running instance's health changed.
    HealthChanged {
        color: Color,
        release: ReleaseId,
        /// The new health.
        healthy: bool,
        /// The last probe answer.
        answer: String,
    },
    /// A worker ended by itself, and not with exit code 0; the engine starts it again.
    WorkerDied {
        worker: WorkerSlot,
        release: ReleaseId,
        /// Exit code or signal, for people.
        how: String,
        /// The end of its log.
        last_words: Vec<String>,
    },
    /// A worker that was told to leave has ended.
    WorkerLeft { release: ReleaseId },
    /// The front's process was started again and routes nothing yet.
    FrontRestarted,
    /// bgd started and has looked at front and host.
    Recovered(Facts),
    /// Time passed: starts what waits for its time, and changes nothing else.
    Ticked,
}

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// `bgd deploy`.
    Deploy(Want),
    /// `bgd flip`.
    Flip,
    /// `bgd deploy --force`: over a barrier.
    ForceDeploy(Want),
    /// `bgd flip --force`: over a barrier.
    ForceFlip,
    /// `bgd canary set`: this share, until an operator sets another.
    SetShare(Share),
    /// `bgd canary resume`: on with the steps.
    ResumeSteps,
    /// `bgd promote`: all of the traffic now, or the end of the watch.
    Promote,
    /// `bgd promote --step`: the next step now.
    NextStep,
    /// `bgd hold`.
    Hold {
        /// The operator's reason, for people.
        reason: String,
    },
    /// `bgd resume`.
    Resume,
    /// `bgd down`.
    Down,
    /// `bgd up`.
    Up,
}

impl Ask {
    /// Whether it asks for the way back, which does not depend on a disk (promise I6).
    pub fn is_flip(&self) -> bool {
        matches!(self, Self::Flip | Self::ForceFlip)
    }
}

/// The commit that a deploy is to make live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The tip of the configured branch.
    Tip,
    /// A commit, tag or branch as the operator typed it.
    Rev(String),
    /// Exactly this commit.
    Commit(CommitId),
}

/// The result of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// `Action::Fetch`.
    Fetched {
        /// The commit that the request resolves to.
        commit: CommitId,
        /// First line of the message.
        subject: String,
        author: String,
        /// What it changes in the database.
        #[serde(default)]
        news: SchemaNews,
    },
    /// `Action::Watch`: the instance was healthy, with too little traffic to tell more.
    Inconclusive {
        /// The traffic that was seen, for people.
        seen: String,
    },
    /// `Action::Start` of several instances: the ones that did not run before.
    Started {
        /// Their numbers, from 1.
        instances: Vec<u16>,
        /// How many there are in all.
        of: u16,
    },
    /// `Action::RunTask`: the task ended, well or not.
    Ran(Ran),
    /// Any other action: its goal is reached.
    Ensured,
}

/// What bgd found on the host when it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Facts {
    /// The color that the front routes to.
    pub routed: Routed,
    /// The color with a share of the traffic, and the share.
    #[serde(default)]
    pub canary: Option<(Color, Share)>,
    /// Whether the front has a backup behind the live color.
    #[serde(default)]
    pub backup: bool,
    /// The front or bgd was killed half way through a route: on its next start the front may use another one.
    #[serde(default)]
    pub half_told: bool,
    /// Instances of ours that run, by color.
    pub running: BTreeMap<Color, ReleaseId>,
    /// On this color no instance runs, but a process that passes everything on to the other color.
    #[serde(default)]
    pub stands_in: Option<Color>,
    /// Releases whose build still runs or has left its result.
    pub builds: Vec<ReleaseId>,
    /// Whether there are workers, or records of some that ended meanwhile.
    #[serde(default)]
    pub workers: bool,
    /// Releases known to the record, for instances that the state does not name.
    pub known: Vec<Release>,
}

/// The color that the front routes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Routed {
    /// The front did not answer.
    #[default]
    Unknown,
    /// Nothing is routed.
    Nothing,
    /// This color.
    Color(Color),
}
