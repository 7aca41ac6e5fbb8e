//! Requests that read: snapshots, the record, logs. None of them waits for an app's task.

use std::{io, path::Path, time::Duration};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    connection::Connection,
    output::{self, LogOutput, LogStream},
    refusal::{closing, refusal},
    report,
    services::{Services, handle_of},
    why,
    wire::{Answer, ExecPlan, Exit, LogSource, Progress, Refusal, Reply, Status},
};
use crate::{
    command::{self, Places},
    config::{
        settings::{AppSettings, WorkerSettings},
        template::Values,
    },
    engine::apps::AppHandle,
    os::{blocking::blocking, errors::chain},
    rules::{
        app::Serving,
        ids::{AppName, CronName, DeployId, WorkerName},
    },
    store::{Store, StoreError, record::EventRecord},
};

/// Limit of each wait in `status`: for the first observation of the apps after the daemon's start, and for the list
/// of instances that no file names.
const FIRST_LOOK: Duration = Duration::from_millis(700);

pub(super) async fn status(services: &Services, app: Option<&AppName>) -> Result<Answer, Refusal> {
    let apps = match app {
        Some(_) => vec![handle_of(services, app)?],
        None => services.apps.all(),
    };
    let looked = async {
        for handle in &apps {
            // An app whose task has ended shows its last snapshot.
            let mut watch = handle.watch();
            let _ended = watch.wait_for(|snapshot| snapshot.observed).await;
        }
    };
    if tokio::time::timeout(FIRST_LOOK, looked).await.is_err() {
        tracing::debug!("status shows the record: not all apps were looked at yet");
    }
    let measured = move || apps.iter().map(|handle| report::app(&handle.measured())).collect();
    let apps = blocking(measured).await;
    // The status of one app does not need them, and a slow answer must not delay the status.
    let others = async { if app.is_none() { services.apps.unconfigured().await } else { Vec::new() } };
    let others = tokio::time::timeout(FIRST_LOOK, others).await.unwrap_or_default();
    let unconfigured = others.into_iter().map(report::unconfigured).collect();
    Ok(Answer::Status(Status { schema: 1, daemon: services.daemon.borrow().clone(), unconfigured, apps }))
}

pub(super) async fn history(
    services: &Services,
    (app, limit): (Option<&AppName>, u32),
) -> Result<Answer, Refusal> {
    let app = app.cloned();
    read(services, move |store| store.history(app.as_ref(), limit)).await.map(Answer::History)
}

pub(super) async fn show(services: &Services, id: DeployId) -> Result<Answer, Refusal> {
    match read(services, move |store| store.detail(id)).await? {
        Some(detail) => Ok(Answer::Show(Box::new(detail))),
        None => Err(refusal(Exit::Usage, format!("no such deploy: {id}"), Some("bgd history"))),
    }
}

pub(super) fn why(handle: &AppHandle) -> Answer {
    Answer::Why(why::why(&handle.snapshot()))
}

/// Reads the record on a blocking thread: a slow disk must not hold up other clients.
pub(super) async fn read<T: Send + 'static>(
    services: &Services,
    query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = services.apps.store().clone();
    let found = blocking(move || query(&store)).await;
    found.map_err(|err| refusal(Exit::Failed, format!("the record can't be read: {}", chain(&err)), None))
}

pub(super) fn exec(handle: &AppHandle, worker: Option<&WorkerName>) -> Result<Answer, Refusal> {
    let places = handle.interpreter().places().clone();
    exec_plan(handle.settings(), places, (&handle.snapshot().app.serving, worker)).map(Answer::Exec)
}

/// The directory, environment, user and rights of a command in the live release, as the app has them or a worker.
///
/// # Errors
/// When nothing is live, there is no such worker, or an environment file can't be read.
pub fn exec_plan(
    settings: &AppSettings,
    places: Places,
    (serving, worker): (&Serving, Option<&WorkerName>),
) -> Result<ExecPlan, Refusal> {
    let Serving::Live(live) = serving else {
        let hint = if matches!(serving, Serving::OutOfService(_)) { "bgd up" } else { "bgd deploy" };
        return Err(refusal(
            Exit::NothingLive,
            "no release to run it in: nothing is live".to_owned(),
            Some(hint),
        ));
    };
    let context = command::ReleaseContext {
        places,
        values: Values {
            address: settings.address_at(live.color, 0),
            instance: 1,
            color: live.color,
            release: live.release.id.clone(),
            commit: live.release.commit.clone(),
        },
    };
    let worker = worker.map(|name| worker_of(settings, name)).transpose()?;
    let command = match worker {
        Some(worker) => command::worker_exec_command(settings, (worker, &context), &[]),
        None => command::exec_command(settings, &context, &[]),
    };
    let command = command.map_err(|err| refusal(Exit::Failed, chain(&err), Some("bgd doctor")))?;
    Ok(ExecPlan {
        cwd: command.cwd.to_string_lossy().into_owned(),
        env: command.env,
        user: command.user,
        new_privileges: command.new_privileges,
    })
}

