//! Beside deploys: what dies comes back, a second daemon is refused, SIGTERM leaves everything serving, a bad
//! configuration changes nothing, and websockets outlive a flip.

use std::{
    fs,
    io::{Read as _, Write as _},
};

use nix::sys::signal::Signal;

use crate::{
    shop::app,
    shop::{Kind, Plan, Stage, on_both, on_each, send},
    stage::{
        http,
        load::{CLIENTS, Loss},
    },
};

fn live_pid(stage: &Stage) -> u32 {
    stage.value("live.pid").parse().expect("a live pid")
}

fn comes_back(stage: &Stage, old: u32, rev: &str) {
    stage.until("another instance is live and healthy", |status| {
        let pid = status["live"]["pid"].as_u64();
        pid.is_some_and(|pid| pid != u64::from(old)) && status["live"]["healthy"] == true
    });
    stage.eventually("it is routed", |stage| stage.served() == rev);
    stage.assert_no_leftover();
}

#[test]
fn h1_a_live_instance_that_is_killed_is_started_again() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        let pid = live_pid(&stage);
        send(pid, Signal::SIGKILL);
        comes_back(&stage, pid, "one");
        assert!(stage.done(&["events", "--since", "0"]).contains("SIGKILL"), "{}", stage.done(&["events"]));
        // And again after a restart of the daemon, which only adopted it.
        stage.end_daemon();
        stage.start_daemon();
        let pid = live_pid(&stage);
        send(pid, Signal::SIGKILL);
        comes_back(&stage, pid, "one");
    });
}

/// From now on the app is started by this line, with the app's own command in place of `APP`.
fn start_by(stage: &Stage, line: &str) {
    let text = fs::read_to_string(stage.path("bgd.toml")).expect("the configuration");
    let start = text.lines().find(|line| line.starts_with("start = ")).expect("a start command");
    let line = format!("start = \"{}\"", line.replace("APP", &app::command().join(" ")));
    fs::write(stage.path("bgd.toml"), text.replace(start, &line)).expect("write the configuration");
    stage.done(&["reload"]);
}

/// The process that answers; 0 while none does.
fn server(stage: &Stage) -> u32 {
    let answer = http::get(stage.public(), "/").ok();
    let pid = answer.and_then(|answer| answer.head.get("x-pid")?.parse().ok());
    pid.unwrap_or(0)
}

/// That process dies, and nothing of its instance is left when another one serves, whose pid status says.
fn is_replaced_when_killed(stage: &Stage, victim: u32) {
    let (shown, served) = (live_pid(stage), server(stage));
    assert!(stage.processes().iter().any(|(pid, _)| *pid == shown), "status says a dead pid: {shown}");
    send(victim, Signal::SIGKILL);
    stage.eventually("another instance serves", |stage| ![0, served].contains(&server(stage)));
    stage.until("its pid is shown", |status| {
        let pid = status["live"]["pid"].as_u64();
        pid.is_some_and(|pid| pid != u64::from(shown)) && status["live"]["healthy"] == true
    });
    let left = stage.processes();
    let old = left.iter().filter(|(pid, _)| [victim, shown, served].contains(pid));
    assert_eq!(old.count(), 0, "{left:?}");
}

#[test]
fn h1_an_app_behind_a_shell_or_in_the_background_is_started_again_whatever_of_it_is_killed() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    start_by(&stage, "APP; exit $?");
    stage.push_live("one");
    stage.until_at_rest();
    let shell = live_pid(&stage);
    assert_ne!(shell, server(&stage), "the shell stays as the parent");
    is_replaced_when_killed(&stage, shell);
    is_replaced_when_killed(&stage, server(&stage));
    // What goes into the background beside a helper: the helper alone is no instance.
    start_by(&stage, "setsid APP & sleep 3000 & exit 0");
    stage.push_live("two");
    stage.until_at_rest();
    is_replaced_when_killed(&stage, server(&stage));
    // Alone, the line is the app itself; here with nobody to look after it, and a child at its side that ignores TERM.
    start_by(&stage, "APP");
    let three = stage.push("three", "hides = yes");
    stage.wait_live(&three);
    stage.until_at_rest();
    assert_eq!(live_pid(&stage), server(&stage));
    stage.shims().into_iter().for_each(|shim| send(shim, Signal::SIGKILL));
    is_replaced_when_killed(&stage, server(&stage));
    stage.assert_status_is_true();
}

#[test]
fn h1_a_live_instance_that_died_without_a_daemon_is_started_by_the_next_one() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    let pid = live_pid(&stage);
    stage.kill_daemon();
    send(pid, Signal::SIGKILL);
    stage.start_daemon();
    comes_back(&stage, pid, "one");
}

