//! `bgd daemon`: takes the lock, opens the record, starts the apps, serves the control socket, notices changed
//! configuration, tells systemd, and ends in order. It leaves apps and fronts serving.

mod lock;

use std::{
    fmt, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch},
};

use crate::{
    api::{
        access::Access,
        server::{self, ServerError},
        services::Services,
        wire::{DaemonReport, Exit, Refusal},
    },
    config::{
        self,
        settings::{AppSettings, DaemonSettings, Settings},
    },
    engine::{
        DaemonPaths,
        apps::{Apps, AppsError, Polling},
    },
    os::{errors::chain, privilege},
    rules::{ids::AppName, time::Stamp, words::EventKind},
    store::{Opened, Store, StoreError, clock, record::EventRecord},
};

pub use lock::{Lock, lock_holder};

/// How often waiting apps get a turn: retries fall due by the clock, not by an event.
const TICK: Duration = Duration::from_secs(1);
/// Apps that wait for nothing get one of this many ticks.
const ALL_TICK: u32 = 30;
/// After a change of the files, before reading them: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// The reason why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A directory of its own.
    #[error("making the directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The lock file.
    #[error("taking the lock {}", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another daemon works on the same state directory.
    #[error("another bgd daemon runs on {}: pid {holder}", state_dir.display())]
    Running {
        /// The state directory.
        state_dir: PathBuf,
        /// The pid that it wrote into the lock file.
        holder: String,
    },
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// An app.
    #[error(transparent)]
    Apps(#[from] AppsError),
    /// The runtime or a signal handler.
    #[error("{what}")]
    System {
        /// The action that failed.
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Makes state and runtime directory, and sets the umask that a service has: a hardened root has 077, and the app's
/// user must be able to read its releases.
///
/// # Errors
/// When one can't be made.
pub fn make_directories(settings: &DaemonSettings) -> Result<(), DaemonError> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    for path in [&settings.state_dir, &settings.runtime_dir] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|source| DaemonError::Directory { path: path.clone(), source })?;
    }
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start; once it runs, errors are logged and it goes on.
pub fn run(file: &Path, settings: Settings) -> Result<(), DaemonError> {
    privilege::seal_descriptors()
        .map_err(|source| DaemonError::System { what: "sealing inherited descriptors", source })?;
    make_directories(&settings.daemon)?;
    let lock = lock::after_a_flip(&settings.daemon.state_dir)?;
    if let Err(err) = privilege::raise_descriptor_limit() {
        tracing::warn!(%err, "the limit of open files stays as it is");
    }
    share_one_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { what: "starting the runtime", source })?;
    let ended = runtime.block_on(
        Daemon { file: file.to_owned(), settings, started: clock::now(), noticed: Mutex::default() }.work(),
    );
    // A stuck disk or checkout must not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(lock);
    ended
}

/// Limits glibc to one heap, before any thread starts: each thread would get its own, and none is ever given back
/// (benches/footprint.rs: 0.4 MiB of 15). Threads that mostly wait need none.
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator; no other thread runs yet.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
        tracing::debug!("the allocator keeps a heap for each thread");
    }
}

/// Opens the record; says loudly when an unusable one had to be moved aside.
///
/// # Errors
/// When it can't be opened at all.
pub fn open_store(settings: &DaemonSettings) -> Result<Arc<Store>, DaemonError> {
    let (store, opened) = Store::open(&settings.state_dir, clock::now())?;
    if let Opened::MovedAside { to, why } = opened {
        let text = format!("{why}; kept as {}, state is rebuilt from what runs", to.display());
        tracing::error!(text, "the record was unusable");
        let said = format!("the record was unusable: {text}");
        // Serve before reporting.
        if let Err(err) = store.log(EventRecord::new(EventKind::RecordReplaced, clock::now(), &said)) {
            tracing::error!(err = %chain(&err), "that is not in the new record either");
        }
    }
    Ok(Arc::new(store))
}

/// The daemon's paths.
///
/// # Errors
/// When its own binary can't be found.
pub fn place(settings: &DaemonSettings) -> Result<DaemonPaths, DaemonError> {
    let exe = std::env::current_exe()
        .map_err(|source| DaemonError::System { what: "finding bgd's own binary", source })?;
    Ok(DaemonPaths {
        exe: replaced(exe),
        state_dir: settings.state_dir.clone(),
        runtime_dir: settings.runtime_dir.clone(),
    })
}

/// After an upgrade the kernel names the running binary with this suffix; its path has the new one.
fn replaced(exe: PathBuf) -> PathBuf {
    match exe.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => exe,
    }
}

struct Daemon {
    file: PathBuf,
    settings: Settings,
    started: crate::rules::time::Time,
    noticed: Mutex<Option<Noticed>>,
}

/// A change of the files that the daemon adopted without a `bgd reload`.
struct Noticed {
    at: Instant,
    /// The change in words.
    what: String,
}

/// The result of reading the files again.
struct Reloaded {
    read: String,
    /// The change in words; `None` if nothing changed.
    what: Option<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what.as_deref().unwrap_or("nothing changed, all of it was in force already");
        write!(f, "{}: {what}", self.read)
    }
}