fn worker_of<'a>(settings: &'a AppSettings, name: &WorkerName) -> Result<&'a WorkerSettings, Refusal> {
    settings.workers.iter().find(|one| one.plan.name == *name).ok_or_else(|| no_such_worker(settings, name))
}

/// The logs of a worker; also of one that no file names any more, if it has written some.
///
/// # Errors
/// When there is no such worker or instance.
pub fn worker_logs(
    settings: &AppSettings,
    logs: &Path,
    (name, instance): (&WorkerName, Option<u16>),
) -> Result<Vec<LogOutput>, Refusal> {
    let number = match worker_of(settings, name) {
        Ok(worker) => worker.plan.instances,
        Err(_) if logs.join(format!("worker-{name}.log")).exists() => 1,
        Err(refusal) => return Err(refusal),
    };
    output::of_worker(logs, (name, number), instance)
}

fn no_such_worker(settings: &AppSettings, name: &WorkerName) -> Refusal {
    let names: Vec<&str> = settings.workers.iter().map(|one| one.plan.name.as_str()).collect();
    let has = match names[..] {
        [] => "it has none".to_owned(),
        _ => format!("it has {}", names.join(", ")),
    };
    refusal(Exit::Usage, format!("{} has no worker {name}: {has}", settings.name), Some("bgd status"))
}

/// The options of a request for logs.
#[derive(Debug, Clone)]
pub(super) struct LogsWanted {
    pub lines: u32,
    pub follow: bool,
    pub source: LogSource,
    pub instance: Option<u16>,
}

pub(super) async fn logs(
    client: &mut Connection,
    services: &Services,
    (handle, wanted): (&AppHandle, LogsWanted),
) -> io::Result<()> {
    let found = match &wanted.source {
        LogSource::Task { name, deploy } => logs_of_task(services, handle, (name, *deploy)).await,
        LogSource::Live
        | LogSource::Color(_)
        | LogSource::Build
        | LogSource::Worker(_)
        | LogSource::Cron(_) => logs_of(handle, &wanted),
    };
    let logs = match found {
        Ok(logs) => logs,
        Err(refusal) => return client.send(&Reply::Refused(refusal)).await,
    };
    let lines = usize::try_from(wanted.lines).unwrap_or(usize::MAX);
    if wanted.follow {
        let following = LogStream::new(&logs, lines)?;
        return match &wanted.source {
            LogSource::Live => follow_live(client, handle, (wanted, following)).await,
            LogSource::Color(_)
            | LogSource::Build
            | LogSource::Worker(_)
            | LogSource::Cron(_)
            | LogSource::Task { .. } => follow_logs(client, following).await,
        };
    }
    for line in output::last(&logs, lines).map_err(|(_, err)| err)? {
        client.send(&Reply::Progress(Progress::Line(line))).await?;
    }
    client.send(&Reply::Done(Answer::Said(String::new()))).await
}

async fn follow_logs(client: &mut Connection, mut following: LogStream) -> io::Result<()> {
    loop {
        // Both arms are cancel-safe: what was read of the files is returned at once, and the client says nothing.
        let lines = tokio::select! {
            lines = following.next() => lines?,
            () = client.gone() => return Ok(()),
        };
        for line in lines {
            client.send(&Reply::Progress(Progress::Line(line))).await?;
        }
    }
}

/// Follows the logs of the live color, also when another color becomes live.
async fn follow_live(
    client: &mut Connection,
    handle: &AppHandle,
    (wanted, mut following): (LogsWanted, LogStream),
) -> io::Result<()> {
    let mut seen = handle.watch();
    loop {
        // All arms are cancel-safe: lines that were read are returned at once, a watch keeps its last value, and the
        // client says nothing.
        tokio::select! {
            lines = following.next() => {
                for line in lines? {
                    client.send(&Reply::Progress(Progress::Line(line))).await?;
                }
            }
            changed = seen.changed() => {
                if changed.is_err() {
                    // The app's task was replaced by a reload, or is ending: its instances go on, and so do their
                    // logs.
                    return follow_logs(client, following).await;
                }
                match logs_of(handle, &wanted) {
                    Ok(now) if !following.is_of(&now) => following = LogStream::new(&now, 0)?,
                    Ok(_) | Err(_) => {}
                }
            }
            () = client.gone() => return Ok(()),
        }
    }
}

