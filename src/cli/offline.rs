//! Commands without the daemon, for when it is away or hangs: reading combines the record with the instances that
//! really run; a flip runs the app's machine in this process, under the daemon's lock.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    api::{
        access,
        output::{self, LogOutput},
        reading, report,
        wire::{
            DaemonReport, DeployDetail, DeployRecord, EventRecord, ExecPlan, Exit, FlipReport, LogSource,
            Refusal, Status,
        },
    },
    command::Places,
    config::settings::{AppSettings, Settings},
    daemon::{self, DaemonError, Lock},
    engine::{
        self, Counted, CronSeen, RemoteSeen, Snapshot,
        apps::{AppHandle, Apps, Polling},
    },
    instance::InstanceStatus,
    os::{
        errors::chain,
        process::{Process, command_line},
        vitals::HangCause,
    },
    rules::{
        app::{Idle, Instance, Pipeline, Serving, Stage},
        event::Ask,
        ids::{AppName, CommitId, DeployId, WorkerName},
        step::{self, AskReply},
        words::{EventKind, Outcome},
    },
    shim::Shims,
    store::{Store, StoreError},
    worker,
};

/// The hint when there is neither a daemon nor a record that can be read.
const START: &str = "start it: `systemctl start bgd`, or `bgd daemon` in the foreground; it sets a damaged record aside \
                     and goes by what runs";

/// Limit of waiting for the lock of a daemon that was killed or is ending.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Time for the rest of a flip, beyond health check, drain and grace, before this process leaves it to the next
/// daemon.
const ALLOWANCE: Duration = Duration::from_secs(30);

/// Time for the workers of the release that is live again to begin, once the traffic has moved.
const WORKERS_WITHIN: Duration = Duration::from_secs(5);

/// Why the daemon can't do the flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonTrouble {
    /// Nobody listens.
    Absent,
    /// It never answers; with the cause, where known.
    Hung(Option<HangCause>),
}

/// The status of all apps from the record, with `daemon.running` false. Without a record nothing is deployed.
pub async fn status(settings: &Settings) -> Result<Status, Refusal> {
    let store = open_if_any(settings)?;
    let mut apps = Vec::new();
    for app in settings.apps.values() {
        apps.push(report::app(&snapshot(settings, app, store.as_ref()).await?));
    }
    let daemon =
        DaemonReport { running: false, version: None, pid: None, started_at: None, config_refused: None };
    let known = settings.apps.keys().cloned().collect();
    let dirs = (settings.daemon.state_dir.as_path(), settings.daemon.runtime_dir.as_path());
    let others = engine::unconfigured(dirs, store.as_ref(), &known).await;
    let unconfigured = others.into_iter().map(report::unconfigured).collect();
    Ok(Status { schema: 1, daemon, unconfigured, apps })
}

/// The record's state, corrected by which instances really run.
async fn snapshot(
    settings: &Settings,
    app: &std::sync::Arc<AppSettings>,
    store: Option<&Store>,
) -> Result<Snapshot, Refusal> {
    let recorded = store.map(|store| store.app(&app.name)).transpose().map_err(unreadable)?;
    let mut state = recorded.flatten().unwrap_or_default();
    let shims = Shims::new("/proc/self/exe".into(), &settings.daemon.state_dir, &settings.daemon.runtime_dir);
    let (mut instances, mut given) = (BTreeMap::new(), BTreeMap::new());
    let mut workers = Vec::new();
    // A user who may read the record may lack the right to ask the shims; then only the record is used.
    if let Ok(found) = shims.find(&app.name).await {
        let known = store.map_or(Vec::new(), |store| store.releases(&app.name).unwrap_or_default());
        workers = worker::recorded(found.clone(), app, &state.workers, &known).await;
        for handle in found {
            let running = handle.status().await.is_ok_and(|status| status.runs());
            if let (Some(slot), true) = (handle.role().slot(), running) {
                // Its health is not checked here; the record has the color's.
                let live = state.live().filter(|live| live.color == slot.color);
                let healthy = live.and_then(|live| live.healthy);
                instances.insert(slot, InstanceStatus { pid: handle.main_pid(), healthy, measured: None });
                given.insert(slot.color, handle.siblings());
            }
        }
        if let Serving::Live(live) = &mut state.serving
            && app.site.is_none()
            && !instances.keys().any(|slot| slot.color == live.color)
        {
            live.instance = Instance::Dead;
        }
    }
    let remote = RemoteSeen { head: state.head.clone(), ..RemoteSeen::default() };
    let crons = store.map(|store| CronSeen::recorded(app, store)).transpose().map_err(unreadable)?;
    let last = store.map(|store| store.last_ended(&app.name)).transpose().map_err(unreadable)?.flatten();
    let last_runs = store.map(|store| store.last_runs(&app.name)).transpose().map_err(unreadable)?;
    Ok(Snapshot {
        last_runs: last_runs.unwrap_or_default(),
        settings: app.clone(),
        app: state,
        observed: true,
        instances,
        given,
        workers,
        last,
        unrecorded: None,
        front_error: None,
        counted: Counted::default(),
        remote,
        crons: crons.unwrap_or_default(),
    })
}

