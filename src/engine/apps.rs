//! The apps of one daemon: started, ended and changed together. Used by the daemon, by the control socket to reach
//! an app, and by a `bgd flip` that works without a daemon.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, broadcast, mpsc::error::SendError, oneshot, watch},
    task::JoinHandle,
};

use super::{
    acts::Acts,
    app_task::{AppTask, DeployCounter, Deps, Inbox, Message},
    disk::Disk,
    interpreter::{DaemonPaths, Interpreter},
    poller::watch_remote,
    scheduling::{Begun, Call, Calls, NotBegun, Scheduler},
    snapshot::Snapshot,
    unconfigured::{Unconfigured, last_settings, unconfigured},
};
use crate::{
    command::CommandError,
    config::settings::{AppSettings, Settings},
    front::FrontError,
    rules::{
        app::{Idle, Serving},
        event::{Ask, Event},
        ids::{AppName, Color, CronName},
        step::{self, AskReply},
        time::Time,
    },
    store::{Store, StoreError, clock, record::EventRecord},
};

/// Events kept for slow listeners; one that falls further behind reads the record instead.
const EVENT_BUFFER: usize = 1024;

/// Why an app can't be run.
#[derive(Debug, thiserror::Error)]
pub enum AppsError {
    /// Its directories can't be made.
    #[error("preparing app {app}")]
    Places {
        app: AppName,
        #[source]
        source: CommandError,
    },
    /// Its record can't be read.
    #[error("loading app {app}")]
    Record {
        app: AppName,
        #[source]
        source: StoreError,
    },
    /// The change would cut off the live release.
    #[error("{what} of app {app} can't change while it is in service")]
    InService {
        app: AppName,
        /// The configuration key that changed.
        what: &'static str,
    },
}

/// Whether the remotes are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    /// Watched as configured.
    On,
    /// Not watched, for one act without a daemon.
    Off,
}

/// The apps of one daemon.
#[derive(Debug)]
pub struct Apps {
    place: DaemonPaths,
    store: Arc<Store>,
    deploys: Arc<DeployCounter>,
    events: broadcast::Sender<EventRecord>,
    acts: Arc<Acts>,
    polling: Polling,
    disk: Arc<Disk>,
    apps: Mutex<BTreeMap<AppName, AppHandle>>,
    /// When this daemon started.
    up_since: Time,
}

