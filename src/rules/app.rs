//! The state of one app: what serves, what the other color holds, the deploy under way. It is journaled whole
//! with every step; a variant holds only what is valid then. Changed only by `rules::step`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::{
    beside::{Announcing, Placing, Rerouting, StandingIn, Telling},
    deploy::{Deploy, End, Kind, Queued, Release},
    stage::{DownStage, Group, Pipeline, Stage, Work},
};
use super::{
    canary::Canary,
    ids::{Color, CommitId, DeployId, EffectId, Generation, ReleaseId},
    time::Time,
    words::Phase,
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
        let to = match self.pipeline.stage() {
            Some(Stage::Watching { former, .. }) => former.as_ref()?,
            _ => self.previous.as_ref()?,
        };
        Some((to, running.is_some_and(|release| release.id == to.id)))
    }

    /// The phase of the deploy under way, as status shows it.
    pub fn phase(&self) -> Option<Phase> {
        let retiring = matches!(self.pipeline.stage(), Some(Stage::Retiring { .. }));
        let draining = retiring && matches!(self.idle, Idle::Draining { .. });
        if draining { Some(Phase::Draining) } else { self.pipeline.phase() }
    }
}
