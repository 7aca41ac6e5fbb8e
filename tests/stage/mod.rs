//! What tests take place on: ports, clients, servers and keys of their own, on loopback, gone with the test.
#![allow(dead_code, reason = "shared by test crates that each use a part")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub mod git;
pub mod haproxy;
pub mod http;
pub mod keys;
pub mod load;
pub mod nginx;
pub mod place;
pub mod ports;
pub mod processes;
pub mod servers;

pub use self::{
    nginx::Nginx,
    place::Place,
    processes::{is_gone, send},
};

/// Longer than anything takes on a busy machine; a test that fails waits this long.
pub const GENEROUS: Duration = Duration::from_secs(60);
/// Between two looks at what can not be awaited.
pub const LOOK: Duration = Duration::from_millis(10);

/// Waits for what can not be awaited.
pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < GENEROUS, "not in time: {what}");
        thread::sleep(LOOK);
    }
}

/// Writes a file that may be executed, by another process: one that is forked meanwhile must not hold it open for
/// writing, or running it fails with "text file busy".
pub fn program(file: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(file).stdin(Stdio::piped());
    let mut child = install.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A copy of a program, made for the reason that [`program`] has.
pub fn copy_of_program(from: &Path, to: &Path, mode: &str) {
    let copied = Command::new("install").args(["-m", mode]).args([from, to]).status().unwrap();
    assert!(copied.success());
}
