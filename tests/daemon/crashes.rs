//! `kill -9` of the daemon at any point of a deploy: traffic never stops, the apps keep their pids, and after the
//! restart everything ends in the old or the new release with nothing left over.

use std::{thread, time::Duration};

use serde_json::Value;

use crate::shop::{Kind, Plan, Stage, on_both};

/// Phases that a gate, a watch that lasts, a slow request or a deaf app holds open: none passes by itself before a
/// slow machine has seen it.
const HELD: [&str; 6] = ["building", "starting", "probing", "watching", "draining", "stopping"];

#[test]
fn k2_a_daemon_killed_in_a_phase_of_a_deploy_loses_nothing_and_ends_it() {
    killed_in_each_phase(Kind::Builtin);
}

#[test]
fn k2_a_daemon_killed_in_a_phase_of_a_deploy_loses_nothing_and_ends_it_behind_nginx() {
    killed_in_each_phase(Kind::Nginx);
}

fn killed_in_each_phase(kind: Kind) {
    let plan = Plan { watch: "10m", drain: "60s", grace: "60s", hook: true, ..Plan::of(kind) };
    let Some(mut stage) = Stage::set(plan) else { return };
    stage.push_promoted("r0");
    let load = stage.load();
    load.sees("r0");
    let switching = (kind == Kind::Nginx).then_some("switching");
    for (number, phase) in HELD.into_iter().chain(switching).enumerate() {
        let rev = format!("r{}-{phase}", number + 1);
        let commit = killed_in(&mut stage, &rev, phase);
        load.goes_on();
        stage.start_daemon();
        open_all(&stage);
        match phase {
            "draining" => stage.wait_live(&commit),
            "stopping" => {
                stage.wait_live(&commit);
                // What was deaf to TERM ends all the same.
                stage.close("die-r5-draining");
            }
            _ => stage.promote(&commit),
        }
        load.sees(&rev);
        let status = stage.until_at_rest();
        assert_eq!(status["last"]["outcome"], "live", "{phase}: {status:#}");
        stage.assert_no_leftover();
    }
    load.end_without_loss();
}

/// Pushes, kills the daemon in that phase, returns the commit.
fn killed_in(stage: &mut Stage, rev: &str, phase: &str) -> String {
    let gate = match phase {
        "building" => "build",
        "starting" => "hook",
        "probing" => "up",
        "switching" => "reload",
        _ => "",
    };
    if !gate.is_empty() {
        stage.close(gate);
    }
    let held = (phase == "draining").then(|| stage.hold_a_request());
    // The next deploy has this one to stop.
    let conf = if phase == "draining" { "term = ignored\nstart = dies_when_told" } else { "" };
    let commit = stage.push(rev, conf);
    if ["draining", "stopping"].contains(&phase) {
        stage.end_watch(&commit);
    }
    stage.until_phase(&commit, phase);
    stage.kill_daemon();
    if let Some(held) = held {
        stage.open("held");
        held.join().unwrap();
    }
    commit
}

fn open_all(stage: &Stage) {
    for gate in ["build", "hook", "up", "reload"] {
        if stage.path("gates").join(gate).exists() {
            stage.open(gate);
        }
    }
}

#[test]
fn k2_a_daemon_killed_at_any_moment_of_a_deploy_loses_nothing() {
    killed_at_moments(Kind::Builtin);
}

#[test]
fn k2_a_daemon_killed_at_any_moment_of_a_deploy_loses_nothing_behind_nginx() {
    killed_at_moments(Kind::Nginx);
}

/// The short phases (fetching, checking out, switching) are hit by time alone.
fn killed_at_moments(kind: Kind) {
    let Some(mut stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(kind) }) else { return };
    stage.push_live("r0");
    let load = stage.load();
    load.sees("r0");
    for number in 1..=8_u64 {
        let rev = format!("r{number}");
        let commit = stage.push(&rev, "");
        thread::sleep(Duration::from_millis(number * 45));
        stage.kill_daemon();
        load.goes_on();
        stage.start_daemon();
        stage.wait_live(&commit);
        load.sees(&rev);
        stage.assert_no_leftover();
    }
    load.end_without_loss();
}

#[test]
fn k1_a_killed_daemon_adopts_the_live_instance_with_its_pid_logs_and_stop() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        let before = stage.until_at_rest();
        stage.kill_daemon();
        assert_eq!(stage.served(), "one");
        stage.start_daemon();
        let after = stage.until("it is adopted", |status| !status["live"]["pid"].is_null());
        assert_eq!(after["live"]["pid"], before["live"]["pid"]);
        assert_eq!(after["live"]["since"], before["live"]["since"]);
        assert!(stage.done(&["logs"]).contains("rev one listens on"));
        stage.push_live("two");
        stage.until_at_rest();
        stage.assert_no_leftover();
    });
}

#[test]
fn k2_a_flip_survives_a_daemon_killed_right_after_it() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let one = stage.push_live("one");
    stage.until_at_rest();
    let load = stage.load();
    let two = stage.push_live("two");
    stage.until_at_rest();
    stage.done(&["flip"]);
    stage.kill_daemon();
    stage.start_daemon();
    let status = stage.until_at_rest();
    assert_eq!(status["live"]["commit"], one, "{status:#}");
    assert!(!status["hold"].is_null());
    let looked = |status: &Value| status["remote"]["head"] == two;
    assert!(stage.until("the remote was looked at", looked)["deploy"].is_null());
    load.end_without_loss();
    stage.assert_no_leftover();
}
