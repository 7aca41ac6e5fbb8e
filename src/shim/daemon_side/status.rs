//! What a handle reports: how things stand with a command, how its end came out, what went wrong. Plain data
//! for the engine; nothing here asks anybody.

use std::{io, path::PathBuf};

use crate::{
    rules::ids::AppName,
    shim::{
        record::{Exit, Record},
        spec::Role,
        wire::Report,
    },
};

/// What went wrong with a shim that runs or ran.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It lives and does not answer.
    #[error("asking the shim of {app} {role}, pid {pid}")]
    Unreachable {
        /// Whose it is.
        app: AppName,
        /// What it runs.
        role: Role,
        /// Its pid.
        pid: i32,
        /// The last attempt.
        source: io::Error,
    },
    /// Processes were not ended even by KILL.
    #[error("ending {app} {role}: still there after KILL: {pids:?}")]
    NotEnded {
        /// Whose they are.
        app: AppName,
        /// What they run.
        role: Role,
        /// Who is left.
        pids: Vec<i32>,
    },
    /// Only what has ended can be forgotten.
    #[error("forgetting {app} {role}: it still runs, pid {pid}")]
    StillRunning {
        /// Whose it is.
        app: AppName,
        /// What it runs.
        role: Role,
        /// One of its processes.
        pid: i32,
    },
    /// A state file or its folder.
    #[error("state file {path}")]
    StateFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// /proc or a signal.
    #[error("looking after the processes of {app} {role}")]
    Processes {
        /// Whose they are.
        app: AppName,
        /// What they run.
        role: Role,
        /// Why.
        source: io::Error,
    },
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The main process.
    pub main: Main,
    /// Living processes of the tree; empty means ended.
    pub tree: Vec<i32>,
    /// It was told to end, or what is left of it is being ended.
    pub ending: bool,
    /// Bytes of output that could not be written to the log; 0 when unknown.
    pub dropped: u64,
    /// Who looks after the tree.
    pub overseer: Overseer,
}

/// The main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Main {
    /// It runs.
    Running,
    /// It ended; others of the tree may live.
    Exited(Exit),
}

impl Main {
    /// How it ended; `None` while it runs.
    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::Running => None,
            Self::Exited(exit) => Some(exit),
        }
    }
}

/// Who looks after a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overseer {
    /// Its shim.
    Shim,
    /// Nobody: the shim was killed. Output is lost and an exit code will be unknown, but it can be stopped.
    Lost,
    /// Nobody is needed: it has ended.
    Ended,
}

/// How an end came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// KILL was needed.
    pub killed: bool,
    /// How the main command ended.
    pub exit: Exit,
}

impl Status {
    /// It runs and is there to stay: what was told to end counts as gone, though it may still answer.
    pub fn runs(&self) -> bool {
        !self.tree.is_empty() && !self.ending
    }

    pub(super) fn of(report: Report) -> Self {
        let over = report.record.ended_ms.is_some();
        Self {
            main: report.record.exit.map_or(Main::Running, Main::Exited),
            tree: report.tree,
            ending: report.record.ending,
            dropped: report.dropped,
            overseer: if over { Overseer::Ended } else { Overseer::Shim },
        }
    }

    pub(super) fn ended(record: &Record) -> Self {
        Self {
            main: Main::Exited(record.exit.unwrap_or(Exit::UNKNOWN)),
            tree: Vec::new(),
            ending: record.ending,
            dropped: 0,
            overseer: Overseer::Ended,
        }
    }
}

impl Stopped {
    pub(super) fn of(record: &Record) -> Self {
        Self { killed: record.killed, exit: record.exit.unwrap_or(Exit::UNKNOWN) }
    }
}
