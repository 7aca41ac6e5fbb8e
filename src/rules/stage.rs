//! How far a deploy is. Each stage holds the effect whose result it awaits and what only that stage needs. Stages form
//! five groups, by what readers of the state must know: whether the deploy can be given up, and whether the traffic
//! moves.

use serde::{Deserialize, Serialize};

use super::{
    beside::{Placing, Telling},
    deploy::{Deploy, End, Release},
    ids::{Color, CommitId, EffectId, TaskName},
    words::{Moment, Phase},
};

/// The work under way. A deploy has no release before its fetch has ended, and may be given up without one: these two
/// states stand beside [`Pipeline::Deploying`], so that no stage has to ask whether there is a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Pipeline {
    /// Nothing is under way.
    #[default]
    Resting,
    /// The commit is fetched.
    Fetching {
        deploy: Deploy,
        /// The fetch.
        effect: EffectId,
        /// The commit, when it is known beforehand.
        commit: Option<CommitId>,
    },
    /// A release is on its way to the traffic, or back.
    Deploying(Work),
    /// What the deploy left on the idle color is being removed.
    Discarding {
        deploy: Deploy,
        /// The release, if it came that far.
        release: Option<Release>,
        /// The removal.
        effect: EffectId,
        /// How the deploy ends.
        end: End,
    },
    /// `bgd down`: the traffic is turned away, then the instance drains and stops.
    TakingDown {
        /// The step under way.
        effect: EffectId,
        stage: DownStage,
    },
}

/// A deploy with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub deploy: Deploy,
    pub release: Release,
    /// The color on which it starts; while another release is put in its place, the color that the front routes to.
    pub color: Color,
    /// How far it is.
    pub stage: Stage,
}

/// How far a deploy with a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The release directory is made.
    CheckingOut(EffectId),
    /// The build runs.
    Building(EffectId),
    /// The idle color is still occupied, or the front may route to it: waits until it is vacant and not routed.
    Clearing,
    /// The `before_start` hook runs.
    Hooking(EffectId),
    /// A task runs, at a moment before the pivot.
    Tasking {
        /// The task.
        effect: EffectId,
        when: Moment,
        task: TaskName,
        /// The tasks of this moment that follow.
        left: Vec<TaskName>,
    },
    /// The instance is started.
    Starting(EffectId),
    /// The instance is probed.
    Probing(EffectId),
    /// The instance is warmed up.
    Warming(EffectId),
    /// bgd has asked the front for a share of the traffic.
    Sharing(EffectId),
    /// It has a share of the traffic, and is watched.
    Canary(EffectId),
    /// The front moves the traffic: the pivot.
    Switching(EffectId),
    /// The release is live and probed; a failure brings the former release back.
    Watching {
        /// The watch.
        effect: EffectId,
        /// The former live release; it becomes `previous` when the watch ends well.
        former: Option<Release>,
        /// The last report of too little traffic, while that keeps the watch going.
        held: Option<String>,
    },
    /// The front moves the traffic back.
    Reverting {
        /// The route, or the wait before bgd sends it again.
        effect: EffectId,
        /// How the deploy ends.
        end: End,
        /// Whether the route is under way or waits.
        telling: Telling,
    },
    /// The front can't be moved: the wanted release replaces what serves, on the port that the front routes to.
    /// `Work::color` is the live color, or that of a canary whose share can't be taken back.
    Replacing {
        /// The replacement.
        effect: EffectId,
        /// The release that takes the place.
        wanted: Release,
        by: Placing,
        /// How the deploy ends.
        end: End,
    },
    /// The outcome is decided; the color that the deploy left behind drains and stops.
    Retiring {
        /// How the deploy ends.
        end: End,
    },
}

/// The groups of stages, by what a reader of the state must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageGroup {
    /// It never had traffic: it can be given up without a trace.
    BeforePivot,
    /// It has a share of the traffic, or bgd has asked the front for one.
    Sharing,
    /// All of the traffic is being moved, to its release or back.
    Pivot,
    /// It is live, with an automatic way back.
    Live,
    /// Its outcome is decided; the rest of it, or of what it replaced, is being removed.
    Ending,
}

/// The steps of `bgd down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownStage {
    /// bgd sends the front a route to nothing.
    Unrouting,
    /// Requests in flight finish.
    Draining,
    /// The instance is stopped.
    Stopping,
}

impl Pipeline {
    /// The group of the deploy under way; `None` when none is.
    pub fn group(&self) -> Option<StageGroup> {
        match self {
            Self::Resting | Self::TakingDown { .. } => None,
            Self::Fetching { .. } => Some(StageGroup::BeforePivot),
            Self::Deploying(work) => Some(work.stage.group()),
            Self::Discarding { .. } => Some(StageGroup::Ending),
        }
    }

