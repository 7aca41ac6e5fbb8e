//! What happened: the only input of the machine. Past tense; data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    canary::Share,
    deploy::Release,
    ids::{Color, CommitId, EffectId, ReleaseId},
    words::Failure,
};

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The poller saw the tip of the branch.
    HeadSeen(CommitId),
    /// An operator asked.
    Asked {
        /// Who.
        by: String,
        /// For what.
        ask: Ask,
    },
    /// An effect ended.
    Done {
        /// Which one.
        effect: EffectId,
        /// How.
        result: Result<Done, Failure>,
    },
    /// An instance's whole process tree is gone.
    InstanceDied {
        /// Where it ran.
        color: Color,
        /// What ran.
        release: ReleaseId,
        /// Exit code or signal, for people.
        how: String,
        /// The end of its log.
        #[serde(default)]
        last_words: Vec<String>,
    },
    /// A running instance's health changed.
    HealthChanged {
        /// Where it runs.
        color: Color,
        /// What runs.
        release: ReleaseId,
        /// The new health.
        healthy: bool,
        /// The last probe answer.
        answer: String,
    },
    /// The front's process was started again and routes nothing yet.
    FrontRestarted,
    /// bgd started and has looked at the world.
    Recovered(Facts),
    /// Time passed; only wakes what waits for its turn.
    Ticked,
}

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// `bgd deploy`.
    Deploy(Want),
    /// `bgd flip`.
    Flip,
    /// `bgd canary set`: this share, until an operator says otherwise.
    SetShare(Share),
    /// `bgd canary resume`: on with the steps.
    ResumeSteps,
    /// `bgd promote`: all of the traffic now, or the end of the watch.
    Promote,
    /// `bgd promote --step`: the next step now.
    NextStep,
    /// `bgd hold`.
    Hold {
        /// Why.
        reason: String,
    },
    /// `bgd resume`.
    Resume,
    /// `bgd down`.
    Down,
    /// `bgd up`.
    Up,
}

/// Which commit is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The tip of the configured branch.
    Tip,
    /// A commit, tag or branch as typed.
    Rev(String),
    /// Exactly this commit.
    Commit(CommitId),
}

/// What an effect achieved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// `Action::Fetch`.
    Fetched {
        /// What was asked for, resolved.
        commit: CommitId,
        /// First line of the message.
        subject: String,
        /// The author.
        author: String,
    },
    /// `Action::Watch`: the instance was healthy, with too little traffic to tell more.
    Inconclusive {
        /// What was seen, for people.
        seen: String,
    },
    /// `Action::Start` of several instances: these did not run before.
    Started {
        /// Their numbers, from 1.
        instances: Vec<u16>,
        /// How many there are in all.
        of: u16,
    },
    /// Every other action: it is as the action says.
    Ensured,
}

/// What bgd saw of the world when it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Facts {
    /// What the front routes.
    pub routed: Routed,
    /// What it routes beside that.
    #[serde(default)]
    pub canary: Option<(Color, Share)>,
    /// Whether it has a backup behind what is live.
    #[serde(default)]
    pub backup: bool,
    /// It was killed, or bgd was, half way through a route: its next start may route another way.
    #[serde(default)]
    pub half_told: bool,
    /// Instances of ours that run, by color.
    pub running: BTreeMap<Color, ReleaseId>,
    /// On this color runs no instance, but what passes everything on to the other one.
    #[serde(default)]
    pub stands_in: Option<Color>,
    /// Releases whose build still runs or has left its verdict.
    pub builds: Vec<ReleaseId>,
    /// Releases known to the record, for instances that the state does not name.
    pub known: Vec<Release>,
}

/// What the front routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Routed {
    /// It could not be asked.
    #[default]
    Unknown,
    /// Nothing is routed.
    Nothing,
    /// This color.
    Color(Color),
}
