//! An app's snapshot as `bgd status` shows it, shared by the daemon and by commands that work without it. The
//! state word is computed here and nowhere else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    api::{
        output::LogOutput,
        refusal::refusal,
        why,
        wire::{
            AppReport, BarrierReport, CanaryReport, CronLast, CronReport, CronRunning, DeployReport, Exit,
            FlipReport, GateReport, HoldReport, IdleReport, InstanceReport, LastReport, LeavingReport,
            LiveReport, Refusal, RemoteReport, RollbackReport, TaskReport, UnconfiguredReport,
            WorkerInstanceReport, WorkerReport,
        },
    },
    command::Places,
    config::settings::Task,
    engine::{CronSeen, Snapshot, Unconfigured},
    instance::InstanceStatus,
    rules::{
        address::Address,
        app::{Backup, Hold, Idle, Instance, Live, Pipeline, Serving, Stage, StageGroup, Until},
        backoff,
        barrier::{Barrier, OnFailure},
        canary::{Place, Share},
        ids::{Color, CommitId, DeployId, ReleaseId},
        time::Stamp,
        words::{AppState, HoldEnd, IdleState, Phase},
    },
    shim::Slot,
    store::{CronRow, RunOf, clock, record::DeployRecord},
    worker::WorkerSeen,
};

/// One instance that no file names.
pub fn unconfigured(found: Unconfigured) -> UnconfiguredReport {
    let Unconfigured { name, color, port, pid, since } = found;
    UnconfiguredReport {
        name,
        color,
        port,
        pid: pid.and_then(|pid| u32::try_from(pid).ok()),
        since: Stamp(since),
    }
}

/// One app, as in the contract.
pub fn app(snapshot: &Snapshot) -> AppReport {
    let (app, settings) = (&snapshot.app, &snapshot.settings);
    AppReport {
        name: settings.name.clone(),
        state: state(snapshot),
        trouble: trouble(snapshot),
        live: app.live().map(|live| live_report(snapshot, live)),
        idle: Some(idle(snapshot)),
        deploy: deploy(snapshot),
        canary: canary(snapshot),
        hold: app.hold.as_ref().map(hold),
        remote: RemoteReport {
            branch: settings.branch.clone(),
            head: snapshot.remote.head.clone(),
            checked_at: snapshot.remote.checked_at.map(Stamp),
            error: snapshot.remote.error.clone(),
            hint: snapshot.remote.hint.clone(),
            refs: snapshot.remote.crowd,
            next_at: snapshot.remote.next_at.map(Stamp),
        },
        last: snapshot.last.as_ref().and_then(last),
        rollback: rollback(snapshot),
        schema_ahead: app.schema_ahead().map(barrier),
        why: Some(why::why(snapshot)),
        gate: app.closed_gates().first().map(|gate| GateReport {
            kind: gate.kind,
            commit: gate.commit.clone(),
            text: gate.text.clone(),
            opens_at: gate.opens_at.map(Stamp),
        }),
        workers: snapshot.workers.iter().map(worker).collect(),
        tasks: settings.tasks.iter().map(|task| task_report(snapshot, task)).collect(),
        cron: snapshot.crons.iter().map(cron).collect(),
    }
}

fn cron(seen: &CronSeen) -> CronReport {
    let running = |row: &CronRow| CronRunning {
        release: row.release.clone(),
        due_at: Stamp(row.due),
        started_at: row.started.map(Stamp),
        pid: seen.pid.and_then(|pid| u32::try_from(pid).ok()),
    };
    let last = |row: &CronRow| {
        Some(CronLast {
            release: row.release.clone(),
            due_at: Stamp(row.due),
            outcome: row.outcome?,
            exit: row.exit,
            started_at: row.started.map(Stamp),
            finished_at: row.finished.map(Stamp),
        })
    };
    CronReport {
        name: seen.name.clone(),
        schedule: seen.schedule.clone(),
        next_at: seen.next.map(Stamp),
        running: seen.running.as_ref().map(running),
        last: seen.last.as_ref().and_then(last),
    }
}

