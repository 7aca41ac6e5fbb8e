//! What holds between deploys: output, the age of what is known, the hold after a flip, hooks, environments.

use std::{fs, process::Command};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{Kind, Plan, Stage};

/// More than a pipe and the shim's buffers hold, many times over.
const FLOOD: usize = 20_000_000;

#[test]
fn h2_an_app_never_waits_for_bgd_to_read_its_output() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let gates = stage.path("gates").display().to_string();
    let flood = format!(
        "(while [ ! -e {gates}/flood-now ]; do sleep 0.05; done; yes | head -c {FLOOD}; \
         : >{gates}/flooded) & exec \\\"$@\\\""
    );
    stage.amend("start = [", &format!("start = [\"sh\", \"-c\", \"{flood}\", \"sh\", "));
    stage.done(&["reload"]);
    stage.push_live("one");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("one");
    for dead in [false, true] {
        if dead {
            stage.kill_daemon();
        } else {
            stage.hang_daemon();
        }
        // The first round only: the flood comes once in the life of an instance.
        if !dead {
            stage.close("flood-now");
            stage.eventually("all was written", |stage| stage.path("gates/flooded").exists());
        }
        load.sees("one");
    }
    let logs = stage.path("state/shop/logs");
    let size: u64 = fs::read_dir(logs).unwrap().flatten().map(|log| log.metadata().unwrap().len()).sum();
    assert!(size < 64 << 20, "{size} bytes of logs");
    stage.start_daemon();
    load.end_without_loss();
    stage.open("flood-now");
    stage.assert_no_leftover();
}

#[test]
fn h5_the_age_of_the_last_good_poll_is_visible_and_grows_while_the_remote_is_away() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until("polled", |status| status["remote"]["checked_at"].is_string());
    fs::rename(stage.path("remote.git"), stage.path("away.git")).unwrap();
    let status = stage.until("the trouble is said", |status| status["remote"]["error"].is_string());
    let seen = status["remote"]["checked_at"].clone();
    assert!(seen.is_string(), "{status:#}");
    stage.eventually("the text says how long ago, and why", |stage| {
        let text = stage.done(&["status"]);
        let line = text.lines().find(|line| line.contains("remote ")).unwrap_or_default().to_owned();
        line.contains(", seen ") && line.ends_with(" s ago") && text.contains("error: ")
    });
    assert_eq!(stage.status()["remote"]["checked_at"], seen, "a failed poll is no look");
    fs::rename(stage.path("away.git"), stage.path("remote.git")).unwrap();
    stage.until("seen again", |status| {
        status["remote"]["checked_at"] != seen && status["remote"]["error"].is_null()
    });
    stage.assert_no_leftover();
}

#[test]
fn i2_a_flip_marks_the_commit_bad_and_holds_across_restarts_until_a_newer_commit() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        let one = stage.push_live("one");
        let two = stage.push_live("two");
        stage.until_at_rest();
        stage.done(&["flip"]);
        stage.until_at_rest();
        for orderly in [true, false] {
            if orderly {
                stage.end_daemon();
            } else {
                stage.kill_daemon();
            }
            stage.start_daemon();
            stage.until("polled after the restart", |status| {
                status["remote"]["head"] == two && status["remote"]["checked_at"].is_string()
            });
            assert_stays(&stage, &one);
            assert!(stage.done(&["why"]).contains("wait for a newer commit"), "{kind:?}");
        }
        // Without the hold the commit is still marked bad.
        stage.done(&["resume"]);
        assert_stays(&stage, &one);
        assert!(stage.done(&["why"]).contains("marked bad"), "{kind:?}");
        // A flip again, to have the hold that a newer commit releases.
        stage.done(&["deploy"]);
        stage.until_at_rest();
        stage.done(&["flip"]);
        assert!(!stage.until_at_rest()["hold"].is_null());
        let three = stage.push_live("three");
        let status = stage.until_at_rest();
        assert!(status["hold"].is_null() && status["live"]["commit"] == three, "{kind:?}: {status:#}");
        stage.assert_no_leftover();
    }
}

/// Over two more looks at the remote nothing is deployed.
fn assert_stays(stage: &Stage, live: &str) {
    let mut seen = stage.status()["remote"]["checked_at"].clone();
    for _ in 0..2 {
        let status = stage.until("another look", |status| status["remote"]["checked_at"] != seen);
        assert!(status["deploy"].is_null() && status["live"]["commit"] == *live, "{status:#}");
        seen = status["remote"]["checked_at"].clone();
    }
}

