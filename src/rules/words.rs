//! The fixed words of the contract that machine, record and wire share: phases, outcomes, failures.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),*
        }
        impl $name {
            /// All words, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = super::ids::BadId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    super::ids::BadId { expected: concat!("a ", stringify!($name)), value: text.to_owned() }
                })
            }
        }
    };
}

words! {
    /// The phase of a deploy, as status and events name it.
    Phase {
        /// The commit is asked for and fetched.
        Fetching = "fetching",
        /// The release directory is made.
        CheckingOut = "checking_out",
        /// The build commands run.
        Building = "building",
        /// The instance is started on the idle color.
        Starting = "starting",
        /// The instance is probed.
        Probing = "probing",
        /// bgd sends requests that warm the instance up.
        Warming = "warming",
        /// The new instance receives a share of the traffic.
        Canary = "canary",
        /// The front moves the traffic.
        Switching = "switching",
        /// The release is live and probed; a failure brings the former release back.
        Watching = "watching",
        /// The former color finishes what is in flight.
        Draining = "draining",
        /// The former color is stopped.
        Stopping = "stopping",
    }
}

impl Phase {
    /// The name of the step in a deploy's record.
    pub fn step(self) -> &'static str {
        match self {
            Self::Fetching => "fetch",
            Self::CheckingOut => "checkout",
            Self::Building => "build",
            Self::Starting => "start",
            Self::Probing => "probe",
            Self::Warming => "warm_up",
            Self::Canary => "canary",
            Self::Switching => "switch",
            Self::Watching => "watch",
            Self::Draining => "drain",
            Self::Stopping => "stop",
        }
    }
}

words! {
    /// How a deploy ended.
    Outcome {
        /// It receives the traffic, or did until a later deploy.
        Live = "live",
        /// It never received traffic, or failed with nothing to go back to.
        Failed = "failed",
        /// A newer commit took its place before the flip.
        Superseded = "superseded",
        /// An operator's flip ended it.
        Cancelled = "cancelled",
        /// It was live, failed the watch, and the traffic went back by itself.
        RolledBack = "rolled_back",
    }
}

words! {
    /// `state` of an app in `bgd status`.
    AppState {
        /// Nothing deployed yet.
        Empty = "empty",
        /// Serving, nothing under way.
        Live = "live",
        /// A deploy is under way.
        Deploying = "deploying",
        /// A deploy is live and watched.
        Watching = "watching",
        /// Serving, automatic deploys off.
        Held = "held",
        /// Serving, but something needs attention.
        Degraded = "degraded",
        /// Should serve and does not.
        Down = "down",
        /// Taken out of service by `bgd down`.
        Stopped = "stopped",
    }
}

words! {
    /// `idle.state` in `bgd status`.
    IdleState {
        /// Nothing runs there.
        Stopped = "stopped",
        /// A deploy starts its instance there.
        Starting = "starting",
        /// An instance still runs there, for an instant way back.
        Warm = "warm",
        /// It finishes what is in flight, or is being stopped.
        Draining = "draining",
    }
}

words! {
    /// What ends a hold, as status says it.
    HoldEnd {
        /// `bgd resume` alone.
        Resume = "resume",
        /// A newer commit, or `bgd resume`.
        NewerCommit = "newer_commit",
    }
}

words! {
    /// Why a deploy was made, in the record and in `bgd history`.
    DeployKind {
        /// A new commit on the branch.
        Push = "push",
        /// `bgd deploy`.
        Manual = "manual",
        /// `bgd flip` to a release that was live before.
        Rollback = "rollback",
        /// `bgd up`.
        Up = "up",
    }
}

words! {
    /// The fate of a release, in the record. It decides which releases are deleted.
    Fate {
        /// Its deploy has not ended.
        Making = "making",
        /// It was live and passed its checks, so that a flip can go back to it.
        Good = "good",
        /// Its deploy failed.
        Failed = "failed",
        /// A newer commit took its place before it was live.
        Superseded = "superseded",
        /// An operator ended its deploy.
        Cancelled = "cancelled",
        /// It was live and failed its watch.
        RolledBack = "rolled_back",
    }
}

