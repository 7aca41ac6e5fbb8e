//! The lines of an answer and their content. The status is in a file of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Exit, LiveReport, Status,
    record::{DeployDetail, DeployRecord, EventRecord},
};
use crate::{
    os::privilege::NewPrivileges,
    rules::{ids::CommitId, time::Stamp, words::WhyCode},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// More will follow.
    Progress(Progress),
    /// The last line of a request that succeeded.
    Done(Answer),
    /// The last line of a request that was refused or failed.
    Refused(Refusal),
}

/// One line before the last one of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    Event(EventRecord),
    Line(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The exit code for the client.
    pub exit: Exit,
    /// The attempt, the value at fault, and what serves now.
    pub message: String,
    /// The next command.
    pub hint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Status),
    Deploy(DeployRecord),
    Flip(FlipReport),
    History(Vec<DeployRecord>),
    Show(Box<DeployDetail>),
    Why(Why),
    Exec(ExecPlan),
    /// One sentence for people.
    Said(String),
}

/// The result of a flip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlipReport {
    /// True when the flip cancelled a deploy before its traffic moved; false when the traffic moved.
    pub cancelled: bool,
    /// The live release after the flip.
    pub live: Option<LiveReport>,
    pub abandoned: Option<CommitId>,
    /// One sentence for people.
    pub text: String,
}

/// Why nothing is being deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The reason as a fixed word.
    pub code: WhyCode,
    /// The reason as a sentence.
    pub text: String,
    /// The next command, or what else to do.
    pub hint: Option<String>,
    /// When bgd tries again by itself.
    pub again_at: Option<Stamp>,
}

/// How `bgd exec` runs a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// The live release's directory.
    pub cwd: String,
    /// The complete environment.
    pub env: BTreeMap<String, String>,
    /// Run as this user, when bgd runs as root.
    pub user: Option<String>,
    /// Whether the command may gain rights by running a setuid program.
    pub new_privileges: NewPrivileges,
}
