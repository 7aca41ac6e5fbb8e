//! A directory for one benchmark. At the end every process that belongs to it is ended and it is removed.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// The directory.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Short, because sockets lie below it. `BENCH_DIR` puts it on another file system.
    pub fn new() -> io::Result<Self> {
        let base = std::env::var_os("BENCH_DIR").unwrap_or_else(|| "/tmp".into());
        Ok(Self { dir: tempfile::Builder::new().prefix("bgdb").tempdir_in(base)? })
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All that runs in it.
    pub fn processes(&self) -> Vec<u32> {
        belonging(self.dir.path()).into_iter().filter_map(|pid| u32::try_from(pid.as_raw()).ok()).collect()
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (signal, patience) in [(Signal::SIGTERM, 8), (Signal::SIGKILL, 3)] {
            let until = Instant::now() + Duration::from_secs(patience);
            let mut told = Vec::new();
            while Instant::now() < until {
                let left = belonging(self.dir.path());
                if left.is_empty() {
                    return;
                }
                for pid in left.iter().filter(|pid| !told.contains(*pid)) {
                    // It may have ended since it was listed.
                    let _gone = kill(*pid, signal);
                }
                told.extend(left);
                sleep(Duration::from_millis(50));
            }
        }
        eprintln!("left running: {:?}", belonging(self.dir.path()));
    }
}

/// Processes that name the directory in command line, environment, working directory or an open file; never this one.
fn belonging(dir: &Path) -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| *pid != own && names(*pid, dir));
    ours.filter_map(|pid| i32::try_from(pid).ok()).map(Pid::from_raw).collect()
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
    let mentions = |file| {
        let bytes = fs::read(process.join(file)).unwrap_or_default();
        bytes.windows(wanted.len()).any(|window| window == wanted)
    };
    mentions("cmdline") || mentions("environ")
}

/// Ports that were free a moment ago, all different.
pub fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
