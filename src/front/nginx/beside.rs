//! Detects another nginx that accepts on the same sockets: one half of an upgrade of its binary (`USR2`), or workers
//! whose master was killed. A reload does not reach it, so it would route by the old configuration. Only reads.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    Nginx, NginxError,
    master::{self, Accepting},
};
use crate::os::{
    blocking::blocking,
    holders::{held_by, sockets_of},
    process::{Process, name_of},
    tree,
};

/// Longest usual upgrade by a package or a script: both masters run for a second or two.
const UPGRADE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

impl Nginx {
    /// Fails when nginx's binary is being upgraded; reads a few small files.
    pub fn upgrade(&self) -> Result<(), NginxError> {
        let pid_file = &self.settings.pid_file;
        let moved = master::master(&oldbin(pid_file)).ok();
        match (master::master(pid_file), moved) {
            // The old master has renamed its pid file, and the new master has not written its own yet.
            (Err(_), Some(old)) => Err(NginxError::Upgrading { old: old.pid, new: None }),
            (Err(err), None) => Err(err),
            (Ok(new), moved) => match moved.filter(|old| *old != new).or_else(|| master::parent(new)) {
                Some(old) => Err(NginxError::Upgrading { old: old.pid, new: Some(new.pid) }),
                None => Ok(()),
            },
        }
    }

    /// Waits for the end of an upgrade, at most for [`UPGRADE`].
    pub(super) async fn upgraded(&self) -> Result<(), NginxError> {
        let deadline = Instant::now() + UPGRADE;
        loop {
            match self.upgrade() {
                Err(NginxError::Upgrading { .. }) if Instant::now() < deadline => sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Fails when a worker of another master, or of none, accepts on the master's sockets; reads all processes.
    pub(super) async fn alone(&self, master: Process) -> Result<(), NginxError> {
        match blocking(move || stranger(master)).await {
            Some(worker) => Err(NginxError::Shared { master: master.pid, worker: worker.pid }),
            None => Ok(()),
        }
    }
}

/// The path to which nginx renames the old master's pid file while a new master runs.
fn oldbin(pid_file: &Path) -> PathBuf {
    let mut path = pid_file.as_os_str().to_owned();
    path.push(".oldbin");
    path.into()
}

/// A worker that accepts on the master's sockets and is not its child; `None` when there is none, or when bgd may not
/// see the master's open files.
fn stranger(master: Process) -> Option<Process> {
    let program = name_of(master.pid)?;
    let own: BTreeSet<u64> = sockets_of(master.pid).ok()?.map(|(_, inode)| inode).collect();
    let mut workers = tree::pids()
        .ok()?
        .filter(|pid| name_of(*pid).as_ref() == Some(&program))
        .filter_map(|pid| master::strange_worker(master, pid))
        .filter(|worker| master::standing(*worker) == Some(Accepting::Serving));
    workers.find(|worker| !held_by(worker.pid, &own).is_empty())
}