/// Deploys, newest first.
pub fn history(settings: &Settings, app: Option<&AppName>, limit: u32) -> Result<Vec<DeployRecord>, Refusal> {
    open(settings)?.history(app, limit).map_err(unreadable)
}

/// One deploy with its events and output.
pub fn show(settings: &Settings, id: DeployId) -> Result<DeployDetail, Refusal> {
    open(settings)?
        .detail(id)
        .map_err(unreadable)?
        .ok_or_else(|| refusal(Exit::Usage, format!("no such deploy: {id}"), "bgd history"))
}

/// Events after `since`, or the last 20.
pub fn events(
    settings: &Settings,
    app: Option<&AppName>,
    since: Option<u64>,
) -> Result<Vec<EventRecord>, Refusal> {
    open(settings)?.events(app, since).map_err(unreadable)
}

/// The plan of a command in the live release. Needs only the right to read the record.
pub fn exec(settings: &Settings, app: &AppName, worker: Option<&WorkerName>) -> Result<ExecPlan, Refusal> {
    let of_app = settings
        .apps
        .get(app)
        .ok_or_else(|| refusal(Exit::Usage, format!("no such app: {app}"), "bgd check"))?;
    let state = open(settings)?.app(app).map_err(unreadable)?.unwrap_or_default();
    reading::exec_plan(of_app, Places::new(&settings.daemon.state_dir, app), (&state.serving, worker))
}

/// The last `lines` lines of some logs.
pub fn logs(
    settings: &Settings,
    app: &AppName,
    (source, instance): (&LogSource, Option<u16>),
    lines: u32,
) -> Result<Vec<String>, Refusal> {
    let logs = Places::new(&settings.daemon.state_dir, app).logs();
    let number = settings.apps.get(app).map_or(1, |app| app.instances);
    let of_color = |color| output::of_color(&logs, (color, number), instance);
    let found = match source {
        LogSource::Color(color) => of_color(*color)?,
        LogSource::Worker(name) => {
            let of_app = settings
                .apps
                .get(app)
                .ok_or_else(|| refusal(Exit::Usage, format!("no such app: {app}"), "bgd check"))?;
            reading::worker_logs(of_app, &logs, (name, instance))?
        }
        LogSource::Build => vec![LogOutput::single(report::newest_build(&logs)?)],
        LogSource::Cron(name) => vec![output::of_cron(&logs, name)],
        LogSource::Task { name, deploy } => {
            let found = open(settings)?.newest_run(app, (name, *deploy)).map_err(unreadable)?;
            vec![report::task_log(&Places::new(&settings.daemon.state_dir, app), (name, *deploy), found)?]
        }
        LogSource::Live => {
            let state = open(settings)?.app(app).map_err(unreadable)?.unwrap_or_default();
            of_color(state.live().map_or_else(|| state.idle_color(), |live| live.color))?
        }
    };
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    output::last(&found, lines).map_err(|(path, err)| {
        refusal(Exit::Failed, format!("reading {}: {err}", path.display()), "bgd logs --color blue|green")
    })
}