#[test]
fn h1_an_instance_whose_shim_is_killed_serves_on_and_can_be_stopped_and_started() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        let shims = stage.shims();
        assert_eq!(shims.len(), 1, "{shims:?}");
        let load = stage.load();
        load.sees("one");
        send(shims[0], Signal::SIGKILL);
        stage.eventually("the shim is gone", |stage| !stage.shims().contains(&shims[0]));
        load.sees("one");
        stage.push_live("two");
        load.sees("two");
        load.end_without_loss();
        stage.assert_no_leftover();
        // Both at once.
        stage.until_at_rest();
        let pid = live_pid(&stage);
        send(stage.shims()[0], Signal::SIGKILL);
        send(pid, Signal::SIGKILL);
        comes_back(&stage, pid, "two");
    });
}

#[test]
fn a_killed_builtin_front_costs_what_is_in_flight_and_nothing_more() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    for restarted in [false, true] {
        if restarted {
            stage.end_daemon();
            stage.start_daemon();
        }
        let load = stage.load();
        load.sees("one");
        send(front_pid(&stage), Signal::SIGKILL);
        load.sees("one");
        // What was with it is cut; nobody is refused, and nobody is answered without a route.
        let lost = load.end().lost;
        let is_cut = |lost: &Loss| !lost.how.contains("refused") && !lost.how.contains("answered");
        assert!(lost.len() <= CLIENTS && lost.iter().all(is_cut), "{lost:#?}");
    }
    stage.push_live("two");
    stage.assert_no_leftover();
}

fn front_pid(stage: &Stage) -> u32 {
    let fronts: Vec<_> =
        stage.processes().into_iter().filter(|(_, line)| line.contains("bgd front")).collect();
    assert_eq!(fronts.len(), 1, "{fronts:?}");
    fronts[0].0
}

#[test]
fn a_builtin_front_that_hangs_is_ended_and_its_heir_serves() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    for restarted in [false, true] {
        let hung = front_pid(&stage);
        send(hung, Signal::SIGSTOP);
        if restarted {
            // The next daemon finds it so, and has no second handle on its socket.
            stage.kill_daemon();
            stage.start_daemon();
        }
        stage.eventually("an heir serves", |stage| stage.served() == "one");
        assert_ne!(front_pid(&stage), hung);
        stage.until("the trouble is over", |status| status["trouble"].is_null());
    }
    stage.eventually("both ends are on record", |stage| {
        stage.done(&["events", "--since", "0"]).matches("the front hung (").count() == 2
    });
    stage.push_live("two");
    stage.assert_no_leftover();
}

#[test]
fn k4_a_second_daemon_refuses_and_names_the_first() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let ran = stage.bgd(&["daemon"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains(&stage.daemon_pid().to_string()), "{ran:?}");
    stage.assert_status_is_true();
}

#[test]
fn k1_sigterm_of_the_daemon_leaves_app_and_front_serving() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        let pid = live_pid(&stage);
        let load = stage.load();
        load.sees("one");
        stage.end_daemon();
        load.sees("one");
        let ran = stage.bgd(&["status"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        stage.assert_status_is_true();
        stage.start_daemon();
        stage.assert_status_is_true();
        assert_eq!(live_pid(&stage), pid);
        load.sees("one");
        load.end_without_loss();
    });
}

#[test]
fn l4_a_bad_configuration_keeps_the_old_one_in_force() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    let good = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    fs::write(stage.path("bgd.toml"), good.replace("build =", "biuld =")).unwrap();
    assert_eq!(stage.bgd(&["check"]).code, 2);
    let put_back = || fs::write(stage.path("bgd.toml"), &good).unwrap();
    stage.signal_daemon(Signal::SIGHUP);
    stage.eventually("it is refused and said", |stage| {
        fs::read_to_string(stage.path("daemon.log")).unwrap().contains("biuld")
    });
    assert_eq!(stage.served(), "one");
    let refused = "the configuration on disk is not in force: `bgd check`";
    let said = stage.done(&["status"]);
    assert!(said.starts_with(refused), "{said}");
    put_back();
    stage.done(&["reload"]);
    let said = stage.done(&["status"]);
    assert!(!said.contains("not in force"), "{said}");
    stage.configure("keep = 3\n");
    stage.done(&["reload"]);
    stage.push_live("two");
    // L2: a changed environment takes effect by a redeploy.
    let text = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    fs::write(stage.path("bgd.toml"), text.replace("env = { ", "env = { COLOUR = \"teal\", ")).unwrap();
    stage.done(&["reload"]);
    stage.done(&["deploy"]);
    assert_eq!(stage.done(&["exec", "--", "sh", "-c", "echo $COLOUR"]), "teal");
    stage.assert_status_is_true();
}

#[test]
fn a_reload_after_an_edit_that_was_noticed_says_what_took_effect_and_when() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let said = stage.done(&["reload"]);
    assert!(said.contains("nothing changed, all of it was in force already"), "{said}");
    stage.configure("keep = 3\n");
    stage.eventually("the edit is noticed", |stage| {
        let log = fs::read_to_string(stage.path("daemon.log")).unwrap();
        log.contains("configuration read again") && log.contains("in force: shop")
    });
    for _ in 0..2 {
        let said = stage.done(&["reload"]);
        assert!(said.contains(": changed ") && said.contains(" ago, when the edit was noticed"), "{said}");
        assert!(said.contains("in force: shop; nothing changed since"), "{said}");
    }
}

