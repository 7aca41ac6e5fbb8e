//! Daemon, shims, fronts and apps killed in all combinations; SIGTERM in the middle; a reboot with the remote gone.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::shop::{Kind, Plan, Stage, send};

const BOTH: [Kind; 2] = [Kind::Builtin, Kind::Nginx];

#[test]
fn k5_a_reboot_with_the_remote_gone_brings_the_live_release_back_on_its_color() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        stage.push_live("one");
        let two = stage.push_live("two");
        let before = stage.until_at_rest();
        stage.power_cut();
        std::fs::rename(stage.path("remote.git"), stage.path("gone.git")).unwrap();
        stage.start_daemon();
        let status = stage.until("it serves", |status| status["state"] == "live");
        assert_eq!(status["live"]["commit"], two, "{status:#}");
        assert_eq!(status["live"]["color"], before["live"]["color"], "{status:#}");
        stage.eventually("the public address answers", |stage| stage.served() == "two");
        let status =
            stage.until("the remote's trouble is said", |status| !status["remote"]["error"].is_null());
        assert_eq!(status["live"]["commit"], two, "{status:#}");
        std::fs::rename(stage.path("gone.git"), stage.path("remote.git")).unwrap();
        stage.push_live("three");
        stage.until_at_rest();
        stage.assert_no_leftover();
    }
}

#[test]
fn k5_a_reboot_in_every_phase_of_a_deploy_ends_in_one_of_the_two_releases() {
    for kind in BOTH {
        for (gate, phase) in
            [("build", "building"), ("hook", "starting"), ("up", "probing"), ("", "watching")]
        {
            let plan = Plan { hook: true, watch: "60s", ..Plan::of(kind) };
            let Some(mut stage) = Stage::set(plan) else { continue };
            let one = stage.push_promoted("one");
            stage.until_at_rest();
            if !gate.is_empty() {
                stage.close(gate);
            }
            let two = stage.push("two", "");
            stage.until_phase(&two, phase);
            stage.power_cut();
            if !gate.is_empty() {
                stage.open(gate);
            }
            stage.start_daemon();
            stage.eventually("the public address answers", |stage| {
                ["one", "two"].contains(&stage.served().as_str())
            });
            let live = stage.until("it is known what is live", |status| !status["live"].is_null());
            let live = &live["live"]["commit"];
            assert!(*live == two || *live == one, "{kind:?} {phase} {live}");
            // The commit is not to blame for the power cut: it is tried again by itself.
            stage.promote(&two);
            stage.push_promoted("three");
            stage.until_at_rest();
            stage.assert_no_leftover();
        }
    }
}

#[test]
fn k5_a_release_that_is_watched_at_a_power_cut_has_its_time_to_start_again() {
    let Some(mut stage) = Stage::set(Plan { watch: "4s", ..Plan::of(Kind::Builtin) }) else { return };
    stage.push_promoted("one");
    stage.until_at_rest();
    let two = stage.push("two", "start = waits");
    stage.until_phase(&two, "watching");
    stage.power_cut();
    stage.close("boot");
    stage.start_daemon();
    // By then the watch has asked far more often than it takes to call a release sick.
    stage.eventually("it is known to be down", |stage| {
        stage.done(&["events"]).lines().any(|line| line.contains("health_changed"))
    });
    stage.open("boot");
    stage.wait_live(&two);
    let status = stage.until_at_rest();
    assert_eq!(status["last"]["outcome"], "live", "{status:#}");
    stage.assert_no_leftover();
}

#[test]
fn k1_sigterm_in_every_phase_of_a_deploy_loses_nothing_and_the_deploy_goes_on() {
    for kind in BOTH {
        for (gate, phase) in
            [("build", "building"), ("hook", "starting"), ("up", "probing"), ("", "watching")]
        {
            let plan = Plan { hook: true, watch: "60s", ..Plan::of(kind) };
            let Some(mut stage) = Stage::set(plan) else { continue };
            stage.push_promoted("one");
            stage.until_at_rest();
            let load = stage.load();
            load.sees("one");
            if !gate.is_empty() {
                stage.close(gate);
            }
            let two = stage.push("two", "");
            stage.until_phase(&two, phase);
            stage.end_daemon();
            if !gate.is_empty() {
                stage.open(gate);
            }
            stage.start_daemon();
            stage.promote(&two);
            stage.until_at_rest();
            load.end_without_loss();
            stage.assert_no_leftover();
        }
    }
}

