//! Git, in a child that can be killed. [`GitWorker`] lives in the daemon and talks JSON lines to a re-executed
//! `bgd git-worker` ([`child::main`]), the only process that ever calls libgit2; [`local_head`] and
//! [`LocalWatch`] look at a local bare repository without git. Called by the engine and by `bgd doctor`.
//! Nothing here decides what is deployed, and nothing here builds, starts or routes anything.

mod attributes;
mod certificate;
mod changes;
mod checkout;
pub mod child;
mod credentials;
mod error;
mod fetch;
#[cfg(test)]
mod fixture;
mod format;
pub mod known_hosts;
mod lfs;
mod local;
mod local_fetch;
mod mirror;
mod program;
mod proxied;
mod remote;
mod repack;
mod report;
mod schema;
mod ssh_config;
mod stall;
mod submodule;
mod text;
mod transfer;
mod verify;
mod watch;
pub mod wire;
mod worker;

pub use attributes::AttributeFault;
pub use certificate::CertificateFault;
pub use error::{ErrorCause, GitError, GitStep, Reaction};
pub use format::Format;
pub use local::{LocalError, local_head, local_path};
pub use text::{one_line, redact};
pub use verify::Trust;
pub use watch::{LocalWatch, WatchMode};
pub use wire::{
    Between, CheckedOut, Compared, Described, Fetched, Passed, RemoteHead, Touched, WantedRevision,
};
pub use worker::{GitLimits, GitSource, GitWorker};
