//! Where the tests take place: a temporary directory with a remote, a configuration and a daemon of its own, the
//! `bgd` commands, and an nginx where one is asked for. Drop ends every process that belongs to the directory.

pub mod app;
pub mod host;
mod truth;
pub mod worker;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

pub use crate::stage::send;
use crate::stage::{
    GENEROUS, LOOK, Nginx, Place, git,
    haproxy::{self, Haproxy},
    http,
    load::{self, Idle, Load},
    ports::{self, Port},
    processes, until,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Builtin,
    Nginx,
    Haproxy,
}

/// The same on both fronts, at the same time: most of a test is waiting.
pub fn on_both(test: impl Fn(Kind) + Sync) {
    on_each(&[Kind::Builtin, Kind::Nginx], test);
}

/// On these kinds of front at once.
pub fn on_each(kinds: &[Kind], test: impl Fn(Kind) + Sync) {
    thread::scope(|scope| {
        for kind in kinds.iter().copied() {
            let test = &test;
            scope.spawn(move || test(kind));
        }
    });
}

/// What differs between tests in the configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: Kind,
    pub watch: &'static str,
    pub drain: &'static str,
    pub standby: &'static str,
    pub deadline: &'static str,
    /// From TERM to KILL.
    pub grace: &'static str,
    /// More lines of `[app.shop.watch]`.
    pub traffic: &'static str,
    /// Whether there is a `before_start` hook (which waits at the gate `hook`).
    pub hook: bool,
    /// Whether the app listens on unix sockets.
    pub unix: bool,
    /// What is asked for at the public address while the traffic moves.
    pub asked: &'static str,
    /// Of each color.
    pub instances: u16,
}

impl Plan {
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            watch: "300ms",
            drain: "3s",
            standby: "0s",
            deadline: "20s",
            grace: "2s",
            traffic: "",
            hook: false,
            unix: false,
            asked: "/up",
            instances: 1,
        }
    }
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Stage {
    place: Place,
    plan: Plan,
    /// Blue's first, green's first, and the public one.
    ports: [Port; 3],
    /// Of the other instances.
    _more: Vec<Port>,
    pub daemon: Option<Child>,
    pub nginx: Option<Child>,
    web: Option<Nginx>,
    haproxy: Option<Haproxy>,
}

impl Stage {
    /// With a daemon; `None`, with the reason printed, when something is missing on this machine.
    pub fn set(plan: Plan) -> Option<Self> {
        let mut stage = Self::empty(plan)?;
        stage.start_daemon();
        Some(stage)
    }

