//! The demo is the main job end to end: real git, real processes, real traffic, a real `kill -9`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::stage::processes::belonging;

fn demo(temp: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgd"));
    command.arg("demo").env("TMPDIR", temp).stdin(Stdio::null());
    command
}

fn assert_clean(temp: &Path) {
    let files: Vec<_> = fs::read_dir(temp).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
    let left = belonging(temp);
    assert!(left.is_empty(), "left running: {left:?}");
}

#[test]
fn k2_the_demo_goes_as_told_loses_nothing_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir_in("/tmp").unwrap();
    let output = demo(temp.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains(", 0 LOST") && !out.contains('\x1b'), "{out}");
    assert_clean(temp.path());
}

#[test]
fn the_demo_leaves_nothing_behind_when_it_is_interrupted() {
    let temp = tempfile::tempdir_in("/tmp").unwrap();
    let mut child = demo(temp.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // By then daemon, front, shim and app run.
    let told = lines.by_ref().map(Result::unwrap).find(|line| line.contains("visitors come"));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    lines.for_each(drop);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let status = child.wait().unwrap();
    assert!(told.is_some(), "{err}");
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert_clean(temp.path());
}
