//! The kernel's lock on a state directory: one process acts on it at a time, a daemon or a flip that works without
//! one. Taken by both; released by the kernel with the process, however it ends (promise K3).

use std::{
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::DaemonError;
use crate::os::process;

/// How long a flip without a daemon may take before a new daemon gives up: start, probes, drain and grace.
const FLIP_WITHIN: Duration = Duration::from_secs(120);
/// Between two tries to take the lock.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// The kernel's lock on a state directory, held while the value lives; gone with the process (promise K3).
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<std::fs::File>);

impl Lock {
    /// Takes the lock, and writes this process's pid into it for the message of a process that is refused.
    ///
    /// # Errors
    /// [`DaemonError::Running`] when another process holds it.
    pub fn take(state_dir: &Path) -> Result<Self, DaemonError> {
        let path = lock_path(state_dir);
        let failed = |source| DaemonError::Lock { path: path.clone(), source };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The pid is for people; a full disk must not keep a flip from working.
                if let Err(err) = write_pid(&mut file) {
                    tracing::warn!(%err, path = %path.display(), "the pid could not be written into the lock");
                }
                Ok(Self(file))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                Err(DaemonError::Running {
                    state_dir: state_dir.to_owned(),
                    holder: holder.trim().to_owned(),
                })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

fn lock_path(state_dir: &Path) -> PathBuf {
    state_dir.join("lock")
}

fn write_pid(file: &mut std::fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process that has the lock open: the one whose pid is in the file, or any other if a full disk prevented that
/// write. The pid alone proves nothing: the kernel may have given it to another process since.
pub fn lock_holder(state_dir: &Path) -> Option<i32> {
    let path = lock_path(state_dir);
    let lock = std::fs::metadata(&path).ok()?;
    let written = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let all = std::fs::read_dir("/proc").ok()?.flatten();
    let others = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    written.into_iter().chain(others).find(|pid| *pid != own && has_open(*pid, (lock.dev(), lock.ino())))
}

fn has_open(pid: i32, file: (u64, u64)) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.into_iter()
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .any(|found| (found.dev(), found.ino()) == file)
}

/// Takes the lock, and waits while a `bgd flip` without a daemon holds it. Another daemon is refused at once
/// (promise K4).
pub(super) fn after_a_flip(state_dir: &Path) -> Result<Lock, DaemonError> {
    let deadline = std::time::Instant::now() + FLIP_WITHIN;
    loop {
        let refused = match Lock::take(state_dir) {
            Err(refused @ DaemonError::Running { .. }) => refused,
            taken => return taken,
        };
        let holder = lock_holder(state_dir).map(process::command_line);
        let is_daemon = holder.is_some_and(|command| command.split(' ').any(|word| word == "daemon"));
        if is_daemon || std::time::Instant::now() >= deadline {
            return Err(refused);
        }
        std::thread::sleep(LOCK_LOOK);
    }
}