impl From<Outcome> for Fate {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Live => Self::Good,
            Outcome::Failed => Self::Failed,
            Outcome::Superseded => Self::Superseded,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::RolledBack => Self::RolledBack,
        }
    }
}

words! {
    /// What came of a due time of a schedule.
    CronOutcome {
        /// It exited with 0.
        Done = "done",
        /// It exited with another code or by a signal, or could not be started.
        Failed = "failed",
        /// It was ended at its time limit.
        TimedOut = "timed_out",
        /// Nobody knows: the host went down, or its shim was killed.
        Unknown = "unknown",
        /// The former run went on.
        Skipped = "skipped",
        /// bgd did not run.
        Missed = "missed",
        /// bgd ended it: for the next run, or because the app was taken out of service.
        Ended = "ended",
    }
}

words! {
    /// The moment of a deploy at which a task runs: `when` of a task, and its `BGD_EVENT`.
    Moment {
        /// The build worked.
        AfterBuild = "after_build",
        /// The idle color is vacant, and its instance not started yet.
        BeforeStart = "before_start",
        /// The new instance is healthy, and no traffic has moved.
        BeforeSwitch = "before_switch",
        /// The traffic has moved.
        AfterLive = "after_live",
        /// The watch ended well; right after the move of the traffic where there is none.
        AfterWatch = "after_watch",
    }
}

impl Moment {
    /// Whether a failure ends the deploy; later ones are only reported.
    pub fn is_before_pivot(self) -> bool {
        match self {
            Self::AfterBuild | Self::BeforeStart | Self::BeforeSwitch => true,
            Self::AfterLive | Self::AfterWatch => false,
        }
    }

    /// The phase in which its tasks run.
    pub fn phase(self) -> Phase {
        match self {
            Self::AfterBuild => Phase::Building,
            Self::BeforeStart => Phase::Starting,
            Self::BeforeSwitch => Phase::Probing,
            Self::AfterLive | Self::AfterWatch => Phase::Watching,
        }
    }
}

words! {
    /// How the run of a task or a hook ended.
    TaskOutcome {
        /// It exited with 0.
        Done = "done",
        /// It exited with another code or by a signal, or could not be started.
        Failed = "failed",
        /// It was ended at its time limit.
        TimedOut = "timed_out",
        /// Nobody knows: it was cut off, or its deploy was given up meanwhile.
        Unknown = "unknown",
    }
}

words! {
    /// Why no deploy is under way: `why.code` in `bgd status`.
    WhyCode {
        /// The tip of the branch is live.
        UpToDate = "up_to_date",
        /// A deploy is under way, or about to be.
        Deploying = "deploying",
        /// Automatic deploys are off.
        Held = "held",
        /// The tip is marked bad.
        BadCommit = "bad_commit",
        /// The tip failed for outside reasons and is tried again later.
        RetryLater = "retry_later",
        /// The remote can't be read.
        RemoteError = "remote_error",
        /// Taken out of service by `bgd down`.
        Stopped = "stopped",
        /// The remote was not read yet.
        NotPolledYet = "not_polled_yet",
        /// The record can't be written.
        Unrecorded = "unrecorded",
        /// A closed gate.
        Gate = "gate",
    }
}

words! {
    /// The kind of a gate.
    GateKind {
        /// No file of the app has changed.
        Paths = "paths",
        /// Every commit since the live one asks not to be deployed.
        Skip = "skip",
        /// Outside of all windows.
        Window = "window",
        /// A frozen day.
        Freeze = "freeze",
        /// The gate command did not open it.
        Command = "command",
    }
}

impl GateKind {
    /// Whether it is of the calendar, and so closed for all commits at once.
    pub fn is_of_time(self) -> bool {
        matches!(self, Self::Window | Self::Freeze)
    }
}

