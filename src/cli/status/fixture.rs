//! Hand-made reports for the rendering tests.

use crate::{
    api::wire::{
        AppReport, BarrierReport, CanaryReport, DaemonReport, DeployReport, GateReport, HoldReport,
        IdleReport, InstanceReport, LastReport, LiveReport, RemoteReport, RollbackReport, Status, StepRecord,
        Why,
    },
    rules::{
        canary::Share,
        ids::{Color, CommitId, DeployId, ReleaseId},
        time::{Stamp, Time},
        words::{AppState, DeployKind, GateKind, HoldEnd, IdleState, Outcome, Phase, WhyCode},
    },
};

/// The moment all ages are counted from.
pub const NOW: Time = Time(1_795_247_472_034);

/// The time so many seconds before [`NOW`].
pub fn before(seconds: u64) -> Stamp {
    Stamp(Time(NOW.0 - seconds * 1000))
}

/// The time so many seconds after [`NOW`].
pub fn after(seconds: u64) -> Stamp {
    Stamp(Time(NOW.0 + seconds * 1000))
}

/// Half a minute into the first of three steps.
pub fn canary() -> CanaryReport {
    let percent = |percent| Share::percent(percent).expect("a share");
    CanaryReport {
        step: 1,
        steps: 3,
        wanted: percent(5),
        measured: Some("4.83".to_owned()),
        since: before(30),
        by_hand: false,
        held: None,
        next_share: percent(25),
        next_at: Some(Stamp(Time(NOW.0 + 90_000))),
        deadline_at: None,
    }
}

/// A commit made of two letters.
pub fn commit(pair: &str) -> CommitId {
    pair.repeat(20).parse().expect("hex")
}

/// A status of a running daemon.
pub fn status(apps: Vec<AppReport>) -> Status {
    let daemon = DaemonReport {
        running: true,
        version: Some("0.1.0".to_owned()),
        pid: Some(4242),
        started_at: Some(before(9000)),
        config_refused: None,
    };
    Status { schema: 1, daemon, unconfigured: Vec::new(), apps }
}

fn way_back(to: &str, warm: bool) -> RollbackReport {
    RollbackReport { possible: true, to: Some(commit(to)), warm, barrier: None, automatic: true }
}

/// A contract migration, in the deploy under way of the other reports.
pub fn barrier() -> BarrierReport {
    BarrierReport {
        deploy: DeployId(7),
        release: "20261121T101112Z-7-c3c3c3c".parse().expect("a release"),
        commit: commit("c3"),
        since: before(20),
        text: "contract: db/2_contract_drop.sql".to_owned(),
    }
}

/// Nothing deployed.
pub fn empty() -> AppReport {
    AppReport {
        name: "shop".parse().expect("a name"),
        state: AppState::Empty,
        trouble: None,
        live: None,
        idle: None,
        deploy: None,
        canary: None,
        hold: None,
        remote: RemoteReport {
            branch: "main".to_owned(),
            head: None,
            checked_at: None,
            error: None,
            hint: None,
            refs: None,
            next_at: None,
        },
        last: None,
        rollback: RollbackReport::default(),
        schema_ahead: None,
        why: Some(why(WhyCode::NotPolledYet, "the remote was not seen yet", None)),
        gate: None,
        workers: Vec::new(),
        cron: Vec::new(),
        tasks: Vec::new(),
    }
}

/// Serving, nothing under way.
pub fn live() -> AppReport {
    AppReport {
        state: AppState::Live,
        trouble: None,
        live: Some(LiveReport {
            color: Color::Blue,
            port: Some(9501),
            socket: None,
            release: ReleaseId::new("20261121T073912Z", 6, &commit("a1")),
            commit: commit("a1"),
            subject: Some("Fix the cart total".to_owned()),
            author: Some("Ann".to_owned()),
            pid: Some(4300),
            healthy: Some(true),
            instances: vec![InstanceReport {
                port: Some(9501),
                socket: None,
                pid: Some(4300),
                healthy: Some(true),
                memory_bytes: Some(31_000_000),
                cpu_percent: Some(2.5),
            }],
            given_up: false,
            restarts: 0,
            up_since: Some(before(720)),
            restart_wait_ms: None,
            memory_bytes: Some(31_000_000),
            cpu_percent: Some(2.5),
            since: before(720),
        }),
        idle: Some(IdleReport {
            color: Color::Green,
            port: Some(9502),
            socket: None,
            release: None,
            commit: None,
            pid: None,
            state: IdleState::Stopped,
            instances: vec![InstanceReport {
                port: Some(9502),
                socket: None,
                pid: None,
                healthy: None,
                memory_bytes: None,
                cpu_percent: None,
            }],
            backup: false,
            memory_bytes: None,
            cpu_percent: None,
        }),
        remote: RemoteReport {
            branch: "main".to_owned(),
            head: Some(commit("a1")),
            checked_at: Some(before(4)),
            error: None,
            hint: None,
            refs: None,
            next_at: None,
        },
        last: Some(LastReport {
            id: DeployId(6),
            commit: Some(commit("a1")),
            outcome: Outcome::Live,
            phase: None,
            error: None,
            hint: None,
            finished_at: before(720),
            steps: vec![step("fetch", 41), step("switch", 63)],
            replaced: false,
        }),
        rollback: way_back("b2", false),
        schema_ahead: None,
        why: Some(why(WhyCode::UpToDate, "a1a1a1a is the tip of main and live", None)),
        ..empty()
    }
}

