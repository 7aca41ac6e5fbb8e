//! What the kernel says of processes.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Child,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub fn send(pid: u32, signal: Signal) {
    // It may have ended meanwhile.
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}

/// Ends a child, and waits for that. Not waited for yet, so the number is still its own.
pub fn end(child: &mut Child) {
    send(child.id(), Signal::SIGTERM);
    let _ = child.wait();
}

/// Dead, reaped or not. A first thread that has ended while others have not yet is not dead: nobody can wait
/// for it.
pub fn is_gone(pid: u32) -> bool {
    let alone = fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1);
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => alone && stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}

/// Its command line, unless it is gone.
pub fn line_of(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned())
}

/// Grandchildren are not among them.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let all: String = threads.map(of).collect();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Processes that name the directory in command line, environment, working directory or an open file, with their
/// command lines; never this one.
pub fn belonging(dir: &Path) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| *pid != std::process::id() && names(*pid, dir));
    ours.filter_map(|pid| Some((pid, line_of(pid)?))).collect()
}

fn names(pid: u32, dir: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)) {
        return true;
    }
    // A shim names nothing of it, and keeps the log open.
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file.starts_with(dir)) {
        return true;
    }
    let wanted = dir.as_os_str().as_encoded_bytes();
    ["cmdline", "environ"].iter().any(|file| {
        let mut bytes = Vec::new();
        let read = fs::File::open(process.join(file)).and_then(|mut file| file.read_to_end(&mut bytes));
        read.is_ok() && bytes.windows(wanted.len()).any(|window| window == wanted)
    })
}
