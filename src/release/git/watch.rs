//! Signals changes in a local bare repository at once. Used by the engine in addition to polling, never instead of
//! it: a signal means "look now", and the absence of a signal means nothing. Reads only.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::sleep,
};

use super::local::git_dir;

/// Interval of signals while the repository can't be watched.
const LOOK: Duration = Duration::from_secs(1);
/// Interval of checks that the watched directory is still the one at the path. Only the rename of a parent directory
/// sends no event; polling, which uses the path, notices that sooner.
const CHECK: Duration = Duration::from_secs(60);

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMode {
    /// The kernel reports them.
    Watching,
    /// The kernel can't report them, so a signal is sent once a second.
    Polling {
        /// Why, such as a missing directory, or no watches left.
        reason: String,
    },
}

/// A watch on a local repository. Ends when dropped.
#[derive(Debug)]
pub struct LocalWatch {
    signal: Arc<Notify>,
    mode: Arc<Mutex<WatchMode>>,
    task: JoinHandle<()>,
}

impl LocalWatch {
    /// Watches the repository at `path`, as soon as it exists. Needs a tokio runtime.
    pub fn start(path: PathBuf) -> Self {
        let signal = Arc::new(Notify::new());
        let mut watching = Watching {
            path,
            signal: Arc::clone(&signal),
            mode: Arc::new(Mutex::new(WatchMode::Polling { reason: "not started yet".to_owned() })),
            armed: None,
        };
        let mode = Arc::clone(&watching.mode);
        watching.arm();
        let task = tokio::spawn(watching.run());
        Self { signal, mode, task }
    }

    /// Waits until something may have changed since the last call. Cancel-safe: an unread signal is kept.
    pub async fn changed(&self) {
        self.signal.notified().await;
    }

    /// The current way to notice changes.
    pub fn mode(&self) -> WatchMode {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for LocalWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watching {
    path: PathBuf,
    signal: Arc<Notify>,
    mode: Arc<Mutex<WatchMode>>,
    armed: Option<Armed>,
}

/// An active watch, and the identity of its directories.
struct Armed {
    events: mpsc::UnboundedReceiver<()>,
    on: Identity,
    _watcher: RecommendedWatcher,
}

/// Device and inode of the git directory and of `refs/heads`: a new directory of the same name differs.
type Identity = [(u64, u64); 2];

impl Watching {
    async fn run(mut self) {
        loop {
            let pause = if self.armed.is_some() { CHECK } else { LOOK };
            let event = async {
                match &mut self.armed {
                    Some(armed) => armed.events.recv().await,
                    None => std::future::pending().await,
                }
            };
            // Both arms are cancel-safe: an event stays in the channel, and the pause may start again.
            tokio::select! {
                _ = event => self.signal.notify_one(),
                () = sleep(pause) => {}
            }
            self.arm_again_if_replaced();
        }
    }

    fn arm_again_if_replaced(&mut self) {
        let current = identity(&git_dir(&self.path));
        let intact =
            self.armed.as_ref().is_some_and(|armed| current.as_ref().is_ok_and(|now| *now == armed.on));
        if !intact {
            self.arm();
            self.signal.notify_one();
        }
    }

    fn arm(&mut self) {
        let armed = Armed::new(&git_dir(&self.path));
        let mode = match &armed {
            Ok(_) => WatchMode::Watching,
            Err(reason) => WatchMode::Polling { reason: reason.clone() },
        };
        self.armed = armed.ok();
        let mut told = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != mode {
            if let WatchMode::Polling { reason } = &mode {
                tracing::warn!(path = %self.path.display(), reason, "local repository is polled, not watched");
            }
            *told = mode;
        }
    }
}

impl Armed {
    fn new(dir: &Path) -> Result<Self, String> {
        let (send, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // After an error of the watch itself (a full queue) changes may be lost, so it is a signal too.
            if event.as_ref().map_or(true, matters) {
                // Fails if the receiver was dropped while the watch is replaced; then the event is not needed.
                send.send(()).ok();
            }
        });
        let mut watcher = watcher.map_err(|err| err.to_string())?;
        let heads = heads(dir);
        // Read the identity before watching: a directory replaced in between differs from it and is watched again.
        let on = identity(dir).map_err(|err| format!("{}: {err}", dir.display()))?;
        watcher.watch(&heads, RecursiveMode::Recursive).map_err(|err| err.to_string())?;
        watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|err| err.to_string())?;
        Ok(Self { events, on, _watcher: watcher })
    }
}

/// Whether an event may be a change of a ref. Reads are not; lock files are not, but their rename to the ref is.
fn matters(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

fn identity(dir: &Path) -> std::io::Result<Identity> {
    let of = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    Ok([of(dir)?, of(&heads(dir))?])
}

/// The directory of the branches.
fn heads(dir: &Path) -> PathBuf {
    let reftable = dir.join("reftable");
    if reftable.is_dir() { reftable } else { dir.join("refs/heads") }
}
