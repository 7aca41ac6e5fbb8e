//! What is to be done: the only output of the machine that acts. Imperative, idempotent, data only; run by the
//! engine after the step is committed, and again after a restart when its result is not in the record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    canary::Share,
    deploy::Release,
    event::Want,
    ids::{Color, CommitId, DeployId, EffectId, Generation, ReleaseId},
    words::{Failure, Phase},
};

/// An action with its number; the result comes back as `Event::Done` with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Its number.
    pub id: EffectId,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Have the commit in the mirror.
    Fetch(Want),
    /// Have a fresh release directory, prepared for the build.
    CheckOut {
        /// The release.
        release: Release,
        /// Where it will run.
        color: Color,
    },
    /// Have the build done.
    Build {
        /// The release.
        release: Release,
        /// Where it will run.
        color: Color,
    },
    /// Have a hook run to its end.
    RunHook {
        /// Which.
        hook: Hook,
        /// For which release.
        release: Release,
        /// Where it runs.
        color: Color,
        /// After a failure: which.
        failure: Option<Failure>,
    },
    /// Have an instance running, with nothing else on its port.
    Start {
        /// The release.
        release: Release,
        /// Where.
        color: Color,
    },
    /// Have the instance proven healthy: its own socket, consecutive successes.
    Probe {
        /// The release.
        release: Release,
        /// Where.
        color: Color,
    },
    /// Have the front route to exactly this, proven by effect; `None` turns the traffic away.
    Route {
        /// The number of the route.
        generation: Generation,
        /// Where to.
        to: Option<Backend>,
        /// What receives a share of it.
        #[serde(default)]
        canary: Option<Canary>,
        /// What takes the requests that `to` refuses to take.
        #[serde(default)]
        backup: Option<Backend>,
    },
    /// Have `release` running and proven healthy on a color in the place of `out`, although the front routes there.
    Replace {
        /// The color that the front routes to.
        color: Color,
        /// What goes.
        out: ReleaseId,
        /// What takes its place.
        release: Release,
    },
    /// Have what comes to a color passed on to the other one, where `release` runs, in the place of `out`: nobody waits
    /// for the end of that.
    StandIn {
        /// The color that the front routes to.
        color: Color,
        /// What goes.
        out: ReleaseId,
        /// What answers.
        release: Release,
    },
    /// Have the instance warmed up by requests of its own.
    WarmUp {
        /// The release.
        release: Release,
        /// Where.
        color: Color,
    },
    /// Have the instance healthy, and its traffic well, for the whole watch.
    Watch {
        /// The release.
        release: Release,
        /// Where.
        color: Color,
        /// How long; `None`: until told otherwise.
        #[serde(default)]
        period: Option<Duration>,
    },
    /// Have nothing in flight on the color, or the drain limit over.
    Drain {
        /// The color.
        color: Color,
    },
    /// Have no instance left on the color, and the port free.
    Stop {
        /// The color.
        color: Color,
        /// What is known to run there; after a flip without a record it may be another.
        release: ReleaseId,
    },
    /// Have nothing left of an abandoned deploy: build, hooks, instance.
    Discard {
        /// Where it was to run.
        color: Color,
        /// What.
        release: Option<ReleaseId>,
    },
    /// Report back after this long.
    Wake {
        /// How long.
        after: Duration,
    },
    /// End the run of an earlier effect; its result no longer matters.
    Cancel(EffectId),
    /// Delete releases that are not needed; never one that was made after this was asked for.
    Prune {
        /// Only releases of deploys before this one.
        before: DeployId,
        /// Never these.
        protect: Vec<ReleaseId>,
    },
}

/// Where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The color.
    pub color: Color,
    /// What runs there.
    pub release: ReleaseId,
    /// Its commit.
    pub commit: CommitId,
}

/// What receives a share of the traffic beside the live color.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Where, and what runs there.
    pub backend: Backend,
    /// How much of it.
    pub share: Share,
}

/// A command of the app at a point of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Before the instance starts.
    BeforeStart,
    /// After the traffic moved.
    AfterLive,
    /// After a failed deploy.
    AfterFailed,
}

/// Something worth recording, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// A deploy began.
    DeployStarted,
    /// A deploy's commit and release are known.
    ReleaseNamed,
    /// A deploy entered a phase.
    PhaseEntered(Phase),
    /// A step of a deploy ended.
    StepEnded(Phase, Duration),
    /// A deploy ended.
    DeployEnded(super::app::End),
    /// A new release receives this share of the traffic.
    ShareChanged(Share),
    /// There was too little traffic to tell whether a release is well; what was seen.
    Inconclusive(String),
    /// A release receives the traffic.
    WentLive {
        /// Where.
        color: Color,
        /// What.
        release: Release,
    },
    /// The front was not moved: a release took the place of another on its port.
    Replaced {
        /// The color of the port.
        color: Color,
        /// Whether it is passed on to the other color, or the release was started there.
        by: super::app::Placing,
    },
    /// What took a color's port over for the live release has ended.
    StandInEnded {
        /// Where it ran.
        color: Color,
    },
    /// A release no longer runs.
    Retired {
        /// Where it ran.
        color: Color,
        /// What ran.
        release: ReleaseId,
    },
    /// A deploy was queued behind the one under way.
    Queued(super::app::Queued),
    /// A queued deploy gave way to a newer request.
    QueueReplaced(super::app::Queued),
    /// The live instance died.
    InstanceDied {
        /// How.
        how: String,
        /// The wait before it is started again; `None` when it is not.
        restart_in: Option<Duration>,
    },
    /// The live instance runs again.
    InstanceRestarted {
        /// Which restart in a row it was.
        attempt: u32,
        /// Which instances, from 1, of how many; empty where there is only one.
        #[serde(default)]
        which: (Vec<u16>, u16),
    },
    /// The live instance could not be started again.
    RestartFailed(Failure),
    /// The health of the live instance changed.
    HealthChanged {
        /// The new health.
        healthy: bool,
        /// The last probe answer.
        answer: String,
    },
    /// Automatic deploys are off.
    HoldPlaced(super::app::Hold),
    /// Automatic deploys are on again.
    HoldReleased {
        /// Why.
        why: String,
    },
    /// A commit will not be deployed by itself again.
    MarkedBad(CommitId),
    /// The app was taken out of service.
    TakenDown,
    /// The world was not as recorded; what bgd saw and did.
    Contradiction(String),
    /// An effect besides the deploy failed.
    Trouble(Failure),
    /// The event changed nothing; why.
    Ignored(String),
}
