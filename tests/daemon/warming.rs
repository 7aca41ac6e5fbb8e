//! A new release is warmed up before it gets traffic: until then the old one serves, one that stays cold is refused
//! and tried again, and a death or a restart of the daemon in the middle changes nothing for anybody.

use std::fs;

use crate::shop::{Kind, Plan, Stage, on_both};

/// Where the sample app leaves a mark when it is asked for `/held`.
const MARK: &str = "gates/held-arrived";

/// With a warm-up that asks, among others, for what waits at the gate `held`.
fn with_warmup(plan: Plan, warmup: &str) -> Option<Stage> {
    let stage = Stage::set(plan)?;
    stage.configure(&format!("warmup = {{ {warmup} }}\n"));
    stage.eventually("the warm-up is in force", |stage| {
        stage.bgd(&["reload"]).stdout.contains("nothing changed")
    });
    Some(stage)
}

/// Pushes a release whose first requests are not answered, and waits until they are under way.
fn push_cold(stage: &Stage, rev: &str, conf: &str) -> String {
    stage.close("held");
    // Of the release before.
    fs::remove_file(stage.path(MARK)).expect("the mark");
    let commit = stage.push(rev, conf);
    stage.until_phase(&commit, "warming");
    a_request_arrives(stage);
    commit
}

fn a_request_arrives(stage: &Stage) {
    stage.eventually("a request is with the new release", |stage| stage.path(MARK).exists());
}

#[test]
fn e1_a_release_whose_first_requests_are_slow_gets_no_traffic_before_it_is_warm() {
    on_both(|kind| {
        let warmup = r#"paths = ["/held", "/"], requests = 100000, until_p95 = "2s""#;
        let Some(stage) = with_warmup(Plan::of(kind), warmup) else { return };
        let one = stage.push_live("one");
        let load = stage.load();
        load.sees("one");
        let two = push_cold(&stage, "two", "");
        // Four at a time: when a fifth arrives, one of them was not answered in time.
        for _ in 0..4 {
            fs::remove_file(stage.path(MARK)).expect("the mark");
            a_request_arrives(&stage);
        }
        load.sees("one");
        assert_eq!(load.counts().answered.keys().collect::<Vec<_>>(), ["one"]);
        assert_eq!(stage.status()["live"]["commit"], one);
        stage.open("held");
        stage.wait_live(&two);
        load.sees("two");
        load.end_without_loss();
        let status = stage.until_at_rest();
        let shown = stage.done(&["show", &status["last"]["id"].to_string()]);
        assert!(shown.contains("warm_up") && shown.contains("warmed up in "), "{shown}");
        assert!(shown.contains("without a proper answer: GET /held: no answer within 2s"), "{shown}");
        stage.assert_no_leftover();
    });
}

#[test]
fn e1_a_release_that_stays_cold_leaves_the_old_one_live_and_is_tried_again() {
    let warmup = r#"paths = ["/", "/cold"], requests = 400, until_p95 = "1m""#;
    let Some(stage) = with_warmup(Plan::of(Kind::Builtin), warmup) else { return };
    let good = stage.push_live("good");
    let load = stage.load();
    load.sees("good");
    stage.close("cold");
    let cold = stage.push("cold", "");
    let ran = stage.bgd(&["wait", "--for", &format!("rev={cold}"), "--timeout", "60s"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let status = stage.status();
    assert_eq!((&status["last"]["commit"], &status["last"]["outcome"]), (&cold.into(), &"failed".into()));
    assert_eq!(status["last"]["phase"], "warming", "{status:#}");
    let error = status["last"]["error"].as_str().expect("an error");
    assert!(error.contains("not warm: of the last 100 requests "), "{error}");
    assert!(error.contains(" without a proper answer: GET /cold: answered 503"), "{error}");
    assert_eq!(status["live"]["commit"], good, "{status:#}");
    assert_eq!(load.counts().answered.keys().collect::<Vec<_>>(), ["good"]);
    // Whatever kept it cold is over: it goes live without a hand.
    stage.open("cold");
    load.sees("cold");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn d3_a_release_that_dies_while_it_is_warmed_up_is_refused_with_its_last_words() {
    let Some(stage) = with_warmup(Plan::of(Kind::Builtin), r#"paths = ["/held"]"#) else { return };
    let good = stage.push_live("good");
    let load = stage.load();
    let dying = push_cold(&stage, "dying", "start = dies_when_told");
    stage.close("die-dying");
    let ran = stage.bgd(&["wait", "--for", &format!("rev={dying}"), "--timeout", "60s"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let status = stage.until_at_rest();
    assert_eq!(status["live"]["commit"], good, "{status:#}");
    let shown = stage.done(&["show", &status["last"]["id"].to_string()]);
    assert!(shown.contains("while it was warmed up"), "{shown}");
    assert!(shown.contains("last words of dying: out of memory"), "{shown}");
    assert_eq!(load.end_without_loss().answered.keys().collect::<Vec<_>>(), ["good"]);
    stage.assert_no_leftover();
}

#[test]
fn k2_a_daemon_that_is_killed_while_it_warms_a_release_up_begins_the_warm_up_again() {
    let warmup = r#"paths = ["/held", "/"], requests = 100000, until_p95 = "2s""#;
    let Some(mut stage) = with_warmup(Plan::of(Kind::Builtin), warmup) else { return };
    stage.push_live("one");
    let load = stage.load();
    let two = push_cold(&stage, "two", "");
    stage.kill_daemon();
    load.sees("one");
    stage.start_daemon();
    stage.until_phase(&two, "warming");
    assert_eq!(load.counts().answered.keys().collect::<Vec<_>>(), ["one"]);
    stage.open("held");
    stage.wait_live(&two);
    load.sees("two");
    load.end_without_loss();
    stage.assert_no_leftover();
}
