//! The end of a color: in order, in full, once, and over a restart of bgd; and what the front's file and its
//! reloads show of it.

use std::{fs, process::Command, process::Stdio};

use nix::sys::signal::Signal;

use crate::shop::{Kind, Plan, Stage, on_both, send};

/// One live with a request that it works on, two just live, one draining.
fn draining(kind: Kind) -> Option<(Stage, std::thread::JoinHandle<()>, u32)> {
    let stage = Stage::set(Plan { watch: "200ms", drain: "5m", ..Plan::of(kind) })?;
    stage.push_live("one");
    let pid = stage.value("live.pid").parse().expect("a pid");
    let request = stage.hold_a_request();
    let two = stage.push("two", "");
    stage.until("one drains", |status| {
        status["live"]["commit"] == *two && status["idle"]["state"] == "draining"
    });
    Some((stage, request, pid))
}

fn runs(pid: u32) -> bool {
    !crate::stage::is_gone(pid)
}

/// The request gets its answer, and then nothing is left of the release that gave it.
fn answered_and_gone(stage: &Stage, (request, old): (std::thread::JoinHandle<()>, u32)) {
    stage.open("held");
    request.join().expect("the request was answered");
    stage.until_at_rest();
    assert!(!runs(old));
    stage.assert_no_leftover();
}

#[test]
fn g1_an_instance_is_asked_to_stop_only_when_its_last_request_is_answered() {
    on_both(|kind| {
        let Some((stage, request, old)) = draining(kind) else { return };
        // It dies of the first signal, in the middle of whatever it does: so none has come.
        assert!(runs(old) && stage.served() == "two");
        answered_and_gone(&stage, (request, old));
    });
}

#[test]
fn g4_a_drain_under_way_survives_the_end_of_bgd_however_it_ends() {
    on_both(|kind| {
        let Some((mut stage, request, old)) = draining(kind) else { return };
        stage.kill_daemon();
        stage.start_daemon();
        stage.end_daemon();
        stage.start_daemon();
        let status = stage.until("it drains still", |status| status["idle"]["state"] == "draining");
        assert_eq!(status["idle"]["pid"], old, "{status:#}");
        assert_eq!(stage.served(), "two");
        assert!(runs(old));
        answered_and_gone(&stage, (request, old));
    });
}

#[test]
fn g4_a_stop_under_way_is_ended_by_the_next_daemon() {
    let Some(mut stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }) else { return };
    let one = stage.push("one", "term = ignored\nhides = yes");
    stage.wait_live(&one);
    let old: u32 = stage.value("live.pid").parse().unwrap();
    let two = stage.push("two", "");
    stage.until_phase(&two, "stopping");
    stage.kill_daemon();
    stage.start_daemon();
    stage.until_at_rest();
    assert!(!runs(old));
    assert_eq!(stage.served(), "two");
    stage.assert_no_leftover();
}

/// The shim of an instance that `start` is without a shell.
fn shim_of(pid: u32) -> u32 {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after = line.rsplit_once(')').expect("a name in brackets").1;
    after.split_whitespace().nth(1).expect("a parent").parse().expect("a pid")
}

/// It answers still, and would be taken for a warm one; the way back leads to a new one.
#[test]
fn g4_an_instance_that_was_told_to_end_is_no_way_back_for_the_next_daemon() {
    let plan = Plan { watch: "200ms", standby: "1h", grace: "1h", ..Plan::of(Kind::Builtin) };
    let Some(mut stage) = Stage::set(plan) else { return };
    let one = stage.push("one", "term = ignored");
    stage.wait_live(&one);
    let old: u32 = stage.value("live.pid").parse().unwrap();
    stage.push_live("two");
    stage.until("one is warm", |status| status["idle"]["state"] == "warm");
    stage.kill_daemon();
    send(shim_of(old), Signal::SIGTERM);
    stage.start_daemon();
    stage.until("one is no longer warm", |status| status["idle"]["state"] != "warm");
    assert!(runs(old));
    send(old, Signal::SIGKILL);
    stage.done(&["flip"]);
    stage.wait_live(&one);
    assert_eq!(stage.served(), "one");
    assert_ne!(stage.value("live.pid").parse(), Ok(old));
    stage.assert_no_leftover();
}