/// Where the answer to a `bgd reload` goes.
type ReloadReply = oneshot::Sender<Result<String, Refusal>>;

impl Daemon {
    async fn work(self) -> Result<(), DaemonError> {
        // First of all, so that no signal and no change of the files is missed after the first answer.
        let mut told = Signals::listen(&self.file)?;
        if let Err(err) = crate::os::pulse::start() {
            tracing::warn!(%err, "no sign of life: a flip has only the kernel's word for it");
        }
        let store = open_store(&self.settings.daemon)?;
        store.stretch_log();
        let place = place(&self.settings.daemon)?;
        let apps = Arc::new(Apps::new(place, store, Polling::On)?);
        let access = Access::new(&self.settings.daemon);
        let listener =
            server::bind(&self.settings.daemon.runtime_dir.join("bgd.sock"), access.socket_mode())?;
        for settings in self.settings.apps.values() {
            warn_of_lost_privileges(settings);
            // One app's trouble stays its own (promise K7).
            if let Err(err) = apps.start(settings) {
                tracing::error!(app = %settings.name, err = %chain(&err), "the app can't be supervised");
            }
        }
        remember(&apps, &self.file, &self.settings);
        let (reload, reloads) = mpsc::channel(1);
        let (shown, daemon) = watch::channel(self.report());
        let services = Services { apps: apps.clone(), daemon, access, refused: Mutex::default(), reload };
        let serving = tokio::spawn(server::serve(listener, Arc::new(services)));
        notify_systemd(&[sd_notify::NotifyState::Ready]);
        tracing::info!(
            pid = std::process::id(),
            version = env!("CARGO_PKG_VERSION"),
            apps = self.settings.apps.len(),
            "ready"
        );
        let keeping = tokio::spawn(keep_record(apps.store().clone()));
        let ended = self.until_told((&apps, &shown), &mut told, reloads).await;
        notify_systemd(&[sd_notify::NotifyState::Stopping]);
        serving.abort();
        keeping.abort();
        apps.end().await;
        tracing::info!("ended; apps and fronts serve on");
        ended
    }

    fn report(&self) -> DaemonReport {
        DaemonReport {
            running: true,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            pid: Some(std::process::id()),
            started_at: Some(Stamp(self.started)),
            config_refused: None,
        }
    }

    async fn until_told(
        &self,
        (apps, shown): (&Apps, &watch::Sender<DaemonReport>),
        told: &mut Signals,
        mut reloads: mpsc::Receiver<ReloadReply>,
    ) -> Result<(), DaemonError> {
        let mut tick = tokio::time::interval(TICK);
        let mut ticks = 0_u32;
        loop {
            // All arms are cancel-safe: signals, a channel, a notification and an interval keep what is missed.
            tokio::select! {
                _ = told.term.recv() => return Ok(()),
                _ = told.int.recv() => return Ok(()),
                _ = told.hup.recv() => self.reload_unasked(apps, shown).await,
                Some(reply) = reloads.recv() => {
                    // If the client went away, only the answer is lost.
                    let _gone = reply.send(self.reload_shown(apps, shown).await.map(|done| self.answer(&done)));
                }
                () = told.changed.notified() => {
                    tokio::time::sleep(SETTLE).await;
                    // Directories may have come (apps.d) or be others by now; watched before they are read.
                    told.watch = watch_files(&self.file, told.changed.clone());
                    self.reload_unasked(apps, shown).await;
                }
                _ = tick.tick() => {
                    notify_systemd(&[sd_notify::NotifyState::Watchdog]);
                    ticks = ticks.wrapping_add(1);
                    let all = ticks.is_multiple_of(ALL_TICK);
                    apps.all().iter().filter(|it| all || it.waits_for_time()).for_each(|it| it.tick());
                }
            }
        }
    }

    /// Reloads without a `bgd reload`, and keeps a summary for the next one.
    async fn reload_unasked(&self, apps: &Apps, shown: &watch::Sender<DaemonReport>) {
        match self.reload_shown(apps, shown).await {
            Ok(done) => {
                tracing::info!(text = %done, "configuration read again");
                if let Some(what) = done.what {
                    *self.lock_noticed() = Some(Noticed { at: Instant::now(), what });
                }
            }
            Err(refusal) => tracing::error!(err = refusal.message, "configuration refused"),
        }
    }

    /// The answer to `bgd reload`: an edit was mostly noticed before anybody asked.
    fn answer(&self, done: &Reloaded) -> String {
        let mut noticed = self.lock_noticed();
        if done.what.is_some() {
            *noticed = None;
        }
        match &*noticed {
            Some(Noticed { at, what }) => {
                let ago = config::duration::rough(Duration::from_secs(at.elapsed().as_secs().max(1)));
                format!(
                    "{}: changed {ago} ago, when the edit was noticed: {what}; nothing changed since",
                    done.read
                )
            }
            None => done.to_string(),
        }
    }