/// The log of the newest run of a task or hook.
async fn logs_of_task(
    services: &Services,
    handle: &AppHandle,
    (name, deploy): (&str, Option<DeployId>),
) -> Result<Vec<LogOutput>, Refusal> {
    let (app, wanted) = (handle.settings().name.clone(), name.to_owned());
    let found = read(services, move |store| store.newest_run(&app, (&wanted, deploy))).await?;
    report::task_log(handle.interpreter().places(), (name, deploy), found).map(|log| vec![log])
}

fn logs_of(handle: &AppHandle, wanted: &LogsWanted) -> Result<Vec<LogOutput>, Refusal> {
    let logs = handle.interpreter().places().logs();
    let snapshot = handle.snapshot();
    let color = match &wanted.source {
        LogSource::Color(color) => *color,
        LogSource::Worker(name) => {
            return worker_logs(&snapshot.settings, &logs, (name, wanted.instance));
        }
        LogSource::Live | LogSource::Task { .. } => match snapshot.app.live() {
            Some(live) => live.color,
            None => snapshot.app.idle_color(),
        },
        LogSource::Build => return report::newest_build(&logs).map(|path| vec![LogOutput::single(path)]),
        LogSource::Cron(name) => {
            known_cron(handle, name)?;
            return Ok(vec![output::of_cron(&logs, name)]);
        }
    };
    output::of_color(&logs, (color, snapshot.number_on(color)), wanted.instance)
}

/// Refuses a name that no schedule of the app has.
fn known_cron(handle: &AppHandle, name: &CronName) -> Result<(), Refusal> {
    let crons = &handle.settings().crons;
    match crons.iter().any(|cron| cron.rule.name == *name) {
        true => Ok(()),
        false => Err(no_such_cron(name, crons.iter().map(|cron| &cron.rule.name))),
    }
}

/// The refusal of an unknown name, which lists the known ones.
pub(super) fn no_such_cron<'n>(name: &CronName, known: impl Iterator<Item = &'n CronName>) -> Refusal {
    let known: Vec<&str> = known.map(CronName::as_str).collect();
    let hint = match known[..] {
        [] => "the app has none; [app.NAME.cron.NAME] adds one".to_owned(),
        _ => format!("it has {}", known.join(", ")),
    };
    refusal(Exit::Usage, format!("no such schedule: {name}"), Some(&hint))
}

pub(super) async fn events(
    client: &mut Connection,
    services: &Services,
    (app, since, follow): (Option<AppName>, Option<u64>, bool),
) -> io::Result<()> {
    // Subscribed before reading, so that nothing falls between record and stream.
    let live = services.apps.events();
    let mut last = since.unwrap_or(0);
    let mut from = since;
    loop {
        let wanted = app.clone();
        let page = match read(services, move |store| store.events(wanted.as_ref(), from)).await {
            Ok(page) => page,
            Err(refused) => return client.send(&closing(Err(refused))).await,
        };
        let done = from.is_none() || page.is_empty();
        for event in page {
            last = last.max(event.seq);
            client.send(&Reply::Progress(Progress::Event(event))).await?;
        }
        if done {
            break;
        }
        from = Some(last);
    }
    if follow {
        return follow_events(client, live, (app, last)).await;
    }
    client.send(&Reply::Done(Answer::Said(String::new()))).await
}

/// Streams events until the client leaves. A client that is too slow misses some here; the record has them all.
async fn follow_events(
    client: &mut Connection,
    mut live: Receiver<EventRecord>,
    (app, mut last): (Option<AppName>, u64),
) -> io::Result<()> {
    loop {
        // Both arms are cancel-safe: a broadcast keeps what is not received, and the client says nothing.
        let event = tokio::select! {
            event = live.recv() => event,
            () = client.gone() => return Ok(()),
        };
        match event {
            Ok(event) if event.seq > last && (app.is_none() || app == event.app) => {
                last = event.seq;
                client.send(&Reply::Progress(Progress::Event(event))).await?;
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "a slow listener missed events"),
            Err(RecvError::Closed) => return client.send(&Reply::Done(Answer::Said(String::new()))).await,
        }
    }
}
