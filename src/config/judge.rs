//! What is written → what is meant: the words in which the rules of all tables are written. Each finding is noted, and a
//! default stands in for what is wrong, so that the rest is judged too. Reads no file and asks no system.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    conflicts, duration,
    problem::Notes,
    read::{Given, Written},
    span::Span,
};

/// Judges a whole configuration, and remembers what must not be claimed twice.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    /// The directory of the main file; relative paths start here.
    pub base: &'a Path,
    pub notes: &'a mut Notes,
    /// Of the daemon, once that is judged.
    pub runtime_dir: PathBuf,
    pub ports: Vec<PortClaim>,
    pub names: Vec<NameClaim>,
    /// Files the configuration names.
    pub named_files: Vec<NamedFile>,
}

/// A port that something listens on.
#[derive(Debug)]
pub(super) struct PortClaim {
    pub port: u16,
    /// The public address; `None` is an instance.
    pub listen: Option<IpAddr>,
    pub at: Span,
    /// Nobody wrote it.
    pub default: bool,
    /// How many instances each color of the app has; 1 for a public address.
    pub instances: u16,
}

/// A name or file of a front that only one app may have.
#[derive(Debug)]
pub(super) struct NameClaim {
    pub what: &'static str,
    pub value: String,
    pub at: Span,
}

/// A file that the configuration names and somebody with a file system should look at.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub path: PathBuf,
    pub at: Span,
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

    /// Notes what is claimed twice; after the last app.
    pub fn conflicts(&mut self) {
        conflicts::ports(&self.ports, self.notes);
        conflicts::names(&self.names, self.notes);
    }

    /// The value, or the default.
    pub fn or<T>(given: Given<T>, default: T) -> T {
        given.into_value().map_or(default, |written| written.value)
    }

    /// A duration that must not be zero.
    pub fn positive(&mut self, given: &Given<Duration>, default: Duration) -> Duration {
        let Some(written) = given.value() else { return default };
        if written.value.is_zero() {
            let hint = format!("leave it out for the default, {}", duration::exact(default));
            self.notes.error(&written.at, "must be longer than zero", hint);
            return default;
        }
        written.value
    }

    /// A text that must not be blank.
    pub fn filled(&mut self, written: &Written<String>, hint: &str) -> bool {
        let filled = !written.value.trim().is_empty();
        if !filled {
            self.notes.error(&written.at, "is empty", hint);
        }
        filled
    }

    /// A command that must not be blank; `None` when it is absent or blank.
    pub fn command(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let filled = self.filled(written, "write a command, or leave the key out");
        filled.then(|| written.value.clone())
    }

    /// Notes each given one of `keys` as having no effect.
    pub fn refuse<'k>(&mut self, keys: impl IntoIterator<Item = Option<&'k Span>>, what: &str, hint: &str) {
        for at in keys.into_iter().flatten() {
            self.notes.error(at, what, hint);
        }
    }

    /// What `read` makes of a text; a text that means nothing is noted as `what`.
    pub fn text<T>(
        &mut self,
        given: &Given<String>,
        read: impl Fn(&str) -> Option<T>,
        what: &str,
        hint: impl Into<String>,
    ) -> Option<T> {
        let Written { value, at } = given.value()?;
        let read = read(value);
        if read.is_none() {
            self.notes.error(at, format!("{what}: {value:?}"), hint);
        }
        read
    }

    /// What one of a few words means; another one is noted as `what`.
    pub fn word<T: Copy>(
        &mut self,
        given: &Given<String>,
        words: &[(&str, T)],
        what: &str,
        hint: impl Fn(&str) -> String,
    ) -> Option<T> {
        let hint = hint(&given.value()?.value);
        let meaning = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        self.text(given, meaning, what, hint)
    }

    /// What `fit` makes of a number; one that does not fit is noted as `what`.
    pub fn number<T>(
        &mut self,
        given: &Given<i64>,
        fit: impl Fn(i64) -> Option<T>,
        what: &str,
        hint: impl Into<String>,
    ) -> Option<T> {
        let Written { value, at } = given.value()?;
        let fitting = fit(*value);
        if fitting.is_none() {
            self.notes.error(at, format!("{what}: {value}"), hint);
        }
        fitting
    }

    /// Remembers a name of the front, unless it only stands in for a wrong one.
    pub fn claim(&mut self, what: &'static str, value: &str, given: &Given<String>, absent: Span) {
        let at = match given {
            Given::Absent => absent,
            Given::Unreadable(_) => return,
            Given::Value(written) => written.at.clone(),
        };
        self.names.push(NameClaim { what, value: value.to_owned(), at });
    }
}
