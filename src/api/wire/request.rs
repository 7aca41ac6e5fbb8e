//! What a client asks for. Pure data, with the name of the command behind each request.

use serde::{Deserialize, Serialize};

use crate::rules::{
    canary::Share,
    ids::{AppName, Color, CronName, DeployId, WorkerName},
};

/// A request. `app` may be left out when there is one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// `Done(Status)`; never waits for anything.
    Status {
        /// Only this app.
        app: Option<AppName>,
    },
    /// `Progress(Event)` lines of that deploy, then `Done(Deploy)` when it has ended.
    Deploy {
        app: Option<AppName>,
        /// A commit, tag or branch; default the tip of the configured branch.
        rev: Option<String>,
        /// Over a barrier; left out where false, which a daemon that is older than this key takes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Like `Deploy`, but answers `Done(Deploy)` with the deploy just begun (or queued).
    DeployDetached {
        app: Option<AppName>,
        /// A commit, tag or branch; default the tip of the configured branch.
        rev: Option<String>,
        /// Over a barrier; left out where false, which a daemon that is older than this key takes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// `Progress(Event)` lines, then `Done(Flip)` when the traffic has moved (or the deploy is cancelled).
    Flip {
        app: Option<AppName>,
        /// Over a barrier; left out where false, which a daemon that is older than this key takes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// `Done(Said)`.
    Hold {
        app: Option<AppName>,
        /// The reason that other operators see.
        reason: String,
    },
    /// `Done(Said)`.
    Resume { app: Option<AppName> },
    /// `Done(Said)` when the share is in force; 100 percent are a promotion.
    SetShare {
        app: Option<AppName>,
        /// The canary's share of the traffic, in percent.
        share: Share,
    },
    /// `Done(Said)` when the step's share is in force.
    ResumeSteps { app: Option<AppName> },
    /// `Done(Said)` when the next step's share is in force; after the last step, like `Promote`.
    NextStep { app: Option<AppName> },
    /// `Progress(Event)` lines, then `Done(Said)` when all of the traffic has moved.
    Promote { app: Option<AppName> },
    /// `Done(History)`, newest first.
    History {
        /// Only this app's; `None`: those of all apps.
        app: Option<AppName>,
        /// At most this many.
        limit: u32,
    },
    /// `Done(Show)`.
    Show { id: DeployId },
    /// `Progress(Line)` for each line; ends with `Done(Said)`, with `follow` when the client goes.
    Logs {
        app: Option<AppName>,
        /// Number of last lines to begin with, of each log.
        lines: u32,
        /// Go on sending new lines until the client leaves.
        follow: bool,
        /// Whose output.
        source: LogSource,
        /// One of the color's instances, counted from 1; all when left out.
        instance: Option<u16>,
    },
    /// `Progress(Event)` for each event; ends with `Done(Said)`, with `follow` when the client goes.
    Events {
        /// Only this app's.
        app: Option<AppName>,
        /// Only those with a higher `seq`; `None`: the last 20.
        since: Option<u64>,
        /// Go on sending new events until the client leaves.
        follow: bool,
    },
    /// `Done(Why)`.
    Why { app: Option<AppName> },
    /// `Done(Exec)`: what to run; the client runs it.
    Exec {
        app: Option<AppName>,
        /// In the environment of this worker; default that of the app.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        // An older daemon refuses a key it does not know.
        worker: Option<WorkerName>,
    },
    /// `Progress(Event)` lines, then `Done(Said)` when it is out of service.
    Down { app: Option<AppName> },
    /// `Progress(Event)` lines, then `Done(Deploy)` when it serves again.
    Up { app: Option<AppName> },
    /// Runs a schedule's command now: `Progress(Line)` for each line of its output, then `Done(Said)`, or `Refused` if
    /// it fails.
    RunCron { app: Option<AppName>, name: CronName },
    /// `Done(Said)` at once; the daemon then reads the remote without waiting for the next poll.
    Poll { app: Option<AppName> },
    /// `Done(Said)`, or `Refused` with the problems of the files.
    Reload,
}

/// Whose output `bgd logs` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The live color.
    Live,
    /// A given color.
    Color(Color),
    /// The newest build.
    Build,
    /// A worker.
    Worker(WorkerName),
    /// The runs of a schedule.
    Cron(CronName),
    /// A task, or else a hook, of this name: its run in a deploy, or the newest one.
    Task {
        name: String,
        /// `None`: the newest run.
        deploy: Option<DeployId>,
    },
}

impl Request {
    /// The command behind the request, as the record and refusals name it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Deploy { .. } | Self::DeployDetached { .. } => "deploy",
            Self::Flip { .. } => "flip",
            Self::Hold { .. } => "hold",
            Self::Resume { .. } => "resume",
            Self::SetShare { .. } | Self::ResumeSteps { .. } => "canary",
            Self::Promote { .. } | Self::NextStep { .. } => "promote",
            Self::History { .. } => "history",
            Self::Show { .. } => "show",
            Self::Logs { .. } => "logs",
            Self::Events { .. } => "events",
            Self::Why { .. } => "why",
            Self::Exec { .. } => "exec",
            Self::Down { .. } => "down",
            Self::Up { .. } => "up",
            Self::RunCron { .. } => "cron run",
            Self::Poll { .. } => "poll",
            Self::Reload => "reload",
        }
    }
}
