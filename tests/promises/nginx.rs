//! An nginx that others use too: stopped, started, reloaded, misconfigured and edited by hand.

use std::fs;

use nix::sys::signal::Signal;

use crate::{
    shop::error,
    shop::{Kind, Plan, Stage, send},
    stage::load::BRIEF,
};

fn two_live() -> Option<(Stage, String, String)> {
    let stage = Stage::set(Plan::of(Kind::Nginx))?;
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    Some((stage, one, two))
}

#[test]
fn f4_a_foreign_vhost_that_breaks_the_test_is_named_before_the_build_and_a_flip_still_works() {
    let Some((stage, one, two)) = two_live() else { return };
    let load = stage.load_with(BRIEF);
    load.sees("two");
    let include = stage.include();
    fs::write(stage.path("conf.d/foreign.conf"), "server { listen 127.0.0.1:1; nonsense; }\n").unwrap();
    stage.close("build");
    let three = stage.push("three", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == three);
    assert_eq!(status["live"]["commit"], two);
    assert!(error(&status).contains("foreign.conf"), "{}", error(&status));
    stage.open("build");
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(stage.served(), "one", "{ran:?}");
    stage.eventually("the file is what nginx was told", |stage| stage.include() == include);
    load.sees("one");
    let answered = load.end_without_loss().answered;
    assert!(!answered.contains_key("three"), "{answered:?}");
    fs::remove_file(stage.path("conf.d/foreign.conf")).unwrap();
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    stage.push_live("four");
    stage.assert_no_leftover();
}

/// The bad release ignores TERM, and its grace is long: nobody waits for that, neither the public nor the operator.
#[test]
fn n4_a_flip_past_a_broken_foreign_file_hands_the_port_to_the_warm_release_and_loses_nothing() {
    let plan = Plan { watch: "60s", grace: "50s", ..Plan::of(Kind::Nginx) };
    let Some(mut stage) = Stage::set(plan) else { return };
    let one = stage.push_promoted("one");
    let two = stage.push("two", "term = ignored");
    stage.until_phase(&two, "watching");
    let bad: u32 = stage.value("live.pid").parse().unwrap();
    fs::write(stage.path("conf.d/foreign.conf"), "server { listen 127.0.0.1:1; nonsense; }\n").unwrap();
    let load = stage.load();
    load.sees("two");
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for _ in 0..40 {
        assert_eq!(stage.served(), "one", "{ran:?}");
    }
    for said in ["the front can't be moved", "answers for", "foreign.conf"] {
        assert!(ran.stdout.contains(said), "{said}: {ran:?}");
    }
    let status = stage.until("it ended", |status| status["last"]["commit"] == two);
    assert_eq!(
        (&status["live"]["commit"], &status["last"]["replaced"]),
        (&one.into(), &true.into()),
        "{status:#}"
    );
    assert!(status["trouble"].as_str().is_some_and(|said| said.contains("answers for")), "{status:#}");
    let history: serde_json::Value = serde_json::from_str(&stage.done(&["history", "--json"])).unwrap();
    let replaced: Vec<_> = history.as_array().unwrap().iter().map(|it| it["replaced"].clone()).collect();
    assert_eq!(replaced, [true, false]);
    // It has its grace to itself.
    assert!(std::path::Path::new(&format!("/proc/{bad}")).exists());
    send(bad, Signal::SIGKILL);
    // It is kept up like an instance, over a restart of bgd, and goes when nginx was told.
    let relay: u32 = status["idle"]["pid"].to_string().parse().unwrap();
    stage.kill_daemon();
    stage.start_daemon();
    let status = stage.until("it was left alone", |status| !status["trouble"].is_null());
    assert_eq!(status["idle"]["pid"], relay, "{status:#}");
    load.sees("one");
    fs::remove_file(stage.path("conf.d/foreign.conf")).unwrap();
    let status = stage.until("nginx was told", |status| status["idle"]["state"] == "stopped");
    assert_eq!((&status["trouble"], status["state"].as_str()), (&serde_json::Value::Null, Some("held")));
    load.sees("one");
    load.end_without_loss();
    stage.push_promoted("three");
    stage.assert_no_leftover();
}

