//! N deploys under load lose nothing, and every kind of broken push is refused: the old release serves, the reason
//! and the app's own last words are told, and the poller does not try it again.

use crate::shop::{Kind, Plan, Stage, on_both};

#[test]
fn five_deploys_under_load_lose_nothing() {
    five_deploys(Kind::Builtin);
}

#[test]
fn five_deploys_under_load_lose_nothing_behind_nginx() {
    five_deploys(Kind::Nginx);
}

/// The app ends at once on TERM, so that anything stopped too early is lost.
fn five_deploys(kind: Kind) {
    let Some(stage) = Stage::set(Plan { watch: "300ms", ..Plan::of(kind) }) else { return };
    stage.push_live("r0");
    let load = stage.load();
    load.sees("r0");
    for number in 1..=5 {
        let rev = format!("r{number}");
        stage.push_live(&rev);
        load.sees(&rev);
    }
    stage.until_at_rest();
    assert_eq!(load.end_without_loss().answered.len(), 6);
    stage.assert_no_leftover();
}

/// A push that has to be refused.
struct Broken {
    rev: &'static str,
    conf: &'static str,
    build: &'static str,
    outcome: &'static str,
    phase: &'static str,
    /// In `bgd show`: the reason, and the app's own last words.
    shown: &'static [&'static str],
}

const BROKEN: [Broken; 5] = [
    Broken {
        rev: "unbuildable",
        conf: "",
        build: "echo last words: no such header; exit 4",
        outcome: "failed",
        phase: "building",
        shown: &["last words: no such header", "4"],
    },
    Broken {
        rev: "exiting",
        conf: "start = exits",
        build: "",
        outcome: "failed",
        phase: "probing",
        shown: &["last words of exiting: no database", "3"],
    },
    Broken {
        rev: "hanging",
        conf: "start = hangs",
        build: "",
        outcome: "failed",
        phase: "probing",
        shown: &["last words of hanging: waiting for a lock"],
    },
    Broken {
        rev: "erring",
        conf: "up = 500",
        build: "",
        outcome: "failed",
        phase: "probing",
        shown: &["last words of erring: /up answers 500", "500", "no connection to the database"],
    },
    Broken {
        rev: "elsewhere",
        conf: "start = elsewhere",
        build: "",
        outcome: "failed",
        phase: "probing",
        shown: &["rev elsewhere listens on 127.0.0.1", "did not listen on port"],
    },
];

#[test]
fn a10_every_broken_push_is_refused_with_its_last_words_and_not_tried_again() {
    broken_pushes(Kind::Builtin);
}

#[test]
fn a10_every_broken_push_is_refused_behind_nginx_and_not_tried_again() {
    broken_pushes(Kind::Nginx);
}

#[test]
fn e2_an_app_that_turns_sick_or_dies_while_it_is_watched_is_rolled_back() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan { watch: "60s", ..Plan::of(kind) }) else { return };
        let good = stage.push_promoted("good");
        let load = stage.load();
        load.sees("good");
        let sick = Broken {
            rev: "sick",
            conf: "",
            build: "",
            outcome: "rolled_back",
            phase: "watching",
            shown: &["503"],
        };
        is_refused(&stage, &sick, &good);
        load.end_without_loss();
        let dying = Broken {
            rev: "dying",
            conf: "start = dies_when_told",
            shown: &["last words of dying: out of memory", "9"],
            ..sick
        };
        // nginx answers 502 for what reaches a dead instance until it has reloaded; the builtin front waits.
        let load = (kind == Kind::Builtin).then(|| stage.load());
        is_refused(&stage, &dying, &good);
        if let Some(load) = load {
            load.sees("good");
            load.end_with_loss_in_flight();
        }
        assert_eq!(stage.served(), "good");
        stage.assert_no_leftover();
    });
}

fn broken_pushes(kind: Kind) {
    let plan = Plan { deadline: "4s", ..Plan::of(kind) };
    let Some(mut stage) = Stage::set(plan) else { return };
    let good = stage.push_live("good");
    let load = stage.load();
    load.sees("good");
    for broken in &BROKEN {
        is_refused(&stage, broken, &good);
    }
    let deploys = number_of_deploys(&stage);
    let pid = stage.value("live.pid");
    stage.end_daemon();
    stage.start_daemon();
    stays_refused(&stage, deploys);
    assert_eq!(stage.value("live.pid"), pid);
    assert_eq!(stage.served(), "good");
    let counts = load.end_without_loss();
    assert_eq!(counts.answered.keys().collect::<Vec<_>>(), ["good"]);
    let fixed = stage.push_live("fixed");
    assert_eq!(stage.value("live.commit"), fixed);
    stage.assert_no_leftover();
}

fn is_refused(stage: &Stage, broken: &Broken, good: &str) {
    let commit = stage.push_with(broken.rev, broken.conf, broken.build);
    if broken.phase == "watching" {
        stage.until_phase(&commit, "watching");
        let gate = if broken.rev == "sick" { "up" } else { "die" };
        stage.close(&format!("{gate}-{}", broken.rev));
    }
    let ran = stage.bgd(&["wait", "--for", &format!("rev={commit}"), "--timeout", "60s"]);
    let code = if broken.outcome == "failed" { 1 } else { 6 };
    assert_eq!(ran.code, code, "{}: {ran:?}", broken.rev);
    let status = stage.until_at_rest();
    assert_eq!(status["last"]["commit"], commit, "{status:#}");
    assert_eq!(status["last"]["outcome"], broken.outcome, "{status:#}");
    assert_eq!(status["last"]["phase"], broken.phase, "{status:#}");
    assert!(!status["last"]["error"].is_null(), "{status:#}");
    assert_eq!(status["live"]["commit"], good, "{status:#}");
    let shown = stage.done(&["show", &status["last"]["id"].to_string()]);
    for words in broken.shown {
        assert!(shown.contains(words), "{}: {words:?} is not in: {shown}", broken.rev);
    }
    let why = stage.done(&["why"]);
    assert!(why.contains(&commit[..7]), "{why}");
}

fn number_of_deploys(stage: &Stage) -> usize {
    stage.done(&["history", "-n", "100"]).lines().count()
}

/// The poller has looked at the remote again, and nothing began.
fn stays_refused(stage: &Stage, deploys: usize) {
    let seen = stage.until("the remote was looked at", |status| !status["remote"]["checked_at"].is_null());
    let first = seen["remote"]["checked_at"].clone();
    stage.until("and once more", |status| status["remote"]["checked_at"] != first);
    assert_eq!(number_of_deploys(stage), deploys);
    assert!(stage.status()["deploy"].is_null());
}

#[test]
fn d1_a_stranger_on_the_idle_port_is_named_and_left_alone() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let good = stage.push_live("good");
    let stranger = std::net::TcpListener::bind(("127.0.0.1", stage.port("green"))).unwrap();
    let commit = stage.push("late", "");
    let ran = stage.bgd(&["wait", "--for", &format!("rev={commit}"), "--timeout", "5s"]);
    assert!(ran.code == 1 || ran.code == 8, "{ran:?}");
    let status = stage.until("it has failed", |status| status["last"]["commit"] == commit);
    assert_eq!(status["last"]["outcome"], "failed");
    let error = status["last"]["error"].as_str().unwrap();
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    assert_eq!(status["live"]["commit"], good);
    drop(stranger);
    // The commit was not to blame: asked for again, it goes live.
    assert_eq!(stage.bgd(&["deploy"]).code, 0);
    assert_eq!(stage.served(), "late");
    stage.assert_no_leftover();
}
