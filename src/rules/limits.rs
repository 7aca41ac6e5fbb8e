//! What an app may use of its host. Set in the configuration, kept in records and sent to workers, so the names of the
//! fields are a format.

use serde::{Deserialize, Serialize};

/// What the files of one commit may take on disk, with its submodules and before the build: a kilobyte of git objects
/// can name a thousand million files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckoutLimit {
    /// Files, directories and symlinks.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// What the processes of an instance, a build or a hook may use together; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes; there is no swap beside it.
    pub memory: Option<u64>,
    /// Percent of one core.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u32>,
}

impl Limits {
    /// Whether any is set.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}