words! {
    /// The kind of an event, as `bgd events` prints it.
    EventKind {
        /// A user asked for something that they may do.
        Asked = "asked",
        /// A user asked for something that they may not do.
        Refused = "refused",
        /// A deploy waits for its turn.
        DeployQueued = "deploy_queued",
        /// A waiting deploy gave way to a newer request.
        DeploySuperseded = "deploy_superseded",
        /// A deploy began.
        DeployStarted = "deploy_started",
        /// The commit and the release of a deploy became known.
        ReleaseNamed = "release_named",
        /// A deploy entered a phase; the event's text names it.
        PhaseEntered = "phase_entered",
        /// The warm-up of a new release ended: its goal was met, or its time was up.
        WarmedUp = "warmed_up",
        /// A canary receives another share of the traffic.
        ShareChanged = "share_changed",
        /// There were too few requests to judge a new release by.
        Inconclusive = "inconclusive",
        /// A release receives the traffic.
        WentLive = "went_live",
        /// A deploy has its outcome.
        DeployEnded = "deploy_ended",
        /// A release no longer runs.
        Retired = "retired",
        /// A commit is not deployed again by itself.
        MarkedBad = "marked_bad",
        /// A live instance died.
        InstanceDied = "instance_died",
        /// A live instance runs again.
        InstanceRestarted = "instance_restarted",
        /// A live instance could not be started.
        RestartFailed = "restart_failed",
        /// A live instance became healthy or unhealthy.
        HealthChanged = "health_changed",
        /// Automatic deploys are off.
        HoldPlaced = "hold_placed",
        /// Automatic deploys are on again.
        HoldReleased = "hold_released",
        /// A contract migration is about to change the database.
        BarrierSet = "barrier_set",
        /// A gate keeps a commit back.
        GateClosed = "gate_closed",
        /// A gate that kept a commit back is open.
        GateOpened = "gate_opened",
        /// An app is out of service.
        TakenDown = "taken_down",
        /// A scheduled run began.
        CronStarted = "cron_started",
        /// A scheduled run ended; the event's text says how.
        CronEnded = "cron_ended",
        /// A scheduled run did not begin, because the former one goes on.
        CronSkipped = "cron_skipped",
        /// Scheduled runs did not begin, because bgd did not run.
        CronMissed = "cron_missed",
        /// The record and the host disagree.
        Contradiction = "contradiction",
        /// A task of a deploy was started.
        TaskStarted = "task_started",
        /// A task of a deploy ended; the event's text says how.
        TaskEnded = "task_ended",
        /// An instance was started without the limits of its configuration.
        LimitsNotKept = "limits_not_kept",
        /// Something needs an operator's attention.
        Trouble = "trouble",
        /// A worker works.
        WorkerStarted = "worker_started",
        /// A worker was told to leave.
        WorkerLeaving = "worker_leaving",
        /// A worker ended: it was told to leave, or had done its work.
        WorkerEnded = "worker_ended",
        /// A worker that was told to leave did not within its grace, and was killed.
        WorkerKilled = "worker_killed",
        /// A worker ended by itself, and not with exit code 0.
        WorkerDied = "worker_died",
        /// The record was damaged, deleted or replaced, and was written anew.
        RecordReplaced = "record_replaced",
        /// A kind that only a newer bgd knows.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// Whether trying the same commit again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nature {
    /// Network, disk, someone else's configuration: tried again a bounded number of times.
    Transient,
    /// Configuration that bgd does not own keeps the front from moving. Tried again likewise; a way back goes around
    /// the front (promise F4).
    FrontStuck,
    /// The front rejected a route and keeps the former one. Tried again likewise.
    FrontUnmoved,
    /// The commit's own: not tried again until a new commit or `bgd deploy`.
    Deterministic,
}

impl Nature {
    /// Whether the front still has the route that it had before this failure.
    pub fn left_the_front(self) -> bool {
        matches!(self, Self::FrontStuck | Self::FrontUnmoved)
    }
}

/// Why a deploy failed: data, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The phase in which it happened.
    pub phase: Phase,
    /// Whether trying again can help.
    pub nature: Nature,
    /// One line: what was attempted, the value, what was found.
    pub cause: String,
    /// The next command or thing to look at.
    pub hint: Option<String>,
    /// The end of the app's log, at most a few dozen lines.
    pub log_tail: Vec<String>,
}
