//! What surrounds a daemon in these tests: variables of its environment, another remote, files of the stage read
//! and counted.

use std::{fs, os::fd::OwnedFd, process::Command, process::Stdio};

use serde_json::Value;

use crate::shop::Stage;

impl Stage {
    /// The daemon starts again, as `prepare` wants it started.
    pub fn restart_daemon_as(&mut self, prepare: impl FnOnce(&Stage, Command) -> Command) -> u32 {
        self.end_daemon();
        let log = fs::File::options().create(true).append(true).open(self.path("daemon.log")).expect("a log");
        let mut command = self.command(&["daemon"]);
        command.stdin(Stdio::null());
        let mut command = prepare(self, command);
        command.env_remove("NOTIFY_SOCKET").env_remove("BGD_CONFIG");
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        let child = command.spawn().expect("the daemon");
        let pid = child.id();
        self.daemon = Some(child);
        self.eventually("the daemon answers", |stage| stage.bgd(&["status", "--oneline"]).code != 4);
        pid
    }

    /// The same, with more variables.
    pub fn restart_daemon_with(&mut self, variables: &[(&str, &str)]) -> u32 {
        self.restart_daemon_as(|_, mut command| {
            command.envs(variables.iter().copied());
            command
        })
    }

    /// From now on the app's remote is this one; in force at once.
    pub fn point_to(&self, remote: &str) {
        let text = fs::read_to_string(self.path("bgd.toml")).expect("the configuration");
        let lines = text.lines().map(|line| {
            if line.starts_with("remote = ") { format!("remote = {remote:?}") } else { line.to_owned() }
        });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        fs::write(self.path("bgd.toml"), text).expect("write the configuration");
        self.done(&["reload"]);
    }

    /// Waits for what the status says of the remote.
    pub fn until_remote_says(&self, words: &str) -> Value {
        self.until(&format!("the remote's error says {words:?}"), |status| {
            status["remote"]["error"].as_str().is_some_and(|error| error.contains(words))
        })
    }

    /// Waits until the deploy of that commit has failed; the whole error.
    pub fn until_failed(&self, commit: &str) -> String {
        let status = self.until("the deploy has failed", |status| status["last"]["commit"] == *commit);
        assert_eq!(status["last"]["outcome"], "failed", "{status:#}");
        crate::shop::error(&status)
    }

    /// Names in a directory of the stage, sorted.
    pub fn names_in(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The release directories, in the order of their names.
    pub fn releases(&self) -> Vec<String> {
        let names = self.names_in("state/shop/releases").into_iter();
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

/// A number of KiB in /proc/PID/status, `VmHWM` for one; `None` when the process is gone.
pub fn kib(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// The terminal that controls a process; 0 for none.
pub fn terminal(pid: u32) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').nth(4).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// A terminal that nobody sits at: what is written to it is read here.
pub struct Terminal {
    master: OwnedFd,
    pub slave: OwnedFd,
}

impl Terminal {
    /// `None`, with the reason printed, where there are no pseudo terminals.
    pub fn open() -> Option<Self> {
        match nix::pty::openpty(None, None) {
            Ok(pair) => Some(Self { master: pair.master, slave: pair.slave }),
            Err(err) => {
                eprintln!("skipped: no pseudo terminal to be had here: {err}");
                None
            }
        }
    }

    /// Whether anything was written to it.
    pub fn was_written_to(&self) -> bool {
        use std::os::fd::AsFd as _;
        let mut waiting = [nix::poll::PollFd::new(self.master.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut waiting, 0u16).expect("look at it") > 0
    }
}
