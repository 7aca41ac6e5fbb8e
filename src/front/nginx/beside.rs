//! Another nginx that accepts on the same sockets: one half of an upgrade of its binary (`USR2`), or workers whose
//! master was killed. A reload does not reach it, so requests would go where it routed before. Only reads.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    Nginx, NginxError,
    master::{self, Standing},
};
use crate::os::{
    blocking::blocking,
    holders::{held_by, sockets_of},
    process::{Process, name_of},
    tree,
};

/// How long an upgrade by a package or a script takes at most: both masters are there for a second or two.
const UPGRADE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

impl Nginx {
    /// Refuses an nginx whose binary is being upgraded; costs a few small files.
    pub fn upgrade(&self) -> Result<(), NginxError> {
        let pid_file = &self.settings.pid_file;
        let moved = master::master(&oldbin(pid_file)).ok();
        match (master::master(pid_file), moved) {
            // Between the renaming of its pid file and the new master's own.
            (Err(_), Some(old)) => Err(NginxError::Upgrading { old: old.pid, new: None }),
            (Err(err), None) => Err(err),
            (Ok(new), moved) => match moved.filter(|old| *old != new).or_else(|| master::parent(new)) {
                Some(old) => Err(NginxError::Upgrading { old: old.pid, new: Some(new.pid) }),
                None => Ok(()),
            },
        }
    }

    /// Waits a moment for the end of an upgrade.
    pub(super) async fn upgraded(&self) -> Result<(), NginxError> {
        let deadline = Instant::now() + UPGRADE;
        loop {
            match self.upgrade() {
                Err(NginxError::Upgrading { .. }) if Instant::now() < deadline => sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Refuses a worker that accepts on the master's sockets and is not one of its own: all processes are looked at.
    pub(super) async fn alone(&self, master: Process) -> Result<(), NginxError> {
        match blocking(move || stranger(master)).await {
            Some(worker) => Err(NginxError::Shared { master: master.pid, worker: worker.pid }),
            None => Ok(()),
        }
    }
}

/// Where nginx moves its pid file while a new master is there.
fn oldbin(pid_file: &Path) -> PathBuf {
    let mut path = pid_file.as_os_str().to_owned();
    path.push(".oldbin");
    path.into()
}

/// `None` too without permission to see what the master has open.
fn stranger(master: Process) -> Option<Process> {
    let program = name_of(master.pid)?;
    let own: BTreeSet<u64> = sockets_of(master.pid).ok()?.map(|(_, inode)| inode).collect();
    let mut workers = tree::pids()
        .ok()?
        .filter(|pid| name_of(*pid).as_ref() == Some(&program))
        .filter_map(|pid| master::strange_worker(master, pid))
        .filter(|worker| master::standing(*worker) == Some(Standing::Serving));
    workers.find(|worker| !held_by(worker.pid, &own).is_empty())
}
