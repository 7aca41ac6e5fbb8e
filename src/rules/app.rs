//! The state of one app: what serves, what the other color holds, the deploy under way. It is journaled whole
//! with every step; a variant holds only what is valid then. Changed only by `rules::step`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::beside::{Announcing, Placing, Rerouting, StandingIn, Telling};
use super::{
    canary::Canary,
    event::Want,
    ids::{Color, CommitId, DeployId, EffectId, Generation, ReleaseId},
    time::Time,
    words::{DeployKind, Failure, Outcome, Phase},
};

/// Everything the machine knows of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct App {
    /// What should receive the traffic.
    pub serving: Serving,
    /// The color that does not.
    pub idle: Idle,
    /// The deploy under way.
    pub pipeline: Pipeline,
    /// The share of the traffic that the deploy under way has, had until the switch, or is about to have.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// A deploy asked for by hand while another is under way; the newest wins.
    pub queued: Option<Queued>,
    /// The remote's tip as last seen.
    pub head: Option<CommitId>,
    /// Why automatic deploys are off.
    pub hold: Option<Hold>,
    /// Commits that are not deployed by themselves.
    pub verdicts: BTreeMap<CommitId, Verdict>,
    /// What was live before; where a flip goes.
    pub previous: Option<Release>,
    /// The front is told again what is live, beside any deploy.
    pub rerouting: Option<Rerouting>,
    /// The former release behind the live one, while that is watched.
    #[serde(default)]
    pub backup: Backup,
    /// `bgd down` was asked for and waits for the deploy under way to end.
    pub down_wanted: bool,
    /// Pushes superseded since the last deploy that ran to its end.
    pub superseded_in_a_row: u32,
    /// The number of the last effect.
    pub last_effect: EffectId,
    /// The number of the last route given to the front.
    pub generation: Generation,
    /// A switch was called off half way, or the front was found half told: where it routes is not known until it has
    /// taken a route again.
    #[serde(default)]
    pub front_unsure: bool,
    /// What stands in for the live release is being put there again.
    #[serde(default)]
    pub standing_in: Option<StandingIn>,
    /// The `after_live` hook under way.
    #[serde(default)]
    pub announcing: Option<Announcing>,
    /// Why the front does not take the route that it is told again and again.
    #[serde(default)]
    pub front_refusal: Option<String>,
}

/// Whether the front has a backup: the former release, which takes what the watched one refuses to take. Until it is
/// proven to have none, nothing else runs on that color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Backup {
    /// It has none.
    #[default]
    Absent,
    /// It was told of one.
    Told,
    /// It was told of none since, which is not proven yet.
    Withdrawn,
}

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

/// What should receive the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Serving {
    /// Nothing was ever live.
    #[default]
    Nothing,
    /// A release is live.
    Live(Live),
    /// Taken out of service by `bgd down`; what to bring back.
    OutOfService(Live),
}

/// The live release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Where it runs.
    pub color: Color,
    /// What runs.
    pub release: Release,
    /// Since when.
    pub since: Time,
    /// Whether its process is up.
    pub instance: Instance,
    /// The last health check.
    pub healthy: Option<bool>,
}

/// The process behind the live color.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instance {
    /// It runs.
    Up {
        /// Since when.
        since: Time,
        /// Restarts before this one, without a long uptime in between.
        attempt: u32,
    },
    /// It is being started again.
    Starting {
        /// Which restart in a row.
        attempt: u32,
        /// The start under way.
        effect: EffectId,
    },
    /// It died; waiting to start it again.
    Waiting {
        /// Which restart in a row comes next.
        attempt: u32,
        /// The timer.
        effect: EffectId,
    },
    /// It died, and `watch.restart` is off.
    Dead,
}

/// The color that receives no traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Idle {
    /// Nothing runs there.
    #[default]
    Vacant,
    /// It belongs to the deploy under way.
    Taken,
    /// The former live release still runs there.
    Warm {
        /// What runs.
        release: Release,
        /// The end of `standby`; `None` while its successor is watched.
        timer: Option<EffectId>,
        /// The last health check.
        healthy: bool,
    },
    /// It finishes what is in flight, or could not be stopped and is stopped again after a wait.
    Draining {
        /// What runs.
        release: Release,
        /// The drain, or the wait.
        effect: EffectId,
    },
    /// It is being stopped.
    Stopping {
        /// What runs.
        release: Release,
        /// The stop.
        effect: EffectId,
    },
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