#[test]
fn m2_a_hook_that_hangs_fails_or_floods_changes_nothing() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let hooks =
        "[app.shop.hooks]\nafter_live = \"sh after.sh\"\nafter_failed = \"sh after.sh\"\ntimeout = \"1s\"\n";
    stage.amend("[app.shop.health]", &format!("{hooks}\n[app.shop.health]"));
    stage.done(&["reload"]);
    let after = |text: &str| fs::write(stage.path("work/after.sh"), text).unwrap();
    after("true\n");
    stage.push_live("one");
    let load = stage.load();
    load.sees("one");
    let hooks = [
        ("hanging", "trap '' TERM; sleep 300 & sleep 300\n"),
        ("failing", "echo the chat is down; exit 3\n"),
        ("flooding", "yes | head -c 60000000\n"),
    ];
    for (rev, text) in hooks {
        after(text);
        let commit = stage.push_live(rev);
        let status = stage.until_at_rest();
        assert_eq!(status["live"]["commit"], commit, "{rev}: {status:#}");
        assert_eq!(status["last"]["outcome"], "live", "{rev}: {status:#}");
        let bad = stage.push_with(&format!("broken-{rev}"), "", "exit 4");
        let status = stage.until("it has failed", |status| status["last"]["commit"] == bad);
        assert_eq!(status["last"]["outcome"], "failed", "{rev}: {status:#}");
        assert!(status["last"]["error"].as_str().unwrap().starts_with("the build failed"), "{status:#}");
        stage.until_at_rest();
    }
    let logs = stage.path("state/shop/logs");
    let size: u64 = fs::read_dir(logs).unwrap().flatten().map(|log| log.metadata().unwrap().len()).sum();
    assert!(size < 120 << 20, "{size} bytes of logs");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn l2_a_changed_environment_takes_effect_by_a_redeploy() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let file = stage.path("shop.env");
    fs::write(&file, "COLOUR=teal\n").unwrap();
    stage.configure(&format!("env_file = \"{}\"", file.display()));
    stage.done(&["reload"]);
    let one = stage.push_live("one");
    stage.until_at_rest();
    let colour = |stage: &Stage| {
        let environ = fs::read(format!("/proc/{}/environ", stage.value("live.pid"))).unwrap();
        let text = String::from_utf8_lossy(&environ).into_owned();
        text.split('\0').find_map(|pair| pair.strip_prefix("COLOUR=").map(str::to_owned))
    };
    assert_eq!(colour(&stage).as_deref(), Some("teal"));
    fs::write(&file, "COLOUR=plum\n").unwrap();
    stage.done(&["reload"]);
    assert_eq!(colour(&stage).as_deref(), Some("teal"), "what runs is left alone");
    stage.done(&["deploy"]);
    let status = stage.until_at_rest();
    assert_eq!(status["live"]["commit"], one, "the same commit: {status:#}");
    assert_eq!(colour(&stage).as_deref(), Some("plum"));
    stage.assert_no_leftover();
}

#[test]
fn j2_a_cleanup_that_fails_is_reported_and_blocks_nothing() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.configure("keep = 1");
    stage.done(&["reload"]);
    stage.push_live("one");
    let release = stage.value("live.release");
    let dir = stage.path("state/shop/releases").join(&release);
    let mut guest = Command::new("sleep").arg("300").current_dir(&dir).spawn().unwrap();
    for rev in ["two", "three", "four"] {
        stage.push_live(rev);
        stage.until_at_rest();
    }
    assert!(dir.is_dir(), "a directory in use is not deleted");
    let events = stage.done(&["events"]);
    let reported = events.lines().find(|line| line.contains("could not be deleted")).unwrap_or_default();
    assert!(reported.contains(&release) && reported.contains(&guest.id().to_string()), "{events}");
    guest.kill().unwrap();
    guest.wait().unwrap();
    stage.push_live("five");
    stage.eventually("it is deleted with the next deploy", |_| !dir.exists());
    stage.assert_no_leftover();
}

/// Set in the process that has pids of its own.
const OWN_PIDS: &str = "BGD_TEST_OWN_PIDS";