fn rollback(snapshot: &Snapshot) -> RollbackReport {
    let app = &snapshot.app;
    let way_back = app.way_back().filter(|_| app.live().is_some());
    let in_the_way = match way_back {
        Some((to, _)) => app.barrier_after(&to.commit),
        // Nothing to go back to, and the barrier would stand in the way.
        None => app.schema_ahead(),
    };
    let flips = snapshot.settings.migration.as_ref().is_some_and(|it| it.on_failure == OnFailure::Flip);
    RollbackReport {
        possible: way_back.is_some() && in_the_way.is_none(),
        to: way_back.map(|(release, _)| release.commit.clone()),
        warm: way_back.is_some_and(|(_, warm)| warm),
        automatic: way_back.is_some() && (in_the_way.is_none() || flips),
        barrier: in_the_way.map(barrier),
    }
}

fn barrier(barrier: &Barrier) -> BarrierReport {
    BarrierReport {
        deploy: barrier.deploy,
        release: barrier.release.clone(),
        commit: barrier.commit.clone(),
        since: Stamp(barrier.since),
        text: barrier.contract.text.clone(),
    }
}

fn worker(seen: &WorkerSeen) -> WorkerReport {
    let (release, commit) = seen.of.clone().unzip();
    let instances = seen.instances.iter().map(|one| WorkerInstanceReport {
        pid: one.pid,
        since: one.since.map(Stamp),
        restarts: one.restarts,
    });
    let leaving = seen.leaving.iter().map(|one| LeavingReport {
        release: one.release.clone(),
        commit: one.commit.clone(),
        pid: one.pid,
        ends_by: one.ends_by.map(Stamp),
    });
    WorkerReport {
        name: seen.name.clone(),
        release,
        commit,
        instances: instances.collect(),
        leaving: leaving.collect(),
        host: None,
    }
}

/// The first worker that dies again and again.
fn worker_trouble(snapshot: &Snapshot) -> Option<String> {
    let now = clock::now();
    snapshot.workers.iter().find_map(|seen| {
        let failure = seen.instances.iter().find_map(|one| one.failure(now))?;
        Some(format!(
            "worker {name} dies again and again: {failure}; see `bgd logs --worker {name}`",
            name = seen.name
        ))
    })
}

fn task_report(snapshot: &Snapshot, task: &Task) -> TaskReport {
    let last = snapshot.last_runs.get(&task.name).cloned();
    TaskReport { name: task.name.clone(), when: task.when, once: "host".to_owned(), last }
}

fn hold(hold: &Hold) -> HoldReport {
    HoldReport {
        by: hold.by.clone(),
        reason: hold.reason.clone(),
        since: Stamp(hold.since),
        until: Some(match hold.until {
            Until::Resumed => HoldEnd::Resume,
            Until::NewerThan(_) => HoldEnd::NewerCommit,
        }),
    }
}

fn trouble(snapshot: &Snapshot) -> Option<String> {
    let unrecorded = snapshot.unrecorded.as_ref().map(|why| format!("the record can't be written: {why}"));
    // Before the first deploy there is nothing to route, so an error of the front is not trouble yet.
    let begun = snapshot.app.serving != Serving::Nothing || snapshot.last.is_some();
    let front = snapshot.front_error.as_ref().filter(|_| begun).map(|why| format!("the front: {why}"));
    let refusal = snapshot.app.front_refusal.as_ref();
    let refusal = refusal.map(|why| format!("the front does not take its route, and is told again: {why}"));
    let passed_on = passed_on(snapshot).map(|what| format!("; {what}")).unwrap_or_default();
    let stranded = snapshot.app.stranded.as_ref().map(|stranded| stranded.why.clone());
    unrecorded
        .or(refusal.map(|refusal| refusal + &passed_on))
        .or(front)
        .or(stranded)
        .or_else(|| worker_trouble(snapshot))
}

/// Says which color answers for the live one, while the front still routes there.
fn passed_on(snapshot: &Snapshot) -> Option<String> {
    let (live, app) = (snapshot.app.live()?, &snapshot.app);
    let Idle::Warm { release, .. } = &app.idle else { return None };
    let stands_in = release.id == live.release.id && app.rerouting.is_some();
    let place = |color| snapshot.settings.address_at(color, 0).named();
    let (from, to) = (live.color.other(), live.color);
    stands_in.then(|| format!("meanwhile {from} ({}) answers for {to} ({})", place(from), place(to)))
}