#[test]
fn k2_daemon_and_shims_and_front_killed_together_end_with_a_serving_release() {
    for kind in BOTH {
        for word in ["", " shim", " front", "app::"] {
            let Some(mut stage) = Stage::set(Plan { standby: "5m", ..Plan::of(kind) }) else { continue };
            stage.push_live("one");
            let two = stage.push_live("two");
            let before = stage.until_at_rest();
            let load = stage.load();
            load.sees("two");
            stage.kill_daemon();
            if !word.is_empty() {
                for pid in stage.pids(word) {
                    send(pid, Signal::SIGKILL);
                }
            }
            stage.start_daemon();
            let status = stage.until("two serves", |status| {
                status["live"]["commit"] == two && status["live"]["healthy"] == true
            });
            stage.eventually("the public address answers", |stage| stage.served() == "two");
            let lossless = word.is_empty() || word == " shim" || (word == " front" && kind == Kind::Nginx);
            if lossless {
                assert_eq!(status["live"]["pid"], before["live"]["pid"], "{kind:?} {word}: {status:#}");
                load.end_without_loss();
            }
            let three = stage.push_live("three");
            assert_eq!(stage.until_at_rest()["live"]["commit"], three, "{kind:?} {word}");
            stage.done(&["flip"]);
            assert_eq!(stage.served(), "two", "{kind:?} {word}");
            if word != " shim" {
                stage.assert_no_leftover();
            }
        }
    }
}

/// The moments of a deploy, from the push to its end, in steps of this many milliseconds.
const STEP: u64 = 90;

#[test]
fn k2_kill_9_of_the_daemon_at_any_instant_of_a_deploy_or_a_flip_loses_nothing() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan { watch: "300ms", ..Plan::of(kind) }) else { continue };
        stage.push_live("start");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("start");
        for moment in 0..14 {
            let rev = format!("m{moment}");
            let commit = stage.push(&rev, "");
            sleep(moment * STEP);
            stage.kill_daemon();
            stage.start_daemon();
            stage.wait_live(&commit);
            stage.until_at_rest();
        }
        for moment in 0..6 {
            let before = stage.push_live(&format!("f{moment}"));
            stage.until_at_rest();
            let flip = stage.begin(&["flip"]);
            sleep(moment * STEP);
            stage.kill_daemon();
            drop(flip);
            stage.start_daemon();
            let status = stage.until_at_rest();
            // What was asked for is done, or was never heard.
            let held = !status["hold"].is_null();
            assert_eq!(held, status["live"]["commit"] != before, "{kind:?} {moment}: {status:#}");
        }
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn k2_kill_9_of_a_flip_without_a_daemon_loses_nothing() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan { watch: "300ms", ..Plan::of(kind) }) else { continue };
        stage.push_live("start");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("start");
        for moment in 0..8 {
            let before = stage.push_live(&format!("f{moment}"));
            stage.until_at_rest();
            stage.kill_daemon();
            let flip = stage.begin(&["flip"]);
            sleep(moment * STEP);
            // Dropping it kills it.
            drop(flip);
            stage.start_daemon();
            let status = stage.until_at_rest();
            let held = !status["hold"].is_null();
            assert_eq!(held, status["live"]["commit"] != before, "{kind:?} {moment}: {status:#}");
        }
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn d3_an_instance_that_dies_in_any_phase_costs_nothing() {
    for kind in BOTH {
        let Some(stage) = Stage::set(Plan { watch: "60s", drain: "4s", ..Plan::of(kind) }) else { continue };
        let mut good = stage.push_promoted("good");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("good");
        for phase in ["probing", "watching"] {
            if phase == "probing" {
                stage.close("up");
            }
            let bad = stage.push(phase, "");
            stage.until_phase(&bad, phase);
            let status = stage.status();
            let new = if phase == "probing" { &status["idle"]["pid"] } else { &status["live"]["pid"] };
            send(u32::try_from(new.as_u64().expect("a pid")).expect("a pid"), Signal::SIGKILL);
            let status = stage.until("it failed", |status| status["last"]["commit"] == bad);
            if phase == "probing" {
                stage.open("up");
                assert_eq!(status["last"]["outcome"], "failed", "{kind:?}: {status:#}");
            } else {
                assert_eq!(status["last"]["outcome"], "rolled_back", "{kind:?}: {status:#}");
            }
            let error = status["last"]["error"].as_str().expect("an error");
            // The probes of a watch may fail before its end is heard of.
            let told = error.contains("signal 9") || phase == "watching" && error.contains("refused");
            assert!(told, "{kind:?} {phase}: {error}");
            assert_eq!(stage.until_at_rest()["live"]["commit"], good, "{kind:?} {phase}");
            good = stage.push_promoted(&format!("good-{phase}"));
            stage.until_at_rest();
        }
        // Between the kill and the way back requests may meet nobody; before and after it none is lost.
        let counts = load.counts();
        drop(load);
        assert!(counts.lost.len() < 1000, "{:?}", counts.lost.len());
        println!("{kind:?}: {} lost of {}", counts.lost.len(), counts.total());
        stage.assert_no_leftover();
    }
}

