//! The state of one app: what serves, what the other color holds, the deploy under way. It is journaled whole
//! with every step; a variant holds only what is valid then. Changed only by `rules::step`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    barrier::{Barrier, Stranded},
    canary::Canary,
    gate::GateLook,
    ids::{Color, CommitId, DeployId, EffectId, Generation, ReleaseId, TaskName},
    task::{Errands, WorkedOn},
    time::Time,
    words::Phase,
    workers::WantedWorkers,
};
pub use super::{
    beside::{Announcing, Placing, Rerouting, StandingIn, Telling},
    deploy::{Deploy, End, Kind, Progress, Queued, Release},
    stage::{DownStage, Pipeline, Stage, StageGroup, Work},
};

/// Everything the machine knows of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct App {
    /// What should receive the traffic.
    pub serving: Serving,
    /// The color that receives no traffic.
    pub idle: Idle,
    /// The deploy under way.
    pub pipeline: Pipeline,
    /// The canary of the deploy under way: from the first share asked of the front until the switch is proven or the
    /// deploy ends.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// A deploy asked for by hand while another is under way; the newest wins.
    pub queued: Option<Queued>,
    /// The remote's tip as last seen.
    pub head: Option<CommitId>,
    /// What the gates said about that tip; `None`: the app has none.
    pub gates: Option<GateLook>,
    /// Why automatic deploys are off.
    pub hold: Option<Hold>,
    /// Commits that bgd does not deploy by itself, or only after a wait.
    pub verdicts: BTreeMap<CommitId, Verdict>,
    /// The release that was live before: the target of a flip.
    pub previous: Option<Release>,
    /// The route to the live release is sent to the front again, beside any deploy.
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
    /// Where the front routes is unknown until it proves a route: a switch was cancelled half way, or a restart could
    /// not ask the front or found it between two routes.
    #[serde(default)]
    pub front_unsure: bool,
    /// The stand-in for the live release died and is started again.
    #[serde(default)]
    pub standing_in: Option<StandingIn>,
    /// The `after_live` hook under way.
    #[serde(default)]
    pub announcing: Option<Announcing>,
    /// The workers that were asked for last.
    #[serde(default)]
    pub workers: WantedWorkers,
    /// Tasks of the live release that run beside the deploy.
    #[serde(default, skip_serializing_if = "Errands::is_empty")]
    pub errands: Errands,
    /// The commits on which a task worked that is not to run again on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worked_on: Vec<WorkedOn>,
    /// Why the front rejects the route that bgd keeps sending.
    #[serde(default)]
    pub front_refusal: Option<String>,
    /// The newest contract that has begun to change the database; records of older releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barrier: Option<Barrier>,
    /// The live release failed its watch and stays; records of older releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stranded: Option<Stranded>,
}

/// Whether the front has a backup: the former release, which takes requests that the watched one refuses. Until the
/// front has proven that it has none, nothing else runs on that color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Backup {
    /// The front has no backup.
    #[default]
    Absent,
    /// bgd sent the front a route with a backup.
    Told,
    /// bgd has since sent a route without one; the front has not proven it yet.
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
    /// Taken out of service by `bgd down`; `bgd up` brings this back.
    OutOfService(Live),
}

/// The live release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Where it runs.
    pub color: Color,
    pub release: Release,
    pub since: Time,
    /// Whether its process is up.
    pub instance: Instance,
    /// The result of the last health check.
    pub healthy: Option<bool>,
}

/// The process behind the live color.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instance {
    /// It runs.
    Up {
        since: Time,
        /// Restarts in a row before this start, without a long uptime in between.
        attempt: u32,
    },
    /// It is being started again.
    Starting {
        /// Which restart in a row.
        attempt: u32,
        /// The start under way.
        effect: EffectId,
    },
    /// It died; bgd waits before it starts it again.
    Waiting {
        /// Which restart in a row comes next.
        attempt: u32,
        /// The timer of the wait.
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
        release: Release,
        /// The end of `standby`; `None` while its successor is watched.
        timer: Option<EffectId>,
        /// The result of the last health check.
        healthy: bool,
    },
    /// It finishes the requests in flight; or its stop failed, and bgd stops it again after a wait.
    Draining {
        release: Release,
        /// The drain, or the wait before the next stop.
        effect: EffectId,
    },
    /// It is being stopped.
    Stopping {
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
    /// The reason that the operator gave, or that bgd names.
    pub reason: String,
    pub since: Time,
    /// What releases it.
    pub until: Until,
    /// The manual deploy that placed it; the hold ends with it when that release does not last.
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

/// The verdict on a commit, kept across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// bgd does not deploy it again by itself.
    Bad {
        /// The deploy that failed or was flipped away; or the rollback that replaced the live release.
        deploy: DeployId,
        /// One line, for people.
        why: String,
    },
    /// Failed for reasons outside of the commit; tried again.
    Retry {
        /// Failures so far.
        failures: u32,
        /// The earliest time of the next try.
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

    /// Releases that must never be deleted (promise I1): what serves, the target of a flip, what a deploy makes, what is
    /// left on the idle color, and the former release whose workers work until the watch ended well.
    pub fn needed_releases(&self) -> Vec<ReleaseId> {
        self.releases().map(|release| release.id.clone()).collect()
    }

    /// The releases that the state names.
    pub(super) fn releases(&self) -> impl Iterator<Item = &Release> {
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
        let watched = self.workers.watched.as_ref().map(|of| &of.release);
        let all = [serving, idle, self.previous.as_ref(), self.pipeline.release(), watched];
        all.into_iter().flatten().chain(self.errands.releases())
    }

    /// The color on which the next release starts.
    pub fn idle_color(&self) -> Color {
        match &self.serving {
            Serving::Live(live) => live.color.other(),
            Serving::OutOfService(live) => live.color,
            Serving::Nothing => Color::Blue,
        }
    }

    /// The target of a flip: the release, and whether it still runs.
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

    /// The task under way: the deploy's own, or one that runs beside it.
    pub fn task(&self) -> Option<&TaskName> {
        let deploy = self.pipeline.deploy()?;
        let beside = self.errands.running.as_ref().filter(|it| it.errand.deploy.id == deploy.id);
        match self.pipeline.stage() {
            Some(Stage::Tasking { task, .. }) => Some(task),
            _ => beside.map(|it| &it.errand.task),
        }
    }

    /// The phase of the deploy under way, as status shows it.
    pub fn phase(&self) -> Option<Phase> {
        let retiring = matches!(self.pipeline.stage(), Some(Stage::Retiring { .. }));
        let draining = retiring && matches!(self.idle, Idle::Draining { .. });
        if draining { Some(Phase::Draining) } else { self.pipeline.phase() }
    }
}
