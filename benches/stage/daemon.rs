//! A `bgd daemon` of its own, and the control socket as a client sees it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
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
use serde_json::{Value, json};

use super::{BGD, Place, Res};

/// `start` of the sample app of `bgd demo`.
pub const DEMO: &str = concat!("[\"", env!("CARGO_BIN_EXE_bgd"), "\", \"demo-app\"]");

/// `health.interval` as it is when nobody writes one.
pub const INTERVAL: &str = "500ms";

/// A running daemon; told to end when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    config: PathBuf,
}

/// What differs from one app of a benchmark to another.
#[derive(Debug)]
pub struct App<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its remote.
    pub remote: PathBuf,
    /// Blue and green; twice 0: the app listens on unix sockets.
    pub ports: [u16; 2],
    /// The lines of `[app.NAME.front]`.
    pub front: String,
    /// `start`, as TOML.
    pub start: &'a str,
    /// Further lines of `[app.NAME]`.
    pub more: String,
    /// `health.interval`.
    pub interval: &'a str,
}

impl App<'_> {
    fn configuration(&self) -> String {
        let Self { name, remote, ports, front, start, more, interval } = self;
        let listen = match ports {
            [0, 0] => "listen = \"unix\"".to_owned(),
            [blue, green] => format!("ports = [{blue}, {green}]"),
        };
        format!(
            "[app.{name}]\nremote = \"{}\"\n{listen}\nstart = {start}\n\
             drain = \"5s\"\n{more}\n[app.{name}.health]\npath = \"/up\"\ninterval = \"{interval}\"\n\
             [app.{name}.watch]\nfor = \"0s\"\n[app.{name}.front]\n{front}\n",
            remote.display()
        )
    }
}

/// A builtin front on this address.
pub fn builtin(listen: SocketAddr) -> String {
    format!("type = \"builtin\"\nlisten = \"{listen}\"")
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start(place: &Place, apps: &[App<'_>]) -> Res<Self> {
        let (state, run) = (place.path("state"), place.path("run"));
        let mut text =
            format!("[daemon]\nstate_dir = \"{}\"\nruntime_dir = \"{}\"\n", state.display(), run.display());
        for app in apps {
            text.push_str(&app.configuration());
        }
        // Apart from everything that is written all the time: the daemon watches this directory.
        std::fs::create_dir(place.path("conf"))?;
        let config = place.path("conf/bgd.toml");
        std::fs::write(&config, text)?;
        let log = place.path("daemon.log");
        let child = spawn(&config, &log)?;
        let mut daemon = Self { child, log, socket: run.join("bgd.sock"), config };
        daemon.answers()?;
        Ok(daemon)
    }

    /// `kill -9`, and another one in its place, as systemd would.
    pub fn kill_and_start(&mut self) -> Res<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.config, &self.log)?;
        self.answers()
    }

    fn answers(&mut self) -> Res<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.status().is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log)?;
                return Err(format!("the daemon ended: {status}\n{log}").into());
            }
            if Instant::now() > until {
                return Err("the daemon does not answer".into());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration.
    pub fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// Sends a request and says when; answers come with [`Call::done`].
    pub fn call(&self, request: &Value) -> Res<Call> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let line = format!("{request}\n");
        let sent = Instant::now();
        stream.write_all(line.as_bytes())?;
        Ok(Call { sent, stream })
    }

    fn status(&self) -> Res<Value> {
        self.call(&json!({"op": "status", "app": null}))?.done()
    }

    /// One app of `bgd status --json`.
    pub fn app(&self, name: &str) -> Res<Value> {
        let status = self.status()?;
        let apps = find(&status, "apps").and_then(Value::as_array).ok_or("no apps in the status")?;
        Ok(apps.iter().find(|app| app["name"] == name).ok_or("no such app")?.clone())
    }

    /// Waits until the app rests with this commit live, and the other color as wanted. Its status then.
    pub fn rests(&self, name: &str, commit: &str, idle: &str) -> Res<Value> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let app = self.app(name)?;
            if app["deploy"].is_null() && app["live"]["commit"] == commit && app["idle"]["state"] == idle {
                return Ok(app);
            }
            if app["last"]["outcome"] == "failed" || Instant::now() > until {
                return Err(format!("{name} does not come to rest on {commit}: {app}").into());
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Runs `bgd flip` and says how long the process took.
    pub fn flip_command(&self, app: &str) -> Res<Duration> {
        let begun = Instant::now();
        self.command(&["flip", app])?;
        Ok(begun.elapsed())
    }

    /// What has happened so far, each event as `bgd events --json` tells it.
    pub fn events(&self) -> Res<Vec<Value>> {
        let text = self.command(&["events", "--json", "--since", "0"])?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Runs `bgd` with these words; its output.
    fn command(&self, words: &[&str]) -> Res<String> {
        let output = Command::new(BGD).args(words).arg("--config").arg(&self.config).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("bgd {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

fn spawn(config: &Path, log: &Path) -> Res<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(BGD);
    command.args(["daemon", "--config"]).arg(config).env_remove("NOTIFY_SOCKET");
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Not waited for yet, so the number is still its own.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ended = self.child.wait();
    }
}

/// One request on its way.
#[derive(Debug)]
pub struct Call {
    /// When it was written.
    pub sent: Instant,
    stream: UnixStream,
}

impl Call {
    /// Reads to the closing line; a refusal is an error.
    pub fn done(self) -> Res<Value> {
        let mut last = Value::Null;
        for line in BufReader::new(self.stream).lines() {
            last = serde_json::from_str(&line?)?;
        }
        if find(&last, "exit").is_some() {
            return Err(format!("refused: {last}").into());
        }
        Ok(last)
    }
}

/// The first value with this key, at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|inner| find(inner, key))),
        Value::Array(all) => all.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}
