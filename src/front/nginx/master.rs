//! nginx's processes as the kernel shows them: the master behind the pid file, its workers, and which of them
//! are on their way out. Only reads; signals are nginx's own command's business. A process is known by pid,
//! start time and boot, so that a pid used again is never mistaken for the old process.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

use super::error::NginxError;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// One worker of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) process: Process,
    pub(super) standing: Standing,
}

/// Whether a worker takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Serving,
    /// Only finishes what it has.
    Leaving,
}

const MASTER: &str = "nginx: master process";
const WORKER: &str = "nginx: worker process";
const LEAVING: &str = "nginx: worker process is shutting down";
/// A pid file holds one number; anything longer is something else.
const QUOTED: usize = 60;

struct Stat {
    state: char,
    parent: u32,
    start: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).ok().map(|stat| Self { pid, start: stat.start })
    }

    /// When it started, by the wall clock as it is set now; exact to a clock tick.
    pub(super) fn started(self) -> Option<SystemTime> {
        let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
        let after_boot = Duration::from_millis(self.start.saturating_mul(1000) / ticks.max(1));
        SystemTime::now().checked_sub(up.checked_sub(after_boot)?)
    }

    /// Whom it runs as.
    pub(super) fn uid(self) -> Option<u32> {
        let owner = fs::metadata(format!("/proc/{}", self.pid)).ok().map(|process| process.uid());
        // After reading: a pid used again meanwhile does not pass.
        owner.filter(|_| self.is_alive())
    }

    /// The inodes of its sockets; `None` without permission.
    pub(super) fn sockets(self) -> Option<HashSet<u64>> {
        let entries = match fs::read_dir(format!("/proc/{}/fd", self.pid)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Some(HashSet::new()),
            other => other.ok()?,
        };
        let inode = |entry: fs::DirEntry| {
            let link = fs::read_link(entry.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        Some(entries.filter_map(|entry| inode(entry.ok()?)).collect())
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.start == self.start && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// The running master that the pid file names.
pub(super) fn master(pid_file: &Path) -> Result<Process, NginxError> {
    let path = || pid_file.to_owned();
    let text = fs::read_to_string(pid_file).map_err(|source| NginxError::PidFile { path: path(), source })?;
    let text = text.trim();
    if text.is_empty() {
        return Err(NginxError::PidFileEmpty { path: path() });
    }
    let Ok(pid) = text.parse::<u32>() else {
        return Err(NginxError::PidFileGarbled { path: path(), text: text.chars().take(QUOTED).collect() });
    };
    let gone = || NginxError::NotRunning { path: path(), pid };
    let stat = stat(pid).map_err(|_| gone())?;
    if matches!(stat.state, 'Z' | 'X') {
        return Err(gone());
    }
    let cmdline = cmdline(pid).map_err(|_| gone())?;
    if !cmdline.starts_with(MASTER) {
        return Err(NginxError::NotNginx { path: path(), pid, cmdline });
    }
    Ok(Process { pid, start: stat.start })
}

/// The master that started this one, in an upgrade of the binary.
pub(super) fn parent(master: Process) -> Option<Process> {
    let pid = stat(master.pid).ok().filter(|stat| stat.start == master.start)?.parent;
    let parent = stat(pid).ok().filter(|stat| !matches!(stat.state, 'Z' | 'X'))?;
    cmdline(pid).ok()?.starts_with(MASTER).then_some(Process { pid, start: parent.start })
}

/// The worker with this pid, when it is of another master or of none.
pub(super) fn strange_worker(master: Process, pid: u32) -> Option<Process> {
    let stat = stat(pid).ok().filter(|stat| stat.parent != master.pid && stat.state != 'Z')?;
    cmdline(pid).ok()?.starts_with(WORKER).then_some(Process { pid, start: stat.start })
}

/// The workers of a master; cache managers and loaders are none.
pub(super) fn workers(master: Process) -> Result<Vec<Worker>, NginxError> {
    let children = children(master.pid).map_err(|source| NginxError::Workers { pid: master.pid, source })?;
    // One that is gone between listing and looking is simply no worker any more.
    Ok(children.into_iter().filter_map(|pid| worker(master, pid)).collect())
}

/// Whether a worker, of whatever master, takes new connections; `None` once it is gone.
pub(super) fn standing(worker: Process) -> Option<Standing> {
    let cmdline = cmdline(worker.pid).ok()?;
    // After reading: a pid used again meanwhile does not pass.
    worker.is_alive().then(|| read_standing(&cmdline))
}

fn read_standing(cmdline: &str) -> Standing {
    if cmdline.starts_with(LEAVING) { Standing::Leaving } else { Standing::Serving }
}

fn worker(master: Process, pid: u32) -> Option<Worker> {
    let stat = stat(pid).ok()?;
    let cmdline = cmdline(pid).ok()?;
    if stat.parent != master.pid || stat.state == 'Z' || !cmdline.starts_with(WORKER) {
        return None;
    }
    Some(Worker { process: Process { pid, start: stat.start }, standing: read_standing(&cmdline) })
}

/// The kernel's own list where it keeps one, else every process is asked for its parent.
fn children(pid: u32) -> io::Result<Vec<u32>> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(list) => Ok(list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        Err(_) => {
            let all =
                fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            Ok(all.filter(|child| stat(*child).is_ok_and(|stat| stat.parent == pid)).collect())
        }
    }
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    read_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

/// The name, in brackets, may hold anything, brackets included: fields count from the last one.
fn read_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

fn cmdline(pid: u32) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Ok(text.trim().to_owned())
}

/// Names this boot of the machine; empty where the kernel does not tell.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9999 0 0";
        let stat = read_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start), ('S', 7, 9999));
        assert!(read_stat("42 (x").is_none());
    }

    #[test]
    fn a_pid_used_again_is_another_process() {
        let pid = std::process::id();
        let start = stat(pid).unwrap().start;
        assert!(Process { pid, start }.is_alive());
        assert!(!Process { pid, start: start + 1 }.is_alive());
    }

    #[test]
    fn f7_a_pid_file_missing_empty_garbled_stale_or_foreign_is_said_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nginx.pid");
        assert!(matches!(master(&path), Err(NginxError::PidFile { .. })));
        fs::write(&path, "\n").unwrap();
        assert!(matches!(master(&path), Err(NginxError::PidFileEmpty { .. })));
        fs::write(&path, "soon").unwrap();
        assert!(matches!(master(&path), Err(NginxError::PidFileGarbled { .. })));
        fs::write(&path, "4194305").unwrap();
        assert!(matches!(master(&path), Err(NginxError::NotRunning { pid: 4_194_305, .. })));
        fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert!(matches!(master(&path), Err(NginxError::NotNginx { .. })));
    }
}
