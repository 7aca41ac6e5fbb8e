//! The order that the daemon gives a shim: what to run and how. Made by the engine; serialised on a pipe only, never
//! stored and never on a command line, because the environment holds secrets.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    config::settings::Limits,
    os::privilege::NewPrivileges,
    rules::{
        ids::{AppName, Color, CronName, ReleaseId},
        workers::WorkerSlot,
    },
};

/// The purpose of a shim's command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An instance, which serves on a port of a color and lives until its whole tree is gone. If its main command
    /// fails, the rest of the tree is ended; if that exits with 0, it went into the background.
    Instance(Slot),
    /// A worker, which has no port; its tree is treated as that of an instance.
    Worker(WorkerSlot),
    /// A build; processes that its main command leaves behind are killed.
    Build,
    /// A hook of this name; processes that its main command leaves behind are killed.
    Hook(String),
    /// A run of the schedule of this name; processes that its main command leaves behind are killed.
    Cron(CronName),
    /// A task of this name; processes that its main command leaves behind are killed.
    Task(String),
}

impl Role {
    /// Whether the command ends with its main process, so that the rest of the tree is killed.
    pub fn ends_with_main(&self) -> bool {
        matches!(self, Self::Build | Self::Hook(_) | Self::Cron(_))
    }

    /// The slot of an instance; `None` for other roles.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::Instance(slot) => Some(*slot),
            Self::Worker(_) | Self::Build | Self::Hook(_) | Self::Task(_) | Self::Cron(_) => None,
        }
    }

    /// The slot of a worker; `None` for other roles.
    pub fn worker(&self) -> Option<&WorkerSlot> {
        match self {
            Self::Worker(slot) => Some(slot),
            Self::Instance(_) | Self::Build | Self::Hook(_) | Self::Task(_) | Self::Cron(_) => None,
        }
    }

    /// Whether it is an instance of that color.
    pub fn is_on(&self, color: Color) -> bool {
        self.slot().is_some_and(|slot| slot.color == color)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(slot) => slot.fmt(f),
            Self::Worker(slot) => f.pad(&format!("worker-{slot}")),
            Self::Build => f.pad("build"),
            Self::Hook(name) | Self::Task(name) => f.pad(name),
            Self::Cron(name) => f.pad(&format!("cron-{name}")),
        }
    }
}

/// One of a color's instances. Written as `blue` for the first and `blue.2` for the second, so that instances started
/// by a bgd that knew only one per color keep their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    pub color: Color,
    /// Index within its color, from 0.
    pub index: u16,
}

impl Slot {
    /// Number within its color for people, from 1.
    pub fn number(self) -> u16 {
        self.index.saturating_add(1)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.pad(self.color.as_str()),
            _ => f.pad(&format!("{}.{}", self.color, self.number())),
        }
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

impl TryFrom<String> for Slot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (name, number) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let color = Color::ALL.into_iter().find(|color| color.as_str() == name);
        let index = match number {
            None => Some(0),
            Some(number) => number.parse().ok().and_then(|number: u16| number.checked_sub(1)),
        };
        let slot = color.zip(index).map(|(color, index)| Self { color, index });
        slot.ok_or_else(|| format!("no instance of a color: {text:?}"))
    }
}

/// One command to run under a shim.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The app it belongs to.
    pub app: AppName,
    /// The purpose of the command.
    pub role: Role,
    /// The release it runs.
    pub release: ReleaseId,
    /// Program and arguments; a name without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// The complete environment.
    pub env: BTreeMap<String, String>,
    /// Run as this user, groups included; needs root unless it is bgd's own.
    pub user: Option<String>,
    /// Whether it may gain rights by running a setuid program.
    #[serde(default)]
    pub new_privileges: NewPrivileges,
    /// The log file for its output.
    pub log: LogSpec,
    /// The polite stop and its grace.
    pub stop: StopSpec,
    /// Time limit from the start, after which the whole tree is killed.
    pub time_limit: Option<Duration>,
    /// CPU, IO and OOM priority.
    pub priority: Priority,
    /// Limits of its whole tree, the shim included.
    #[serde(default)]
    pub limits: Limits,
    /// A file that the shim makes, on disk, before it runs the command; if it is there already, another shim ran the
    /// command or runs it, and the start fails. `None` for commands that may run twice.
    #[serde(default)]
    pub claim: Option<PathBuf>,
    /// Number of instances that its color is started with; 1 for other roles.
    #[serde(default = "one")]
    pub siblings: u16,
}

/// The number of instances in specs and records from before a color could have several.
pub(super) fn one() -> u16 {
    1
}

impl fmt::Debug for Spec {
    /// Shows only the names of the environment: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("app", &self.app)
            .field("role", &self.role)
            .field("release", &self.release)
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A capped log: at most `(keep + 1) * max_bytes` on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The current file, absolute; rotated ones are `<path>.1` (newest), `<path>.2`, …
    pub path: PathBuf,
    /// Largest size of one file in bytes.
    pub max_bytes: u64,
    /// Rotated files kept beside the current one.
    pub keep: u32,
}

/// The polite stop of a command, and its grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// The polite request.
    pub how: StopRequest,
    /// Time from the polite request to KILL.
    pub grace: Duration,
    /// The signal that tells a worker to take no new work.
    #[serde(default)]
    pub quiet: Option<i32>,
}

/// The polite request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRequest {
    /// This signal, sent to the main process or, once that is gone, to the topmost of the rest.
    Signal(i32),
    /// This program, run with the environment, directory and user of the app; TERM if it fails.
    Command(Vec<String>),
}

impl StopRequest {
    /// The signal that is sent when no command can be run.
    pub(crate) fn signal(&self) -> i32 {
        match self {
            Self::Signal(signal) => *signal,
            Self::Command(_) => libc::SIGTERM,
        }
    }
}

/// The CPU, IO and OOM priority of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The priority of bgd itself.
    Normal,
    /// For builds: nice 10, lowest best-effort IO, first to go when memory is short (OOM score +500).
    Background,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_no_value_of_the_environment_shows_in_debug_output() {
        let spec = Spec {
            app: "shop".parse().unwrap(),
            role: Role::Build,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            argv: vec!["true".into()],
            cwd: "/".into(),
            env: BTreeMap::from([("TOKEN".into(), "hush".into())]),
            user: None,
            new_privileges: NewPrivileges::Refused,
            log: LogSpec { path: "/l".into(), max_bytes: 1, keep: 1 },
            stop: StopSpec { how: StopRequest::Signal(15), grace: Duration::ZERO, quiet: None },
            time_limit: None,
            priority: Priority::Normal,
            limits: Limits::default(),
            siblings: 1,
            claim: None,
        };
        let shown = format!("{spec:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_first_instance_is_written_as_the_only_one_always_was() {
        let role = |index| Role::Instance(Slot { color: Color::Green, index });
        for (index, text) in [(0, r#"{"instance":"green"}"#), (63, r#"{"instance":"green.64"}"#)] {
            assert_eq!(serde_json::to_string(&role(index)).unwrap(), text);
            assert_eq!(serde_json::from_str::<Role>(text).unwrap(), role(index));
        }
        for odd in ["red", "green.0", "green.", "green.-1", "green.70000", ""] {
            assert!(serde_json::from_str::<Role>(&format!(r#"{{"instance":"{odd}"}}"#)).is_err(), "{odd}");
        }
    }
}