#[test]
fn an_exec_after_a_down_names_the_way_up() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let hint = |stage: &Stage| stage.bgd(&["exec", "--", "true"]).stderr;
    let never = hint(&stage);
    assert!(never.contains("hint: bgd deploy"), "{never}");
    stage.push_live("one");
    stage.until_at_rest();
    stage.done(&["down", "--yes"]);
    let down = hint(&stage);
    assert!(down.contains("hint: bgd up"), "{down}");
}

#[test]
fn g1_a_websocket_outlives_the_flip_until_the_drain_is_over() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan { drain: "2s", ..Plan::of(kind) }) else { return };
        stage.push_live("one");
        let mut tunnel = http::connect(stage.public()).unwrap();
        let hello = "GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        tunnel.get_mut().write_all(hello.as_bytes()).unwrap();
        assert_eq!(http::answer(&mut tunnel).unwrap().status, 101);
        let two = stage.push("two", "");
        stage.until("two is live", |status| status["live"]["commit"] == two);
        tunnel.get_mut().write_all(b"still there?").unwrap();
        let mut said = [0; 12];
        tunnel.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"still there?");
        stage.until_at_rest();
        assert!(matches!(tunnel.read(&mut said), Ok(0) | Err(_)), "cut at the drain limit");
        stage.assert_no_leftover();
    });
}

/// Neither a reload nor what is refused takes a number.
#[test]
fn deploys_are_numbered_without_holes_and_nothing_is_wrong_before_the_first() {
    let Some(stage) = Stage::set(Plan::of(Kind::Nginx)) else { return };
    assert_eq!(stage.status()["trouble"], serde_json::Value::Null);
    for round in 1..=3_u64 {
        stage.done(&["reload"]);
        stage.done(&["hold", "-m", "not now"]);
        assert_eq!(stage.bgd(&["deploy"]).code, 5);
        stage.done(&["resume"]);
        stage.push_live(&format!("r{round}"));
        assert_eq!(stage.status()["last"]["id"], round);
    }
    stage.assert_no_leftover();
}

/// A record of another day beside a front that lives on, or a hand on the front's own socket: the numbers of bgd's routes
/// are then behind the front's, which is said and mended, whatever the front.
#[test]
fn k6_a_front_that_was_told_more_than_bgd_knows_takes_the_next_deploy_and_it_is_said() {
    on_each(&[Kind::Builtin, Kind::Nginx, Kind::Haproxy], |kind| {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        stage.end_daemon();
        let kept = std::fs::read(stage.path("state/bgd.db")).unwrap();
        stage.start_daemon();
        for rev in ["two", "three", "four"] {
            stage.push_live(rev);
        }
        stage.until_at_rest();
        stage.end_daemon();
        for file in ["bgd.db-wal", "bgd.db-shm"] {
            let _gone = std::fs::remove_file(stage.path("state").join(file));
        }
        std::fs::write(stage.path("state/bgd.db"), kept).unwrap();
        stage.start_daemon();
        let load = stage.load();
        stage.push_live("five");
        load.sees("five");
        if kind == Kind::Builtin {
            told_by_hand(&stage);
        }
        stage.push_live("six");
        assert_eq!(stage.served(), "six");
        let status = stage.until_at_rest();
        assert_eq!((&status["state"], &status["trouble"]), (&"live".into(), &serde_json::Value::Null));
        if kind == Kind::Builtin {
            let events = stage.done(&["events"]);
            assert!(events.contains("the front knows route 100"), "{events}");
        }
        load.end_without_loss();
        stage.assert_no_leftover();
    });
}

/// The route that it has, under a number far ahead.
fn told_by_hand(stage: &Stage) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let stream = std::os::unix::net::UnixStream::connect(stage.path("run/f/shop.sock")).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: String| -> serde_json::Value {
        writeln!(&stream, "{line}").unwrap();
        serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
    };
    let mut route = ask(r#"{"do":"hello"}"#.to_owned())["hello"]["route"].clone();
    route["generation"] = 1000.into();
    let answer = ask(serde_json::json!({"do": "route", "route": route}).to_string());
    assert_eq!(answer["applied"], 1000, "{answer}");
}

#[test]
fn the_time_limits_of_a_front_change_while_it_serves() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    let front = |text: &str, listen: &str| {
        let config = fs::read_to_string(stage.path("bgd.toml")).unwrap();
        let own = format!("listen = \"{}\"", stage.public());
        assert!(config.contains(&own), "{config}");
        fs::write(stage.path("bgd.toml"), config.replace(&own, &format!("{listen}{text}"))).unwrap();
        stage.bgd(&["reload"])
    };
    let own = format!("listen = \"{}\"", stage.public());
    let said = front("\nrequest_timeout = \"7s\"\nresponse_timeout = \"9s\"", &own);
    assert_eq!((said.code, stage.served()), (0, "one".to_owned()), "{said:?}");
    let other = crate::stage::ports::reserve();
    let refused = front("", &format!("listen = \"127.0.0.1:{}\"", other.number));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("front of app shop can't change while it is in service"), "{refused:?}");
}