/// Where the deploy under way is. The pivot is `Switching`.
///
/// ```text
/// Resting → Fetching → CheckingOut → Building → [Clearing] → [Hooking] → Starting → Probing → [Warming]
///   → [Sharing ⇄ Canary] → Switching ═ Routed ═▶ Watching → Retiring → Resting
/// before the pivot, on failure or flip:  → Discarding → Resting
/// with a share of the traffic:           → Reverting → Retiring → Resting
/// at or after it, on failure or flip:    → Reverting → Retiring → Resting
/// a way back that the front refuses:     → Replacing → Retiring → Resting
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Pipeline {
    /// Nothing is under way.
    #[default]
    Resting,
    /// The commit is fetched.
    Fetching {
        /// The deploy.
        deploy: Deploy,
        /// The fetch.
        effect: EffectId,
        /// The commit, when it is known beforehand.
        commit: Option<CommitId>,
    },
    /// The release directory is made.
    CheckingOut(Work),
    /// The build runs.
    Building(Work),
    /// The idle color is still occupied, or the front may route to it; waits until it is vacant and not routed.
    Clearing {
        /// The deploy.
        deploy: Deploy,
        /// Its release.
        release: Release,
    },
    /// The `before_start` hook runs.
    Hooking(Work),
    /// The instance is started.
    Starting(Work),
    /// The instance is probed.
    Probing(Work),
    /// The instance is warmed up.
    Warming(Work),
    /// The front gives a share of the traffic to it.
    Sharing(Work),
    /// It has a share of the traffic, and is watched.
    Canary(Work),
    /// The front moves the traffic: the pivot.
    Switching(Work),
    /// Live, and probed with an automatic way back.
    Watching {
        /// The work so far.
        work: Work,
        /// What was live before; it becomes `previous` when the watch ends well.
        former: Option<Release>,
        /// What was seen of too little traffic, while that keeps the watch going.
        #[serde(default)]
        held: Option<String>,
    },
    /// Its outcome is decided; the color it left behind drains and stops.
    Retiring {
        /// The deploy.
        deploy: Deploy,
        /// Its release.
        release: Release,
        /// How it ends.
        end: End,
    },
    /// The front moves the traffic back.
    Reverting {
        /// The work so far; its effect is the route, or the wait before it is told again.
        work: Work,
        /// How it ends.
        end: End,
        /// Whether the front is being told or will be.
        telling: Telling,
    },
    /// The front can't be moved: the wanted release takes the place of what serves, on the port it routes to.
    Replacing {
        /// The work so far; its color is the live one, or that of a canary whose share can't be taken back.
        work: Work,
        /// What takes the place.
        wanted: Release,
        /// How.
        #[serde(default)]
        by: Placing,
        /// How it ends.
        end: End,
    },
    /// What the deploy left on the idle color is removed.
    Discarding {
        /// The deploy.
        deploy: Deploy,
        /// The release, if it came that far.
        release: Option<Release>,
        /// The removal.
        effect: EffectId,
        /// How it ends.
        end: End,
    },
    /// `bgd down`: the traffic is turned away, then the instance drains and stops.
    TakingDown {
        /// The step under way.
        effect: EffectId,
        /// Which one.
        stage: DownStage,
    },
}

/// A phase with a release and one effect under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The deploy.
    pub deploy: Deploy,
    /// Its release.
    pub release: Release,
    /// Where it starts.
    pub color: Color,
    /// The effect whose result is awaited.
    pub effect: EffectId,
}

/// How a deploy ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In one word.
    pub outcome: Outcome,
    /// Why, when it went wrong.
    pub failure: Option<Failure>,
}

/// The steps of `bgd down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownStage {
    /// The front is told that nothing is live.
    Unrouting,
    /// Requests in flight finish.
    Draining,
    /// The instance is stopped.
    Stopping,
}

/// Why automatic deploys are off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who placed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// What releases it.
    pub until: Until,
    /// The deploy by hand that it came with, and does not outlive when that one does not last.
    #[serde(default)]
    pub pins: Option<DeployId>,
}

/// What releases a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// `bgd resume`.
    Resumed,
    /// `bgd resume`, or a tip other than this one.
    NewerThan(Option<CommitId>),
}

/// What is remembered of a commit, across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Not deployed again by itself.
    Bad {
        /// Which deploy found out.
        deploy: DeployId,
        /// One line.
        why: String,
    },
    /// Failed for reasons outside of the commit; tried again.
    Retry {
        /// How often it failed.
        failures: u32,
        /// Not before this.
        not_before: Time,
    },
}

impl App {
    /// The live release, if one is in service.
    pub fn live(&self) -> Option<&Live> {
        match &self.serving {
            Serving::Live(live) => Some(live),
            Serving::Nothing | Serving::OutOfService(_) => None,
        }
    }