/// Why nothing is being deployed.
pub fn why(code: WhyCode, text: &str, hint: Option<&str>) -> Why {
    Why { code, text: text.to_owned(), hint: hint.map(str::to_owned), again_at: None }
}

fn step(name: &str, ms: u64) -> StepRecord {
    StepRecord { name: name.to_owned(), ms }
}

/// A newer commit is being built.
pub fn deploying() -> AppReport {
    let mut app = live();
    app.state = AppState::Deploying;
    app.remote.head = Some(commit("c3"));
    app.deploy = Some(DeployReport {
        id: DeployId(7),
        kind: Some(DeployKind::Push),
        commit: Some(commit("c3")),
        color: Some(Color::Green),
        phase: Phase::Building,
        started_at: before(14),
        phase_since: Some(before(12)),
        phase_ms: None,
        ending: None,
        task: None,
    });
    app
}

/// A newer commit is live and watched, and what was live before still runs.
pub fn watching() -> AppReport {
    let mut app = deploying();
    app.state = AppState::Watching;
    if let (Some(live), Some(idle), Some(deploy)) = (&mut app.live, &mut app.idle, &mut app.deploy) {
        (live.color, live.commit, live.since) = (Color::Green, commit("c3"), before(12));
        (idle.color, idle.state, idle.commit) = (Color::Blue, IdleState::Warm, Some(commit("a1")));
        (deploy.phase, deploy.phase_ms) = (Phase::Watching, Some(30_000));
    }
    app.rollback = way_back("a1", true);
    app
}

/// A newer commit failed its health check.
pub fn failed() -> AppReport {
    let mut app = live();
    app.remote.head = Some(commit("c3"));
    app.last = Some(LastReport {
        id: DeployId(7),
        commit: Some(commit("c3")),
        outcome: Outcome::Failed,
        phase: Some(Phase::Probing),
        error: Some("GET http://127.0.0.1:9502/up answered 500".to_owned()),
        hint: Some("bgd show 7".to_owned()),
        finished_at: before(121),
        steps: vec![step("fetch", 41)],
        replaced: false,
    });
    let hint = "push a newer commit, or `bgd deploy shop` to try c3c3c3c again";
    app.why = Some(why(WhyCode::BadCommit, "c3c3c3c is marked bad: GET /up answered 500", Some(hint)));
    app
}

/// Automatic deploys are off, and a newer commit waits.
pub fn held() -> AppReport {
    let mut app = live();
    app.state = AppState::Held;
    app.remote.head = Some(commit("c3"));
    app.hold = Some(HoldReport {
        by: "ann".to_owned(),
        reason: "release freeze".to_owned(),
        since: before(200),
        until: Some(HoldEnd::Resume),
    });
    let text = "c3c3c3c waits: on hold by ann: release freeze";
    app.why = Some(why(WhyCode::Held, text, Some("`bgd resume shop` deploys it")));
    app
}

/// A newer commit waits for a window.
pub fn gated() -> AppReport {
    let mut app = live();
    app.remote.head = Some(commit("c3"));
    let text = "c3c3c3c waits for a window: the next one opens Mon 2026-11-23 09:00 Europe/Berlin";
    let hint = "`bgd deploy shop` passes all gates; a newer commit is asked about anew";
    app.why = Some(why(WhyCode::Gate, text, Some(hint)));
    app.gate = Some(GateReport {
        kind: GateKind::Window,
        commit: commit("c3"),
        text: text.to_owned(),
        opens_at: Some(before(0)),
    });
    app
}

/// The tip was flipped away from.
pub fn flipped() -> AppReport {
    let mut app = held();
    if let Some(hold) = &mut app.hold {
        (hold.reason, hold.until) = ("flipped away from c3c3c3c".to_owned(), Some(HoldEnd::NewerCommit));
    }
    let text = "c3c3c3c is marked bad: flipped away by ann; automatic deploys wait for a newer commit";
    let hint = "push a newer commit, or `bgd deploy shop` to try c3c3c3c again";
    app.why = Some(why(WhyCode::BadCommit, text, Some(hint)));
    app
}
