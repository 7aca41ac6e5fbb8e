//! Limits on what an app may use of its host. The configuration sets them, records keep them and workers receive them,
//! so the names of the fields are a format.

use serde::{Deserialize, Serialize};

/// The room that the files of one commit may take on disk, with its submodules and before the build: a kilobyte of git
/// objects can name a thousand million files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckoutLimit {
    /// Files, directories and symlinks.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Limits for the processes of an instance, a build or a hook together; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, without swap on top.
    pub memory: Option<u64>,
    /// CPU time, in percent of one core.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u32>,
}

impl Limits {
    /// Whether any limit is set.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}