/// In a pid namespace nobody else takes the pid that is to be given out again; the shell, its first process, buries
/// the dead.
#[test]
fn k3_a_pid_given_out_again_is_never_signalled() {
    if std::env::var_os(OWN_PIDS).is_some() {
        return a_pid_is_given_out_again();
    }
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]).args(words);
        command
    };
    let possible = unshare(&["echo 300 >/proc/sys/kernel/ns_last_pid"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a pid namespace of its own is not permitted here");
        return;
    }
    let exe = std::env::current_exe().unwrap().display().to_string();
    let name = "promises::everyday::k3_a_pid_given_out_again_is_never_signalled";
    let output = unshare(&["\"$@\"; exit $?", "sh", &exe, name, "--exact", "--nocapture"])
        .env(OWN_PIDS, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn a_pid_is_given_out_again() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    let pid: i32 = stage.value("live.pid").parse().unwrap();
    let shims = stage.shims();
    stage.kill_daemon();
    for pid in shims.iter().copied().chain([u32::try_from(pid).unwrap()]) {
        crate::shop::send(pid, Signal::SIGKILL);
    }
    stage.eventually("they are gone", |stage| stage.shims().is_empty() && stage.pids("app::").is_empty());
    // The app's pid and its shim's.
    let mut strangers = [pid, i32::try_from(shims[0]).unwrap()].map(process_with);
    stage.start_daemon();
    stage.until("one serves again", |status| status["live"]["healthy"] == true && status["deploy"].is_null());
    assert_ne!(stage.value("live.pid"), pid.to_string());
    stage.push_live("two");
    stage.assert_no_leftover();
    for stranger in &mut strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

/// A process of the test's own under that pid, once its former owner is buried.
fn process_with(pid: i32) -> std::process::Child {
    for _ in 0..1_000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("choose the next pid");
        let mut child = Command::new("sleep").arg("300").spawn().expect("sleep");
        if child.id() == u32::try_from(pid).expect("a pid") {
            return child;
        }
        child.kill().expect("end it");
        child.wait().expect("it has ended");
    }
    panic!("pid {pid} is not given out again");
}

#[test]
fn l1_no_secret_is_in_logs_events_status_command_lines_or_release_directories() {
    const SECRETS: [&str; 3] = ["hunter2-of-env-file", "hunter2-of-token", "hunter2-of-url"];
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    fs::write(stage.path("shop.env"), format!("DB_PASSWORD={}\n", SECRETS[0])).unwrap();
    fs::write(stage.path("token"), format!("{}\n", SECRETS[1])).unwrap();
    let lines = format!("env_file = \"{}\"", stage.path("shop.env").display());
    stage.configure(&lines);
    stage.done(&["reload"]);
    stage.push_live("one");
    let status = stage.until_at_rest();
    let environ = fs::read(format!("/proc/{}/environ", status["live"]["pid"])).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains(SECRETS[0]), "the app has it");
    stage.push_with("two", "", "exit 4");
    stage.until("it has failed", |status| status["last"]["outcome"] == "failed");
    let closed = crate::stage::ports::reserve();
    let remote = format!("remote = \"{}\"", stage.path("remote.git").display());
    let url = format!("remote = \"http://ann:{}@127.0.0.1:{}/shop.git\"", SECRETS[2], closed.number);
    stage.amend(&remote, &url);
    let auth =
        format!("[app.shop.auth]\ntoken_file = \"{}\"\n\n[app.shop.health]", stage.path("token").display());
    stage.amend("[app.shop.health]", &auth);
    let reloaded = stage.bgd(&["reload"]);
    stage.until("the remote can't be reached", |status: &Value| status["remote"]["error"].is_string());
    let failed = stage.bgd(&["deploy"]);
    assert_ne!(failed.code, 0, "{failed:?}");
    let mut said = format!("{reloaded:?}{failed:?}");
    let id = stage.value("last.id");
    let commands = "status|status --json|why|events --since 0|events --json --since 0|history|history --json|logs|\
                    logs --build|doctor|check";
    for words in commands.split('|').chain([format!("show {id}").as_str(), &format!("show {id} --json")]) {
        said += &format!("{:?}", stage.bgd(&words.split(' ').collect::<Vec<_>>()));
    }
    said += &format!("{:?}", stage.processes());
    said += &fs::read_to_string(stage.path("daemon.log")).unwrap();
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} was said: {said}");
        let found = Command::new("grep")
            .args(["-rlaF", secret, "state", "run"])
            .current_dir(stage.path(""))
            .output()
            .unwrap();
        assert!(found.stdout.is_empty(), "{secret} lies in {}", String::from_utf8_lossy(&found.stdout));
    }
}