    fn lock_noticed(&self) -> MutexGuard<'_, Option<Noticed>> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads, and shows in status when the files were refused. The reason is left out, because it may quote a file to
    /// those who may only read the status.
    async fn reload_shown(
        &self,
        apps: &Apps,
        shown: &watch::Sender<DaemonReport>,
    ) -> Result<Reloaded, Refusal> {
        let done = self.reload(apps).await;
        let refused = done.as_ref().err().and_then(|refusal| refusal.hint.clone());
        shown.send_modify(|report| report.config_refused = refused);
        done
    }

    /// Reads the files again; a bad file leaves the old configuration in force and says why.
    async fn reload(&self, apps: &Apps) -> Result<Reloaded, Refusal> {
        let refused = |message: String, hint: &str| Refusal {
            exit: Exit::Usage,
            message: format!("the old configuration stays in force: {message}"),
            hint: Some(hint.to_owned()),
        };
        let loaded =
            config::load(&self.file).map_err(|problems| refused(problems.to_string(), "bgd check"))?;
        if loaded.settings.daemon != self.settings.daemon {
            let message = "[daemon] can't change while the daemon runs".to_owned();
            return Err(refused(message, "restart the daemon; apps and fronts serve on meanwhile"));
        }
        loaded.settings.apps.values().for_each(|settings| warn_of_lost_privileges(settings));
        let changed = apps
            .adopt(&loaded.settings)
            .await
            .map_err(|err| refused(chain(&err), "that takes the app out of service for a moment: `bgd down`, `bgd reload`, `bgd up`; or take the change back"))?;
        remember(apps, &self.file, &loaded.settings);
        let (kept, gone): (Vec<_>, Vec<_>) =
            changed.iter().partition(|name| loaded.settings.apps.contains_key(*name));
        let list = |names: &[&AppName]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let mut said = Vec::new();
        if !kept.is_empty() {
            said.push(format!("in force: {}", list(&kept)));
        }
        if !gone.is_empty() {
            let names = list(&gone);
            said.push(format!("no longer looked after, serving on until `bgd down NAME --yes`: {names}"));
        }
        let beside = config::sources(&self.file).iter().any(|dir| dir.ends_with("apps.d"));
        let beside = if beside { " and apps.d beside it" } else { "" };
        let what = (!said.is_empty()).then(|| said.join("; "));
        Ok(Reloaded { read: format!("read {}{beside}", self.file.display()), what })
    }
}

/// Records each app's configuration, so that the app is still known after it left the files.
fn remember(apps: &Apps, file: &Path, settings: &Settings) {
    for name in settings.apps.keys() {
        let Some(texts) = config::remember(file, name) else { continue };
        if let Err(err) = apps.store().keep_configured(name, &texts) {
            tracing::warn!(app = %name, err = %chain(&err), "how the app is configured is not recorded");
        }
    }
}

/// Between two checks that the record's files are in place; each write checks as well.
const LOOK_AFTER_RECORD: Duration = Duration::from_secs(5);

/// Keeps the record's files in place, on a blocking thread: the disk may take its time.
async fn keep_record(store: Arc<Store>) {
    let mut look = tokio::time::interval(LOOK_AFTER_RECORD);
    loop {
        look.tick().await;
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.keep_in_place(clock::now())).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::error!(err = %chain(&err), "the record can't be kept"),
            Err(err) => tracing::error!(%err, "looking after the record failed"),
        }
    }
}

/// Warns of an app that may gain privileges where bgd itself may not: then the app can't either.
fn warn_of_lost_privileges(app: &AppSettings) {
    let refused = nix::sys::prctl::get_no_new_privs().unwrap_or(false);
    if refused && app.new_privileges == privilege::NewPrivileges::Allowed {
        tracing::warn!(app = %app.name, "new_privileges has no effect: bgd itself runs without (NoNewPrivileges of its unit?)");
    }
}

/// Signals and changes of the configuration's files.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    changed: Arc<Notify>,
    /// Dropping it ends the watch.
    watch: Option<notify::RecommendedWatcher>,
}

impl Signals {
    fn listen(file: &Path) -> Result<Self, DaemonError> {
        let on = |kind, what| signal(kind).map_err(|source| DaemonError::System { what, source });
        let changed = Arc::new(Notify::new());
        Ok(Self {
            term: on(SignalKind::terminate(), "handling SIGTERM")?,
            int: on(SignalKind::interrupt(), "handling SIGINT")?,
            hup: on(SignalKind::hangup(), "handling SIGHUP")?,
            watch: watch_files(file, changed.clone()),
            changed,
        })
    }
}

/// Usually a user's own daemon does not run under systemd.
fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        tracing::debug!(%err, "systemd was not notified");
    }
}

/// Notifies of changes of the configuration files; without it `bgd reload` and SIGHUP still work.
fn watch_files(file: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    use notify::Watcher as _;
    let main = file.to_owned();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(event) if event.paths.iter().any(|path| config::concerns(&main, path)) => changed.notify_one(),
        Ok(_) => {}
        Err(err) => tracing::warn!(%err, "a change of the configuration may have been missed"),
    });
    let watched = watcher.and_then(|mut watcher| {
        for directory in config::sources(file) {
            watcher.watch(&directory, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watched.inspect_err(|err| tracing::warn!(%err, "the configuration is not watched; use `bgd reload`")).ok()
}
