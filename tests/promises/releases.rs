//! Names, order and completeness of releases: whatever the wall clock says, and wherever bgd was killed.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use nix::sys::signal::Signal;

use crate::shop::{Kind, Plan, Stage, send};

fn stage() -> Stage {
    Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }).expect("the builtin front needs nothing")
}

/// Put between the daemon and its wall clock: a file says by how many seconds it is wrong, or where it stands still.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    long done = syscall(SYS_clock_gettime, id, at);
    const char *path = getenv("TEST_CLOCK");
    if (done != 0 || id != CLOCK_REALTIME || !path) return (int)done;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    long size = read(file, text, sizeof text - 1);
    close(file);
    if (size > 0 && text[0] == '=') { at->tv_sec = atol(text + 1); at->tv_nsec = 0; }
    else if (size > 0) at->tv_sec += atol(text);
    return 0;
}
"#;

/// The daemon of the stage, started again with a wall clock of its own; `None` without a C compiler.
fn with_own_clock(stage: &mut Stage) -> Option<()> {
    fs::write(stage.path("clock.c"), CLOCK).unwrap();
    let (source, library, file) = (stage.path("clock.c"), stage.path("clock.so"), stage.path("clock"));
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler");
        return None;
    }
    let variables = [("LD_PRELOAD", library.to_str()?), ("TEST_CLOCK", file.to_str()?)];
    stage.restart_daemon_with(&variables);
    Some(())
}

/// Whole, or not at all: the daemon reads it at any time.
fn set_clock(stage: &Stage, text: &str) {
    fs::write(stage.path("clock.new"), text).unwrap();
    fs::rename(stage.path("clock.new"), stage.path("clock")).unwrap();
}

#[test]
fn b8_one_commit_deployed_three_times_within_one_second_is_three_releases() {
    let mut stage = stage();
    if with_own_clock(&mut stage).is_none() {
        return;
    }
    set_clock(&stage, "=1800000000");
    stage.push_live("one");
    stage.done(&["deploy"]);
    stage.done(&["deploy"]);
    stage.until_at_rest();
    let names = stage.releases();
    assert_eq!(names.len(), 3, "{names:?}");
    let begins = "20270115T080000Z-";
    assert!(names.iter().all(|name| name.starts_with(begins)), "{names:?}");
    let numbers: Vec<&str> =
        names.iter().map(|name| name[begins.len()..].split('-').next().unwrap()).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
    assert_eq!(stage.value("live.release"), names[2]);
}

#[test]
fn b8_a_clock_that_goes_back_or_forth_changes_no_order_and_ends_nothing_early_or_late() {
    let mut stage = stage();
    // An open port is weak evidence, so that such an app must have been up for a while: by which clock?
    stage.amend("path = \"/up\"\n", "");
    stage.amend("poll = \"1s\"", "poll = \"1s\"\nkeep = 2\nbuild_timeout = \"10m\"");
    if with_own_clock(&mut stage).is_none() {
        return;
    }
    stage.push_live("one");
    let two = stage.push_live("two");
    set_clock(&stage, "-7200");
    let bad = stage.push_with("bad", "", "exit 1");
    // The last deploy is the last one all the same.
    assert!(stage.until_failed(&bad).contains("the build failed"));
    let three = stage.push_live("three");
    // A day passes for whoever believes the wall clock, in the middle of a build that may take ten minutes.
    stage.close("build");
    let four = stage.push("four", "");
    stage.until_phase(&four, "building");
    set_clock(&stage, "86400");
    stage.eventually("the daemon has seen that day", |stage| {
        let status = stage.status();
        let day =
            |at: &serde_json::Value| at.as_str().unwrap_or_default().chars().take(10).collect::<String>();
        day(&status["remote"]["checked_at"]) > day(&status["deploy"]["started_at"])
    });
    set_clock(&stage, "-7200");
    stage.open("build");
    stage.wait_live(&four);
    let status = stage.until_at_rest();
    assert_eq!(status["rollback"]["to"], three, "the one before, whatever its time says: {status:#}");
    let order = |name: &String| name.split('-').nth(1).unwrap().parse::<u64>().unwrap();
    stage.eventually("the newest by the counter are kept", |stage| {
        let mut kept: Vec<u64> = stage.releases().iter().map(order).collect();
        kept.sort_unstable();
        kept == [3, 4, 5]
    });
    let names = stage.releases();
    assert!(names.iter().all(|name| !name.contains(&two[..7])), "{names:?}");
    stage.done(&["flip"]);
    assert_eq!(stage.served(), "three");
    stage.until_at_rest();
    stage.assert_no_leftover();
}

#[test]
fn b10_a_half_made_release_is_made_anew_after_a_power_cut() {
    let mut stage = stage();
    let one = stage.push_live("one");
    stage.close("build");
    let two = stage.push("two", "");
    stage.until_phase(&two, "building");
    let half = stage.path("state/shop/releases").join(stage.releases().last().unwrap());
    assert_eq!(stage.value("rollback.to"), "", "half a release is nothing to go back to");
    stage.power_cut();
    // As after a crash of the host: a file is lost, another half written.
    fs::remove_file(half.join("app.conf")).unwrap();
    fs::write(half.join("build.sh"), "exit 9 # ha").unwrap();
    stage.open("build");
    stage.start_daemon();
    stage.wait_live(&two);
    assert_eq!(stage.served(), "two");
    assert_eq!(stage.until_at_rest()["rollback"]["to"], one);
    stage.assert_no_leftover();
}