#[test]
fn h1_shims_killed_under_a_running_daemon_cost_nothing() {
    for kind in BOTH {
        let Some(stage) = Stage::set(Plan { standby: "5m", ..Plan::of(kind) }) else { continue };
        stage.push_live("one");
        let two = stage.push_live("two");
        let before = stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        for pid in stage.pids(" shim") {
            send(pid, Signal::SIGKILL);
        }
        load.sees("two");
        let status = stage.status();
        assert_eq!(status["live"]["commit"], two);
        assert_eq!(status["live"]["pid"], before["live"]["pid"], "{status:#}");
        // The second of these ends the last one that has no shim.
        for rev in ["three", "four"] {
            stage.push_live(rev);
            stage.until_at_rest();
        }
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn k1_down_survives_a_restart_and_up_brings_the_release_back() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        let one = stage.push_live("one");
        stage.until_at_rest();
        stage.close("build");
        let two = stage.push("two", "");
        stage.until_phase(&two, "building");
        stage.done(&["down", "--yes"]);
        assert_eq!(stage.status()["state"], "stopped");
        stage.open("build");
        assert_eq!(stage.pids("app::"), Vec::<u32>::new());
        stage.kill_daemon();
        stage.start_daemon();
        assert_eq!(stage.status()["state"], "stopped");
        stage.done(&["up"]);
        let live = stage.value("live.commit");
        assert!(live == one || live == two, "{live}");
        stage.wait_live(&two);
        stage.until_at_rest();
        stage.assert_no_leftover();
    }
}

#[test]
fn h4_thirty_deploys_leave_descriptors_threads_memory_and_files_flat() {
    for kind in BOTH {
        let Some(stage) = Stage::set(Plan { watch: "100ms", drain: "1s", ..Plan::of(kind) }) else {
            continue;
        };
        for number in 0..8 {
            stage.push_live(&format!("w{number}"));
        }
        stage.until_at_rest();
        let before = Usage::of(&stage);
        for number in 0..30 {
            stage.push_live(&format!("r{number}"));
        }
        stage.until_at_rest();
        stage.assert_no_leftover();
        let after = Usage::of(&stage);
        assert!(after.descriptors <= before.descriptors + 2, "{before:?} {after:?}");
        assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
        assert!(after.files <= before.files + 3, "{before:?} {after:?} {:#?}", files(&stage));
        assert!(after.rss_kb <= before.rss_kb + 8 * 1024, "{before:?} {after:?}");
    }
}

#[derive(Debug)]
struct Usage {
    descriptors: usize,
    threads: usize,
    rss_kb: u64,
    files: usize,
}

impl Usage {
    fn of(stage: &Stage) -> Self {
        let proc = std::path::PathBuf::from(format!("/proc/{}", stage.daemon_pid()));
        let count = |name: &str| std::fs::read_dir(proc.join(name)).unwrap().count();
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            rss_kb: rss.split_whitespace().next().unwrap().parse().unwrap(),
            files: files(stage).len(),
        }
    }
}

/// All but the mirror and the insides of releases.
fn files(stage: &Stage) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![stage.path("state"), stage.path("run"), stage.path("conf.d")];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            found.push(path.display().to_string());
            let inside = path.ends_with("mirror.git") || dir.ends_with("releases");
            if path.is_dir() && !inside {
                left.push(path);
            }
        }
    }
    found
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
