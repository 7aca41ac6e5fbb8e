//! What `bgd status --json` says against what is seen from outside: the public address, the processes, their
//! ports, environments and directories, the releases on disk, the remote. Called at the end of the tests.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Ran, Stage};
use crate::stage::http;

/// What is in motion (a poll, a health check, a drain) comes to agree within this.
const SETTLES: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

impl Stage {
    /// Waits until the status and what is seen from outside agree in everything.
    pub fn assert_status_is_true(&self) {
        let until = Instant::now() + SETTLES;
        loop {
            let ran = self.bgd(&["status", "--json"]);
            let untrue = untruths(self, &ran);
            if untrue.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "not so from outside: {untrue:#?}; status: {ran:?}");
            thread::sleep(LOOK);
        }
    }
}

/// What was found not to be as the status says.
#[derive(Default)]
struct Untrue(Vec<String>);

impl Untrue {
    fn unless(&mut self, holds: bool, says: impl FnOnce() -> String) {
        if !holds {
            self.0.push(says());
        }
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, said: T, seen: T) {
        self.unless(said == seen, || format!("{what}: says {said:?}, is {seen:?}"));
    }
}

fn untruths(stage: &Stage, ran: &Ran) -> Vec<String> {
    let whole: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|err| panic!("{err}: {ran:?}"));
    let mut untrue = Untrue::default();
    let daemon = &whole["daemon"];
    untrue.compare("daemon.running", daemon["running"].as_bool(), Some(stage.daemon.is_some()));
    untrue.compare("daemon.pid", as_pid(&daemon["pid"]), stage.daemon.as_ref().map(|child| child.id()));
    let app = &whole["apps"][0];
    untrue.compare("exit code", ran.code, expected_exit(stage, app));
    untrue.compare("state", app["state"].as_str(), expected_state(app));
    live(stage, app, &mut untrue);
    idle(stage, app, &mut untrue);
    deploy(stage, app, &mut untrue);
    remote(stage, app, &mut untrue);
    way_back(stage, app, &mut untrue);
    untrue.0
}

/// From what the parts say, each of which is compared by itself.
fn expected_state(app: &Value) -> Option<&str> {
    let (live, deploy) = (&app["live"], &app["deploy"]);
    let watching = deploy["phase"] == "watching";
    let by_itself = app["state"].as_str();
    Some(match by_itself {
        // Seen at the front, not in these parts; what it means is compared with the public address.
        Some("degraded") => "degraded",
        _ if live.is_null() && !deploy.is_null() => "deploying",
        _ if live.is_null() => return by_itself.filter(|word| ["empty", "down", "stopped"].contains(word)),
        _ if live["pid"].is_null() => "down",
        _ if live["healthy"] == false => "degraded",
        _ if watching => "watching",
        _ if !deploy.is_null() => "deploying",
        _ if !app["hold"].is_null() => "held",
        _ => "live",
    })
}

fn expected_exit(stage: &Stage, app: &Value) -> i32 {
    if stage.daemon.is_none() {
        return 4;
    }
    // The state `down` is a live color whose process is gone.
    match app["state"].as_str() {
        Some("degraded") => 20,
        Some("live" | "deploying" | "watching" | "held") if !app["live"].is_null() => 0,
        _ => 3,
    }
}

/// The public address shows that release, by that process, which has that environment, directory and port.
fn live(stage: &Stage, app: &Value, untrue: &mut Untrue) {
    let (live, degraded) = (&app["live"], app["state"] == "degraded");
    let answer = http::get(stage.public(), "/");
    let shown = answer.ok().filter(|answer| answer.status == 200);
    if live.is_null() || live["pid"].is_null() {
        untrue.unless(shown.is_none(), || "live: says that nothing serves, and something answers".to_owned());
        return;
    }
    instance(stage, live, untrue);
    let Some(shown) = shown else {
        untrue.unless(degraded, || format!("live: {live} does not answer at the public address"));
        return;
    };
    let rev = shown.head.get("x-rev").cloned().unwrap_or_default();
    untrue.compare("live.subject", live["subject"].as_str(), Some(&format!("Make {rev}")));
    untrue.compare("live.subject in git", live["subject"].as_str(), Some(&subject(stage, &live["commit"])));
    let answers = shown.head.get("x-pid").and_then(|pid| pid.parse().ok());
    let main = as_pid(&live["pid"]).expect("a pid");
    untrue.unless(answers.is_some_and(|pid| tree(main).contains(&pid)), || {
        format!("live.pid: says {main}, pid {answers:?} answers")
    });
    let up = ask(&Place::of(live)).is_ok_and(|answer| answer.status == 200);
    untrue.compare("live.healthy", live["healthy"].as_bool(), Some(up));
}

