//! What is written → what is meant. Called by `parse.rs` for each app and for `[daemon]`; every finding is noted
//! and a default stands in for what is wrong, so that the rest is judged too. Reads no file and asks no system.

mod app;
mod canary;
mod conflicts;
mod daemon;
mod front;
mod health;
mod limits;
mod listen;
mod misspelt;
mod paths;
mod placeholders;
mod ports;
mod programs;
mod protocol;
mod public;
mod source;
mod traffic;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    problem::{Notes, Place},
    read::{Given, Written},
};

pub(super) use self::{
    app::app,
    daemon::{daemon, has_own_directory},
    placeholders::looked_up,
};

/// Judges a whole configuration, and remembers what must not be claimed twice.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    /// The directory of the main file; relative paths start here.
    pub base: &'a Path,
    pub notes: &'a mut Notes,
    /// Of the daemon, once that is judged.
    pub runtime_dir: PathBuf,
    ports: Vec<PortClaim>,
    names: Vec<NameClaim>,
    /// Files the configuration names.
    pub named_files: Vec<NamedFile>,
}

/// A port that something listens on.
#[derive(Debug)]
struct PortClaim {
    port: u16,
    /// The public address; `None` is an instance.
    listen: Option<IpAddr>,
    at: Place,
    /// Nobody wrote it.
    default: bool,
    /// How many instances each color of the app has; 1 for a public address.
    instances: u16,
}

/// A name or file of a front that only one app may have.
#[derive(Debug)]
struct NameClaim {
    what: &'static str,
    value: String,
    at: Place,
}

/// A file that the configuration names and somebody with a file system should look at.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub path: PathBuf,
    pub at: Place,
    pub holds: Holds,
}

/// What a named file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A secret: not for others.
    Secret,
    /// A private key: ssh refuses it when the group can read it as well.
    PrivateKey,
    /// `KEY=value` lines, secrets among them.
    Variables,
    /// A token for https.
    Token,
    /// Certificates of authorities.
    Authorities,
    /// Nothing secret.
    Plain,
    /// The remote's repository.
    Repository {
        /// The path begins as the name of a server does.
        like_a_host: bool,
    },
}

impl<'a> Judge<'a> {
    /// Begins.
    pub fn new(base: &'a Path, notes: &'a mut Notes) -> Self {
        Self {
            base,
            notes,
            runtime_dir: PathBuf::new(),
            ports: Vec::new(),
            names: Vec::new(),
            named_files: Vec::new(),
        }
    }

    /// After the last app: whatever is claimed twice.
    pub fn conflicts(&mut self) {
        conflicts::ports(&self.ports, self.notes);
        conflicts::names(&self.names, self.notes);
    }

    /// The value, or the default.
    fn or<T>(given: Given<T>, default: T) -> T {
        given.into_value().map_or(default, |written| written.value)
    }

    /// A duration that must not be zero.
    fn positive(&mut self, given: &Given<Duration>, default: Duration) -> Duration {
        let Some(written) = given.value() else { return default };
        if written.value.is_zero() {
            let hint = format!("leave it out for the default, {}", super::duration::exact(default));
            self.notes.error(&written.at, "must be longer than zero", hint);
            return default;
        }
        written.value
    }

    /// A text that must not be blank.
    fn filled(&mut self, written: &Written<String>, hint: &str) -> bool {
        let filled = !written.value.trim().is_empty();
        if !filled {
            self.notes.error(&written.at, "is empty", hint);
        }
        filled
    }

    /// A command that must not be blank; `None` when it is absent or blank.
    fn command(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let filled = self.filled(written, "write a command, or leave the key out");
        filled.then(|| written.value.clone())
    }

    /// Notes each given one of `keys` as having no effect.
    fn refuse<'k>(&mut self, keys: impl IntoIterator<Item = Option<&'k Place>>, what: &str, hint: &str) {
        for at in keys.into_iter().flatten() {
            self.notes.error(at, what, hint);
        }
    }
}