/// Flips under the daemon's lock; ends a hung daemon first. Returns when the flip is complete, with
/// the other color stopped, because nobody else would do it.
pub async fn flip(
    settings: &Settings,
    (app, ask): (&AppName, Ask),
    daemon: DaemonTrouble,
) -> Result<FlipReport, Refusal> {
    super::daemon::log_to_stderr("warn");
    if ask == Ask::Flip {
        look_for_barrier(settings, app)?;
    }
    if let DaemonTrouble::Hung(cause) = daemon {
        end_hung(settings, cause)?;
    }
    daemon::make_directories(&settings.daemon).map_err(unable)?;
    let _lock = take_lock(settings).await?;
    let store = daemon::open_store(&settings.daemon).map_err(unable)?;
    let place = daemon::place(&settings.daemon).map_err(unable)?;
    let apps = Apps::new(place, store, Polling::Off).map_err(unreadable)?;
    let settings = settings
        .apps
        .get(app)
        .ok_or_else(|| refusal(Exit::Usage, format!("no such app: {app}"), "bgd check"))?;
    apps.start(settings).map_err(|err| refusal(Exit::Failed, chain(&err), "bgd doctor"))?;
    let handle = apps
        .get(app)
        .ok_or_else(|| refusal(Exit::Failed, format!("the app did not start: {app}"), "bgd doctor"))?;
    let flipped = flip_app(&apps, &handle, ask).await;
    apps.end().await;
    flipped
}

/// Refuses a flip over a barrier before anything is done: before a daemon that hangs is ended, and before the app is
/// taken up. A record that can't be read stops no flip.
fn look_for_barrier(settings: &Settings, app: &AppName) -> Result<(), Refusal> {
    let recorded = open(settings).and_then(|store| store.app(app).map_err(unreadable));
    match recorded.ok().flatten().as_ref().and_then(step::flip_refusal) {
        Some(denial) => Err(refusal(denial.kind.into(), denial.message, &denial.advice.text(None))),
        None => Ok(()),
    }
}

async fn flip_app(apps: &Apps, handle: &AppHandle, ask: Ask) -> Result<FlipReport, Refusal> {
    let gone = |_| refusal(Exit::Failed, "the app's task ended before the flip".to_owned(), "bgd doctor");
    let peer = access::own_peer();
    let before = apps.store().app(&handle.settings().name).map_err(unreadable)?.unwrap_or_default();
    let abandoned: Option<CommitId> =
        before.pipeline.commit().cloned().or_else(|| before.live().map(|live| live.release.commit.clone()));
    let by_force = if ask == Ask::ForceFlip { " --force" } else { "" };
    let act = peer.event(EventKind::Asked, &format!("flip{by_force}, without the daemon"));
    let answer = handle.ask(act, ask).await.map_err(gone)?;
    let id = match answer {
        AskReply::Cancelling(id) | AskReply::RollingBack(id) => id,
        AskReply::Denied(denial) => {
            return Err(refusal(denial.kind.into(), denial.message, &denial.advice.text(None)));
        }
        other => return Err(refusal(Exit::Failed, format!("the machine answered {other:?}"), "bgd status")),
    };
    settle(handle).await;
    let shown = handle.snapshot().last.filter(|last| last.id == id);
    let last = match shown {
        Some(last) => Some(last),
        None => apps.store().deploy(id).map_err(unreadable)?,
    };
    match last.as_ref().and_then(|last| last.outcome) {
        Some(Outcome::Failed | Outcome::RolledBack) => {
            let why = last.and_then(|last| last.error).map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("the way back failed; what was live serves on{why}");
            Err(refusal(Exit::Failed, message, &format!("bgd show {id}")))
        }
        Some(Outcome::Live | Outcome::Superseded) => Ok(report::flip(&handle.snapshot(), abandoned, false)),
        None if is_routed(&handle.snapshot(), id) => Ok(report::flip(&handle.snapshot(), abandoned, false)),
        None => {
            let message = "the flip is not complete yet; the next daemon goes on with it".to_owned();
            Err(refusal(Exit::TimedOut, message, "start the daemon; bgd status"))
        }
        Some(Outcome::Cancelled) => Ok(report::flip(&handle.snapshot(), abandoned, true)),
    }
}

