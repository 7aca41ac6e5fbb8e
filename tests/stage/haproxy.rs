//! A real HAProxy with its configuration and its socket in a directory.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;

use super::{GENEROUS, processes, processes::send, until};

/// It is ended when dropped.
#[derive(Debug)]
pub struct Haproxy {
    dir: PathBuf,
    master: Child,
}

impl Haproxy {
    /// With the `haproxy.cfg` of the directory, in the foreground, under its master process. Waits until it answers
    /// on `h.sock`.
    pub fn start(dir: &Path) -> Self {
        let log = fs::File::create(dir.join("haproxy.log")).expect("a log");
        let mut command = Command::new(binary());
        command.args(["-W", "-db", "-f"]).arg(dir.join("haproxy.cfg")).stdin(Stdio::null());
        let out = log.try_clone().expect("share the log");
        let master = command.stdout(out).stderr(log).spawn().expect("haproxy");
        let haproxy = Self { dir: dir.to_owned(), master };
        until("haproxy answers", || haproxy.worker().is_some());
        // Before that, its master hears no signal.
        until("haproxy has started", || haproxy.log().contains("Loading success"));
        haproxy
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("haproxy.log")).unwrap_or_default()
    }

    pub fn master(&self) -> u32 {
        self.master.id()
    }

    /// `None` when nobody answers.
    pub fn worker(&self) -> Option<u32> {
        let info = ask(&self.dir, "show info").ok()?;
        info.lines().find_map(|line| line.strip_prefix("Pid: ")?.parse().ok())
    }

    /// `kill -9` of the master and its worker.
    pub fn kill(mut self) {
        let worker = self.worker().expect("it runs");
        for pid in [self.master(), worker] {
            send(pid, Signal::SIGKILL);
        }
        self.master.wait().expect("it has ended");
        until("haproxy is gone", || self.worker().is_none());
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if !matches!(self.master.try_wait(), Ok(None)) {
            return;
        }
        if let Some(worker) = self.worker() {
            send(worker, Signal::SIGKILL);
        }
        // A master that loses its worker ends as well; former workers end with it.
        processes::end(&mut self.master);
    }
}

/// What the HAProxy of a directory answers to a command on its socket: the hand of somebody else.
pub fn ask(dir: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(dir.join("h.sock"))?;
    stream.set_read_timeout(Some(GENEROUS))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

/// Says so when it is not.
pub fn is_installed() -> bool {
    let found = Command::new(binary()).arg("-v").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: haproxy is not installed");
    }
    found
}

/// Debian keeps it where not everybody looks.
fn binary() -> &'static str {
    if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" }
}

/// The shipped configuration. `on` are first words of its comments: the settings below them are taken in.
pub fn shipped(on: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/haproxy/haproxy.cfg");
    let text = fs::read_to_string(path).expect("the shipped configuration");
    let (mut left, mut within, mut lines) = (on.to_vec(), false, String::new());
    for line in text.lines() {
        let bare = line.trim_start();
        if let Some(at) = left.iter().position(|words| bare.starts_with(&format!("# {words}"))) {
            left.remove(at);
            within = true;
        }
        within &= !bare.is_empty();
        // A setting that is off has no blank after its `#`.
        match bare.strip_prefix('#').filter(|setting| within && !setting.starts_with(' ')) {
            Some(setting) => lines += &format!("    {setting}\n"),
            None => lines += &format!("{line}\n"),
        }
    }
    assert!(left.is_empty(), "no such comments: {left:?}");
    lines
}

/// Puts this machine's places into a shipped configuration.
pub fn placed(text: &str, dir: &Path, bind: &str, ports: [u16; 2]) -> String {
    let [blue, green] = ports;
    let mut text = text.to_owned();
    for (shipped, here) in [
        ("/run/haproxy/admin.sock", dir.join("h.sock").display().to_string()),
        ("bind :80", format!("bind {bind}")),
        ("127.0.0.1:9501", format!("127.0.0.1:{blue}")),
        ("127.0.0.1:9502", format!("127.0.0.1:{green}")),
    ] {
        assert!(text.contains(shipped), "{shipped}");
        text = text.replace(shipped, &here);
    }
    text
}
