//! The state file of a shim, `<state_dir>/<app>/run/<id>.json`: processes, start and exit. Written by the shim only,
//! read by the daemon, which adopts shims by it and finds orphans when a shim was killed. It never holds the app's
//! environment or the command, which may be secret.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::spec::Role;
use crate::{
    os::{
        own_file::OwnFile,
        process::{Process, boot_id},
    },
    rules::ids::{AppName, ReleaseId},
};

/// Variables set by bgd (documented, never secret) that identify a process after its shim was killed.
pub(super) const MARKS: [&str; 9] = [
    "BGD_APP",
    "BGD_COLOR",
    "BGD_CRON",
    DUE_AT,
    "BGD_EVENT",
    "BGD_INSTANCE",
    "BGD_RELEASE",
    "BGD_RELEASE_DIR",
    "BGD_WORKER",
];

/// The variable with the due time of a scheduled run, in RFC 3339.
pub(crate) const DUE_AT: &str = "BGD_DUE_AT";

/// How a main command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandExit {
    /// Exit code or signal.
    pub how: ExitKind,
    /// Whether bgd killed it at its time limit.
    pub timed_out: bool,
    /// Whether the kernel killed a process of the tree because the tree exceeded its memory limit.
    #[serde(default)]
    pub out_of_memory: bool,
}

impl CommandExit {
    /// The exit of a command whose shim was killed before it could see it.
    pub(crate) const UNKNOWN: Self = Self { how: ExitKind::Unknown, timed_out: false, out_of_memory: false };

    /// Whether it exited with code 0, in time.
    pub fn success(self) -> bool {
        self.how == ExitKind::Code(0) && !self.timed_out
    }

    /// Whether the end has a cause outside of the command: the host went down, memory ran out, a user killed it. A
    /// shell passes its child's signal on as 128 and the signal's number.
    pub fn is_from_outside(self) -> bool {
        let ends = |signal| matches!(signal, libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP);
        !self.timed_out
            && !self.out_of_memory
            && match self.how {
                ExitKind::Unknown => true,
                ExitKind::Signal(signal) => ends(signal),
                ExitKind::Code(code) => code > 128 && ends(code - 128),
            }
    }
}

impl std::fmt::Display for CommandExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.out_of_memory {
            let killed = Self { out_of_memory: false, ..*self };
            return write!(f, "{killed}, because it used more memory than limits.memory allows");
        }
        match (self.timed_out, self.how) {
            (true, _) => f.write_str("killed at its time limit"),
            (false, ExitKind::Code(code)) => write!(f, "exit code {code}"),
            (false, ExitKind::Signal(signal)) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => write!(f, "signal {signal} ({name})"),
                Err(_) => write!(f, "signal {signal}"),
            },
            (false, ExitKind::Unknown) => f.write_str("unknown exit: its shim was killed"),
        }
    }
}

/// Exit code or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// Exited with this code.
    Code(i32),
    /// Died of this signal.
    Signal(i32),
    /// Unknown: the shim was killed before the command ended.
    Unknown,
}

/// The state of one shim and its command. Fields may be added, never changed or removed: a newer daemon adopts older
/// shims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The id in the names of the record and the socket, and in the shim's arguments.
    pub id: String,
    /// The id of the boot that the record was written in.
    pub boot: String,
    /// The app it belongs to.
    pub app: AppName,
    /// The purpose of the command.
    pub role: Role,
    /// The release it runs.
    pub release: ReleaseId,
    /// The socket that the shim answers on.
    pub socket: PathBuf,
    /// The current log file.
    pub log: PathBuf,
    /// The signal that asks it to end; TERM when a command does that.
    pub stop_signal: i32,
    /// Time from the polite request to KILL, in milliseconds.
    pub grace_ms: u64,
    /// The shim's own process.
    pub shim: Process,
    /// The main process; missing while the command is being started.
    pub main: Option<Process>,
    /// When the command was started, in milliseconds since the epoch.
    pub started_ms: u64,
    /// How the command ended; missing while it runs.
    pub exit: Option<CommandExit>,
    /// When the last descendant was gone, in milliseconds since the epoch.
    pub ended_ms: Option<u64>,
    /// Whether KILL was needed to end it.
    pub killed: bool,
    /// Whether the end has begun: the shim was told to end the tree, or ends the rest of it. Remaining processes are
    /// about to end.
    #[serde(default)]
    pub ending: bool,
    /// The moment of KILL, in milliseconds since the epoch; missing until bgd tells it to end.
    #[serde(default)]
    pub ends_by_ms: Option<u64>,
    /// Whether bgd told it to take no new work.
    #[serde(default)]
    pub quieted: bool,
    /// The variables of [`MARKS`] that its processes have in their environment.
    #[serde(default)]
    pub marks: BTreeMap<String, String>,
    /// Number of instances that its color was started with.
    #[serde(default = "super::spec::one")]
    pub siblings: u16,
}

