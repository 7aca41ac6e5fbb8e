//! An app's snapshot as `bgd status` shows it, shared by the daemon and by commands that work without it. The
//! state word is computed here and nowhere else.

use std::path::{Path, PathBuf};

use crate::{
    api::server::refusal,
    api::wire::{
        AppReport, CanaryReport, DeployReport, Exit, FlipReport, HoldReport, IdleReport, InstanceReport,
        LastReport, LiveReport, Refusal, RemoteReport, RollbackReport, Why,
    },
    engine::{Seen, Snapshot, clock},
    process::Slot,
    rules::{
        app::{App, Idle, Instance, Live, Pipeline, Serving},
        canary::Share,
        ids::{Color, CommitId, ReleaseId},
        step::{self, Blocked},
        time::Stamp,
        words::{AppState, IdleState},
    },
    store::record::DeployRecord,
};

/// One app, as in the contract.
pub fn app(snapshot: &Snapshot) -> AppReport {
    let (app, settings) = (&snapshot.app, &snapshot.settings);
    let way_back = app.way_back().filter(|_| app.live().is_some());
    AppReport {
        name: settings.name.clone(),
        state: state(snapshot),
        trouble: trouble(snapshot),
        live: app.live().map(|live| live_report(snapshot, live)),
        idle: Some(idle(snapshot)),
        deploy: deploy(app),
        canary: canary(snapshot),
        hold: app.hold.as_ref().map(|hold| HoldReport {
            by: hold.by.clone(),
            reason: hold.reason.clone(),
            since: Stamp(hold.since),
        }),
        remote: RemoteReport {
            branch: settings.branch.clone(),
            head: snapshot.remote.head.clone(),
            checked_at: snapshot.remote.checked_at.map(Stamp),
            error: snapshot.remote.error.clone(),
        },
        last: snapshot.last.as_ref().and_then(last),
        rollback: RollbackReport {
            possible: way_back.is_some(),
            to: way_back.map(|(release, _)| release.commit.clone()),
            warm: way_back.is_some_and(|(_, warm)| warm),
        },
    }
}

fn trouble(snapshot: &Snapshot) -> Option<String> {
    let unrecorded = snapshot.unrecorded.as_ref().map(|why| format!("the record can't be written: {why}"));
    let front = snapshot.front_error.as_ref().map(|why| format!("the front: {why}"));
    unrecorded.or(front)
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
    match &app.pipeline {
        Pipeline::Watching { .. } => AppState::Watching,
        Pipeline::Resting if app.hold.is_some() => AppState::Held,
        Pipeline::Resting => AppState::Live,
        Pipeline::Fetching { .. }
        | Pipeline::CheckingOut(_)
        | Pipeline::Building(_)
        | Pipeline::Clearing { .. }
        | Pipeline::Hooking(_)
        | Pipeline::Starting(_)
        | Pipeline::Probing(_)
        | Pipeline::Warming(_)
        | Pipeline::Sharing(_)
        | Pipeline::Canary(_)
        | Pipeline::Switching(_)
        | Pipeline::Retiring { .. }
        | Pipeline::Reverting { .. }
        | Pipeline::Replacing { .. }
        | Pipeline::Discarding { .. }
        | Pipeline::TakingDown { .. } => AppState::Deploying,
    }
}

/// What receives the traffic.
pub fn live_report(snapshot: &Snapshot, live: &Live) -> LiveReport {
    let up = matches!(live.instance, Instance::Up { .. });
    let several = snapshot.number_on(live.color) > 1;
    let instances = instances(snapshot, live.color, |_| up || several);
    let address = snapshot.settings.address_at(live.color, 0);
    LiveReport {
        color: live.color,
        port: address.port(),
        socket: address.socket().map(Path::to_owned),
        release: live.release.id.clone(),
        commit: live.release.commit.clone(),
        subject: known(&live.release.subject),
        author: known(&live.release.author),
        pid: instances.first().and_then(|first| first.pid),
        healthy: if up { live.healthy } else { Some(false) },
        since: Stamp(live.since),
        instances,
    }
}