fn state(snapshot: &Snapshot) -> AppState {
    let app = &snapshot.app;
    let live = match &app.serving {
        Serving::OutOfService(_) if app.pipeline.deploy().is_none() => return AppState::Stopped,
        Serving::OutOfService(_) => return AppState::Deploying,
        Serving::Nothing if app.pipeline.deploy().is_some() => return AppState::Deploying,
        // A failed `bgd up` leaves nothing live of what should serve.
        Serving::Nothing if app.previous.is_some() => return AppState::Down,
        Serving::Nothing => return AppState::Empty,
        Serving::Live(live) => live,
    };
    let (run, serve) = (snapshot.running_on(live.color), snapshot.serving_on(live.color));
    let (up, several) = (matches!(live.instance, Instance::Up { .. }), snapshot.number_on(live.color) > 1);
    match (up, several && run > 0) {
        (false, false) => return AppState::Down,
        // One of several is being started again, and the others serve.
        (false, true) => return AppState::Degraded,
        (true, true) if serve < usize::from(snapshot.number_on(live.color)) => return AppState::Degraded,
        (true, _) => {}
    }
    if live.healthy == Some(false) || trouble(snapshot).is_some() {
        return AppState::Degraded;
    }
    match app.pipeline.group() {
        Some(StageGroup::Live) => AppState::Watching,
        Some(StageGroup::BeforePivot | StageGroup::Sharing | StageGroup::Pivot | StageGroup::Ending) => {
            AppState::Deploying
        }
        None if app.pipeline != Pipeline::Resting => AppState::Deploying,
        None if app.hold.is_some() => AppState::Held,
        None => AppState::Live,
    }
}

/// The report of the live release.
pub fn live_report(snapshot: &Snapshot, live: &Live) -> LiveReport {
    let up = matches!(live.instance, Instance::Up { .. });
    let several = snapshot.number_on(live.color) > 1;
    let instances = instances(snapshot, live.color, |_| up || several);
    let address = first_address(snapshot, live.color);
    let (restarts, up_since, wait) = match live.instance {
        Instance::Up { since, attempt } => (attempt, Some(Stamp(since)), None),
        Instance::Starting { attempt, .. } => (attempt, None, None),
        Instance::Waiting { attempt, .. } => (attempt, None, Some(backoff::restart_delay(attempt))),
        Instance::Dead => (0, None, None),
    };
    let (memory_bytes, cpu_percent) = sums(&instances);
    LiveReport {
        color: live.color,
        port: address.as_ref().and_then(Address::port),
        socket: address.as_ref().and_then(Address::socket).map(Path::to_owned),
        release: live.release.id.clone(),
        commit: live.release.commit.clone(),
        subject: known(&live.release.subject),
        author: known(&live.release.author),
        pid: instances.first().and_then(|first| first.pid),
        healthy: if up { live.healthy } else { Some(false) },
        since: Stamp(live.since),
        instances,
        given_up: live.instance == Instance::Dead,
        restarts,
        up_since,
        restart_wait_ms: wait.map(millis),
        memory_bytes,
        cpu_percent,
    }
}

/// Where the first instance of a color listens; `None` for a static site.
fn first_address(snapshot: &Snapshot, color: Color) -> Option<Address> {
    (snapshot.number_on(color) > 0).then(|| snapshot.settings.address_at(color, 0))
}

/// The reports of a color's instances; one that is not `shown` has neither process nor health.
fn instances(
    snapshot: &Snapshot,
    color: Color,
    shown: impl Fn(&InstanceStatus) -> bool,
) -> Vec<InstanceReport> {
    let one = |index| {
        let seen = snapshot.instances.get(&Slot { color, index }).filter(|seen| shown(seen));
        let address = snapshot.settings.address_at(color, index);
        InstanceReport {
            port: address.port(),
            socket: address.socket().map(Path::to_owned),
            pid: seen.and_then(|seen| u32::try_from(seen.pid?).ok()),
            healthy: seen.and_then(|seen| seen.healthy),
            memory_bytes: seen.and_then(|seen| Some(seen.measured?.memory_bytes)),
            cpu_percent: seen.and_then(|seen| Some(seen.measured?.cpu_percent)),
        }
    };
    (0..snapshot.number_on(color)).map(one).collect()
}