/// A process that the status names is that release, in its directory, on that port.
fn instance(stage: &Stage, part: &Value, untrue: &mut Untrue) {
    let pid = as_pid(&part["pid"]).expect("a pid");
    let place = Place::of(part);
    let release = part["release"].as_str().unwrap_or_default();
    let dir = stage.path("state/shop/releases").join(release);
    untrue.unless(dir.is_dir(), || format!("{part}: there is no directory {}", dir.display()));
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    untrue.compare("its working directory", Some(&dir), cwd.as_ref());
    for (name, said) in
        [("BGD_COMMIT", &part["commit"]), ("BGD_RELEASE", &part["release"]), ("BGD_COLOR", &part["color"])]
    {
        untrue.compare(name, said.as_str().map(str::to_owned), variable(pid, name));
    }
    let (port, socket) = match &place {
        Place::Port(port) => (Some(port.to_string()), None),
        Place::Socket(path) => (None, Some(path.clone())),
    };
    untrue.compare("PORT", port, variable(pid, "PORT"));
    untrue.compare("SOCKET", socket, variable(pid, "SOCKET"));
    untrue.unless(tree(pid).iter().any(|pid| listens(*pid, &place)), || {
        format!("{place:?}: not listened on by pid {pid} or its children")
    });
}

/// A color that is said to be stopped has no process and no listener; any other has the process that is named.
fn idle(stage: &Stage, app: &Value, untrue: &mut Untrue) {
    let idle = &app["idle"];
    let (place, color) = (Place::of(idle), idle["color"].as_str().expect("a color"));
    let configured = match stage.is_on_sockets() {
        true => Place::Socket(stage.path(&format!("run/a/shop/{color}.sock")).display().to_string()),
        false => Place::Port(u64::from(stage.port(color))),
    };
    untrue.compare("where idle listens", &place, &configured);
    match idle["state"].as_str().expect("a word") {
        "stopped" => {
            untrue.unless(idle["pid"].is_null() && idle["release"].is_null(), || {
                format!("idle: stopped, and yet {idle}")
            });
            let left: Vec<_> =
                stage.processes().into_iter().filter(|(pid, _)| listens(*pid, &place)).collect();
            untrue.unless(left.is_empty(), || format!("idle: says stopped, {left:?} listens on {place:?}"));
        }
        "warm" => match as_pid(&idle["pid"]) {
            Some(_) => instance(stage, idle, untrue),
            None => untrue.0.push("idle: warm, and no process is named".to_owned()),
        },
        // In motion: a process may not be there yet, or no longer.
        _ => {}
    }
}

/// A deploy is under way exactly when the record has one that has not ended; a build never runs without one.
fn deploy(stage: &Stage, app: &Value, untrue: &mut Untrue) {
    let listed = stage.bgd(&["history", "--json", "-n", "5"]).stdout;
    let history: Value = serde_json::from_str(&listed).expect("JSON");
    let open = history.as_array().expect("a list").iter().find(|deploy| deploy["outcome"].is_null());
    let open = open.map(|deploy| deploy["id"].clone());
    untrue.compare("deploy.id", app["deploy"].get("id").cloned(), open);
    if app["deploy"].is_null() {
        let at_work: Vec<_> =
            stage.processes().into_iter().filter(|(_, line)| line.contains("build.sh")).collect();
        untrue.unless(at_work.is_empty(), || format!("deploy: none, and {at_work:?} runs"));
    }
}

