//! Says at once when something changed in a local bare repository. Used by the engine beside its polling, never
//! instead of it: a signal means "look now", and no signal means nothing. Reads only.

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

/// While nothing can be watched, a look is asked for this often.
const LOOK: Duration = Duration::from_secs(1);
/// Between two checks that what is watched is still what lies at the path. All that happens to it sends events, only a
/// parent directory that is renamed sends none; the polling, which goes by the path, sees that sooner.
const CHECK: Duration = Duration::from_secs(60);

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMode {
    /// The kernel reports them.
    Watching,
    /// Once a second a look is asked for, for the reason given.
    Polling {
        /// Such as a directory that is missing, or no watches left.
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
    /// Watches the repository at `path`, now or as soon as there is one. Needs a tokio runtime.
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

    /// Waits until something may have changed since the last call. Cancel-safe: a signal that nobody took stays.
    pub async fn changed(&self) {
        self.signal.notified().await;
    }

    /// How changes are noticed at the moment.
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

/// A watch in place, and what it was placed on.
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
            // Both arms are cancel-safe: an event stays in the channel, and a pause that begins anew was not needed.
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
            // An error of the watch itself (a full queue) is a reason to look as well.
            if event.as_ref().map_or(true, matters) {
                // The receiver is gone when the watch is being replaced; then nobody needs the event.
                send.send(()).ok();
            }
        });
        let mut watcher = watcher.map_err(|err| err.to_string())?;
        let heads = heads(dir);
        // Identity before the watch: what is replaced in between differs from it and is armed again.
        let on = identity(dir).map_err(|err| format!("{}: {err}", dir.display()))?;
        watcher.watch(&heads, RecursiveMode::Recursive).map_err(|err| err.to_string())?;
        watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|err| err.to_string())?;
        Ok(Self { events, on, _watcher: watcher })
    }
}

/// Reading is not a change; neither is a lock file that comes and goes, except that its rename shows as the ref.
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

/// Where the branches are kept.
fn heads(dir: &Path) -> PathBuf {
    let reftable = dir.join("reftable");
    if reftable.is_dir() { reftable } else { dir.join("refs/heads") }
}
