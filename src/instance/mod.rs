//! The instances of an app: the processes that serve. Started beside the live ones, proven, warmed up, watched, stopped.
//! Called by the engine. Knows no front: what routes to an instance, and when it may be stopped, is the engine's to see to.
//!
//! - `starting`, `sockets`, `memory`: each on an address proven free, with room for it
//! - `candidate`: a new one on its way to be proven; `exits`: what it means that it ended
//! - `warmup`, `watching`: before and while it has traffic
//! - `stopping`, `standing_in`: its end, and what takes its place for a front that can't be moved
//! - `known`, `hanging`, `usage`: which run, how well, and what they use; `strays`: what is below no shim

mod candidate;
mod exits;
pub(crate) mod hanging;
mod known;
mod memory;
mod sockets;
mod standing_in;
mod starting;
mod stopping;
pub mod strays;
pub mod usage;
mod warmup;
mod watching;

use std::{path::PathBuf, sync::Arc};

pub use known::{InstanceStatus, Known, Measured};
pub(crate) use starting::{answer_line, slots};

use crate::{command::AppCommands, config::settings::AppSettings, store::AppRecord};

/// The instances of one app.
#[derive(Debug)]
pub struct Instances {
    settings: Arc<AppSettings>,
    commands: AppCommands,
    record: AppRecord,
    /// The bgd binary, run again as a relay.
    exe: PathBuf,
    pub(crate) known: Known,
}

impl Instances {
    /// Knows no running instance yet.
    pub(crate) fn new(commands: AppCommands, record: AppRecord, exe: PathBuf) -> Self {
        Self { settings: commands.settings.clone(), commands, record, exe, known: Known::default() }
    }

    /// The running instances.
    pub fn known(&self) -> &Known {
        &self.known
    }
}