#[test]
fn a12_what_is_recorded_is_what_is_checked_out_is_what_runs() {
    let stage = stage();
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    let runs = |commit: &str, rev: &str| {
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], commit, "{status:#}");
        assert_eq!(stage.served(), rev);
        let environment = fs::read(format!("/proc/{}/environ", status["live"]["pid"])).unwrap();
        assert!(String::from_utf8_lossy(&environment).contains(&format!("BGD_COMMIT={commit}\0")));
        let dir = stage.path("state/shop/releases").join(status["live"]["release"].as_str().unwrap());
        for file in ["app.conf", "build.sh", "hook.sh"] {
            let recorded = stage.git(&["rev-parse", &format!("{commit}:{file}")]);
            let written = stage.git(&["hash-object", dir.join(file).to_str().unwrap()]);
            assert_eq!(recorded, written, "{file} of {rev}");
        }
    };
    runs(&two, "two");
    // The branch is elsewhere.
    stage.done(&["deploy", "--rev", &one]);
    runs(&one, "one");
    stage.done(&["flip"]);
    runs(&two, "two");
}

#[test]
fn d1_an_orphan_of_an_earlier_release_on_the_port_is_ended_and_a_stranger_is_not() {
    let mut stage = stage();
    let one = stage.push("one", "hides = yes\nterm = ignored");
    stage.wait_live(&one);
    let old: u32 = stage.value("live.pid").parse().unwrap();
    let two = stage.push("two", "");
    stage.until_phase(&two, "stopping");
    // Nobody is left to end it: neither its shim nor bgd.
    let shims = stage.shims();
    stage.kill_daemon();
    shims.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    assert!(!crate::stage::is_gone(old), "the orphan runs");
    stage.start_daemon();
    stage.until_at_rest();
    stage.eventually("the orphan is gone", |_| crate::stage::is_gone(old));
    stage.push_live("three");
    assert_eq!(stage.until_at_rest()["live"]["color"], "blue");
    stage.assert_no_leftover();
}

#[test]
fn j2_a_removal_that_a_kill_cut_short_is_ended_at_the_next_start() {
    let mut stage = stage();
    stage.push_live("one");
    stage.kill_daemon();
    let left = stage.path("state/shop/releases/.20260101T000000Z-7-0123456.removing");
    fs::create_dir_all(left.join("src/deep")).unwrap();
    fs::write(left.join("src/deep/file"), "x").unwrap();
    stage.start_daemon();
    stage.eventually("the rest of it is gone", |_| !left.exists());
    assert_eq!(stage.served(), "one");
}

/// Calls by which the daemon has read something so far.
fn reads(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

#[test]
fn n10_the_twentieth_deploy_in_a_row_costs_what_the_third_did_and_old_releases_do_not_pile_up() {
    let stage = stage();
    stage.amend("poll = \"1s\"", "poll = \"1s\"\nkeep = 2");
    stage.done(&["reload"]);
    let mut costs = Vec::new();
    for number in 0..20 {
        let before = reads(stage.daemon_pid());
        stage.push_live(&format!("r{number}"));
        costs.push(reads(stage.daemon_pid()) - before);
    }
    stage.until_at_rest();
    stage.eventually("no more than keep and one are left", |stage| stage.releases().len() <= 3);
    let sum = |range: std::ops::Range<usize>| costs[range].iter().sum::<u64>();
    // Whatever was read while the machine was busy counts as well; a pile of releases costs many times as much.
    assert!(sum(15..20) < 2 * sum(3..8), "calls of each deploy: {costs:?}");
    let events = stage.done(&["events", "--since", "0"]);
    assert!(!events.contains("could not be deleted"), "{events}");
}

#[test]
fn a_release_deleted_by_hand_is_built_anew_when_it_is_gone_back_to_or_started_again() {
    let stage = stage();
    let one = stage.push_live("one");
    stage.push_live("two");
    stage.until_at_rest();
    let release = |stage: &Stage, commit: &str| {
        let all = stage.releases().into_iter().find(|name| name.ends_with(&commit[..7])).unwrap();
        stage.path("state/shop/releases").join(all)
    };
    let dir = release(&stage, &one);
    fs::remove_dir_all(&dir).unwrap();
    stage.done(&["flip"]);
    assert_eq!((stage.served().as_str(), dir.join("app.conf").exists()), ("one", true));
    assert!(stage.done(&["events"]).contains("was deleted from the disk; it is built anew"));
    stage.until_at_rest();
    // What serves keeps its files open, and dies of something else.
    fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    let pid = stage.status()["live"]["pid"].as_u64().unwrap();
    send(u32::try_from(pid).unwrap(), Signal::SIGKILL);
    stage.eventually("it serves again", |stage| stage.served() == "one" && dir.join("app.conf").exists());
}

#[test]
fn l3_the_apps_user_reaches_its_release_whatever_umask_bgd_was_started_with() {
    let mut stage = stage();
    stage.restart_daemon_as(|stage, daemon| {
        fs::remove_dir_all(stage.path("state")).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(daemon.get_program()).args(daemon.get_args());
        shell.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell
    });
    stage.push_live("one");
    let release = stage.releases().remove(0);
    for path in ["state", "state/shop", "state/shop/releases", &format!("state/shop/releases/{release}")] {
        let mode = fs::metadata(stage.path(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o055, 0o055, "{path}: {mode:o}");
    }
    let file = stage.path("state/shop/releases").join(release).join("app.conf");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o044, 0o044);
}
