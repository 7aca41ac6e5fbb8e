//! Apps that listen on unix sockets: behind nginx the flip is a rename, behind the builtin front a connection like any
//! other; what lies in the way of a socket, and what happens when it is taken away.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    shop::{Kind, Plan, Stage, on_both, send},
    stage::load::CLIENTS,
};

fn stage(kind: Kind) -> Option<Stage> {
    Stage::set_open(Plan { unix: true, watch: "200ms", ..Plan::of(kind) })
}

/// Pids of nginx's workers.
fn workers(stage: &Stage) -> Vec<u32> {
    let all = stage.processes().into_iter().filter(|(_, line)| line.contains("nginx: worker process"));
    let mut pids: Vec<u32> = all.map(|(pid, _)| pid).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn k2_an_app_on_sockets_flips_without_a_reload_also_around_killed_daemons() {
    let Some(mut stage) = stage(Kind::Nginx) else { return };
    stage.push_live("r0");
    stage.until_at_rest();
    stage.eventually("the first workers are gone", |stage| workers(stage).len() == 2);
    let (before, load) = (workers(&stage), stage.load());
    load.sees("r0");
    let mut last = String::new();
    for number in 1..=6_u64 {
        let rev = format!("r{number}");
        last = stage.push(&rev, "");
        if number % 2 == 0 {
            // The short phases around the rename are hit by time alone.
            thread::sleep(Duration::from_millis(number * 60));
            stage.kill_daemon();
            load.goes_on();
            stage.start_daemon();
        }
        stage.wait_live(&last);
        load.sees(&rev);
        stage.until_at_rest();
    }
    stage.done(&["flip"]);
    load.sees("r5");
    assert_ne!(stage.until_at_rest()["live"]["commit"], last);
    load.end_without_loss();
    // What a hand took away is put back.
    fs::remove_file(stage.path("conf.d/.bgd-shop.conf.live")).unwrap();
    stage.eventually("it serves again", |stage| stage.served() == "r5");
    assert_eq!(workers(&stage), before, "nginx was reloaded");
    let live = stage.status()["live"].clone();
    let color = live["color"].as_str().unwrap();
    assert_eq!(live["socket"], stage.path(&format!("run/a/shop/{color}.sock")).to_str().unwrap());
    assert!(live["port"].is_null());
    let shown = stage.bgd(&["status"]).stdout;
    assert!(shown.contains(&format!("on {color} (socket /")), "{shown}");
    stage.assert_no_leftover();
}

#[test]
fn d1_a_stranger_on_the_socket_is_named_and_a_stale_or_wiped_socket_is_no_hindrance() {
    let stage = stage(Kind::Builtin).expect("the builtin front needs nothing");
    let good = stage.push_live("good");
    stage.until_at_rest();
    let green = stage.path("run/a/shop/green.sock");
    let mode = fs::metadata(stage.path("run/a/shop/blue.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666, "whoever passes the directory may connect");
    let load = stage.load();
    load.sees("good");
    // This process is no child of bgd's.
    let stranger = UnixListener::bind(&green).unwrap();
    let commit = stage.push("refused", "");
    let status = stage.until("the deploy has failed", |status| status["last"]["commit"] == *commit);
    assert_eq!(status["last"]["outcome"], "failed", "{status:#}");
    let error = status["last"]["error"].as_str().unwrap_or_default();
    assert!(error.contains(&format!("socket {} (green) is held by pid", green.display())), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    assert_eq!(stage.until_at_rest()["live"]["commit"], good);
    // Its file stays, and nobody listens.
    drop(stranger);
    assert!(green.exists());
    stage.push_live("next");
    load.sees("next");
    load.end_without_loss();
    let pid = stage.until_at_rest()["live"]["pid"].clone();
    fs::remove_dir_all(stage.path("run/a")).unwrap();
    stage.until("it is started anew", |status| {
        !status["live"]["pid"].is_null() && status["live"]["pid"] != pid && status["live"]["healthy"] == true
    });
    stage.eventually("it serves", |stage| stage.served() == "next");
    stage.assert_no_leftover();
}

/// The sockets of the live color, and the pids of those that listen there.
fn live_sockets(stage: &Stage) -> Vec<(String, u64)> {
    let live = stage.until("all are well", |status| {
        let all = status["live"]["instances"].as_array().cloned().unwrap_or_default();
        all.len() == 3 && all.iter().all(|one| one["healthy"] == true)
    })["live"]
        .clone();
    let each = live["instances"].as_array().expect("instances").iter();
    each.map(|one| {
        (one["socket"].as_str().expect("a socket").to_owned(), one["pid"].as_u64().expect("a pid"))
    })
    .collect()
}

#[test]
fn three_instances_on_sockets_are_flipped_together_and_one_that_dies_is_started_again() {
    on_both(|kind| {
        let plan = Plan { unix: true, instances: 3, watch: "200ms", ..Plan::of(kind) };
        let Some(stage) = Stage::set_open(plan) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        stage.eventually("the first workers are gone", |stage| {
            kind != Kind::Nginx || workers(stage).len() == 2
        });
        let (before, load) = (workers(&stage), stage.load());
        load.sees("one");
        for rev in ["two", "three"] {
            stage.push_live(rev);
            load.sees(rev);
            stage.until_at_rest();
        }
        assert_eq!(workers(&stage), before, "nginx was reloaded");
        stage.done(&["flip"]);
        load.sees("two");
        stage.until_at_rest();
        load.end_without_loss();
        let live = live_sockets(&stage);
        let expected =
            ["green.sock", "green.2.sock", "green.3.sock"].map(|name| stage.path("run/a/shop").join(name));
        assert!(
            live.iter().map(|(socket, _)| socket.as_str()).eq(expected.iter().map(|it| it.to_str().unwrap()))
        );

        let load = stage.load();
        load.sees("two");
        send(u32::try_from(live[1].1).expect("a pid"), Signal::SIGKILL);
        stage.until("it is started again", |status| {
            let now = &status["live"]["instances"][1];
            now["pid"].as_u64().is_some_and(|pid| pid != live[1].1) && now["healthy"] == true
        });
        load.sees("two");
        let counts = load.end();
        assert!(counts.lost.len() <= CLIENTS, "{:#?}", counts.lost);
        let again = live_sockets(&stage);
        assert_eq!((&again[0], &again[2]), (&live[0], &live[2]));
        // Another user's workers may connect to what was started again, too.
        let mode = |path: &str| fs::metadata(path).expect("a socket").permissions().mode() & 0o777;
        assert_eq!(again.iter().map(|(socket, _)| mode(socket)).collect::<Vec<_>>(), [0o666; 3]);
        stage.done(&["down", "--yes"]);
        stage.eventually("all are gone", |stage| stage.shims().is_empty());
    });
}
