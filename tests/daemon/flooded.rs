//! A control socket that strangers flood, and a daemon that gets no processor time: neither stops a flip, and neither
//! is a reason to end the daemon.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
    },
    unistd::{Gid, Pid, Uid, geteuid, setgid, setgroups, setuid},
};

use super::access::restart_with;
use crate::shop::{Kind, Plan, Stage};

/// Nobody of this host.
const STRANGER: u32 = 54_322;
/// May read.
const READER: u32 = 2;
/// More than a daemon with the usual 1,024 descriptors has.
const CONNECTIONS: usize = 900;

/// Ended with its connections when dropped.
struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.kill().expect("end the flood");
        self.0.wait().expect("its status");
    }
}

/// A user that opens connections, and says nothing on them.
fn flood(at: &Path, uid: u32) -> Flood {
    let address = UnixAddr::new(at).expect("an address");
    let connect_all = move || {
        setgroups(&[])?;
        setgid(Gid::from_raw(STRANGER))?;
        setuid(Uid::from_raw(uid))?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        for _ in 0..CONNECTIONS {
            use std::os::fd::IntoRawFd as _;
            // Without CLOEXEC: it is `sleep` that has them open.
            let one = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?.into_raw_fd();
            connect(one, &address)?;
        }
        Ok(())
    };
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null());
    // SAFETY: system calls on values made before the fork.
    unsafe { command.pre_exec(connect_all) };
    Flood(command.spawn().expect("flood the socket"))
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
}

#[test]
fn n1_a_flood_of_the_control_socket_stops_neither_status_nor_deploy_nor_flip() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root to connect as somebody else");
        return;
    }
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    restart_with(&mut stage, "readers = [\"bin\"]\n");
    let one = stage.push_live("one");
    stage.until_at_rest();
    let daemon = stage.daemon_pid();
    let before = descriptors(daemon);
    let sock = stage.path("run/bgd.sock");
    let _floods = [STRANGER, READER].map(|uid| flood(&sock, uid));
    // Strangers have no connection at all, and a reader as many as one user may have.
    stage.eventually("few connections stay", |_| descriptors(daemon) < before + 120);
    stage.done(&["status"]);
    stage.push_live("two");
    stage.until_at_rest();
    stage.done(&["flip"]);
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    assert_eq!(stage.daemon_pid(), daemon, "it was not ended");
    assert!(stage.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "it was not ended");
    // Who says nothing is sent away after a while.
    stage.eventually("silent connections are closed", |_| descriptors(daemon) <= before + 10);
}

#[test]
fn n1_what_the_daemon_starts_has_the_limit_of_open_files_that_it_was_started_with() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    stage.push_live("one");
    let limit = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit(stage.daemon_pid()), hard.to_string());
    let app = stage.status()["live"]["pid"].as_u64().unwrap();
    assert_eq!(limit(u32::try_from(app).unwrap()), soft.to_string());
    for shim in stage.shims() {
        assert_eq!(limit(shim), soft.to_string());
    }
}

#[test]
fn n2_a_daemon_that_gets_hardly_any_processor_time_is_waited_for_and_not_ended() {
    let Some(mut stage) = Stage::set(Plan { standby: "60s", ..Plan::of(Kind::Builtin) }) else { return };
    let one = stage.push_live("one");
    stage.push_live("two");
    stage.until_at_rest();
    let daemon = stage.daemon_pid();
    let mut cpu = CpuSet::new();
    cpu.set(0).unwrap();
    let mut busy = Command::new("sh");
    busy.args(["-c", "while :; do :; done"]);
    // SAFETY: one system call on a value made before the fork.
    unsafe { busy.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &cpu)?)) };
    let mut busy = busy.spawn().unwrap();
    for thread in fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten() {
        let thread: i32 = thread.file_name().to_str().unwrap().parse().unwrap();
        sched_setaffinity(Pid::from_raw(thread), &cpu).unwrap();
        let idle = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameter lives during the call; only a thread of the daemon is meant.
        assert_eq!(unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const idle) }, 0);
    }
    let ran = stage.bgd(&["flip"]);
    busy.kill().unwrap();
    busy.wait().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(stage.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "it was ended: {ran:?}");
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
}
