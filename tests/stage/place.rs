//! A directory of its own. At the end every process that belongs to it is ended and it is removed.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    LOOK,
    processes::{belonging, send},
};

#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Short: sockets below it must fit 107 bytes. `BENCH_DIR` puts it on another file system.
    pub fn new() -> Self {
        let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Self { dir: tempfile::Builder::new().prefix("bgd-").tempdir_in(base).expect("a directory") }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("utf-8").to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap_or_else(|err| panic!("{name}: {err}"));
    }

    /// All that runs in it, as `(pid, command line)`.
    pub fn processes(&self) -> Vec<(u32, String)> {
        belonging(self.dir.path())
    }

    /// Kills all that runs in it. A shim may start what it was just told to: until nothing is left.
    pub fn end_all(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            if Instant::now() > until {
                eprintln!("left running: {left:?}");
                return;
            }
            for (pid, _) in left {
                send(pid, Signal::SIGKILL);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end_all();
    }
}
