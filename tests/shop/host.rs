//! What these tests do to the host around bgd: nginx stopped and started by others, a small disk, a remote that
//! is silent, a power cut.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{Ran, Stage, ran, send};
use crate::stage::{
    nginx::{is_shutting_down, is_worker, workers_of},
    processes::{self, children},
};

impl Stage {
    /// Replaces a part of the configuration.
    pub fn amend(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("bgd.toml")).expect("the configuration");
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.path("bgd.toml"), text.replace(from, to)).expect("write the configuration");
    }

    /// nginx's own command, with this stage's configuration.
    pub fn nginx(&self, words: &[&str]) -> Ran {
        ran(self.web().run(words))
    }

    /// Reloads nginx as an administrator would, and waits until nobody accepts with the old configuration.
    pub fn reload_nginx(&self) {
        let master = self.nginx.as_ref().expect("nginx runs").id();
        let former: Vec<u32> = workers_of(master);
        assert_eq!(self.nginx(&["-s", "reload"]).code, 0);
        self.eventually("the former workers accept no more", |_| {
            former.iter().all(|pid| !is_worker(*pid) || is_shutting_down(*pid))
        });
    }

    /// Stops nginx as an administrator would.
    pub fn stop_nginx(&mut self) {
        processes::end(&mut self.nginx.take().expect("nginx runs"));
    }

    /// bgd's own file for nginx.
    pub fn include(&self) -> String {
        fs::read_to_string(self.path("conf.d/bgd-shop.conf")).expect("bgd's nginx file")
    }

    /// Everything of the stage ends at once, as at a power cut: daemon, git worker, fronts, shims, apps, nginx.
    pub fn power_cut(&mut self) {
        let (daemon, nginx) = (self.daemon.take(), self.nginx.take());
        // Workers name nothing of the stage: their titles cover command line and environment.
        let workers = nginx.as_ref().map_or_else(Vec::new, |nginx| children(nginx.id()));
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            let workers = workers.iter().filter(|pid| is_worker(**pid));
            for pid in left.iter().map(|(pid, _)| pid).chain(workers) {
                send(*pid, Signal::SIGKILL);
            }
            if left.is_empty() || Instant::now() > until {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        for mut child in [daemon, nginx].into_iter().flatten() {
            child.wait().expect("it has ended");
        }
        // What lies in a runtime directory does not survive a boot.
        fs::remove_dir_all(self.path("run")).expect("clear the runtime directory");
        if self.path("nginx.pid").exists() {
            fs::remove_file(self.path("nginx.pid")).expect("clear nginx's runtime directory");
        }
    }

    /// Stops the daemon in its tracks; returns when every one of its threads stands still.
    pub fn hang_daemon(&self) {
        self.signal_daemon(Signal::SIGSTOP);
        let threads = self.path(&format!("/proc/{}/task", self.daemon_pid()));
        let stands = |path: std::path::PathBuf| {
            let line = fs::read_to_string(path.join("stat")).unwrap_or_default();
            line.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        self.eventually("the daemon stands still", |_| {
            fs::read_dir(&threads).expect("its threads").flatten().all(|thread| stands(thread.path()))
        });
    }

    /// Pids of the stage's processes with that word in the command line.
    pub fn pids(&self, word: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(_, line)| line.contains(word)).map(|(pid, _)| pid).collect()
    }
}

/// A remote that takes connections and never says a word.
pub struct SilentRemote {
    pub url: String,
    _listener: TcpListener,
}

impl SilentRemote {
    pub fn start() -> Self {
        // Never accepted: the kernel completes the handshake, and then there is silence.
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let url = format!("http://{}/shop.git", listener.local_addr().expect("address"));
        Self { url, _listener: listener }
    }
}

/// A small file system of its own below the stage, unmounted at the end.
pub struct SmallDisk {
    at: std::path::PathBuf,
}

impl SmallDisk {
    /// `None`, with the reason printed, where mounting is not permitted.
    pub fn mount(at: std::path::PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).expect("a mount point");
        let options = format!("size={size}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self { at });
        }
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        None
    }

    /// Takes every byte that is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.at.join("ballast"))
            .expect("open the ballast");
        for size in [1 << 20, 4096, 1] {
            let chunk = vec![b'x'; size];
            while file.write_all(&chunk).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.at.join("ballast")).expect("remove the ballast");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still has files open there is ended by the stage.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