/// Memory (bytes) and processor (percent of one core) of all measured instances; `None` when none was measured.
fn sums(instances: &[InstanceReport]) -> (Option<u64>, Option<f64>) {
    let memory = instances.iter().filter_map(|one| one.memory_bytes).reduce(|sum, one| sum + one);
    let cpu = instances.iter().filter_map(|one| one.cpu_percent).reduce(|sum, one| sum + one);
    (memory, cpu.map(|cpu| (10.0 * cpu).round() / 10.0))
}

/// `None` for the empty subject or author of a release that was found without its record.
fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn idle(snapshot: &Snapshot) -> IdleReport {
    let app = &snapshot.app;
    let color = app.idle_color();
    let (release, state) = match &app.idle {
        Idle::Vacant => (None, IdleState::Stopped),
        Idle::Taken if app.pipeline.group() == Some(StageGroup::Sharing) => {
            (app.pipeline.release(), IdleState::Warm)
        }
        Idle::Taken => (app.pipeline.release(), IdleState::Starting),
        Idle::Warm { release, .. } => (Some(release), IdleState::Warm),
        Idle::Draining { release, .. } | Idle::Stopping { release, .. } => {
            (Some(release), IdleState::Draining)
        }
    };
    let instances = instances(snapshot, color, |_| release.is_some());
    let address = first_address(snapshot, color);
    let (memory_bytes, cpu_percent) = sums(&instances);
    IdleReport {
        color,
        port: address.as_ref().and_then(Address::port),
        socket: address.as_ref().and_then(Address::socket).map(Path::to_owned),
        release: release.map(|release| release.id.clone()),
        commit: release.map(|release| release.commit.clone()),
        pid: instances.first().and_then(|first| first.pid),
        state,
        instances,
        backup: app.backup == Backup::Told,
        memory_bytes,
        cpu_percent,
    }
}