/// The tip as git itself sees it, once it was polled; while the remote can't be read there is an error instead.
fn remote(stage: &Stage, app: &Value, untrue: &mut Untrue) {
    let remote = &app["remote"];
    let config = fs::read_to_string(stage.path("bgd.toml")).expect("the configuration");
    let dir = stage.path("remote.git");
    if stage.daemon.is_none() || !config.contains(&format!("remote = \"{}\"", dir.display())) {
        return;
    }
    let branch = remote["branch"].as_str().expect("a branch");
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "rev-parse", "--verify", "-q", &format!("refs/heads/{branch}")])
        .env("GIT_DIR", &dir)
        .output()
        .expect("git");
    let tip = Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|tip| !tip.is_empty());
    untrue.compare("remote.error", remote["error"].is_string(), tip.is_none());
    if tip.is_some() {
        untrue.compare("remote.head", remote["head"].as_str(), tip.as_deref());
        untrue.unless(remote["checked_at"].is_string(), || "remote.checked_at: not polled yet".to_owned());
    }
}

/// The release of the way back lies on disk; warm means that it runs on the idle color.
fn way_back(stage: &Stage, app: &Value, untrue: &mut Untrue) {
    let (back, idle) = (&app["rollback"], &app["idle"]);
    untrue.compare("rollback.possible", back["possible"].as_bool(), Some(back["to"].is_string()));
    if let Some(to) = back["to"].as_str() {
        let suffix = format!("-{}", &to[..7]);
        let kept = fs::read_dir(stage.path("state/shop/releases")).into_iter().flatten().flatten();
        let mut kept = kept.filter_map(|entry| entry.file_name().into_string().ok());
        untrue.unless(kept.any(|name| name.ends_with(&suffix)), || {
            format!("rollback: the release of {to} is not on disk")
        });
    }
    let runs = as_pid(&idle["pid"]).is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let there = back["to"].is_string() && idle["commit"] == back["to"] && runs;
    let leaves = idle["state"] == "warm" || idle["state"] == "draining";
    if app["deploy"].is_null() {
        untrue.compare("rollback.warm", back["warm"].as_bool(), Some(there && leaves));
    }
}

fn as_pid(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn at(port: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).expect("a port")))
}

/// Where an instance is said to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Port(u64),
    Socket(String),
}

impl Place {
    fn of(part: &Value) -> Self {
        match (&part["port"], &part["socket"]) {
            (Value::Number(port), Value::Null) => Self::Port(port.as_u64().expect("a port")),
            (Value::Null, Value::String(path)) => Self::Socket(path.clone()),
            other => panic!("neither a port nor a socket: {other:?}"),
        }
    }
}

fn ask(place: &Place) -> io::Result<http::Answer> {
    match place {
        Place::Port(port) => http::get(at(*port), "/up"),
        Place::Socket(path) => {
            let stream = TcpStream::from(OwnedFd::from(UnixStream::connect(path)?));
            let mut stream = BufReader::new(stream);
            http::send(&mut stream, "GET", "/up", "")?;
            http::answer(&mut stream)
        }
    }
}

fn subject(stage: &Stage, commit: &Value) -> String {
    stage.git(&["show", "-s", "--format=%s", commit.as_str().expect("a commit")])
}

fn variable(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// A process and all below it.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}

/// Whether one of its descriptors is a socket that listens there.
fn listens(pid: u32, place: &Place) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open: BTreeSet<String> = fds
        .filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let port = match place {
        Place::Port(port) => *port,
        Place::Socket(path) => {
            let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
            return table.lines().skip(1).any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                // That flag: it accepts.
                words.get(7) == Some(&path.as_str()) && words[3] == "00010000" && open.contains(words[6])
            });
        }
    };
    ["tcp", "tcp6"].iter().any(|file| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words[1].rsplit_once(':').and_then(|(_, port)| u64::from_str_radix(port, 16).ok());
            // 0A: listening.
            local == Some(port) && words[3] == "0A" && open.contains(words[9])
        })
    })
}