    /// The deploy under way, from the moment when it has a release until that is discarded.
    pub fn work(&self) -> Option<&Work> {
        match self {
            Self::Deploying(work) => Some(work),
            Self::Resting | Self::Fetching { .. } | Self::Discarding { .. } | Self::TakingDown { .. } => None,
        }
    }

    /// The stage of [`Pipeline::work`].
    pub fn stage(&self) -> Option<&Stage> {
        self.work().map(|work| &work.stage)
    }

    /// The deploy under way.
    pub fn deploy(&self) -> Option<&Deploy> {
        match self {
            Self::Resting | Self::TakingDown { .. } => None,
            Self::Fetching { deploy, .. } | Self::Discarding { deploy, .. } => Some(deploy),
            Self::Deploying(work) => Some(&work.deploy),
        }
    }

    /// The release of the deploy under way, once it has one.
    pub fn release(&self) -> Option<&Release> {
        match self {
            Self::Resting | Self::TakingDown { .. } | Self::Fetching { .. } => None,
            Self::Deploying(work) => Some(&work.release),
            Self::Discarding { release, .. } => release.as_ref(),
        }
    }

    /// The commit of the deploy under way, once known.
    pub fn commit(&self) -> Option<&CommitId> {
        match self {
            Self::Fetching { commit, .. } => commit.as_ref(),
            _ => self.release().map(|release| &release.commit),
        }
    }

    /// How the deploy under way ends, once that is decided.
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Discarding { end, .. } => Some(end),
            Self::Deploying(work) => work.stage.end(),
            Self::Resting | Self::Fetching { .. } | Self::TakingDown { .. } => None,
        }
    }

    /// The phase as status shows it; [`super::app::App::phase`] tells a color that drains from one that stops.
    pub(super) fn phase(&self) -> Option<Phase> {
        match self {
            Self::Resting | Self::TakingDown { .. } => None,
            Self::Fetching { .. } => Some(Phase::Fetching),
            Self::Deploying(work) => Some(work.stage.phase()),
            Self::Discarding { .. } => Some(Phase::Stopping),
        }
    }

    /// The effect whose result it waits for.
    pub(super) fn awaits(&self) -> Option<EffectId> {
        match self {
            Self::Resting => None,
            Self::Fetching { effect, .. }
            | Self::Discarding { effect, .. }
            | Self::TakingDown { effect, .. } => Some(*effect),
            Self::Deploying(work) => work.stage.awaits(),
        }
    }
}

impl Stage {
    pub fn group(&self) -> StageGroup {
        match self {
            Self::CheckingOut(_)
            | Self::Building(_)
            | Self::Clearing
            | Self::Hooking(_)
            | Self::Tasking { .. }
            | Self::Starting(_)
            | Self::Probing(_)
            | Self::Warming(_) => StageGroup::BeforePivot,
            Self::Sharing(_) | Self::Canary(_) => StageGroup::Sharing,
            Self::Switching(_) | Self::Reverting { .. } | Self::Replacing { .. } => StageGroup::Pivot,
            Self::Watching { .. } => StageGroup::Live,
            Self::Retiring { .. } => StageGroup::Ending,
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::CheckingOut(_) => Phase::CheckingOut,
            Self::Building(_) => Phase::Building,
            Self::Clearing | Self::Hooking(_) | Self::Starting(_) => Phase::Starting,
            Self::Tasking { when, .. } => when.phase(),
            Self::Probing(_) => Phase::Probing,
            Self::Warming(_) => Phase::Warming,
            Self::Sharing(_) | Self::Canary(_) => Phase::Canary,
            Self::Switching(_) | Self::Reverting { .. } | Self::Replacing { .. } => Phase::Switching,
            Self::Watching { .. } => Phase::Watching,
            Self::Retiring { .. } => Phase::Stopping,
        }
    }

    /// The effect whose result it waits for.
    pub fn awaits(&self) -> Option<EffectId> {
        match self {
            Self::Clearing | Self::Retiring { .. } => None,
            Self::CheckingOut(effect)
            | Self::Building(effect)
            | Self::Hooking(effect)
            | Self::Starting(effect)
            | Self::Probing(effect)
            | Self::Warming(effect)
            | Self::Sharing(effect)
            | Self::Canary(effect)
            | Self::Switching(effect)
            | Self::Tasking { effect, .. }
            | Self::Watching { effect, .. }
            | Self::Reverting { effect, .. }
            | Self::Replacing { effect, .. } => Some(*effect),
        }
    }

    pub(super) fn end(&self) -> Option<&End> {
        match self {
            Self::Retiring { end } | Self::Reverting { end, .. } | Self::Replacing { end, .. } => Some(end),
            Self::CheckingOut(_)
            | Self::Building(_)
            | Self::Clearing
            | Self::Hooking(_)
            | Self::Tasking { .. }
            | Self::Starting(_)
            | Self::Probing(_)
            | Self::Warming(_)
            | Self::Sharing(_)
            | Self::Canary(_)
            | Self::Switching(_)
            | Self::Watching { .. } => None,
        }
    }
}
