//! Requests that are refused, and a daemon that is away, hung, or not to be disturbed.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Stdio,
};

use nix::sys::signal::Signal;

use super::book::Book;
use crate::shop::{Kind, Plan, Ran, Stage};

pub fn the_request_or_the_daemon_is_to_blame(book: &mut Book) {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    book.fails("a flip before anything was live", &stage, &["flip"]);
    book.fails("a command in a release before anything was live", &stage, &["exec", "--", "true"]);
    book.fails("a build's log before there was a build", &stage, &["logs", "--build"]);
    stage.push_live("good");
    stage.until_at_rest();
    refusals(book, &stage);
    book.fails("a second daemon", &stage, &["daemon"]);
    not_permitted(book, &stage);
    stage.signal_daemon(Signal::SIGSTOP);
    let status = stage.bgd(&["status", "--oneline"]);
    book.note("status while the daemon hangs", &stage, (&["status", "--oneline"], &status));
    book.fails("a question while the daemon hangs", &stage, &["why"]);
    stage.signal_daemon(Signal::SIGCONT);
    stage.eventually("the daemon answers again", |stage| stage.bgd(&["status"]).code == 0);
    stage.end_daemon();
    book.fails("status while the daemon is away", &stage, &["status", "--oneline"]);
    book.fails("a deploy while the daemon is away", &stage, &["deploy"]);
    book.fails("a hold while the daemon is away", &stage, &["hold", "-m", "freeze"]);
    book.fails("a flip with nowhere to go while the daemon is away", &stage, &["flip"]);
    for name in ["bgd.db-wal", "bgd.db-shm"] {
        // There may be none after an orderly end.
        let _ = fs::remove_file(stage.path("state").join(name));
    }
    fs::write(stage.path("state/bgd.db"), vec![0x5a; 9_000]).unwrap();
    book.fails("the record is damaged and the daemon is away", &stage, &["history"]);
    stage.start_daemon();
    stage.until_at_rest();
    let events = stage.done(&["events"]);
    assert!(events.contains("record_replaced") && events.contains("it is damaged"), "{events}");
}

fn refusals(book: &mut Book, stage: &Stage) {
    book.fails("a flip with nowhere to go", stage, &["flip"]);
    stage.done(&["hold", "-m", "freeze"]);
    book.fails("a deploy during a hold", stage, &["deploy"]);
    let ran = stage.bgd(&["why"]);
    book.shows("why nothing is deployed during a hold", stage, (&["why"], &ran));
    stage.done(&["resume"]);
    book.fails("an app that does not exist", stage, &["status", "blog"]);
    book.fails("a deploy that does not exist", stage, &["show", "999"]);
    book.fails("a key that status does not have", stage, &["status", "-o", "live.pidd"]);
    book.fails("taking an app down without a yes", stage, &["down"]);
    stage.done(&["down", "--yes"]);
    book.fails("a deploy of an app that was taken down", stage, &["deploy"]);
    book.fails("a flip of an app that was taken down", stage, &["flip"]);
    book.fails("status of an app that was taken down", stage, &["status", "--oneline"]);
    stage.done(&["up"]);
    stage.until_at_rest();
    let good = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    fs::write(stage.path("bgd.toml"), good.replace("build =", "biuld =")).unwrap();
    book.fails("reloading a file that has a mistake", stage, &["reload"]);
    fs::write(stage.path("bgd.toml"), good).unwrap();
    stage.done(&["reload"]);
}

/// As somebody else, or, where this is nobody in particular, with the socket closed to all.
fn not_permitted(book: &mut Book, stage: &Stage) {
    let mode = |path: &str, mode| fs::set_permissions(stage.path(path), fs::Permissions::from_mode(mode));
    let words = ["deploy"];
    let mut command = stage.command(&words);
    let socket = "run/bgd.sock";
    let before = fs::metadata(stage.path(socket)).unwrap().permissions().mode();
    let run_before = fs::metadata(stage.path("run")).unwrap().permissions().mode();
    if nix::unistd::geteuid().is_root() {
        mode("", 0o755).unwrap();
        mode("run", 0o755).unwrap();
        command.uid(65_534).gid(65_534);
    } else {
        mode(socket, 0o000).unwrap();
    }
    let output = command.stdin(Stdio::null()).output();
    mode(socket, before).unwrap();
    mode("run", run_before).unwrap();
    let Ok(output) = output else {
        eprintln!("skipped: the binary is out of reach of another user");
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    book.note("a deploy by somebody who may not", stage, (&words, &ran));
}
