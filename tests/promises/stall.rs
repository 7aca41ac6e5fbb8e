//! A disk that takes its time: flushing to it stands still for as long as a file exists. Steps wait for it, because
//! nothing is done before it is recorded; nothing else does.

use std::{fs, process::Command};

use crate::{
    shop::{Kind, Plan, Stage},
    stage::ports,
};

/// Calls that flush wait while the file named by `BGD_TEST_STALL` exists, a minute at most, and fill it with a byte.
const SLOW_DISK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static long flush(long call, int fd) {
    const char *stall = getenv("BGD_TEST_STALL");
    int hit = stall ? open(stall, O_WRONLY) : -1;
    if (hit >= 0 && write(hit, "x", 1) == 1) close(hit);
    for (int i = 0; hit >= 0 && access(stall, F_OK) == 0 && i < 6000; i++) usleep(10000);
    return syscall(call, fd);
}
int fsync(int fd) { return flush(SYS_fsync, fd); }
int fdatasync(int fd) { return flush(SYS_fdatasync, fd); }
int syncfs(int fd) { return flush(SYS_syncfs, fd); }
"#;

/// Starts the stage's daemon on a disk that stalls on request; `None`, with the reason printed, without a C compiler.
fn start_on_a_slow_disk(stage: &mut Stage) -> Option<()> {
    let (source, library) = (stage.path("slow.c"), stage.path("slow.so"));
    fs::write(&source, SLOW_DISK).expect("write the source");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler");
        return None;
    }
    let stall = stage.path("stall");
    stage.start_daemon_with(&[("LD_PRELOAD", library.as_path()), ("BGD_TEST_STALL", stall.as_path())]);
    Some(())
}

#[test]
fn m1_status_and_the_record_answer_while_the_disk_stands_still() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let one = stage.push_live("one");
    stage.until_at_rest();
    stage.end_daemon();
    if start_on_a_slow_disk(&mut stage).is_none() {
        return;
    }
    let load = stage.load();
    load.sees("one");
    fs::write(stage.path("stall"), "").expect("stall");
    let two = stage.push("two", "");
    // A second app: its first steps and its reading must not stand behind the first one's flush.
    let (text, _ports) = ports::app_file(&stage.path("remote.git"));
    fs::create_dir(stage.path("apps.d")).expect("apps.d");
    fs::write(stage.path("apps.d/zine.toml"), text).expect("a second app");
    stage.eventually("the second app is known", |stage| stage.bgd(&["status", "zine"]).code == 3);
    stage.eventually("a step waits for the disk", |stage| {
        fs::metadata(stage.path("stall")).is_ok_and(|file| file.len() > 0)
    });
    for words in [["status", "shop"], ["why", "shop"], ["history", "shop"], ["status", "zine"]] {
        let ran = stage.bgd(&words);
        assert!(ran.code == 0 || ran.code == 3, "{words:?} while the disk stands still: {ran:?}");
    }
    assert_eq!(stage.status()["live"]["commit"], one);
    fs::remove_file(stage.path("stall")).expect("the disk goes on");
    stage.until("the push is live", |status| status["live"]["commit"] == *two);
    load.end_without_loss();
}