#[test]
fn g6_the_app_hears_once_that_it_is_live_and_once_that_it_retires() {
    let Some(mut stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }) else { return };
    let heard = stage.path("heard");
    let hears = |words: &str| format!("echo {words} >>{}", heard.display());
    let live = hears("$BGD_EVENT $BGD_COLOR $(sed -n s/rev.=.//p app.conf)");
    stage.configure(&format!("[app.shop.hooks]\nafter_live = {live:?}"));
    let stop = format!("{}; exit 1", hears("stop {color} $(sed -n s/rev.=.//p app.conf)"));
    stage.amend("stop = { signal = \"TERM\",", &format!("stop = {{ command = {stop:?},"));
    stage.done(&["reload"]);
    stage.push_live("one");
    stage.push_live("two");
    stage.until_at_rest();
    let told = |stage: &Stage, times: usize| {
        let read = || fs::read_to_string(&heard).unwrap_or_default();
        stage.eventually("it has heard", |_| read().lines().count() >= times);
        // The hook and the end of the other color have nothing to wait for in one another.
        let mut lines: Vec<String> = read().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(told(&stage, 3), ["after_live blue one", "after_live green two", "stop blue one"]);
    // Neither a restart of bgd nor a death says it again; a flip does, because it is true again.
    stage.kill_daemon();
    stage.start_daemon();
    stage.until_at_rest();
    stage.done(&["flip"]);
    stage.until_at_rest();
    let again = ["after_live blue one", "after_live blue one", "after_live green two", "stop blue one"];
    assert_eq!(told(&stage, 5), [&again[..], &["stop green two"]].concat());
    stage.assert_no_leftover();
}

#[test]
fn g6_after_an_automatic_way_back_the_app_hears_what_is_live_again() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(stage) = Stage::set(Plan { watch: "60s", ..Plan::of(kind) }) else { continue };
        let heard = stage.path("heard");
        let hook = format!("echo $BGD_EVENT $BGD_COLOR $BGD_RELEASE >>{}", heard.display());
        stage.configure(&format!("[app.shop.hooks]\nafter_live = {hook:?}"));
        stage.done(&["reload"]);
        stage.push_promoted("good");
        let release = stage.value("live.release");
        let sick = stage.push("sick", "");
        stage.until_phase(&sick, "watching");
        stage.close("up-sick");
        stage.until("it went back", |status| status["last"]["outcome"] == "rolled_back");
        let read = || fs::read_to_string(&heard).unwrap_or_default();
        stage.eventually("it has heard", |_| read().lines().count() >= 3);
        stage.until_at_rest();
        let lines: Vec<String> = read().lines().map(str::to_owned).collect();
        let [first, _, last] = &lines[..] else { panic!("once for each that went live: {lines:?}") };
        assert_eq!((first, last.as_str()), (last, format!("after_live blue {release}").as_str()));
        stage.assert_no_leftover();
    }
}

#[test]
fn f8_nginx_is_reloaded_once_a_promotion_and_never_for_a_failure() {
    let plan = Plan { watch: "200ms", deadline: "3s", ..Plan::of(Kind::Nginx) };
    let Some(mut stage) = Stage::set(plan) else { return };
    // The first daemon met no nginx and tells it its route when it comes; this one finds all as it should be.
    stage.push_live("none");
    stage.end_daemon();
    stage.start_daemon();
    stage.until_at_rest();
    let reloads = |stage: &Stage| {
        let log = fs::read_to_string(stage.path("error.log")).unwrap();
        log.lines().filter(|line| line.contains("(SIGHUP) received")).count()
    };
    let begun = reloads(&stage);
    for (rev, number) in [("one", 1), ("two", 2), ("three", 3)] {
        stage.push_live(rev);
        stage.until_at_rest();
        assert_eq!(reloads(&stage) - begun, number, "after {rev}");
    }
    let include = stage.include();
    for (rev, conf, build) in [("unbuilt", "", "exit 1"), ("sick", "up = 500", "")] {
        let commit = stage.push_with(rev, conf, build);
        stage.until_failed(&commit);
        stage.until_at_rest();
    }
    assert_eq!(reloads(&stage) - begun, 3);
    assert_eq!(stage.include(), include);
    assert_eq!(stage.served(), "three");
}

/// A file mounted over itself, until dropped.
struct BindMount(std::path::PathBuf);

impl BindMount {
    fn over(file: std::path::PathBuf) -> Option<Self> {
        let done = Command::new("mount").arg("--bind").args([&file, &file]).stderr(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self(file));
        }
        eprintln!("skipped: mounting is not permitted here");
        None
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn f11_a_bind_mounted_file_fails_the_deploy_with_the_reason_and_the_live_color_serves() {
    let Some(stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Nginx) }) else { return };
    let one = stage.push_live("one");
    let Some(mount) = BindMount::over(stage.path("conf.d/bgd-shop.conf")) else { return };
    let load = stage.load();
    load.sees("one");
    let before = stage.include();
    let two = stage.push("two", "");
    let error = stage.until_failed(&two);
    assert!(error.contains("bgd-shop.conf") && error.contains("mount"), "{error}");
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    assert_eq!(stage.include(), before);
    drop(mount);
    stage.done(&["deploy"]);
    assert_eq!(stage.served(), "two");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn g2_the_port_is_free_when_a_color_counts_as_stopped() {
    let Some(stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }) else { return };
    let one = stage.push("one", "hides = yes");
    stage.wait_live(&one);
    stage.push_live("two");
    let status = stage.until("stopped", |status| status["idle"]["state"] == "stopped");
    assert!(status["idle"]["pid"].is_null(), "{status:#}");
    let port = stage.port("blue");
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(), "port {port} is not free");
    stage.signal_daemon(Signal::SIGCONT);
    stage.assert_no_leftover();
}