    /// The same, in a directory that nginx's workers may pass, whoever they are.
    pub fn set_open(plan: Plan) -> Option<Self> {
        let mut stage = Self::empty(plan)?;
        fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o755)).expect("open the directory");
        stage.start_daemon();
        Some(stage)
    }

    /// Without a daemon.
    pub fn empty(plan: Plan) -> Option<Self> {
        let place = Place::new();
        let web = if plan.kind == Kind::Nginx { Some(Nginx::at(place.dir().to_owned())?) } else { None };
        if plan.kind == Kind::Haproxy && !haproxy::is_installed() {
            return None;
        }
        let (mut blue, mut green) = (ports::reserve_row(plan.instances), ports::reserve_row(plan.instances));
        let ports = [blue.remove(0), green.remove(0), ports::reserve()];
        blue.append(&mut green);
        let stage = Self { place, plan, ports, _more: blue, daemon: None, nginx: None, web, haproxy: None };
        fs::create_dir(stage.path("gates")).expect("gates");
        stage.git_at(&stage.path(""), &["init", "-q", "--bare", "-b", "main", "remote.git"]);
        stage.git_at(&stage.path(""), &["init", "-q", "-b", "main", "work"]);
        stage.git(&["remote", "add", "origin", stage.path("remote.git").to_str().expect("utf-8")]);
        stage.configure("");
        stage.write_nginx();
        if stage.plan.kind == Kind::Haproxy {
            stage.write_haproxy("");
        }
        Some(stage)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    pub fn port(&self, color: &str) -> u16 {
        self.ports[usize::from(color == "green")].number
    }

    /// Whether the app listens on unix sockets.
    pub fn is_on_sockets(&self) -> bool {
        self.plan.unix
    }

    /// The public address.
    pub fn public(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[2].number))
    }

    /// Writes the configuration, with more lines for the app.
    pub fn configure(&self, more: &str) {
        let dir = self.place.dir().display();
        let Plan { watch, drain, standby, deadline, grace, traffic, hook, .. } = self.plan;
        let start = serde_json::to_string(&app::command()).expect("a list of strings");
        let [blue, green] = [self.ports[0].number, self.ports[1].number];
        let listen = if self.plan.unix {
            format!("listen = \"unix\"\ninstances = {}", self.plan.instances)
        } else {
            format!("ports = [{blue}, {green}]\ninstances = {}", self.plan.instances)
        };
        let hooks = if hook { "[app.shop.hooks]\nbefore_start = \"sh hook.sh\"\n" } else { "" };
        let address = format!("address = \"http://{}{}\"", self.public(), self.plan.asked);
        let front = match self.plan.kind {
            // Known without being written.
            Kind::Builtin if self.plan.asked == "/up" => format!("listen = \"{}\"", self.public()),
            Kind::Builtin => format!("listen = \"{}\"\n{address}", self.public()),
            Kind::Nginx => {
                format!("{}\n{address}", self.web().front_with("shop", &self.gated_reload()))
            }
            Kind::Haproxy => format!("type = \"haproxy\"\nsocket = \"{dir}/h.sock\""),
        };
        let text = format!(
            r#"[daemon]
state_dir = "{dir}/state"
runtime_dir = "{dir}/run"

[app.shop]
remote = "{dir}/remote.git"
poll = "1s"
{listen}
build = "sh build.sh"
start = {start}
stop = {{ signal = "TERM", grace = "{grace}" }}
drain = "{drain}"
standby = "{standby}"
env = {{ {gates} = "{dir}/gates" }}
{more}
[app.shop.health]
path = "/up"
interval = "50ms"
timeout = "2s"
deadline = "{deadline}"

[app.shop.watch]
for = "{watch}"
{traffic}

{hooks}
[app.shop.front]
{front}
"#,
            gates = app::GATES,
        );
        fs::write(self.path("bgd.toml"), text).expect("write the configuration");
    }

    /// From now on a color is to have so many.
    pub fn set_instances(&mut self, instances: u16) {
        self.plan.instances = instances;
        self.configure("");
        self.done(&["reload"]);
    }

    /// From now on a watch judges real traffic so.
    pub fn watch_traffic(&mut self, lines: &'static str) {
        self.plan.traffic = lines;
        self.configure("");
        self.done(&["reload"]);
    }

    /// Waits at the gate `reload`.
    fn gated_reload(&self) -> String {
        let dir = self.place.dir().display();
        let gates = format!("{}={dir}/gates\n", app::GATES);
        let reload = format!("exec {}", self.web().words(&["-s", "reload"]).join(" "));
        let words = ["sh", "-c", &format!("{gates}{}{reload}", app::wait_at("reload"))].map(str::to_owned);
        serde_json::to_string(&words).expect("a list of strings")
    }

    pub fn web(&self) -> &Nginx {
        self.web.as_ref().expect("a stage with nginx")
    }

    fn write_nginx(&self) {
        let Some(web) = &self.web else { return };
        // With several instances what can't be connected is passed over; with one there is nothing to try.
        let next = if self.plan.instances > 1 { "" } else { "proxy_next_upstream off; " };
        let more = format!(
            "{next}proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
             proxy_set_header Connection $http_connection;"
        );
        web.site("shop", self.public(), &more);
        web.configure_small("", 2);
    }

    /// nginx needs bgd's file, which the daemon writes when it starts.
    pub fn run_nginx(&mut self) {
        self.eventually("bgd has written its file", |stage| stage.path("conf.d/bgd-shop.conf").exists());
        self.nginx = Some(self.web().spawn());
        self.eventually("nginx runs", |stage| {
            stage.web().master().is_some() && http::connect(stage.public()).is_ok()
        });
    }

    /// HAProxy's own configuration, with more lines for the backend: all servers are ready and checked.
    pub fn write_haproxy(&self, more: &str) {
        let (dir, public) = (self.place.dir().display(), self.public());
        let servers: String = (0..self.plan.instances)
            .flat_map(|index| [("blue", index, self.ports[0].number), ("green", index, self.ports[1].number)])
            .map(|(color, index, first)| {
                let number = if index == 0 { String::new() } else { format!("-{}", index + 1) };
                format!("    server {color}{number} 127.0.0.1:{}\n", first + index)
            })
            .collect();
        let text = format!(
            "global\n    stats socket {dir}/h.sock mode 600 level admin\n    hard-stop-after 60s\n\
             defaults\n    mode http\n    timeout connect 5s\n    timeout client 90s\n    timeout server 90s\n    \
             timeout tunnel 90s\n    option redispatch 1\n    retries 3\n    retry-on conn-failure empty-response\n\
             frontend web\n    bind {public}\n    default_backend shop\n\
             backend shop\n{more}    default-server check inter 100ms\n{servers}"
        );
        fs::write(self.path("haproxy.cfg"), text).expect("haproxy.cfg");
    }

    pub fn run_haproxy(&mut self) {
        let started = Haproxy::start(self.place.dir());
        assert!(self.haproxy.replace(started).is_none(), "one haproxy at a time");
    }

    /// `kill -9` of the master and its worker.
    pub fn kill_haproxy(&mut self) {
        self.haproxy.take().expect("haproxy runs").kill();
    }

    /// What HAProxy answers to a command on its socket; empty when it does not run.
    pub fn ask_haproxy(&self, command: &str) -> String {
        haproxy::ask(self.place.dir(), command).unwrap_or_default()
    }

    pub fn start_daemon(&mut self) -> u32 {
        self.start_daemon_with(&[])
    }

    /// With more in its environment.
    pub fn start_daemon_with(&mut self, env: &[(&str, &Path)]) -> u32 {
        let mut daemon = self.command(&["daemon"]);
        daemon.envs(env.iter().copied());
        self.start_daemon_as(daemon)
    }

    /// With `text` in place of a file of /proc, in a mount namespace of its own; `None` where that is not permitted.
    pub fn start_daemon_with_proc(&mut self, file: &str, text: &str) -> Option<u32> {
        let fake = self.path("proc");
        fs::write(&fake, text).expect("a file");
        let script = format!("mount --bind {} {file} && exec \"$0\" \"$@\"", fake.display());
        let unshare = |daemon: &Command| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]).arg(daemon.get_program()).args(daemon.get_args());
            command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        };
        let tried = unshare(&Command::new("true")).output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            eprintln!("skipped: a mount namespace of its own is not permitted here");
            return None;
        }
        Some(self.start_daemon_as(unshare(&self.command(&["daemon"]))))
    }

    fn start_daemon_as(&mut self, daemon: Command) -> u32 {
        let pid = self.spawn(daemon);
        self.eventually("the daemon answers", |stage| {
            stage.bgd(&["status", "--json"]).stdout.contains("\"running\": true")
        });
        if self.web.is_some() && self.nginx.is_none() {
            self.run_nginx();
        }
        if self.plan.kind == Kind::Haproxy && self.haproxy.is_none() {
            self.run_haproxy();
        }
        pid
    }

    pub fn spawn_daemon(&mut self) -> u32 {
        self.spawn(self.command(&["daemon"]))
    }

    fn spawn(&mut self, mut daemon: Command) -> u32 {
        let log = fs::File::options().create(true).append(true).open(self.path("daemon.log")).expect("a log");
        let child = daemon
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("the daemon");
        let pid = child.id();
        assert!(self.daemon.replace(child).is_none(), "one daemon at a time");
        pid
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    pub fn signal_daemon(&self, signal: Signal) {
        send(self.daemon_pid(), signal);
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("a daemon runs");
        child.kill().expect("kill the daemon");
        child.wait().expect("the daemon has ended");
    }

    /// Waits for the end of one that something else has ended.
    pub fn forget_daemon(&mut self) {
        let mut child = self.daemon.take().expect("a daemon ran");
        until("the daemon has ended", || child.try_wait().expect("ask for its status").is_some());
    }

    /// SIGTERM, and waits for the end.
    pub fn end_daemon(&mut self) {
        self.signal_daemon(Signal::SIGTERM);
        self.forget_daemon();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgd"));
        command
            .args(words.iter().take_while(|word| **word != "--"))
            .arg("--config")
            .arg(self.path("bgd.toml"))
            .args(words.iter().skip_while(|word| **word != "--"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("BGD_CONFIG")
            .current_dir(self.place.dir());
        command
    }

    /// Runs a command of the binary on this stage's configuration.
    pub fn bgd(&self, words: &[&str]) -> Ran {
        let output = self.command(words).stdin(Stdio::null()).output().expect("run bgd");
        ran(output)
    }

    /// Begins a command of the binary.
    pub fn begin(&self, words: &[&str]) -> Begun {
        let child = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run bgd");
        Begun(Some(child))
    }

    /// Runs a command that has to work.
    pub fn done(&self, words: &[&str]) -> String {
        let ran = self.bgd(words);
        assert_eq!(ran.code, 0, "bgd {words:?}: {ran:?}");
        ran.stdout
    }

    /// `bgd status --json`, the app alone.
    pub fn status(&self) -> Value {
        let ran = self.bgd(&["status", "--json"]);
        let whole: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|err| panic!("{err}: {ran:?}"));
        whole["apps"][0].clone()
    }

    /// One value of the status, by its path; empty when unknown.
    pub fn value(&self, key: &str) -> String {
        self.bgd(&["status", "-o", key]).stdout
    }

    pub fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + GENEROUS;
        loop {
            let status = self.status();
            if reached(&status) {
                return status;
            }
            assert!(Instant::now() < until, "never came about: {what}; {status:#}");
            thread::sleep(LOOK);
        }
    }

    /// Waits until the deploy of that commit is in that phase.
    pub fn until_phase(&self, commit: &str, phase: &str) {
        self.until(&format!("{commit} is {phase}"), |status| {
            let deploy = &status["deploy"];
            if status["last"]["commit"] == commit {
                panic!("ended before it was {phase}: {status:#}");
            }
            deploy["commit"] == commit && deploy["phase"] == phase
        });
    }

    /// Waits until no deploy is under way and nothing is left on the idle color.
    pub fn until_at_rest(&self) -> Value {
        self.until("at rest", |status| {
            status["deploy"].is_null()
                && (status["idle"]["state"] == "stopped" || status["idle"]["state"] == "warm")
        })
    }

    pub fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        until(what, || holds(self));
    }

    pub fn git(&self, args: &[&str]) -> String {
        self.git_at(&self.path("work"), args)
    }

    fn git_at(&self, dir: &Path, args: &[&str]) -> String {
        let mut command = git::command(dir);
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Ann").env_remove(format!("GIT_{who}_DATE"));
        }
        git::done(command.args(args), b"")
    }

    /// Pushes a revision that behaves as the lines of `app.conf` say; the commit.
    pub fn push(&self, rev: &str, conf: &str) -> String {
        self.push_with(rev, conf, "")
    }

    /// The same, with more lines for `build.sh`.
    pub fn push_with(&self, rev: &str, conf: &str, build: &str) -> String {
        let write = |name: &str, text: String| fs::write(self.path("work").join(name), text).expect("write");
        write("app.conf", format!("rev = {rev}\n{conf}\n"));
        write("build.sh", format!("echo building {rev}\n{}{build}\n", app::wait_at("build")));
        write("hook.sh", format!("echo hook of {rev}\n{}", app::wait_at("hook")));
        self.push_all(&format!("Make {rev}"))
    }

    /// Pushes all that is in the working copy; the commit.
    pub fn push_all(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["push", "-q", "origin", "HEAD:main"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Pushes a good revision and waits until it is live and its watch is over.
    pub fn push_live(&self, rev: &str) -> String {
        let commit = self.push(rev, "");
        self.wait_live(&commit);
        commit
    }

    /// Pushes a good revision into a watch that lasts, ends that, and waits until it is live.
    pub fn push_promoted(&self, rev: &str) -> String {
        let commit = self.push(rev, "");
        self.promote(&commit);
        commit
    }

    /// Ends the watch of that commit, unless that is over, and waits until it is live.
    pub fn promote(&self, commit: &str) {
        self.end_watch(commit);
        self.wait_live(commit);
    }

    /// Ends the watch of that commit by hand, so that no test has to hit a short one or wait for a long one.
    pub fn end_watch(&self, commit: &str) {
        let watching = |status: &Value| status["deploy"]["phase"] == "watching";
        let status = self.until(&format!("{commit} is watched, or was"), |status| {
            let deploy = &status["deploy"];
            let of_it = deploy["commit"] == commit && status["live"]["commit"] == commit;
            let over = deploy["phase"] == "draining" || deploy["phase"] == "stopping" || deploy.is_null();
            of_it && (watching(status) || over) || deploy.is_null() && status["live"]["commit"] == commit
        });
        if watching(&status) {
            self.done(&["promote"]);
        }
    }

    pub fn wait_live(&self, commit: &str) {
        let ran = self.bgd(&["wait", "--for", &format!("rev={commit}"), "--timeout", "60s"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Closes a gate: what waits there waits.
    pub fn close(&self, gate: &str) {
        fs::write(self.path("gates").join(gate), "").expect("close the gate");
    }

    pub fn open(&self, gate: &str) {
        fs::remove_file(self.path("gates").join(gate)).expect("open the gate");
    }

    /// One request that the live color works on until the gate `held` opens, and then answers.
    pub fn hold_a_request(&self) -> thread::JoinHandle<()> {
        self.close("held");
        let mut stream = http::connect(self.public()).expect("connect");
        http::send(&mut stream, "GET", "/held", "").expect("ask");
        // Only what has arrived there is in flight.
        self.eventually("the request is with the app", |stage| stage.path("gates/held-arrived").exists());
        fs::remove_file(self.path("gates/held-arrived")).expect("the mark");
        thread::spawn(move || assert_eq!(http::answer(&mut stream).expect("an answer").status, 200))
    }

    pub fn load(&self) -> Load {
        self.load_with(load::SLOW)
    }

    /// Whose slow requests take so many milliseconds.
    pub fn load_with(&self, slow_ms: u64) -> Load {
        let idle = match self.plan.kind {
            Kind::Builtin => Idle::Stays,
            Kind::Nginx | Kind::Haproxy => Idle::MayClose,
        };
        Load::mixed(self.public(), idle, slow_ms)
    }

    /// The revision that the public address shows.
    pub fn served(&self) -> String {
        match http::get(self.public(), "/") {
            Ok(answer) if answer.status == 200 => answer.field("x-rev").to_owned(),
            Ok(answer) => format!("answered {}", answer.status),
            Err(err) => err.to_string(),
        }
    }

    /// Everything of the stage's directory that runs, as `(pid, command line)`.
    pub fn processes(&self) -> Vec<(u32, String)> {
        self.place.processes()
    }

    /// Pids of the shims.
    pub fn shims(&self) -> Vec<u32> {
        let all = self.processes().into_iter();
        all.filter(|(_, line)| line.contains(" shim shop ")).map(|(pid, _)| pid).collect()
    }

    /// At rest: one front, one app (two with a warm color) with a shim each unless a test killed it, the daemon and
    /// its git worker; nothing else.
    pub fn assert_no_leftover(&self) {
        let status = self.until_at_rest();
        let live = status["live"]["pid"].as_u64().expect("a live pid");
        let strays = |stage: &Self| -> Vec<(u32, String)> {
            let warm = status["idle"]["pid"].as_u64();
            let expected = if warm.is_some() { 2 } else { 1 };
            let all = stage.processes();
            let shims = all.iter().filter(|(_, line)| line.contains(" shim")).count();
            let fronts = all.iter().filter(|(_, line)| line.contains(" front")).count();
            let known = |pid: u32, line: &str| {
                u64::from(pid) == live
                    || Some(u64::from(pid)) == warm
                    || line.contains("nginx")
                    || line.contains("haproxy.cfg")
                    || line.contains("bgd daemon")
                    || line.contains(" git-worker")
                    || (line.contains(" shim") && shims <= expected)
                    || (line.contains(" front") && fronts == 1)
            };
            all.into_iter().filter(|(pid, line)| !known(*pid, line)).collect()
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !strays(self).is_empty() {
            assert!(Instant::now() < until, "left over: {:#?}; {status:#}", strays(self));
            thread::sleep(LOOK);
        }
        self.assert_status_is_true();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the daemon's log:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Its workers name nothing of the stage: their titles cover command line and environment.
        if let Some(mut nginx) = self.nginx.take() {
            processes::end(&mut nginx);
        }
    }
}

/// A command that runs.
pub struct Begun(Option<Child>);

impl Begun {
    pub fn end(mut self) -> Ran {
        ran(self.0.take().expect("not ended yet").wait_with_output().expect("its output"))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn ran(output: Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// The error of the last deploy.
pub fn error(status: &Value) -> String {
    status["last"]["error"].as_str().unwrap_or_default().to_owned()
}
