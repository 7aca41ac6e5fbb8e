//! Health probes: one request to one instance, one answer, within a time limit. And visits, which send a client's
//! request and judge nothing.
//!
//! Called by the engine at the start of an instance, while it is warmed up, watched and live. Keeps no streaks
//! (`rules::health` does) and knows nothing of processes except the probe command that it runs.

mod cgi;
mod command;
mod expected;
pub mod fastcgi;
mod http;
pub mod page;
mod public;
mod reason;
mod stream;
mod tcp;
mod uwsgi;
mod visit;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

pub use command::{Ended, exit_words, run};
pub use public::{Public, PublicReply};
pub use reason::Reason;
pub use visit::{Visit, Visitor};

use crate::{
    config::settings::{Health, Probe},
    os::privilege::NewPrivileges,
    rules::address::Address,
};

/// The instance to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address that the instance listens on.
    pub address: Address,
    /// The release's directory, for [`Probe::FastCgi`]; unused by the others.
    pub release_dir: PathBuf,
    /// The command of [`Probe::Command`]; unused by the others.
    pub command: Option<ProbeCommand>,
}

/// A command whose exit code 0 means healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The directory to run in.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The user to run as, with all groups; `None` is bgd's own user.
    pub user: Option<String>,
    /// Whether it may gain rights by running a setuid program.
    pub new_privileges: NewPrivileges,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// When the request was sent.
    pub at: SystemTime,
    /// How long the answer took.
    pub took: Duration,
    pub verdict: ProbeVerdict,
    /// The beginning of a page's body or the end of a command's output, on one line; may be empty.
    pub excerpt: String,
}

/// The judgement of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// It answered as configured.
    Healthy,
    /// It did not answer, or not as configured.
    Unhealthy(Reason),
}

impl ProbeVerdict {
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// Result of one kind of probe: the excerpt, or the reason with the excerpt.
type Outcome = Result<String, (Reason, String)>;

/// Probes once, on a new connection, for at most `health.timeout`. Dropping the future closes the connection and kills
/// the probe command.
pub async fn once(health: &Health, target: &Target) -> ProbeResult {
    let at = SystemTime::now();
    let begun = Instant::now();
    let limit = health.timeout;
    let outcome = match &health.probe {
        Probe::Tcp => tcp::ask(&target.address, limit).await,
        Probe::Http(probe) => http::ask(probe, &target.address, limit).await,
        Probe::FastCgi(probe) => fastcgi::ask(probe, target, limit).await,
        Probe::Uwsgi(probe) => uwsgi::ask(probe, &target.address, limit).await,
        Probe::Command(_) => match &target.command {
            Some(command) => command::ask(command, limit).await,
            None => Err((Reason::NoCommand, String::new())),
        },
    };
    let (verdict, excerpt) = match outcome {
        Ok(excerpt) => (ProbeVerdict::Healthy, excerpt),
        Err((reason, excerpt)) => (ProbeVerdict::Unhealthy(reason), excerpt),
    };
    ProbeResult { at, took: begun.elapsed(), verdict, excerpt }
}