/// Whether the traffic has moved, so that only the old color has to be stopped.
fn is_routed(snapshot: &Snapshot, id: DeployId) -> bool {
    let pipeline = &snapshot.app.pipeline;
    pipeline.deploy().is_none_or(|deploy| deploy.id != id)
        || matches!(pipeline.stage(), Some(Stage::Retiring { .. }))
}

/// Waits until nothing is under way, or the limits of health check, drain and grace are over.
async fn settle(handle: &AppHandle) {
    let settings = handle.settings();
    let limit = settings.health.deadline + settings.drain + settings.stop.grace + ALLOWANCE;
    let mut watch = handle.watch();
    let settled = watch.wait_for(|snapshot| {
        matches!(snapshot.app.pipeline, Pipeline::Resting)
            && matches!(snapshot.app.idle, Idle::Vacant | Idle::Warm { .. })
    });
    if tokio::time::timeout(limit, settled).await.is_err() {
        tracing::warn!(app = %settings.name, "not everything is stopped yet; the next daemon goes on with it");
    }
    let at_work = watch.wait_for(works);
    if tokio::time::timeout(WORKERS_WITHIN, at_work).await.is_err() {
        tracing::warn!(app = %settings.name, "not all workers are at work yet; the next daemon goes on with it");
    }
}

/// Whether all workers work for the live release.
fn works(snapshot: &Snapshot) -> bool {
    let live = snapshot.app.live().map(|live| &live.release.id);
    snapshot.settings.workers.iter().all(|worker| {
        snapshot.workers.iter().any(|seen| {
            let of = seen.of.as_ref().map(|(release, _)| release);
            let at_work = !seen.instances.is_empty() && seen.instances.iter().all(|one| one.pid.is_some());
            seen.name == worker.plan.name && of == live && at_work
        })
    })
}

async fn take_lock(settings: &Settings) -> Result<Lock, Refusal> {
    let deadline = tokio::time::Instant::now() + LOCK_WITHIN;
    loop {
        match Lock::take(&settings.daemon.state_dir) {
            Ok(lock) => return Ok(lock),
            Err(DaemonError::Running { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(err @ DaemonError::Running { .. }) => {
                return Err(refusal(Exit::Held, chain(&err), "wait for it, or end it; then bgd flip"));
            }
            Err(err) => return Err(unable(err)),
        }
    }
}

/// The daemon that holds the lock, if one does.
pub fn daemon_alive(settings: &Settings) -> Option<Process> {
    let pid = daemon::lock_holder(&settings.daemon.state_dir)?;
    Process::of(pid).filter(|_| command_line(pid).contains("daemon"))
}

/// Ends the daemon that holds the lock and does not answer. Apps and fronts live on by design.
fn end_hung(settings: &Settings, cause: Option<HangCause>) -> Result<(), Refusal> {
    let Some(process) = daemon_alive(settings) else { return Ok(()) };
    let pid = process.pid;
    let why = cause.map_or_else(|| "can't be reached".to_owned(), |cause| format!("hangs ({cause})"));
    super::terminal::chatter(&format!("the daemon (pid {pid}) {why} and is ended; apps and fronts live on"));
    process
        .signal(libc::SIGKILL)
        .map(drop)
        .map_err(|err| refusal(Exit::NotPermitted, format!("ending the daemon, pid {pid}: {err}"), "as root"))
}

fn open(settings: &Settings) -> Result<Store, Refusal> {
    open_if_any(settings)?.ok_or_else(|| unread("there is none yet".to_owned()))
}

fn open_if_any(settings: &Settings) -> Result<Option<Store>, Refusal> {
    Store::open_read_only(&settings.daemon.state_dir).map_err(unreadable)
}

fn unreadable(err: StoreError) -> Refusal {
    unread(chain(&err))
}

/// The refusal when the record can't replace an unreachable daemon. The exit code says unreachable, not failed.
fn unread(why: String) -> Refusal {
    Refusal {
        exit: Exit::Unreachable,
        message: format!("the daemon can't be reached, and its record can't be read: {why}"),
        hint: Some(START.to_owned()),
    }
}

fn unable(err: DaemonError) -> Refusal {
    refusal(Exit::Failed, chain(&err), "bgd doctor")
}

fn refusal(exit: Exit, message: String, hint: &str) -> Refusal {
    Refusal { exit, message, hint: Some(hint.to_owned()) }
}
