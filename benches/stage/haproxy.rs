//! A real HAProxy with the configuration of `contrib/haproxy`, this machine's places in it.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Place, Res};

const SHIPPED: &str = include_str!("../../contrib/haproxy/haproxy.cfg");

/// A running HAProxy; ended when dropped.
#[derive(Debug)]
pub struct Haproxy {
    socket: PathBuf,
    child: Child,
}

impl Haproxy {
    /// Starts one between this address and these two ports. `on` are first words of comments of the shipped
    /// configuration: the settings below them are taken in. `None` where it is not installed.
    pub fn start(place: &Place, listen: SocketAddr, ports: [u16; 2], on: &[&str]) -> Res<Option<Self>> {
        if Command::new(binary()).arg("-v").stdout(Stdio::null()).status().is_err() {
            println!("no HAProxy here: its rows are left out");
            return Ok(None);
        }
        let (file, socket) = (place.path("haproxy.cfg"), place.path("h.sock"));
        fs::write(&file, configuration(place, listen, ports, on)?)?;
        let log = fs::File::create(place.path("haproxy.log"))?;
        let child = Command::new(binary())
            .args(["-W", "-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let haproxy = Self { socket, child };
        haproxy.answers(&place.path("haproxy.log"))?;
        Ok(Some(haproxy))
    }

    fn answers(&self, log: &Path) -> Res<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while self.ask("show info").is_err() {
            if Instant::now() > until {
                return Err(format!("haproxy does not start: {}", fs::read_to_string(log)?).into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn ask(&self, command: &str) -> Res<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.is_empty() { Err("haproxy says nothing".into()) } else { Ok(answer) }
    }

    /// Its master process.
    pub fn master(&self) -> u32 {
        self.child.id()
    }

    /// The lines of its front in `bgd.toml`.
    pub fn front(place: &Place) -> String {
        format!("type = \"haproxy\"\nsocket = \"{}\"", place.path("h.sock").display())
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Its master ends the worker. Not waited for yet, so the number is still its own.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ended = self.child.wait();
    }
}

fn configuration(place: &Place, listen: SocketAddr, [blue, green]: [u16; 2], on: &[&str]) -> Res<String> {
    let mut text = taken_in(on)?;
    for (shipped, here) in [
        ("/run/haproxy/admin.sock", place.path("h.sock").display().to_string()),
        ("bind :80", format!("bind {listen}")),
        ("127.0.0.1:9501", format!("127.0.0.1:{blue}")),
        ("127.0.0.1:9502", format!("127.0.0.1:{green}")),
    ] {
        if !text.contains(shipped) {
            return Err(format!("the shipped haproxy.cfg has no {shipped}").into());
        }
        text = text.replace(shipped, &here);
    }
    Ok(text.replace("/run/bgd/t/shop.sock", &place.path("run/t/shop.sock").display().to_string()))
}

/// A setting that is off has no blank behind its `#`; it belongs to the comment above it.
fn taken_in(on: &[&str]) -> Res<String> {
    let (mut left, mut within, mut text) = (on.to_vec(), false, String::new());
    for line in SHIPPED.lines() {
        let bare = line.trim_start();
        if let Some(at) = left.iter().position(|words| bare.starts_with(&format!("# {words}"))) {
            left.remove(at);
            within = true;
        }
        within &= !bare.is_empty();
        match bare.strip_prefix('#').filter(|setting| within && !setting.starts_with(' ')) {
            Some(setting) => text.push_str(&format!("    {setting}\n")),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    if left.is_empty() { Ok(text) } else { Err(format!("no such comments: {left:?}").into()) }
}

/// Debian keeps it where not everybody looks.
fn binary() -> &'static str {
    if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" }
}
