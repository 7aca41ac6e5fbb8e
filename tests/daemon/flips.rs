//! The way back at every point of a deploy, and what keeps automatic deploys off: flips, holds, pins, `down`.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{Kind, Plan, Stage, on_both};

/// Where the deploy is when the flip comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Building,
    Probing,
    Switching,
    Watching,
    Draining,
    After,
}

const ALL: [When; 6] =
    [When::Building, When::Probing, When::Switching, When::Watching, When::Draining, When::After];

#[test]
fn i3_a_flip_pre_empts_a_deploy_in_any_phase() {
    flips(Kind::Builtin);
}

#[test]
fn i3_a_flip_pre_empts_a_deploy_in_any_phase_behind_nginx() {
    flips(Kind::Nginx);
}

fn flips(kind: Kind) {
    // A watch ends when it is told to: no phase passes before a slow machine has seen it.
    let plan = Plan { watch: "10m", drain: "60s", ..Plan::of(kind) };
    let Some(mut stage) = Stage::set(plan) else { return };
    let mut good = stage.push_promoted("g0");
    let load = stage.load();
    load.sees("g0");
    // The builtin front switches in no time.
    let all = ALL.into_iter().filter(|when| kind == Kind::Nginx || *when != When::Switching);
    for (number, when) in all.enumerate() {
        let bad = flip_at(&stage, when);
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], good, "{when:?}: {status:#}");
        assert!(!status["hold"].is_null(), "{when:?}: {status:#}");
        assert_eq!(status["state"], "held", "{when:?}: {status:#}");
        if when == When::Building {
            // Once over a restart, to save time.
            stage.end_daemon();
            stage.start_daemon();
        }
        bad_stays_away(&stage, &bad, &good);
        good = stage.push_promoted(&format!("g{}", number + 1));
        assert!(stage.until_at_rest()["hold"].is_null(), "{when:?}: a newer commit releases the hold");
    }
    load.end_without_loss();
    stage.assert_no_leftover();
}

/// Pushes, flips at that point, returns the abandoned commit.
fn flip_at(stage: &Stage, when: When) -> String {
    let rev = format!("bad-{when:?}").to_lowercase();
    match when {
        When::Building => {
            stage.close("build");
            let bad = stage.push(&rev, "");
            stage.until_phase(&bad, "building");
            let deploy = stage.status()["deploy"].clone();
            let keys: Vec<_> = deploy.as_object().unwrap().keys().map(String::as_str).collect();
            let all = "color commit ending id kind phase phase_ms phase_since started_at task";
            assert_eq!(keys.join(" "), all);
            stage.done(&["flip"]);
            stage.open("build");
            bad
        }
        When::Probing => {
            stage.close("up");
            let bad = stage.push(&rev, "");
            stage.until_phase(&bad, "probing");
            stage.done(&["flip"]);
            stage.open("up");
            bad
        }
        When::Switching => {
            stage.close("reload");
            let bad = stage.push(&rev, "");
            stage.until_phase(&bad, "switching");
            let flip = stage.begin(&["flip"]);
            stage.eventually("the flip was taken", |stage| !stage.status()["hold"].is_null());
            stage.open("reload");
            let ran = flip.end();
            assert_eq!(ran.code, 0, "{ran:?}");
            bad
        }
        When::Watching => {
            let bad = stage.push(&rev, "");
            stage.until_phase(&bad, "watching");
            stage.done(&["flip"]);
            bad
        }
        When::Draining => {
            let before = stage.value("live.commit");
            let held = stage.hold_a_request();
            let bad = stage.push(&rev, "");
            stage.end_watch(&bad);
            let draining =
                |status: &Value| status["live"]["commit"] == bad && status["idle"]["state"] == "draining";
            stage.until("draining", draining);
            let said = stage.done(&["flip"]);
            assert_eq!(stage.value("live.commit"), before, "{said}");
            stage.open("held");
            held.join().unwrap();
            bad
        }
        When::After => {
            let bad = stage.push_promoted(&rev);
            stage.until_at_rest();
            stage.done(&["flip"]);
            bad
        }
    }
}

