//! The plain data that a handle returns to the engine: status, result of a stop, errors. Nothing here asks a shim.

use std::{io, path::PathBuf};

use crate::{
    rules::ids::AppName,
    shim::{
        record::{CommandExit, Record},
        spec::Role,
        wire::ShimReport,
    },
};

/// An error with a shim that runs or ran.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim lives and does not answer.
    #[error("asking the shim of {app} {role}, pid {pid}")]
    Unreachable {
        /// The shim's app.
        app: AppName,
        /// The role of its command.
        role: Role,
        /// The shim's pid.
        pid: i32,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// KILL did not end some processes.
    #[error("ending {app} {role}: still there after KILL: {pids:?}")]
    NotEnded {
        /// The app of the processes.
        app: AppName,
        /// The role of their command.
        role: Role,
        /// The pids that are left.
        pids: Vec<i32>,
    },
    /// A shim that still runs can't be forgotten.
    #[error("forgetting {app} {role}: it still runs, pid {pid}")]
    StillRunning {
        /// The shim's app.
        app: AppName,
        /// The role of its command.
        role: Role,
        /// One of its processes.
        pid: i32,
    },
    /// A state file or its folder could not be read or removed.
    #[error("state file {path}")]
    StateFile {
        /// The file or folder.
        path: PathBuf,
        source: io::Error,
    },
    /// /proc could not be read, or a signal not be sent.
    #[error("looking after the processes of {app} {role}")]
    Processes {
        /// The app of the processes.
        app: AppName,
        /// The role of their command.
        role: Role,
        source: io::Error,
    },
}

/// The present state of a shim's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimStatus {
    /// The main process.
    pub main: Main,
    /// Living processes of the tree; empty means ended.
    pub tree: Vec<i32>,
    /// The shim was told to end it, or ends the rest of the tree.
    pub ending: bool,
    /// The moment of KILL, in milliseconds since the epoch; `None` until bgd tells it to end.
    pub ends_by_ms: Option<u64>,
    /// It was told to take no new work.
    pub quieted: bool,
    /// Bytes of output that could not be written to the log; 0 when unknown.
    pub dropped: u64,
    /// The process that looks after the tree.
    pub overseer: Overseer,
}

/// The state of the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Main {
    Running,
    /// It ended; other processes of the tree may live.
    Exited(CommandExit),
}

impl Main {
    /// How it ended; `None` while it runs.
    pub fn exit(self) -> Option<CommandExit> {
        match self {
            Self::Running => None,
            Self::Exited(exit) => Some(exit),
        }
    }
}

/// The process that looks after a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overseer {
    /// Its shim.
    Shim,
    /// None: the shim was killed. Output is lost and an exit code will be unknown, but the tree can be stopped.
    Lost,
    /// None is needed: the tree has ended.
    Ended,
}

/// The result of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Whether KILL was needed.
    pub killed: bool,
    /// How the main command ended.
    pub exit: CommandExit,
}

impl ShimStatus {
    /// Whether the command runs and is there to stay: an ending one counts as gone, though it may still answer.
    pub fn runs(&self) -> bool {
        !self.tree.is_empty() && !self.ending
    }

    pub(super) fn of(report: ShimReport) -> Self {
        let over = report.record.ended_ms.is_some();
        Self {
            main: report.record.exit.map_or(Main::Running, Main::Exited),
            tree: report.tree,
            ending: report.record.ending,
            ends_by_ms: report.record.ends_by_ms,
            quieted: report.record.quieted,
            dropped: report.dropped,
            overseer: if over { Overseer::Ended } else { Overseer::Shim },
        }
    }

    pub(super) fn ended(record: &Record) -> Self {
        Self {
            main: Main::Exited(record.exit.unwrap_or(CommandExit::UNKNOWN)),
            tree: Vec::new(),
            ending: record.ending,
            ends_by_ms: record.ends_by_ms,
            quieted: record.quieted,
            dropped: 0,
            overseer: Overseer::Ended,
        }
    }
}

impl Stopped {
    pub(super) fn of(record: &Record) -> Self {
        Self { killed: record.killed, exit: record.exit.unwrap_or(CommandExit::UNKNOWN) }
    }
}