/// Those of a color, as far as they are to be shown.
fn instances(snapshot: &Snapshot, color: Color, shown: impl Fn(&Seen) -> bool) -> Vec<InstanceReport> {
    let one = |index| {
        let seen = snapshot.instances.get(&Slot { color, index }).filter(|seen| shown(seen));
        InstanceReport {
            port: snapshot.settings.address_at(color, index).port(),
            pid: seen.and_then(|seen| u32::try_from(seen.pid?).ok()),
            healthy: seen.and_then(|seen| seen.healthy),
        }
    };
    (0..snapshot.number_on(color)).map(one).collect()
}

/// A release that was found without its record has neither.
fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn idle(snapshot: &Snapshot) -> IdleReport {
    let app = &snapshot.app;
    let color = app.idle_color();
    let (release, state) = match &app.idle {
        Idle::Vacant => (None, IdleState::Stopped),
        Idle::Taken if matches!(app.pipeline, Pipeline::Sharing(_) | Pipeline::Canary(_)) => {
            (app.pipeline.release(), IdleState::Warm)
        }
        Idle::Taken => (app.pipeline.release(), IdleState::Starting),
        Idle::Warm { release, .. } => (Some(release), IdleState::Warm),
        Idle::Draining { release, .. } | Idle::Stopping { release, .. } => {
            (Some(release), IdleState::Draining)
        }
    };
    let instances = instances(snapshot, color, |_| release.is_some());
    let address = snapshot.settings.address_at(color, 0);
    IdleReport {
        color,
        port: address.port(),
        socket: address.socket().map(Path::to_owned),
        release: release.map(|release| release.id.clone()),
        commit: release.map(|release| release.commit.clone()),
        pid: instances.first().and_then(|first| first.pid),
        state,
        instances,
    }
}

fn deploy(app: &App) -> Option<DeployReport> {
    let deploy = app.pipeline.deploy()?;
    let switched =
        app.live().zip(app.pipeline.release()).is_some_and(|(live, new)| live.release.id == new.id);
    Some(DeployReport {
        id: deploy.id,
        commit: app.pipeline.commit().cloned(),
        color: Some(if switched { app.idle_color().other() } else { app.idle_color() }),
        phase: app.pipeline.phase(&app.idle)?,
        started_at: Stamp(deploy.started),
    })
}

fn canary(snapshot: &Snapshot) -> Option<CanaryReport> {
    let (Pipeline::Sharing(_) | Pipeline::Canary(_)) = snapshot.app.pipeline else { return None };
    let canary = snapshot.app.canary.as_ref()?;
    let share = canary.next().map_or(Share::ALL, |next| next.share);
    // What holds a step back has no time.
    let hold = canary.plan.get(canary.step).and_then(|step| step.hold);
    let hold = hold.filter(|_| !canary.by_hand && canary.held.is_none());
    Some(CanaryReport {
        step: canary.step + 1,
        steps: canary.plan.len(),
        wanted: canary.share,
        measured: snapshot
            .counted
            .part(snapshot.app.idle_color())
            .map(|part| format!("{}.{:02}", part / 100, part % 100)),
        since: Stamp(canary.since),
        by_hand: canary.by_hand,
        held: canary.held.clone(),
        next_share: share,
        next_at: hold.map(|hold| Stamp(canary.since.plus(hold))),
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
    })
}