    /// What must never be deleted (promise I1): what serves, what a flip goes back to, what a deploy makes, and what
    /// is left on the idle color.
    pub fn needed_releases(&self) -> Vec<ReleaseId> {
        let serving = match &self.serving {
            Serving::Live(live) | Serving::OutOfService(live) => Some(&live.release),
            Serving::Nothing => None,
        };
        let idle = match &self.idle {
            Idle::Vacant | Idle::Taken => None,
            Idle::Warm { release, .. } | Idle::Draining { release, .. } | Idle::Stopping { release, .. } => {
                Some(release)
            }
        };
        let all = [serving, idle, self.previous.as_ref(), self.pipeline.release()];
        all.into_iter().flatten().map(|release| release.id.clone()).collect()
    }

    /// Where the next release starts.
    pub fn idle_color(&self) -> Color {
        match &self.serving {
            Serving::Live(live) => live.color.other(),
            Serving::OutOfService(live) => live.color,
            Serving::Nothing => Color::Blue,
        }
    }

    /// What the way back would bring: the release and whether it still runs.
    pub fn way_back(&self) -> Option<(&Release, bool)> {
        let running = match &self.idle {
            Idle::Warm { release, .. } | Idle::Draining { release, .. } => Some(release),
            Idle::Vacant | Idle::Taken | Idle::Stopping { .. } => None,
        };
        let to = match &self.pipeline {
            Pipeline::Watching { former, .. } => former.as_ref()?,
            _ => self.previous.as_ref()?,
        };
        Some((to, running.is_some_and(|release| release.id == to.id)))
    }
}

impl Pipeline {
    /// The deploy under way.
    pub fn deploy(&self) -> Option<&Deploy> {
        match self {
            Self::Resting | Self::TakingDown { .. } => None,
            Self::Fetching { deploy, .. }
            | Self::Clearing { deploy, .. }
            | Self::Retiring { deploy, .. }
            | Self::Discarding { deploy, .. } => Some(deploy),
            Self::CheckingOut(work)
            | Self::Building(work)
            | Self::Hooking(work)
            | Self::Starting(work)
            | Self::Probing(work)
            | Self::Warming(work)
            | Self::Sharing(work)
            | Self::Canary(work)
            | Self::Switching(work)
            | Self::Watching { work, .. }
            | Self::Reverting { work, .. }
            | Self::Replacing { work, .. } => Some(&work.deploy),
        }
    }

    /// The release of the deploy under way, once it has one.
    pub fn release(&self) -> Option<&Release> {
        match self {
            Self::Resting | Self::TakingDown { .. } | Self::Fetching { .. } => None,
            Self::Clearing { release, .. } | Self::Retiring { release, .. } => Some(release),
            Self::Discarding { release, .. } => release.as_ref(),
            Self::CheckingOut(work)
            | Self::Building(work)
            | Self::Hooking(work)
            | Self::Starting(work)
            | Self::Probing(work)
            | Self::Warming(work)
            | Self::Sharing(work)
            | Self::Canary(work)
            | Self::Switching(work)
            | Self::Watching { work, .. }
            | Self::Reverting { work, .. }
            | Self::Replacing { work, .. } => Some(&work.release),
        }
    }

    /// The commit of the deploy under way, once known.
    pub fn commit(&self) -> Option<&CommitId> {
        match self {
            Self::Fetching { commit, .. } => commit.as_ref(),
            _ => self.release().map(|release| &release.commit),
        }
    }

    /// The phase as status shows it; needs the idle color to tell draining from stopping.
    pub fn phase(&self, idle: &Idle) -> Option<Phase> {
        Some(match self {
            Self::Resting | Self::TakingDown { .. } => return None,
            Self::Fetching { .. } => Phase::Fetching,
            Self::CheckingOut(_) => Phase::CheckingOut,
            Self::Building(_) => Phase::Building,
            Self::Clearing { .. } | Self::Hooking(_) | Self::Starting(_) => Phase::Starting,
            Self::Probing(_) => Phase::Probing,
            Self::Warming(_) => Phase::Warming,
            Self::Sharing(_) | Self::Canary(_) => Phase::Canary,
            Self::Switching(_) | Self::Reverting { .. } | Self::Replacing { .. } => Phase::Switching,
            Self::Watching { .. } => Phase::Watching,
            Self::Retiring { .. } if matches!(idle, Idle::Draining { .. }) => Phase::Draining,
            Self::Retiring { .. } | Self::Discarding { .. } => Phase::Stopping,
        })
    }
}
