//! The one way back with something else stuck: the daemon, a build, the remote, another flip.

use std::time::Instant;

use bgd::release::git::GitLimits;

use crate::{
    shop::host::SilentRemote,
    shop::{Kind, Plan, Stage},
};

const BOTH: [Kind; 2] = [Kind::Builtin, Kind::Nginx];

#[test]
fn i6_a_flip_works_with_the_daemon_killed() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        let one = stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        stage.kill_daemon();
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        assert_eq!(stage.served(), "one", "{kind:?}: {ran:?}");
        let offline = stage.bgd(&["status", "--json"]);
        assert_eq!(offline.code, 4, "{kind:?}: {offline:?}");
        assert_eq!(stage.value("live.commit"), one);
        stage.start_daemon();
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], one, "{kind:?}: {status:#}");
        assert_eq!(status["state"], "held", "{kind:?}: {status:#}");
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn i6_a_flip_works_with_the_daemon_hung() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan { standby: "60s", ..Plan::of(kind) }) else { continue };
        let one = stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        stage.hang_daemon();
        // Neither waits for the daemon, which never answers.
        let ran = stage.bgd(&["status", "--json"]);
        assert_eq!(ran.code, 4, "{kind:?}: {ran:?}");
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        assert_eq!(stage.served(), "one", "{kind:?}: {ran:?}");
        stage.forget_daemon();
        stage.start_daemon();
        assert_eq!(stage.until_at_rest()["live"]["commit"], one);
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn i6_a_flip_ends_a_hung_daemon_in_every_phase_of_a_deploy() {
    for (gate, phase) in [("build", "building"), ("hook", "starting"), ("up", "probing"), ("", "watching")] {
        // The watch must outlast the two seconds after which a daemon counts as hung.
        let plan = Plan { hook: true, watch: "60s", ..Plan::of(Kind::Nginx) };
        let Some(mut stage) = Stage::set(plan) else { return };
        let one = stage.push_promoted("one");
        let load = stage.load();
        load.sees("one");
        if !gate.is_empty() {
            stage.close(gate);
        }
        stage.until_at_rest();
        let two = stage.push("two", "");
        stage.until_phase(&two, phase);
        stage.hang_daemon();
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{phase}: {ran:?}");
        assert_eq!(stage.served(), "one", "{phase}: {ran:?}");
        if !gate.is_empty() {
            stage.open(gate);
        }
        stage.forget_daemon();
        stage.start_daemon();
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], one, "{phase}: {status:#}");
        assert_eq!(status["state"], "held", "{phase}: {status:#}");
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn a1_status_and_flip_never_wait_for_a_silent_remote() {
    // Whoever waits for the remote waits for as long.
    let patience = GitLimits::default().ask;
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        let one = stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let silent = SilentRemote::start();
        stage.end_daemon();
        let remote = format!("{}/remote.git", stage.path("").display()).replace("//", "/");
        stage.amend(&format!("remote = \"{remote}\""), &format!("remote = \"{}\"", silent.url));
        stage.start_daemon();
        let load = stage.load();
        load.sees("two");
        // A deploy that waits for the remote, and a flip that does not.
        let deploy = stage.begin(&["deploy"]);
        stage.until("fetching", |status| status["deploy"]["phase"] == "fetching");
        let asked = Instant::now();
        stage.done(&["flip"]);
        assert!(asked.elapsed() < patience, "{kind:?}: {:?}", asked.elapsed());
        assert_ne!(deploy.end().code, 0);
        // That flip called the deploy off; the next one goes back.
        let asked = Instant::now();
        stage.done(&["flip"]);
        assert!(asked.elapsed() < patience, "{kind:?}: {:?}", asked.elapsed());
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], one, "{kind:?}: {status:#}");
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn g5_a_warm_color_makes_the_flip_instant() {
    for kind in BOTH {
        let Some(stage) = Stage::set(Plan { standby: "5m", ..Plan::of(kind) }) else { continue };
        stage.push_live("one");
        stage.push_live("two");
        let status = stage.until_at_rest();
        assert_eq!(status["idle"]["state"], "warm", "{status:#}");
        let pid = status["idle"]["pid"].clone();
        let load = stage.load();
        load.sees("two");
        stage.done(&["flip"]);
        assert_eq!(stage.status()["live"]["pid"], pid, "{kind:?}: the warm process serves");
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn k4_a_second_daemon_refuses_and_names_the_first() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    let ran = stage.bgd(&["daemon"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains(&stage.daemon_pid().to_string()), "{ran:?}");
    assert_eq!(stage.served(), "one");
    stage.assert_no_leftover();
}

#[test]
fn i5_flips_at_once_without_a_daemon_end_in_one_of_the_two_releases() {
    let Some(mut stage) = Stage::set(Plan { standby: "60s", ..Plan::of(Kind::Nginx) }) else { return };
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("two");
    stage.kill_daemon();
    let flips = [stage.begin(&["flip"]), stage.begin(&["flip"]), stage.begin(&["flip"])];
    let ran = flips.map(|flip| flip.end());
    assert!(ran.iter().any(|ran| ran.code == 0), "{ran:?}");
    assert!(ran.iter().all(|ran| ran.code == 0 || ran.code == 5), "{ran:?}");
    stage.start_daemon();
    let live = stage.until_at_rest()["live"]["commit"].clone();
    assert!(live == one || live == two, "{live}");
    load.end_without_loss();
    stage.assert_no_leftover();
}
