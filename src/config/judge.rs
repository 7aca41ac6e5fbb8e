//! Written values → settings: the helpers for the rules of all tables. Notes each problem and uses the default in place
//! of a wrong value, so that the rest is checked too. Reads no files and makes no system calls.

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

/// Checks a whole configuration, and collects the claims that must be unique.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    /// The directory of the main file; relative paths start here.
    pub base: &'a Path,
    pub notes: &'a mut Notes,
    /// The daemon's runtime directory, set once `[daemon]` is checked.
    pub runtime_dir: PathBuf,
    pub ports: Vec<PortClaim>,
    pub names: Vec<NameClaim>,
    /// The files named in the configuration.
    pub named_files: Vec<NamedFile>,
}

/// A port that a front or an instance listens on.
#[derive(Debug)]
pub(super) struct PortClaim {
    pub port: u16,
    /// The public address of a front; `None` for an instance.
    pub listen: Option<IpAddr>,
    pub at: Span,
    /// It is the default, not written in a file.
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

/// A file named in the configuration, which the caller should check on disk.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub path: PathBuf,
    pub at: Span,
    pub holds: Holds,
}

/// The expected content of a named file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A secret; other users must not be able to read it.
    Secret,
    /// A private key; ssh refuses it if its group can read it.
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
        /// The path begins like the name of a server.
        like_a_host: bool,
    },
}

impl<'a> Judge<'a> {
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

    /// Notes everything that is claimed twice. Call it after the last app.
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

    /// Parses a text with `read`; notes `what` if that gives `None`.
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

    /// Looks up the value of a word; notes `what` for an unknown word.
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

    /// Converts a number with `fit`; notes `what` if that gives `None`.
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

    /// Records a front's name as claimed, unless it is the default in place of a wrong one.
    pub fn claim(&mut self, what: &'static str, value: &str, given: &Given<String>, absent: Span) {
        let at = match given {
            Given::Absent => absent,
            Given::Unreadable(_) => return,
            Given::Value(written) => written.at.clone(),
        };
        self.names.push(NameClaim { what, value: value.to_owned(), at });
    }
}
