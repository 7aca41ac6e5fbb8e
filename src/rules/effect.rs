//! Effects: the only output of the machine that acts. Imperative, idempotent, data only. The engine runs them after the
//! step is committed, and again after a restart when their result is not in the record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    barrier::{Barrier, Landmarks},
    canary::Share,
    deploy::Release,
    event::Want,
    gate::Gate,
    ids::{Color, CommitId, DeployId, EffectId, Generation, ReleaseId, TaskName},
    task::Ran,
    words::{Failure, GateKind, Moment, Phase},
    workers::WantedWorkers,
};

/// An action with its number; the result comes back as `Event::Done` with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub id: EffectId,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Fetch the commit into the mirror, and compare it with what is live.
    Fetch {
        want: Want,
        #[serde(default)]
        landmarks: Landmarks,
    },
    /// Make a fresh release directory, prepared for the build.
    CheckOut {
        release: Release,
        /// The color on which it will run.
        color: Color,
    },
    /// Build the release.
    Build {
        release: Release,
        /// The color on which it will run.
        color: Color,
    },
    /// Run a hook to its end.
    RunHook {
        hook: Hook,
        release: Release,
        /// Where it runs.
        color: Color,
        /// The failure, for `after_failed`.
        failure: Option<Failure>,
        /// The deploy whose record tells of the run; `None` in effects of a bgd that recorded no runs.
        #[serde(default)]
        deploy: Option<DeployId>,
    },
    /// Run a task to its end, or take it up where an earlier effect began it: never twice, unless the task allows that
    /// after a power cut.
    RunTask {
        task: TaskName,
        when: Moment,
        release: Release,
        /// Where the release runs, or will run.
        color: Color,
    },
    /// Let go of the process records of a task whose end is recorded.
    ForgetTask { task: TaskName, release: ReleaseId },
    /// Run an instance, with nothing else on its port.
    Start {
        release: Release,
        /// The color on which it runs.
        color: Color,
    },
    /// Prove the instance healthy: its own socket, consecutive successes.
    Probe {
        release: Release,
        /// The color on which it runs.
        color: Color,
    },
    /// Make the front route to exactly this, and prove it by its effect; `None` turns the traffic away.
    Route {
        /// The number of the route.
        generation: Generation,
        /// The live color and its release.
        to: Option<Backend>,
        /// What receives a share of the traffic beside it.
        #[serde(default)]
        canary: Option<CanaryShare>,
        /// What takes requests that `to` refuses.
        #[serde(default)]
        backup: Option<Backend>,
    },
    /// Run `release` and prove it healthy in place of `out`, on a color that the front routes to.
    Replace {
        /// The color that the front routes to.
        color: Color,
        /// The release that goes.
        out: ReleaseId,
        /// The release that takes its place.
        release: Release,
    },
    /// Replace `out` by a process that passes everything on to the other color, where `release` runs. The traffic does
    /// not wait until `out` has ended.
    StandIn {
        /// The color that the front routes to.
        color: Color,
        /// The release that goes.
        out: ReleaseId,
        /// The release that answers.
        release: Release,
    },
    /// Warm the instance up with bgd's own requests.
    WarmUp {
        release: Release,
        /// The color on which it runs.
        color: Color,
    },
    /// Check for the whole watch that the instance is healthy and its traffic within the limits.
    Watch {
        release: Release,
        color: Color,
        /// The length of the watch; `None`: until it is cancelled.
        #[serde(default)]
        period: Option<Duration>,
    },
    /// Wait until nothing is in flight on the color, or the drain limit is over.
    Drain {
        /// The color that no longer receives traffic.
        color: Color,
    },
    /// Stop every instance on the color, and prove the port free.
    Stop {
        color: Color,
        /// The release that is known to run there; after a flip without a record it may be another.
        release: ReleaseId,
    },
    /// Remove what is left of an abandoned deploy: build, hooks, instance.
    Discard {
        /// The color on which it was to run.
        color: Color,
        release: Option<ReleaseId>,
    },
    /// Have exactly these workers at work, and tell all others to leave. Waits for nobody's end.
    Workers(WantedWorkers),
    /// Report back after this long.
    Wake {
        /// The wait until the result.
        after: Duration,
    },
    /// End an earlier effect; its result no longer matters.
    Cancel(EffectId),
    /// Delete releases that are not needed, but none that was made after this effect was asked for.
    Prune {
        /// Only releases of deploys before this one.
        before: DeployId,
        /// Releases that are kept.
        protect: Vec<ReleaseId>,
    },
}

/// A color that receives traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub color: Color,
    /// The release that runs there.
    pub release: ReleaseId,
    pub commit: CommitId,
}

/// A color that receives a share of the traffic beside the live one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryShare {
    /// The color, and the release that runs there.
    pub backend: Backend,
    /// Its share of the traffic.
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
    /// A task was started.
    TaskStarted { task: TaskName, when: Moment },
    /// A task ended, after this long.
    TaskEnded { task: TaskName, when: Moment, ran: Ran, took: Duration },
    /// A deploy ended.
    DeployEnded(super::app::End),
    /// A new release receives this share of the traffic.
    ShareChanged(Share),
    /// There was too little traffic to judge a release; the text says how much.
    Inconclusive(String),
    /// A release receives the traffic.
    WentLive {
        /// The color on which it runs.
        color: Color,
        release: Release,
    },
    /// The front was not moved: a release took the place of another on its port.
    Replaced {
        /// The color of the port.
        color: Color,
        /// Whether a stand-in passes the traffic on to the other color, or the release was started on this one.
        by: super::app::Placing,
    },
    /// The stand-in for the live release on the other color has ended.
    StandInEnded {
        /// The color on which it ran.
        color: Color,
    },
    /// A release no longer runs.
    Retired {
        /// The color on which it ran.
        color: Color,
        release: ReleaseId,
    },
    /// A deploy was queued behind the one under way.
    Queued(super::app::Queued),
    /// A queued deploy gave way to a newer request.
    QueueReplaced(super::app::Queued),
    /// The live instance died.
    InstanceDied {
        how: String,
        /// The wait before bgd starts it again; `None`: it does not.
        restart_in: Option<Duration>,
    },
    /// The live instance runs again.
    InstanceRestarted {
        /// Which restart in a row it was.
        attempt: u32,
        /// The instances, from 1, and how many there are; no instances where there is only one.
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
        /// The cause, for people.
        why: String,
    },
    /// A gate keeps a commit back.
    GateClosed(Gate),
    /// A gate that kept a commit back lets it pass.
    GateOpened(Gate),
    /// A deploy by hand passed these closed gates.
    GatesPassed(Vec<GateKind>),
    /// A commit will not be deployed by itself again.
    MarkedBad(CommitId),
    /// A contract is about to change the database.
    BarrierSet(Barrier),
    /// An operator moves the traffic to a release from before the barrier.
    BarrierPassed {
        /// The commit that then serves.
        to: CommitId,
        barrier: Barrier,
    },
    /// The app was taken out of service.
    TakenDown,
    /// Front or host differ from the record: what bgd found and did.
    Contradiction(String),
    /// An effect beside the deploy failed.
    Trouble(Failure),
    /// The event changed nothing; the text says why.
    Ignored(String),
}