impl Record {
    /// Whether it was written in this boot; the pids of another boot mean nothing.
    pub fn of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot)
    }

    /// Whether the shim itself runs.
    pub fn shim_alive(&self) -> bool {
        self.of_this_boot() && self.shim.is_alive()
    }

    /// Replaces the file as a whole, with a flush only for an exit. Until then it lists running processes, which is
    /// worthless after a power cut; after the death of the daemon or the shim it is needed, and an unflushed write
    /// survives that.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = folder.join(format!(".{}.tmp", self.id));
        let file = OwnFile { path, temporary: &temporary, mode: 0o600 };
        let text = serde_json::to_vec(self)?;
        let write = |file: &mut File| file.write_all(&text);
        if self.exit.is_none() { file.replace_unflushed(write) } else { file.replace(write) }
    }

    /// Reads one file; `None` when it is not there, `InvalidData` when it is damaged.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The folder of an app's state files.
pub(crate) fn folder(state_dir: &Path, app: &AppName) -> PathBuf {
    state_dir.join(app.as_str()).join("run")
}

/// The state files in a folder; none without the folder.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file in the place of a folder (a stray one in the state directory) counts as a missing folder.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether there is no room of some kind (space, inodes, quota): it passes and must not end a start.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Milliseconds since the epoch, now.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a10_only_what_ends_from_outside_is_not_the_commands_own_doing() {
        let exit = |how| CommandExit { how, timed_out: false, out_of_memory: false };
        for how in [
            ExitKind::Unknown,
            ExitKind::Signal(9),
            ExitKind::Signal(15),
            ExitKind::Code(137),
            ExitKind::Code(143),
        ] {
            assert!(exit(how).is_from_outside(), "{how:?}");
            assert!(!CommandExit { timed_out: true, ..exit(how) }.is_from_outside(), "{how:?}");
            assert!(!CommandExit { out_of_memory: true, ..exit(how) }.is_from_outside(), "{how:?}");
        }
        for how in [
            ExitKind::Code(0),
            ExitKind::Code(1),
            ExitKind::Code(128),
            ExitKind::Signal(11),
            ExitKind::Code(139),
        ] {
            assert!(!exit(how).is_from_outside(), "{how:?}");
        }
    }

    pub(crate) fn sample() -> Record {
        Record {
            id: "0123456789ab".into(),
            boot: boot_id().unwrap().to_owned(),
            app: "shop".parse().unwrap(),
            role: Role::Hook("before_start".into()),
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            socket: "/run/bgd/s/0123456789ab.sock".into(),
            log: "/l".into(),
            stop_signal: 15,
            grace_ms: 1,
            shim: Process { pid: 2, start: 3 },
            main: None,
            started_ms: 4,
            exit: Some(CommandExit { how: ExitKind::Signal(9), timed_out: true, out_of_memory: false }),
            ended_ms: None,
            killed: false,
            ending: false,
            ends_by_ms: None,
            quieted: false,
            marks: BTreeMap::from([("BGD_APP".to_owned(), "shop".to_owned())]),
            siblings: 1,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_saved_and_leaves_no_temp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(Record::load(&path).unwrap(), None);
        sample().save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(sample()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(files(dir.path()).unwrap(), [path]);
    }

    #[test]
    fn a_record_of_a_newer_bgd_with_unknown_fields_is_still_read() {
        let mut value = serde_json::to_value(sample()).unwrap();
        value["later"] = true.into();
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), sample());
    }

    #[test]
    fn a_record_of_an_older_shim_does_not_say_that_it_ends_and_one_that_ends_does() {
        let ends = Record { ending: true, ..sample() };
        let mut value = serde_json::to_value(&ends).unwrap();
        assert_eq!(serde_json::from_value::<Record>(value.clone()).unwrap(), ends);
        value.as_object_mut().unwrap().remove("ending").unwrap();
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), sample());
    }
}