/// Why nothing is being deployed.
pub fn why(snapshot: &Snapshot) -> Why {
    let app = &snapshot.app;
    let head = app.head.as_ref().map_or_else(|| "the tip".to_owned(), |head| head.short().to_owned());
    let say = |code: &str, text: String, hint: Option<&str>| Why {
        code: code.to_owned(),
        text,
        hint: hint.map(str::to_owned),
    };
    if let Some(deploy) = app.pipeline.deploy() {
        let phase = app.pipeline.phase(&app.idle).map_or("", |phase| phase.as_str());
        return say(
            "deploying",
            format!("deploy {} is under way: {phase}", deploy.id),
            Some("bgd status -w"),
        );
    }
    if let Some(why) = &snapshot.unrecorded {
        return say("unrecorded", format!("the record can't be written: {why}"), Some("free disk space"));
    }
    match step::wanted(app, clock::now()) {
        Ok(_) => say("deploying", format!("{head} is about to be deployed"), None),
        Err(Blocked::OutOfService) => {
            say("stopped", "the app was taken out of service by `bgd down`".to_owned(), Some("bgd up"))
        }
        Err(Blocked::NotSeen) => match &snapshot.remote.error {
            Some(err) => say("remote_error", format!("the remote can't be read: {err}"), Some("bgd doctor")),
            None => say("not_polled_yet", "the remote was not seen yet".to_owned(), Some("bgd status")),
        },
        Err(Blocked::UpToDate) if app.hold.is_some() => say(
            "held",
            format!("{head} is live; newer commits would wait: {}", held(app)),
            Some("bgd resume"),
        ),
        Err(Blocked::UpToDate) => match &snapshot.remote.error {
            Some(err) => say(
                "remote_error",
                format!("{head} is live, and the remote can't be read since: {err}"),
                Some("bgd doctor"),
            ),
            None => {
                say("up_to_date", format!("{head} is the tip of {} and live", snapshot.settings.branch), None)
            }
        },
        Err(Blocked::Deploying) => say("deploying", "a deploy is under way".to_owned(), None),
        Err(Blocked::Held) => say("held", format!("{head} waits: {}", held(app)), Some("bgd resume")),
        Err(Blocked::BadCommit) => {
            let why = match app.head.as_ref().and_then(|head| app.verdicts.get(head)) {
                Some(crate::rules::app::Verdict::Bad { why, .. }) => why.clone(),
                Some(crate::rules::app::Verdict::Retry { .. }) | None => String::new(),
            };
            let text = format!("{head} is marked bad: {why}");
            say("bad_commit", text, Some("push a newer commit, or `bgd deploy` to try it again"))
        }
        Err(Blocked::RetryLater(at)) => {
            let text = format!("{head} failed for outside reasons and is tried again after {}", Stamp(at));
            say("retry_later", text, Some("bgd deploy tries at once"))
        }
    }
}

fn held(app: &App) -> String {
    app.hold.as_ref().map(|hold| format!("on hold by {}: {}", hold.by, hold.reason)).unwrap_or_default()
}

/// What a flip that is over amounts to.
pub fn flip(snapshot: &Snapshot, abandoned: Option<CommitId>, cancelled: bool) -> FlipReport {
    let live = snapshot.app.live().map(|live| live_report(snapshot, live));
    let what = abandoned.as_ref().map(|commit| format!(" {}", commit.short())).unwrap_or_default();
    let serving = live.as_ref().map_or_else(
        || "nothing is live".to_owned(),
        |live| format!("{} is live on {} ({})", live.commit.short(), live.color, live.place()),
    );
    let same = live.as_ref().map(|live| &live.commit) == abandoned.as_ref();
    let text = if same && !cancelled {
        format!("traffic moved to the other release of the same commit; {serving}")
    } else if cancelled {
        format!("deploy{what} cancelled; {serving}; automatic deploys wait for a newer commit")
    } else {
        format!("traffic moved away from{what}; {serving}; automatic deploys wait for a newer commit")
    };
    FlipReport { cancelled, live, abandoned, text }
}

/// The newest build's log: they carry their release's name, whose counter sorts.
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
    builds
        .pop()
        .map(|(_, path)| path)
        .ok_or_else(|| refusal(Exit::Failed, "there is no build log yet".to_owned(), Some("bgd deploy")))
}