fn bad_stays_away(stage: &Stage, bad: &str, good: &str) {
    let first = stage.status()["remote"]["checked_at"].clone();
    let looked = |status: &Value| {
        let seen = &status["remote"]["checked_at"];
        !seen.is_null() && *seen != first && status["remote"]["head"] == bad
    };
    let status = stage.until("the remote was looked at again", looked);
    assert!(status["deploy"].is_null(), "{status:#}");
    assert_eq!(status["live"]["commit"], good, "{status:#}");
    assert!(!stage.done(&["why"]).is_empty());
}

#[test]
fn i5_a_second_flip_goes_forward_again_and_a_third_back() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan { standby: "60s", ..Plan::of(kind) }) else { return };
        let one = stage.push_live("one");
        let two = stage.push_live("two");
        let load = stage.load();
        load.sees("two");
        for expected in [&one, &two, &one] {
            let status = stage.until_at_rest();
            assert_eq!(status["rollback"]["to"], **expected, "{status:#}");
            stage.done(&["flip"]);
            assert_eq!(stage.value("live.commit"), **expected);
            assert!(!stage.status()["hold"].is_null());
        }
        load.end_without_loss();
        stage.assert_no_leftover();
    });
}

#[test]
fn two_flips_at_once_end_in_one_of_the_two_releases() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    let load = stage.load();
    let (first, second) = (stage.begin(&["flip"]), stage.begin(&["flip"]));
    let codes = [first.end().code, second.end().code];
    assert!(codes.contains(&0), "{codes:?}");
    let live = stage.until_at_rest()["live"]["commit"].clone();
    assert!(live == one || live == two, "{live}");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn there_is_nothing_to_flip_to_before_the_second_release() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    assert_eq!(stage.bgd(&["flip"]).code, 3);
    let one = stage.push_live("one");
    stage.until_at_rest();
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(stage.value("live.commit"), one);
    assert!(stage.status()["hold"].is_null());
    stage.assert_status_is_true();
}

#[test]
fn a_hold_keeps_pushes_away_until_it_is_released() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let one = stage.push_live("one");
    stage.done(&["hold", "-m", "freeze"]);
    let two = stage.push("two", "");
    let status = stage.until("the push was seen", |status| status["remote"]["head"] == two);
    assert_eq!(status["state"], "held");
    assert_eq!(status["hold"]["reason"], "freeze");
    let keys: Vec<_> = status["hold"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["by", "reason", "since", "until"]);
    assert_eq!(stage.bgd(&["deploy"]).code, 5);
    assert!(stage.done(&["why"]).contains("freeze"));
    stage.assert_status_is_true();
    assert_eq!(stage.value("live.commit"), one);
    stage.done(&["resume"]);
    stage.wait_live(&two);
    stage.assert_status_is_true();
}

#[test]
fn down_stops_the_app_and_up_brings_the_same_release_back() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        let one = stage.push_live("one");
        stage.done(&["down", "--yes"]);
        let status = stage.status();
        assert_eq!(status["state"], "stopped", "{status:#}");
        assert!(!stage.served().contains("one"));
        stage.assert_status_is_true();
        assert_eq!(stage.bgd(&["flip"]).code, 3);
        assert_eq!(stage.bgd(&["exec", "--", "true"]).code, 3);
        let apps =
            |stage: &Stage| stage.processes().iter().filter(|(_, line)| line.contains("app::")).count();
        assert_eq!(apps(&stage), 0, "{:?}", stage.processes());
        stage.end_daemon();
        stage.start_daemon();
        let two = stage.push("two", "");
        stage.until("the push was seen", |status| status["remote"]["head"] == two);
        assert_eq!(stage.status()["state"], "stopped");
        assert_eq!(stage.bgd(&["deploy"]).code, 5);
        stage.done(&["up"]);
        stage.until("it serves", |status| !status["live"].is_null());
        let _brought_back = one;
        stage.wait_live(&two);
        stage.assert_no_leftover();
    });
}