#[test]
fn n4_what_stands_in_and_is_killed_is_put_there_again() {
    let Some((stage, _one, _two)) = two_live() else { return };
    fs::write(stage.path("conf.d/foreign.conf"), "server { listen 127.0.0.1:1; nonsense; }\n").unwrap();
    stage.done(&["flip"]);
    let relay: u32 = stage.value("idle.pid").parse().unwrap();
    send(relay, Signal::SIGKILL);
    stage.eventually("another answers", |stage| {
        let pid = stage.status()["idle"]["pid"].as_u64();
        pid.is_some_and(|pid| pid != u64::from(relay)) && stage.served() == "one"
    });
    let events = stage.done(&["events", "--since", "0"]);
    assert!(events.contains("what passes on what comes to"), "{events}");
    let load = stage.load_with(BRIEF);
    load.sees("one");
    fs::remove_file(stage.path("conf.d/foreign.conf")).unwrap();
    stage.until("nginx was told", |status| status["idle"]["state"] == "stopped");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f4_a_flip_that_can_t_take_a_canary_s_share_back_gives_it_to_the_live_release_until_nginx_takes_a_route() {
    let Some(stage) = Stage::set(Plan::of(Kind::Nginx)) else { return };
    stage.configure("[app.shop.canary]\nsteps = [\"25%\"]\n");
    stage.done(&["reload"]);
    let old = stage.push_live("old");
    let bad = stage.push("bad", "");
    stage.eventually("it has its share", |stage| stage.served() == "bad");
    let told = fs::read_to_string(stage.path("conf.d/bgd-shop.conf")).unwrap();
    fs::write(stage.path("conf.d/foreign.conf"), "server { listen 127.0.0.1:1; nonsense; }\n").unwrap();
    let flip = stage.begin(&["flip"]);
    stage.until("the deploy has ended", |status| status["last"]["commit"] == bad);
    let ran = flip.end();
    assert_eq!(ran.code, 0, "{ran:?}");
    let load = stage.load_with(BRIEF);
    for _ in 0..24 {
        assert_eq!(stage.served(), "old", "nginx shares as before");
    }
    let status = stage.status();
    assert_eq!((&status["live"]["commit"], &status["last"]["outcome"]), (&old.into(), &"cancelled".into()));
    assert_eq!(status["idle"]["state"], "warm", "{status:#}");
    // Each try writes the file, and takes it back when nginx refuses.
    stage.eventually("the file is what nginx was told", |stage| {
        fs::read_to_string(stage.path("conf.d/bgd-shop.conf")).unwrap() == told
    });
    fs::remove_file(stage.path("conf.d/foreign.conf")).unwrap();
    stage.until("what stood in for it has gone", |status| status["idle"]["state"] == "stopped");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f2_a_vhost_that_passes_the_test_and_does_not_apply_leaves_the_old_color_untouched() {
    let Some((stage, _one, two)) = two_live() else { return };
    let load = stage.load();
    load.sees("two");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::write(stage.path("conf.d/foreign.conf"), format!("server {{ listen {address}; }}\n")).unwrap();
    let before = stage.include();
    let three = stage.push("three", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == three);
    assert_eq!(status["live"]["commit"], two);
    assert_eq!(status["last"]["phase"], "switching", "{status:#}");
    let shown = stage.done(&["show", &status["last"]["id"].to_string()]);
    assert!(shown.contains("bind"), "nginx's own words are missing: {shown}");
    stage.until_at_rest();
    assert_eq!(stage.include(), before, "the file is as it was");
    drop(taken);
    fs::remove_file(stage.path("conf.d/foreign.conf")).unwrap();
    stage.done(&["deploy"]);
    assert_eq!(stage.served(), "three");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f7_without_its_pid_file_nginx_is_said_to_be_down_before_anything_is_touched() {
    let Some((stage, _one, two)) = two_live() else { return };
    let load = stage.load();
    load.sees("two");
    let pid = fs::read_to_string(stage.path("nginx.pid")).unwrap();
    for (text, what) in [(None, "missing"), (Some(""), "empty"), (Some("999999\n"), "stale")] {
        match text {
            None => fs::remove_file(stage.path("nginx.pid")).unwrap(),
            Some(text) => fs::write(stage.path("nginx.pid"), text).unwrap(),
        }
        let before = stage.include();
        let rev = format!("three-{what}");
        let three = stage.push(&rev, "");
        let status = stage.until(what, |status| status["last"]["commit"] == three);
        assert_eq!(status["last"]["outcome"], "failed", "{what}: {status:#}");
        assert!(error(&status).contains("nginx.pid"), "{what}: {}", error(&status));
        assert_eq!(status["live"]["commit"], two);
        assert_eq!(stage.include(), before);
        fs::write(stage.path("nginx.pid"), &pid).unwrap();
        stage.until_at_rest();
    }
    stage.done(&["deploy"]);
    assert_eq!(stage.served(), "three-stale");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f3_a_file_edited_by_hand_to_the_other_color_is_noticed_and_loses_nothing() {
    let Some((stage, _one, _two)) = two_live() else { return };
    let load = stage.load();
    load.sees("two");
    let status = stage.until_at_rest();
    let (live, idle) = (status["live"]["port"].to_string(), status["idle"]["port"].to_string());
    let edited =
        stage.include().replace(&format!("server 127.0.0.1:{live}"), &format!("server 127.0.0.1:{idle}"));
    // Not reloaded: what nginx has in force is still the live color.
    fs::write(stage.path("conf.d/bgd-shop.conf"), edited).unwrap();
    let three = stage.push("three", "");
    stage.wait_live(&three);
    stage.until_at_rest();
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f3_a_flip_by_hand_is_the_truth_for_a_daemon_that_starts() {
    let plan = Plan { standby: "5m", ..Plan::of(Kind::Nginx) };
    let Some(mut stage) = Stage::set(plan) else { return };
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    let status = stage.until_at_rest();
    let load = stage.load();
    load.sees("two");
    let (live, idle) = (status["live"]["port"].to_string(), status["idle"]["port"].to_string());
    let edited =
        stage.include().replace(&format!("server 127.0.0.1:{live}"), &format!("server 127.0.0.1:{idle}"));
    stage.kill_daemon();
    fs::write(stage.path("conf.d/bgd-shop.conf"), edited).unwrap();
    stage.reload_nginx();
    load.sees("one");
    stage.start_daemon();
    let adopted =
        format!("the front routes to {} ({}), not to", status["idle"]["color"].as_str().unwrap(), &one[..7]);
    stage.eventually("it is adopted", |stage| stage.done(&["events"]).contains(&adopted));
    let _ = two;
    stage.until_at_rest();
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f3_a_flip_by_hand_under_a_running_daemon_stops_nothing_that_serves() {
    let plan = Plan { standby: "4s", ..Plan::of(Kind::Nginx) };
    let Some(stage) = Stage::set(plan) else { return };
    let one = stage.push_live("one");
    stage.push_live("two");
    let status = stage.until_at_rest();
    let load = stage.load();
    load.sees("two");
    let (live, idle) = (status["live"]["port"].to_string(), status["idle"]["port"].to_string());
    let edited =
        stage.include().replace(&format!("server 127.0.0.1:{live}"), &format!("server 127.0.0.1:{idle}"));
    fs::write(stage.path("conf.d/bgd-shop.conf"), edited).unwrap();
    stage.reload_nginx();
    load.sees("one");
    // The standby runs out; the old color receives the traffic and must not be stopped.
    stage.eventually("its stop is refused", |stage| stage.done(&["events"]).contains("it stays"));
    load.sees("one");
    let three = stage.push("three", "");
    let ran = stage.bgd(&["wait", "--for", &format!("rev={three}"), "--timeout", "20s"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("the front routes to"), "{ran:?}");
    assert_eq!(stage.status()["state"], "degraded");
    // The operator's word decides: what the hand meant is what a flip does.
    stage.done(&["flip"]);
    let status = stage.until_at_rest();
    assert_eq!(status["live"]["commit"], one, "{status:#}");
    load.sees("one");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f6_a_file_that_nginx_never_took_up_is_put_right_with_the_daemon_running_or_at_its_start() {
    let plan = Plan { standby: "5m", ..Plan::of(Kind::Nginx) };
    let Some(mut stage) = Stage::set(plan) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    let older = stage.include();
    stage.push_live("two");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("two");
    for running in [true, false] {
        if !running {
            stage.kill_daemon();
        }
        // Whole, bgd's own, and of another color than what serves: the next reload by anybody would move the traffic.
        fs::write(stage.path("conf.d/bgd-shop.conf"), &older).unwrap();
        if !running {
            stage.start_daemon();
        }
        stage.eventually("the file says what is live again", |stage| stage.include() != older);
        stage.eventually("nothing is wrong any more", |stage| stage.status()["state"] == "live");
        stage.reload_nginx();
        load.sees("two");
        assert_eq!(stage.served(), "two", "daemon running: {running}");
    }
    stage.push_live("three");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f6_a_hand_that_sends_the_traffic_to_nobody_is_corrected() {
    let Some((stage, _one, _two)) = two_live() else { return };
    let status = stage.until_at_rest();
    let (live, idle) = (status["live"]["port"].to_string(), status["idle"]["port"].to_string());
    let edited =
        stage.include().replace(&format!("server 127.0.0.1:{live}"), &format!("server 127.0.0.1:{idle}"));
    fs::write(stage.path("conf.d/bgd-shop.conf"), edited).unwrap();
    assert_eq!(stage.nginx(&["-s", "reload"]).code, 0);
    stage.eventually("the edit is in force", |stage| stage.served() != "two");
    stage.eventually("the traffic is back", |stage| stage.served() == "two");
    stage.until("nothing is wrong any more", |status| status["state"] == "live");
    stage.assert_no_leftover();
}

#[test]
fn m1_a_stopped_nginx_shows_in_status() {
    let Some((mut stage, _one, _two)) = two_live() else { return };
    stage.stop_nginx();
    stage.until("it is said", |status| status["state"] == "degraded");
    stage.assert_status_is_true();
    stage.run_nginx();
    stage.until("it is over", |status| status["state"] == "live");
    assert_eq!(stage.served(), "two");
    stage.assert_status_is_true();
}

#[test]
fn f11_a_symlinked_file_stays_a_symlink() {
    let Some((stage, _one, _two)) = two_live() else { return };
    let file = stage.path("conf.d/bgd-shop.conf");
    fs::create_dir(stage.path("elsewhere")).unwrap();
    let real = stage.path("elsewhere/real.conf");
    fs::rename(&file, &real).unwrap();
    std::os::unix::fs::symlink(&real, &file).unwrap();
    let load = stage.load();
    load.sees("two");
    stage.push_live("three");
    stage.done(&["flip"]);
    assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
    stage.until_at_rest();
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f7_nginx_stopped_by_others_in_the_middle_of_a_deploy_keeps_the_old_color_for_its_return() {
    let Some((mut stage, _one, two)) = two_live() else { return };
    stage.close("up");
    let three = stage.push("three", "");
    stage.until_phase(&three, "probing");
    stage.stop_nginx();
    stage.open("up");
    let status = stage.until("it failed", |status| status["last"]["commit"] == three);
    assert_eq!(status["last"]["outcome"], "failed", "{status:#}");
    assert_eq!(status["live"]["commit"], two);
    stage.until("the new one is gone", |status| status["deploy"].is_null());
    stage.run_nginx();
    assert_eq!(stage.served(), "two");
    stage.done(&["deploy"]);
    assert_eq!(stage.served(), "three");
    stage.assert_no_leftover();
}

#[test]
fn f2_reloads_by_others_in_the_middle_of_a_deploy_lose_nothing() {
    let Some((stage, _one, _two)) = two_live() else { return };
    let load = stage.load();
    load.sees("two");
    for rev in ["three", "four", "five"] {
        let commit = stage.push(rev, "");
        loop {
            let status = stage.status();
            if status["live"]["commit"] == commit && status["deploy"].is_null() {
                break;
            }
            assert!(status["last"]["commit"] != commit || status["last"]["outcome"] == "live", "{status:#}");
            assert_eq!(stage.nginx(&["-s", "reload"]).code, 0);
        }
    }
    stage.until_at_rest();
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn f6_nginx_restarted_by_others_serves_the_live_color() {
    let Some((mut stage, _one, two)) = two_live() else { return };
    stage.stop_nginx();
    stage.run_nginx();
    assert_eq!(stage.served(), "two");
    stage.done(&["flip"]);
    assert_eq!(stage.served(), "one");
    let _ = two;
    stage.assert_no_leftover();
}
