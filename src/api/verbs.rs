//! The commands behind the requests, as the record and refusals name them. Pure.

use super::wire::Request;

impl Request {
    /// Its command, as the record and refusals name it.
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
            Self::Poll { .. } => "poll",
            Self::Reload => "reload",
        }
    }
}
