//! The lines of an answer and what they carry, but for the status, which has a file of its own.

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
    /// The end, well.
    Done(Answer),
    /// The end, not done.
    Refused(Refusal),
}

/// Something on the way.
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
    /// What was attempted, the value, what serves now.
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

/// What a flip did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlipReport {
    /// Whether it cancelled a deploy before the traffic moved; else traffic moved.
    pub cancelled: bool,
    /// What is live now.
    pub live: Option<LiveReport>,
    pub abandoned: Option<CommitId>,
    /// One sentence for people.
    pub text: String,
}

/// Why nothing is being deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// In one word.
    pub code: WhyCode,
    /// The sentence.
    pub text: String,
    /// The next command, or what else to do.
    pub hint: Option<String>,
    /// When it is tried again by itself.
    pub again_at: Option<Stamp>,
}

/// What `bgd exec` runs.
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
