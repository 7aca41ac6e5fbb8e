//! The binary as people and scripts meet it: what it prints where, and with which exit code, against a daemon
//! that says what each test needs.

mod demo;
mod terminal;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixListener, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bgd::{
    api::wire::{
        Answer, AppReport, DaemonReport, DeployRecord, EventRecord, ExecPlan, Exit, FlipReport,
        InstanceReport, LiveReport, Progress, Refusal, RemoteReport, Reply, Request, RollbackReport, Status,
    },
    os::privilege::NewPrivileges,
    rules::{
        ids::{Color, CommitId, DeployId, ReleaseId},
        time::{Stamp, Time},
        words::{AppState, DeployKind, EventKind, Outcome},
    },
};
use nix::sys::signal::Signal;

use crate::stage::{processes::belonging, send};

const APP: &str = "[app.shop]\nremote = \"/srv/shop.git\"\nstart = \"true\"\n";

/// A directory with a configuration, and perhaps a daemon that follows a script.
struct Place {
    dir: tempfile::TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Place {
    fn without_daemon() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[daemon]\nstate_dir = \"state\"\nruntime_dir = \"run\"\n{APP}");
        fs::write(dir.path().join("bgd.toml"), text).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir, requests: Arc::default() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/bgd.sock")
    }

    /// A daemon that answers each request with what `script` makes of it; ends with the test process.
    fn with(script: impl Fn(&Request) -> Vec<Reply> + Send + 'static) -> Self {
        let place = Self::without_daemon();
        let listener = UnixListener::bind(place.socket()).unwrap();
        let requests = Arc::clone(&place.requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let request: Request = serde_json::from_str(&line).unwrap();
                let replies = script(&request);
                // Before the reply: a client that has its answer may be asked about at once.
                requests.lock().unwrap().push(request);
                for reply in replies {
                    // A client that has left is part of some tests.
                    let _ = writeln!(stream, "{}", serde_json::to_string(&reply).unwrap());
                }
            }
        });
        place
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgd"));
        command
            .args(words)
            .current_dir(self.dir.path())
            .env_remove("BGD_CONFIG")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        Ran::from(self.command(words).output().unwrap())
    }

    fn asked(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// What a command started: a flip past a daemon that is ended starts the front.
impl Drop for Place {
    fn drop(&mut self) {
        for (pid, _) in belonging(self.dir.path()) {
            send(pid, Signal::SIGKILL);
        }
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn commit(pair: &str) -> CommitId {
    pair.repeat(20).parse().unwrap()
}

fn stamp(ms: u64) -> Stamp {
    Stamp(Time(1_795_247_472_034 + ms))
}

fn app(name: &str, state: AppState) -> AppReport {
    let serves = !matches!(state, AppState::Empty | AppState::Down | AppState::Stopped);
    AppReport {
        name: name.parse().unwrap(),
        state,
        trouble: None,
        live: serves.then(|| LiveReport {
            color: Color::Blue,
            port: Some(9501),
            socket: None,
            release: ReleaseId::new("20261121T073912Z", 6, &commit("a1")),
            commit: commit("a1"),
            subject: Some("Fix the cart".to_owned()),
            author: Some("Ann".to_owned()),
            pid: Some(4300),
            healthy: Some(true),
            instances: vec![InstanceReport {
                port: Some(9501),
                socket: None,
                pid: Some(4300),
                healthy: Some(true),
                memory_bytes: None,
                cpu_percent: None,
            }],
            given_up: false,
            restarts: 0,
            up_since: Some(stamp(0)),
            restart_wait_ms: None,
            memory_bytes: None,
            cpu_percent: None,
            since: stamp(0),
        }),
        idle: None,
        deploy: None,
        canary: None,
        hold: None,
        remote: RemoteReport {
            branch: "main".to_owned(),
            head: Some(commit("a1")),
            checked_at: None,
            error: None,
            hint: None,
            refs: None,
            next_at: None,
        },
        last: None,
        rollback: RollbackReport::default(),
        schema_ahead: None,
        workers: Vec::new(),
        tasks: Vec::new(),
        why: None,
        gate: None,
        cron: Vec::new(),
    }
}

fn status(apps: Vec<AppReport>) -> Vec<Reply> {
    let daemon = DaemonReport {
        running: true,
        version: Some("0.1.0".to_owned()),
        pid: Some(1),
        started_at: None,
        config_refused: None,
    };
    vec![Reply::Done(Answer::Status(Status { schema: 1, daemon, unconfigured: Vec::new(), apps }))]
}

fn deploy(outcome: Outcome) -> DeployRecord {
    DeployRecord {
        id: DeployId(7),
        app: "shop".parse().unwrap(),
        kind: DeployKind::Manual,
        by: "ann".to_owned(),
        uid: None,
        commit: Some(commit("c3")),
        subject: Some("Add a banner".to_owned()),
        author: Some("Ann".to_owned()),
        release: None,
        color: Some(Color::Green),
        outcome: Some(outcome),
        phase: None,
        error: (outcome != Outcome::Live).then(|| "GET /up answered 500".to_owned()),
        hint: None,
        started_at: stamp(0),
        finished_at: Some(stamp(4_000)),
        steps: Vec::new(),
        meter: None,
        replaced: false,
        passed_gates: Vec::new(),
    }
}

fn event(seq: u64, text: &str) -> Reply {
    Reply::Progress(Progress::Event(EventRecord {
        seq,
        at: stamp(0),
        app: Some("shop".parse().unwrap()),
        deploy: Some(DeployId(7)),
        kind: EventKind::PhaseEntered,
        by: "ann".to_owned(),
        uid: None,
        text: text.to_owned(),
    }))
}

fn refused(exit: Exit) -> Vec<Reply> {
    let refusal = Refusal { exit, message: "not now".to_owned(), hint: Some("later".to_owned()) };
    vec![Reply::Refused(refusal)]
}

#[test]
fn status_answers_with_data_on_stdout_and_the_exit_code_of_the_state() {
    for (state, code) in [
        (AppState::Live, 0),
        (AppState::Held, 0),
        (AppState::Empty, 3),
        (AppState::Down, 3),
        (AppState::Stopped, 3),
        (AppState::Degraded, 20),
    ] {
        let place = Place::with(move |_| status(vec![app("shop", state)]));
        let ran = place.run(&["status"]);
        assert_eq!(ran.code, code, "{state}: {ran:?}");
        assert!(ran.out.starts_with("shop  "), "{ran:?}");
        assert!(!ran.out.contains('\x1b') && ran.err.is_empty(), "{ran:?}");
    }
}

#[test]
fn status_json_is_the_contracts_with_all_keys() {
    let place = Place::with(|_| status(vec![app("shop", AppState::Live)]));
    let ran = place.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["schema"], 1);
    let shop = &json["apps"][0];
    for key in ["name", "state", "live", "idle", "deploy", "hold", "remote", "last", "rollback"] {
        assert!(shop.get(key).is_some(), "{key}");
    }
    let one = place.run(&["status", "-o", "live.commit"]);
    assert_eq!(one.out, format!("{}\n", commit("a1")));
    assert_eq!(place.run(&["status", "-o", "deploy.phase"]).out, "\n");
    assert_eq!(place.run(&["status", "-o", "live.comit"]).code, 2);
}

#[test]
fn status_of_several_apps_exits_with_the_worst() {
    let place = Place::with(|_| status(vec![app("blog", AppState::Degraded), app("shop", AppState::Down)]));
    let ran = place.run(&["status", "--oneline"]);
    assert_eq!((ran.code, ran.out.lines().count()), (3, 2), "{ran:?}");
}

#[test]
fn without_a_daemon_the_exit_code_is_four_and_the_reason_is_said() {
    let place = Place::without_daemon();
    for words in [vec!["status"], vec!["deploy"], vec!["hold", "-m", "x"], vec!["why"], vec!["reload"]] {
        let ran = place.run(&words);
        assert_eq!(ran.code, 4, "{words:?}: {ran:?}");
        assert!(ran.err.contains("daemon"), "{words:?}: {ran:?}");
    }
}

#[test]
fn a_configuration_that_keeps_the_daemon_from_starting_is_named_by_what_needs_the_daemon() {
    let place = Place::without_daemon();
    let file = place.dir.path().join("bgd.toml");
    let broken = fs::read_to_string(&file).unwrap() + "\nnonsense = 1\n";
    fs::write(&file, broken).unwrap();
    let commands = [
        vec!["why"],
        vec!["deploy"],
        vec!["deploy", "--detach"],
        vec!["hold", "-m", "x"],
        vec!["down", "--yes"],
    ];
    for words in commands {
        let ran = place.run(&words);
        assert_eq!(ran.code, 4, "{words:?}: {ran:?}");
        let said = ["bgd.toml", "nonsense", "`bgd check`"];
        assert!(said.iter().all(|said| ran.err.contains(said)), "{words:?}: {ran:?}");
    }
}

#[test]
fn i6_a_hung_daemon_is_told_from_an_absent_one_within_two_seconds() {
    let place = Place::without_daemon();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let begun = Instant::now();
    let ran = place.run(&["why"]);
    let took = begun.elapsed();
    drop(listener);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("hangs"), "{ran:?}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

#[test]
fn n2_a_daemon_none_of_whose_threads_runs_is_ended_by_a_flip() {
    let place = Place::without_daemon();
    let state = place.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let _never_accepted = UnixListener::bind(place.socket()).unwrap();
    let script = "exec 9<>state/lock; echo $$ >&9; read never";
    let mut hung = Command::new("sh");
    hung.args(["-c", script, "daemon"]).current_dir(place.dir.path()).stdin(Stdio::piped());
    let mut hung = hung.spawn().unwrap();
    let begun = Instant::now();
    while fs::read_to_string(state.join("lock")).unwrap_or_default().trim().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the lock was never taken");
        thread::yield_now();
    }
    let ran = place.run(&["flip"]);
    hung.kill().unwrap();
    assert_eq!(hung.wait().unwrap().signal(), Some(9));
    assert!(
        ran.err.contains("hangs (none of its threads runs or waits for anything) and is ended"),
        "{ran:?}"
    );
}

#[test]
fn a_deploy_shows_its_progress_on_stderr_and_its_result_on_stdout() {
    let place =
        Place::with(|_| vec![event(1, "building"), Reply::Done(Answer::Deploy(deploy(Outcome::Live)))]);
    let ran = place.run(&["deploy", "--rev", "v1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "shop: c3c3c3c \"Add a banner\" is live on green after 4.0 s\n");
    assert_eq!(ran.err, "07:51:12 shop #7 building\n");
    assert_eq!(place.asked(), [Request::Deploy { app: None, rev: Some("v1".to_owned()), force: false }]);
}

#[test]
fn m3_a_deploy_that_did_not_go_live_never_exits_with_zero() {
    for (outcome, code) in
        [(Outcome::Failed, 1), (Outcome::Superseded, 1), (Outcome::Cancelled, 1), (Outcome::RolledBack, 6)]
    {
        let place = Place::with(move |request| match request {
            Request::Deploy { .. } => vec![Reply::Done(Answer::Deploy(deploy(outcome)))],
            Request::Status { .. } => status(vec![app("shop", AppState::Live)]),
            _ => refused(Exit::Failed),
        });
        let ran = place.run(&["deploy", "shop"]);
        assert_eq!(ran.code, code, "{outcome}: {ran:?}");
        assert!(ran.out.is_empty() && ran.err.contains("GET /up answered 500"), "{ran:?}");
        assert!(ran.err.ends_with("a1a1a1a serves on blue\n"), "{ran:?}");
    }
}

#[test]
fn a_refusal_keeps_the_daemons_exit_code() {
    for exit in [Exit::Failed, Exit::Usage, Exit::NothingLive, Exit::Held, Exit::NotPermitted] {
        let place = Place::with(move |_| refused(exit));
        let ran = place.run(&["flip"]);
        assert_eq!(ran.code, exit as i32, "{ran:?}");
        assert_eq!(ran.err, "error: not now\nhint: later\n");
    }
}

#[test]
fn flip_says_what_it_did_under_each_of_its_names() {
    let report = FlipReport {
        cancelled: false,
        live: None,
        abandoned: Some(commit("c3")),
        text: "traffic is back on a1a1a1a".to_owned(),
    };
    for name in ["flip", "rollback", "undo"] {
        let reply = Reply::Done(Answer::Flip(report.clone()));
        let place = Place::with(move |_| vec![reply.clone()]);
        let ran = place.run(&[name, "shop"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.out, "traffic is back on a1a1a1a\n");
        assert_eq!(place.asked(), [Request::Flip { app: Some("shop".parse().unwrap()), force: false }]);
    }
}

#[test]
fn i8_flip_help_asks_nobody() {
    let place = Place::with(|_| refused(Exit::Failed));
    assert_eq!(place.run(&["flip", "--help"]).code, 0);
    assert!(place.asked().is_empty());
}

#[test]
fn down_wants_yes() {
    let place = Place::with(|_| vec![Reply::Done(Answer::Said("shop is out of service".to_owned()))]);
    let ran = place.run(&["down"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(place.asked().is_empty());
    assert_eq!(place.run(&["down", "--yes"]).out, "shop is out of service\n");
}

#[test]
fn wait_ends_at_once_when_it_is_so_and_with_eight_when_time_is_over() {
    let place = Place::with(|_| status(vec![app("shop", AppState::Live)]));
    assert_eq!(place.run(&["wait", "--for", "live", "--timeout", "5s"]).code, 0);
    assert_eq!(place.run(&["wait", "--for", "rev=a1a1a1a", "--timeout", "5s"]).code, 0);
    let ran = place.run(&["wait", "--for", "rev=0000000", "--timeout", "400ms"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.err.contains("a1a1a1a is live"), "{ran:?}");
    let nobody = Place::without_daemon();
    assert_eq!(nobody.run(&["wait", "--for", "live", "--timeout", "10ms"]).code, 4);
}

#[test]
fn exec_runs_with_the_plans_directory_and_environment_and_passes_the_exit_code_on() {
    let dir = tempfile::tempdir().unwrap();
    let plan = ExecPlan {
        cwd: dir.path().canonicalize().unwrap().display().to_string(),
        env: [("PATH", "/usr/bin:/bin"), ("APP_ENV", "prod")].map(|(k, v)| (k.into(), v.into())).into(),
        user: None,
        new_privileges: NewPrivileges::Refused,
    };
    let reply = Reply::Done(Answer::Exec(plan.clone()));
    let place = Place::with(move |_| vec![reply.clone()]);
    let words = ["exec", "shop", "--", "sh", "-c", "pwd; echo $APP_ENV; echo $LEAK; exit 42"];
    let output = place.command(&words).env("LEAK", "leaked").output().unwrap();
    let ran = Ran::from(output);
    assert_eq!((ran.code, ran.out), (42, format!("{}\nprod\n\n", plan.cwd)));
    let ran = place.run(&["exec", "--", "grep", "-E", "^(NoNewPrivs|CapInh|CapAmb)", "/proc/self/status"]);
    assert_eq!(ran.out, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n");
    assert_eq!(place.run(&["exec", "--", "no-such-command-here"]).code, 127);
}

#[test]
fn a13_one_event_is_one_line_and_a_reader_that_leaves_is_no_error() {
    let place = Place::with(|request| match request {
        Request::Events { since, .. } => {
            let from = since.unwrap_or(0);
            let mut replies: Vec<_> = (from + 1..from + 2000).map(|seq| event(seq, "a\nb\x1b[2J")).collect();
            replies.push(Reply::Done(Answer::Said(String::new())));
            replies
        }
        _ => refused(Exit::Failed),
    });
    let ran = place.run(&["events", "--since", "5"]);
    assert_eq!(ran.out.lines().count(), 1999);
    assert!(!ran.out.contains('\x1b'));
    let json = place.run(&["events", "--json"]);
    let first: EventRecord = serde_json::from_str(json.out.lines().next().unwrap()).unwrap();
    assert_eq!(first.seq, 1);

    let mut child = place.command(&["events"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[test]
fn a_broken_configuration_is_told_by_check_and_does_not_hide_the_daemon() {
    let place = Place::with(|_| status(vec![app("shop", AppState::Live)]));
    let broken = format!("[daemon]\nruntime_dir = \"run\"\n{APP}prots = [1, 2]\n");
    fs::write(place.dir.path().join("bgd.toml"), broken).unwrap();
    let ran = place.run(&["check"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.out.contains("prots"), "{ran:?}");
    assert_eq!(place.run(&["status"]).code, 0);
}

#[test]
fn init_check_man_and_completions_need_nothing() {
    let place = Place::without_daemon();
    fs::remove_file(place.dir.path().join("bgd.toml")).unwrap();
    assert_eq!(place.run(&["check"]).code, 2);
    assert_eq!(place.run(&["init"]).code, 0);
    assert_eq!(place.run(&["init"]).code, 2);
    let ran = place.run(&["check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(place.run(&["man"]).out.contains(".TH bgd 1"));
    assert!(place.run(&["completions", "bash"]).out.contains("_bgd()"));
    assert!(place.run(&["--version"]).out.starts_with("bgd 0."));
}

#[test]
fn doctor_prints_a_line_a_check_and_fails_when_one_does() {
    let place = Place::without_daemon();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let text =
        format!("[daemon]\nstate_dir = \"state\"\nruntime_dir = \"run\"\n{APP}ports = [{port}, {free}]\n");
    fs::write(place.dir.path().join("bgd.toml"), text).unwrap();
    let ran = place.run(&["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let fails: Vec<_> = ran.out.lines().filter(|line| line.starts_with("fail")).collect();
    assert!(fails.iter().any(|line| line.contains(&format!("port {port} is held by pid"))), "{ran:?}");
    assert!(ran.out.contains(&format!("ok    shop: port {free} is free")), "{ran:?}");
}

#[test]
fn the_demos_app_serves_its_release_and_finishes_at_term() {
    use std::io::Read as _;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app.conf"), "version = 4\npage = hello\ndatabase = reachable\n").unwrap();
    let reserved = crate::stage::ports::reserve();
    let port = reserved.number;
    let mut child = Command::new(env!("CARGO_BIN_EXE_bgd"))
        .arg("demo-app")
        .current_dir(dir.path())
        .env("PORT", port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("version 4"), "{ready}");
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        stream
    };
    let read = |mut stream: std::net::TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let up = read(get("/up"));
    assert!(up.starts_with("HTTP/1.1 200") && up.contains("x-version: 4"), "{up}");
    let slow = get("/slow");
    // A second answer on another connection proves that the slow request is in.
    read(get("/"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(read(slow).ends_with("hello\n"), "the request in flight is finished");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_configuration_that_is_no_file_is_refused_by_every_command_alike() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let place = Place::without_daemon();
    for file in [pipe.to_str().unwrap(), "/dev/zero", dir.path().to_str().unwrap()] {
        for command in ["check", "status", "doctor", "events", "flip", "history", "why"] {
            let ran = place.run(&[command, "--config", file]);
            assert_eq!(ran.code, 2, "{command} {file}: {ran:?}");
            let said = format!("{}{}", ran.out, ran.err);
            assert!(
                said.contains("is not a configuration: not a file of at most 4 MiB"),
                "{command} {file}: {said}"
            );
        }
    }
}

#[test]
fn init_writes_where_the_configuration_is_asked_for() {
    let place = Place::without_daemon();
    let ran = place.run(&["init", "--config", "other.toml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.starts_with("other.toml is written"), "{ran:?}");
    assert_eq!(place.run(&["check", "--config", "other.toml"]).code, 0);
    assert_eq!(place.run(&["init", "--config", "other.toml"]).code, 2, "never over an existing one");
}