#[test]
fn an_older_revision_deployed_by_hand_stays_until_a_newer_commit() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    stage.done(&["deploy", "--rev", &one]);
    assert_eq!(stage.value("live.commit"), one);
    stage.end_daemon();
    stage.start_daemon();
    bad_stays_away(&stage, &two, &one);
    let three = stage.push_live("three");
    assert!(stage.until_at_rest()["hold"].is_null());
    // The same commit again is a redeploy: another process, the other color.
    let before = stage.until_at_rest();
    stage.done(&["deploy"]);
    let after = stage.until_at_rest();
    assert_eq!(after["live"]["commit"], three);
    assert_ne!(after["live"]["color"], before["live"]["color"]);
    assert_ne!(after["live"]["release"], before["live"]["release"]);
    assert_eq!(stage.bgd(&["deploy", "--rev", "nonesuch"]).code, 1);
    stage.assert_no_leftover();
}

#[test]
fn i6_a_flip_works_with_the_daemon_dead_or_hung() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        on_both(|kind| {
            let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
            let one = stage.push_live("one");
            let two = stage.push_live("two");
            stage.until_at_rest();
            let load = stage.load();
            load.sees("two");
            stage.signal_daemon(signal);
            if signal == Signal::SIGKILL {
                stage.forget_daemon();
            }
            let ran = stage.bgd(&["flip"]);
            assert_eq!(ran.code, 0, "{kind:?} {signal}: {ran:?}");
            load.sees("one");
            assert_eq!(stage.served(), "one");
            if signal == Signal::SIGSTOP {
                // The flip has ended it.
                stage.forget_daemon();
            }
            stage.start_daemon();
            let status = stage.until_at_rest();
            assert_eq!(status["live"]["commit"], one, "{status:#}");
            assert!(!status["hold"].is_null(), "{status:#}");
            bad_stays_away(&stage, &two, &one);
            load.end_without_loss();
            stage.push_live("three");
            stage.assert_no_leftover();
        });
    }
}

#[test]
fn i6_a_refused_configuration_locks_nobody_out_with_the_daemon_stopped_or_running() {
    for (broken, kind) in [("nonsense = 1\n", Kind::Nginx), ("keep = \"many\n[app", Kind::Builtin)] {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        let one = stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        let good = fs::read_to_string(stage.path("bgd.toml")).unwrap();
        fs::write(stage.path("bgd.toml"), format!("{good}{broken}")).unwrap();
        assert_eq!(stage.bgd(&["check"]).code, 2);
        let reading = [&["logs"][..], &["history"], &["show", "1"], &["events"]];
        for words in reading.iter().chain([&["status"][..]].iter()) {
            stage.done(words);
        }
        stage.end_daemon();
        for (words, code) in
            reading.iter().map(|words| (*words, 0)).chain([(&["status"][..], 4), (&["flip"], 0)])
        {
            let ran = stage.bgd(words);
            assert_eq!(ran.code, code, "{kind:?} {words:?}: {ran:?}");
            assert!(
                ran.stderr.contains("the last good one is used: `bgd check`"),
                "{kind:?} {words:?}: {ran:?}"
            );
        }
        assert_eq!(stage.served(), "one", "{kind:?}");
        assert_eq!(stage.value("live.commit"), one);
        assert_eq!(stage.value("daemon.config_refused"), "bgd check");
        assert_eq!(stage.bgd(&["daemon"]).code, 2, "a daemon does not start by it");
        fs::write(stage.path("bgd.toml"), good).unwrap();
        stage.start_daemon();
        assert_eq!(stage.until_at_rest()["live"]["commit"], one);
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn k2_a_daemon_killed_at_any_moment_of_a_flip_ends_in_one_of_the_two_releases() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        let mut live = stage.push_live("r0");
        let load = stage.load();
        for number in 1..=5_u64 {
            let former = live;
            let newer = stage.push_live(&format!("r{number}"));
            stage.until_at_rest();
            let flip = stage.begin(&["flip"]);
            std::thread::sleep(std::time::Duration::from_millis(number * 30));
            stage.kill_daemon();
            stage.start_daemon();
            // It goes on without the daemon that it asked, or fails.
            let ran = flip.end();
            let status = stage.until_at_rest();
            let now = status["live"]["commit"].as_str().unwrap().to_owned();
            assert!(now == former || now == newer, "{ran:?} {status:#}");
            assert!(ran.code != 0 || now == former, "{ran:?} {status:#}");
            stage.assert_no_leftover();
            live = now;
        }
        load.end_without_loss();
    });
}