/// One app that runs; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppHandle {
    settings: Arc<AppSettings>,
    interpreter: Arc<Interpreter>,
    inbox: Inbox,
    kick: Arc<Notify>,
    calls: Calls,
    seen: watch::Receiver<Snapshot>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Apps {
    /// None yet.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn new(place: DaemonPaths, store: Arc<Store>, polling: Polling) -> Result<Self, StoreError> {
        let deploys = Arc::new(DeployCounter::new(store.next_deploy()?));
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let acts = Acts::new(store.clone(), events.clone());
        Ok(Self {
            place,
            store,
            deploys,
            events,
            acts,
            polling,
            disk: Arc::default(),
            apps: Mutex::default(),
            up_since: clock::now(),
        })
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Subscribes to all events from now on.
    pub fn events(&self) -> broadcast::Receiver<EventRecord> {
        self.events.subscribe()
    }

    /// Records an operator's act that no app's machine handles, and sends it to subscribers.
    pub fn note_act(&self, event: EventRecord) {
        self.acts.note(event);
    }

    /// The app of this name.
    pub fn get(&self, name: &AppName) -> Option<AppHandle> {
        self.lock().get(name).cloned()
    }

    /// All apps, by name.
    pub fn all(&self) -> Vec<AppHandle> {
        self.lock().values().cloned().collect()
    }

    /// Starts an app's task: it looks at the world and takes up the thread.
    ///
    /// # Errors
    /// When its directories can't be made or its record can't be read.
    pub fn start(&self, settings: &Arc<AppSettings>) -> Result<(), AppsError> {
        self.start_with(settings, self.polling)
    }

    fn start_with(&self, settings: &Arc<AppSettings>, polling: Polling) -> Result<(), AppsError> {
        let app = || settings.name.clone();
        let record = (self.store.clone(), self.events.clone());
        let interpreter = Interpreter::new(settings.clone(), record, (&self.place, self.disk.clone()))
            .map_err(|source| AppsError::Places { app: app(), source })?;
        let interpreter = Arc::new(interpreter);
        let deps = Deps {
            store: self.store.clone(),
            interpreter: interpreter.clone(),
            events: self.events.clone(),
            deploys: self.deploys.clone(),
            acts: self.acts.clone(),
        };
        let (task, inbox, seen) = AppTask::new(settings.clone(), deps)
            .map_err(|source| AppsError::Record { app: app(), source })?;
        self.disk.enter(&interpreter, seen.clone());
        let kick = Arc::new(Notify::new());
        let mut tasks = vec![tokio::spawn(task.run())];
        let (scheduler, calls) =
            Scheduler::new(interpreter.clone(), (inbox.clone(), seen.clone()), self.up_since);
        if polling == Polling::On {
            tasks.push(tokio::spawn(scheduler.run()));
            tasks.push(tokio::spawn(watch_remote(
                interpreter.clone(),
                (inbox.clone(), seen.clone()),
                kick.clone(),
            )));
            let app = interpreter.clone();
            tasks.push(tokio::spawn(async move { app.end_removals().await }));
        }
        let handle = AppHandle {
            settings: settings.clone(),
            interpreter,
            inbox,
            kick,
            calls,
            seen,
            tasks: Arc::new(Mutex::new(tasks)),
        };
        self.lock().insert(app(), handle);
        Ok(())
    }

    /// Running instances of apps that are not among these.
    pub async fn unconfigured(&self) -> Vec<Unconfigured> {
        let known = self.all().into_iter().map(|handle| handle.settings.name.clone()).collect();
        unconfigured((&self.place.state_dir, &self.place.runtime_dir), Some(&self.store), &known).await
    }

    /// Starts an app that no file configures any more, with its last known settings, so that it can be taken down.
    /// `None` if nothing is known of it. Its remote is not watched.
    ///
    /// # Errors
    /// When its directories can't be made or its record can't be read.
    pub fn take_up(&self, name: &AppName) -> Result<Option<AppHandle>, AppsError> {
        let Some(settings) = last_settings(&self.store, name) else { return Ok(None) };
        self.start_with(&settings, Polling::Off)?;
        Ok(self.get(name))
    }

    /// Removes an app, and ends its front if that is bgd's own.
    ///
    /// # Errors
    /// When the front does not end.
    pub async fn let_go(&self, handle: &AppHandle) -> Result<(), FrontError> {
        handle.end().await;
        self.lock().remove(&handle.settings.name);
        handle.interpreter.front().end().await
    }

    /// Brings new settings into force, and returns the apps that changed. If one would cut off a live release, all old
    /// ones stay (promise L4).
    ///
    /// # Errors
    /// A change that would cut a live release off, or an app that can't be started.
    pub async fn adopt(&self, settings: &Settings) -> Result<Vec<AppName>, AppsError> {
        let running = self.all();
        for handle in &running {
            if let Some(new) = settings.apps.get(&handle.settings.name) {
                handle.refuse_cut(new)?;
            }
        }
        let mut changed = Vec::new();
        for handle in running {
            let name = handle.settings.name.clone();
            if settings.apps.get(&name).is_none_or(|new| **new != *handle.settings) {
                // An app that left the configuration serves on: only `bgd down` stops its last instance.
                handle.end().await;
                self.lock().remove(&name);
                self.disk.leave(&name);
                changed.push(name);
            }
        }
        for (name, new) in &settings.apps {
            if self.get(name).is_none() {
                self.start(new)?;
                changed.push(name.clone());
            }
        }
        changed.sort();
        changed.dedup();
        Ok(changed)
    }

    /// Ends all tasks; apps and fronts serve on.
    pub async fn end(&self) {
        for handle in self.all() {
            handle.end().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppName, AppHandle>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    pub fn settings(&self) -> &Arc<AppSettings> {
        &self.settings
    }

    pub fn interpreter(&self) -> &Arc<Interpreter> {
        &self.interpreter
    }

    /// The app's present state; never waits.
    pub fn snapshot(&self) -> Snapshot {
        self.seen.borrow().clone()
    }

    /// The app's present state with each instance's resource use. Reads /proc: for a blocking thread.
    pub fn measured(&self) -> Snapshot {
        let mut snapshot = self.snapshot();
        match self.interpreter.instances().known.measure() {
            Ok(measured) => {
                for (slot, seen) in &mut snapshot.instances {
                    seen.measured = measured.get(slot).copied();
                }
            }
            Err(err) => {
                tracing::warn!(app = %self.settings.name, %err, "memory and processor can't be measured");
            }
        }
        snapshot
    }

    /// Receives each change of the state.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.seen.clone()
    }

    /// Asks the remote at once.
    pub fn look_now(&self) {
        self.kick.notify_one();
    }

    /// Passes an operator's request to the machine. `act` is recorded before the events that follow from it.
    ///
    /// # Errors
    /// When the app's task has ended.
    pub async fn ask(&self, act: EventRecord, ask: Ask) -> Result<AskReply, Gone> {
        let (reply, answer) = oneshot::channel();
        let act = EventRecord { app: Some(self.settings.name.clone()), ..act };
        self.inbox.send(Message::Ask { act, ask, reply }).map_err(|SendError(_)| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Begins a run of a schedule now.
    ///
    /// # Errors
    /// Why it did not begin; [`Gone`] when the app's task has ended.
    pub async fn run_cron(&self, name: CronName) -> Result<Result<Begun, NotBegun>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { name, reply }).map_err(|SendError(_)| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Whether a tick can change anything, as far as is known.
    pub fn waits_for_time(&self) -> bool {
        step::waits_for_time(&self.seen.borrow().app)
    }

    /// Sends a tick, for work that waits for time to pass.
    pub fn tick(&self) {
        // The send fails only if the task has ended.
        let _ended = self.inbox.send(Message::Event(Event::Ticked));
    }

    async fn end(&self) {
        // The send fails only if the task has ended.
        let _ended = self.inbox.send(Message::End);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for (at, task) in tasks.into_iter().enumerate() {
            if at > 0 {
                task.abort();
            }
            if let Err(err) = task.await
                && !err.is_cancelled()
            {
                tracing::error!(app = %self.settings.name, %err, "the app's task panicked");
            }
        }
    }

    fn refuse_cut(&self, new: &AppSettings) -> Result<(), AppsError> {
        let state = &self.seen.borrow().app;
        let in_service = matches!(state.serving, Serving::Live(_))
            || !matches!(state.idle, Idle::Vacant)
            || state.pipeline.deploy().is_some();
        let changed = [
            ("ports", self.moves_what_is_used(new)),
            ("listen", self.settings.listen != new.listen),
            ("front", self.settings.front.is_another(&new.front)),
            ("user", self.settings.user != new.user),
        ];
        match changed.into_iter().find(|(_, changed)| in_service && *changed) {
            Some((what, _)) => Err(AppsError::InService { app: self.settings.name.clone(), what }),
            None => Ok(()),
        }
    }

    /// Whether ports that are in use would change. The ports of a color are free if nothing runs or is about to run
    /// there, so that more instances can be configured; not if the front has them in its own configuration.
    fn moves_what_is_used(&self, new: &AppSettings) -> bool {
        let state = &self.seen.borrow().app;
        let rests = state.pipeline.deploy().is_none() && matches!(state.idle, Idle::Vacant);
        let free = |color| rests && state.live().is_some_and(|live| live.color != color);
        let own = self.settings.front.has_the_ports();
        let moved = |color: &Color| self.settings.ports.of(*color) != new.ports.of(*color);
        Color::ALL.into_iter().filter(moved).any(|color| own || !free(color))
    }
}

/// The app's task has ended.
#[derive(Debug, thiserror::Error)]
#[error("the app is being reloaded or the daemon is ending")]
pub struct Gone;