fn deploy(snapshot: &Snapshot) -> Option<DeployReport> {
    let (app, settings) = (&snapshot.app, &snapshot.settings);
    let deploy = app.pipeline.deploy()?;
    let phase = app.phase()?;
    let switched =
        app.live().zip(app.pipeline.release()).is_some_and(|(live, new)| live.release.id == new.id);
    Some(DeployReport {
        id: deploy.id,
        kind: Some(deploy.kind.word()),
        commit: app.pipeline.commit().cloned(),
        color: Some(if switched { app.idle_color().other() } else { app.idle_color() }),
        phase,
        started_at: Stamp(deploy.started),
        phase_since: Some(Stamp(deploy.phase_since)),
        phase_ms: match (phase, app.pipeline.stage()) {
            (_, Some(Stage::Watching { held: None, .. })) => Some(millis(settings.watch.period)),
            (Phase::Draining, _) => Some(millis(settings.drain)),
            _ => None,
        },
        ending: app.pipeline.end().map(|end| end.outcome),
        task: app.task().cloned(),
    })
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

fn canary(snapshot: &Snapshot) -> Option<CanaryReport> {
    let sharing = snapshot.app.pipeline.group() == Some(StageGroup::Sharing);
    let canary = snapshot.app.canary.as_ref().filter(|_| sharing)?;
    let Place { step, share, by_hand } = canary.in_force();
    let next = match canary.refused {
        0 => canary.following().map_or(Share::ALL, |next| next.share),
        _ => canary.share,
    };
    // A step that is held back ends at no known time.
    let hold = canary.plan.get(step).and_then(|step| step.hold);
    let hold = hold.filter(|_| !by_hand && canary.held.is_none() && canary.refused == 0);
    Some(CanaryReport {
        step: step + 1,
        steps: canary.plan.len(),
        wanted: share,
        measured: snapshot
            .counted
            .part(snapshot.app.idle_color())
            .map(|part| format!("{}.{:02}", part / 100, part % 100)),
        since: Stamp(canary.since),
        by_hand,
        held: match canary.refused {
            0 => canary.held.clone(),
            _ => Some(format!("the front does not take {next} yet")),
        },
        next_share: next,
        next_at: hold.map(|hold| Stamp(canary.since.plus(hold))),
        deadline_at: canary.approval().map(|limit| Stamp(canary.since.plus(limit))),
    })
}

fn last(deploy: &DeployRecord) -> Option<LastReport> {
    Some(LastReport {
        id: deploy.id,
        commit: deploy.commit.clone(),
        outcome: deploy.outcome?,
        phase: deploy.phase.filter(|_| deploy.error.is_some()),
        error: deploy.error.clone(),
        hint: deploy.hint.clone(),
        finished_at: deploy.finished_at?,
        steps: deploy.steps.clone(),
        replaced: deploy.replaced,
    })
}

/// The report of a completed flip.
pub fn flip(snapshot: &Snapshot, abandoned: Option<CommitId>, cancelled: bool) -> FlipReport {
    let live = snapshot.app.live().map(|live| live_report(snapshot, live));
    let serving = live.as_ref().map_or_else(
        || "nothing is live".to_owned(),
        |live| format!("{} is live on {} ({})", live.commit.short(), live.color, live.place()),
    );
    let same = live.as_ref().map(|live| &live.commit) == abandoned.as_ref();
    let from = abandoned.as_ref().map_or("the other release", CommitId::short);
    let done = match (cancelled, &abandoned) {
        (true, Some(commit)) => format!("the deploy of {} is cancelled", commit.short()),
        (true, None) => "the deploy is cancelled".to_owned(),
        (false, _) if same => "the traffic moved to the other release of the same commit".to_owned(),
        (false, _) => format!("the traffic moved away from {from}"),
    };
    let until = match snapshot.app.hold.as_ref().map(|hold| (&hold.until, &hold.by)) {
        None => String::new(),
        Some((Until::NewerThan(_), _)) => "; automatic deploys wait for a newer commit".to_owned(),
        Some((Until::Resumed, by)) => format!("; automatic deploys stay on hold, by {by}"),
    };
    let replaced = passed_on(snapshot).map(|passed_on| {
        let why = snapshot.app.front_refusal.as_deref().unwrap_or("it is not known why");
        format!("; the front can't be moved, and {passed_on}: {why}")
    });
    let text = format!("{done}; {serving}{until}{}", replaced.unwrap_or_default());
    FlipReport { cancelled, live, abandoned, text }
}

/// The log of a run of a task or hook, as the record found it.
///
/// # Errors
/// When there was no run.
pub fn task_log(
    places: &Places,
    (name, deploy): (&str, Option<DeployId>),
    found: Option<RunOf>,
) -> Result<LogOutput, Refusal> {
    match found {
        Some(RunOf { release, hook: false }) => Ok(LogOutput::single(places.task_log(name, &release))),
        Some(RunOf { release, hook: true }) => Ok(LogOutput::single(places.hook_log(name, &release))),
        None => {
            let of = deploy.map(|id| format!(" in deploy #{id}")).unwrap_or_default();
            let message = format!("no task or hook of the name {name:?} has run{of}");
            Err(refusal(Exit::Usage, message, Some("bgd status --json")))
        }
    }
}

/// The newest build's log, by the deploy number in the release name that its file name carries.
///
/// # Errors
/// When there is none, or the directory can't be read.
pub fn newest_build(logs: &Path) -> Result<PathBuf, Refusal> {
    let found = std::fs::read_dir(logs)
        .map_err(|err| refusal(Exit::Failed, format!("the logs can't be read: {err}"), None))?;
    let mut builds: Vec<(u64, PathBuf)> = found
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_prefix("build-")?.strip_suffix(".log")?.to_owned();
            let release: ReleaseId = name.parse().ok()?;
            Some((release.deploy().0, path))
        })
        .collect();
    builds.sort();
    builds.pop().map(|(_, path)| path).ok_or_else(|| {
        let message = "there is no build log: nothing was built yet, or there is no `build` to run";
        refusal(Exit::Failed, message.to_owned(), Some("bgd history"))
    })
}
