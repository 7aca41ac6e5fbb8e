//! nginx's processes as the kernel shows them: the master that the pid file names, its workers, and which of them
//! are leaving. Only reads; the configured reload command sends the signals.

use std::{fs, path::Path};

use super::error::NginxError;
use crate::os::{
    process::{Process, Stat, command_line, user_of},
    tree,
};

/// One worker of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NginxWorker {
    pub(super) process: Process,
    pub(super) standing: Accepting,
}

impl NginxWorker {
    /// The user id that it runs as; `None` once it is gone.
    pub(super) fn uid(&self) -> Option<u32> {
        let uid = user_of(self.process.pid);
        // Checked after the read, in case another process has the pid by now.
        uid.filter(|_| self.process.is_alive())
    }
}

/// Whether a worker takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    Serving,
    /// Takes no new connections, and finishes those that it has.
    Leaving,
}

const MASTER: &str = "nginx: master process";
const WORKER: &str = "nginx: worker process";
const LEAVING: &str = "nginx: worker process is shutting down";
/// Characters of a pid file's content that an error quotes.
const QUOTED: usize = 60;

/// The running master that the pid file names.
pub(super) fn master(pid_file: &Path) -> Result<Process, NginxError> {
    let path = || pid_file.to_owned();
    let text = fs::read_to_string(pid_file).map_err(|source| NginxError::PidFile { path: path(), source })?;
    let text = text.trim();
    if text.is_empty() {
        return Err(NginxError::PidFileEmpty { path: path() });
    }
    let Some(pid) = text.parse::<i32>().ok().filter(|pid| *pid >= 0) else {
        return Err(NginxError::PidFileGarbled { path: path(), text: text.chars().take(QUOTED).collect() });
    };
    let gone = || NginxError::NotRunning { path: path(), pid };
    let stat = Stat::read(pid).filter(Stat::alive).ok_or_else(gone)?;
    let cmdline = command_line(pid);
    if !cmdline.starts_with(MASTER) {
        return Err(NginxError::NotNginx { path: path(), pid, cmdline });
    }
    Ok(stat.process())
}

/// The master that started this one, in an upgrade of the binary.
pub(super) fn parent(master: Process) -> Option<Process> {
    let stat = Stat::read(master.pid).filter(|stat| stat.process() == master)?;
    let parent = Stat::read(stat.parent).filter(Stat::alive)?;
    command_line(parent.pid).starts_with(MASTER).then(|| parent.process())
}

/// The worker with this pid, when it belongs to another master or to none.
pub(super) fn strange_worker(master: Process, pid: i32) -> Option<Process> {
    let stat = Stat::read(pid).filter(|stat| stat.parent != master.pid && stat.alive())?;
    command_line(pid).starts_with(WORKER).then(|| stat.process())
}

/// The workers of a master, without cache managers and loaders.
pub(super) fn workers(master: Process) -> Result<Vec<NginxWorker>, NginxError> {
    let children = tree::children(master.pid);
    let children = children.map_err(|source| NginxError::Workers { pid: master.pid, source })?;
    Ok(children.iter().filter(|child| child.alive()).filter_map(worker).collect())
}

/// Whether a worker of any master takes new connections; `None` once it is gone.
pub(super) fn standing(worker: Process) -> Option<Accepting> {
    let cmdline = command_line(worker.pid);
    // Checked after the read, in case another process has the pid by now.
    worker.is_alive().then(|| read_standing(&cmdline))
}

fn read_standing(cmdline: &str) -> Accepting {
    if cmdline.starts_with(LEAVING) { Accepting::Leaving } else { Accepting::Serving }
}

fn worker(child: &Stat) -> Option<NginxWorker> {
    let cmdline = command_line(child.pid);
    let standing = read_standing(&cmdline);
    cmdline.starts_with(WORKER).then(|| NginxWorker { process: child.process(), standing })
}

#[cfg(test)]
mod tests {
    use super::*;

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
