//! Remotes that are not there, not ready, refuse for ever, or are not who they say: the live release serves, the
//! status says what is wrong, and polling goes on by itself.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::around::{Terminal, terminal};
use crate::{
    shop::{Kind, Plan, Stage},
    stage::ports,
    stage::servers::{Http, Ssh},
    stage::{http, program},
};

fn stage() -> Stage {
    Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }).expect("the builtin front needs nothing")
}

/// `git daemon` over the stage, on a port known before it runs.
struct GitDaemon(Child);

impl GitDaemon {
    fn start(stage: &Stage, port: u16) -> Self {
        let child = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", stage.path("").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("git daemon");
        Self(child)
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        // It runs under `git`, which passes TERM on; KILL would leave it behind.
        crate::shop::send(self.0.id(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a2_a_remote_down_at_the_start_is_said_while_the_live_release_serves_and_is_followed_when_it_is_back() {
    let mut stage = stage();
    let port = ports::reserve();
    let one = stage.push_live("one");
    let pid = stage.value("live.pid");
    let load = stage.load();
    load.sees("one");
    stage.point_to(&format!("git://127.0.0.1:{}/remote.git", port.number));
    stage.end_daemon();
    stage.start_daemon();
    // Nobody there at the start: what was live serves, and is known, before the remote was ever reached.
    let status = stage.until_remote_says("can't be reached");
    assert_eq!((status["live"]["commit"].as_str(), stage.value("live.pid")), (Some(one.as_str()), pid));
    assert_eq!(status["state"], "live", "{status:#}");
    assert!(stage.done(&["why"]).contains("can't be reached"), "{}", stage.done(&["why"]));
    let two = stage.push("two", "");
    let server = GitDaemon::start(&stage, port.number);
    stage.wait_live(&two);
    assert!(stage.until_at_rest()["remote"]["error"].is_null());
    load.end_without_loss();
    drop(server);
    stage.assert_no_leftover();
}

#[test]
fn a2_a_good_doctor_has_the_daemon_ask_a_remote_again_that_it_had_given_time() {
    let mut stage = stage();
    let port = ports::reserve();
    stage.push_live("one");
    stage.point_to(&format!("git://127.0.0.1:{}/remote.git", port.number));
    let text = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    let text = text.lines().filter(|line| !line.starts_with("poll")).collect::<Vec<_>>().join("\n");
    fs::write(stage.path("bgd.toml"), text.replacen("[app.shop]", "[app.shop]\npoll = \"10m\"", 1)).unwrap();
    stage.end_daemon();
    stage.start_daemon();
    let status = stage.until_remote_says("can't be reached");
    let next = status["remote"]["next_at"].as_str().expect("when it is asked again").to_owned();
    assert!(status["remote"]["hint"].as_str().unwrap().contains("bgd doctor"), "{status:#}");
    let shown = stage.done(&["status"]);
    assert!(shown.contains("asked again in 9 min"), "{shown}");
    let server = GitDaemon::start(&stage, port.number);
    stage.until("the server answers", |_| std::net::TcpStream::connect(("127.0.0.1", port.number)).is_ok());
    assert_eq!(stage.status()["remote"]["next_at"], next.as_str(), "nobody asked meanwhile");
    let said = stage.bgd(&["doctor"]).stdout;
    assert!(said.contains("the daemon could not read the remote, and looks again now"), "{said}");
    stage.until("the remote is read", |status| status["remote"]["error"].is_null());
    drop(server);
    stage.assert_no_leftover();
}

#[test]
fn a2_a_name_that_is_not_found_is_said_while_the_live_release_serves() {
    let mut stage = stage();
    stage.push_live("one");
    let load = stage.load();
    stage.point_to("http://no-such-host.invalid/shop.git");
    stage.end_daemon();
    stage.start_daemon();
    load.sees("one");
    let status = stage.until("the remote's error is said", |status| !status["remote"]["error"].is_null());
    assert!(status["remote"]["error"].as_str().unwrap().contains("no-such-host.invalid"), "{status:#}");
    assert_eq!(status["state"], "live", "{status:#}");
    load.end_without_loss();
}

#[test]
fn a3_an_empty_remote_and_a_renamed_branch_are_said_and_heal_while_live_serves() {
    let stage = stage();
    let status = stage.until_remote_says("nothing was pushed yet");
    assert_eq!(status["state"], "empty", "{status:#}");
    let one = stage.push_live("one");
    let load = stage.load();
    load.sees("one");
    let bare = stage.path("remote.git");
    let rename = |from: &str, to: &str| {
        stage.git(&["--git-dir", bare.to_str().unwrap(), "branch", "-m", from, to]);
    };
    rename("main", "trunk");
    let status = stage.until_remote_says("no branch \"main\"");
    assert_eq!((&status["live"]["commit"], &status["state"]), (&one.into(), &"live".into()), "{status:#}");
    rename("trunk", "main");
    stage.push_live("two");
    assert!(stage.until_at_rest()["remote"]["error"].is_null());
    load.end_without_loss();
}

/// Answers every request with 401, for ever, and notes when it came and whether it bore a password.
struct Refusing {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(Instant, bool)>>>,
}

impl Refusing {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let noted = asked.clone();
        thread::spawn(move || {
            for peer in listener.incoming() {
                let Ok(mut peer) = peer else { return };
                let noted = noted.clone();
                thread::spawn(move || {
                    let mut lines = BufReader::new(peer.try_clone().unwrap()).lines().map_while(Result::ok);
                    // A connection may be used for more than one request.
                    while let Some(first) = lines.next() {
                        let came = Instant::now();
                        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                        let bore = head.iter().any(|line| line.to_lowercase().starts_with("authorization:"));
                        assert!(first.starts_with("GET "), "{first}");
                        noted.lock().unwrap().push((came, bore));
                        let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                                      Content-Length: 0\r\n\r\n";
                        if peer.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// When each try with the password came.
    fn tries(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().iter().filter(|(_, bore)| *bore).map(|(came, _)| *came).collect()
    }
}

#[test]
fn a6_a_server_that_answers_401_for_ever_gets_one_try_a_look_and_each_look_later() {
    let stage = stage();
    stage.push_live("one");
    let server = Refusing::start();
    fs::write(stage.path("token"), "not-the-token\n").unwrap();
    let poll = Duration::from_millis(150);
    stage.configure(&format!("[app.shop.auth]\ntoken_file = {:?}", stage.path("token")));
    stage.amend("poll = \"1s\"", "poll = \"150ms\"");
    stage.point_to(&format!("http://{}/remote.git", server.address));
    stage.eventually("five looks", |_| server.tries().len() >= 5);
    let asked = server.asked.lock().unwrap().clone();
    let tries = server.tries();
    // The remote was set while the daemon looked elsewhere: the first look may be anybody's, the later ones not.
    assert!(asked.len() <= 2 * tries.len() + 1, "more than a look's two requests: {asked:?}");
    for (number, pair) in (1..).zip(tries.windows(2)).take(4) {
        // Twice as long each time, less a fifth at most; a look that lasts makes it longer, never shorter.
        let least = poll * 2_u32.pow(number) * 4 / 5;
        assert!(pair[1] - pair[0] >= least, "look {}: {:?} after the last", number + 1, pair[1] - pair[0]);
    }
    let status = stage.until("the refusal is said", |status| !status["remote"]["error"].is_null());
    let error = status["remote"]["error"].as_str().unwrap();
    assert!(error.contains("token_file") && !error.contains("not-the-token"), "{error}");
    assert_eq!(stage.served(), "one");
}

#[test]
fn a7_nothing_asks_a_person_though_there_is_a_terminal_and_an_askpass() {
    let Some(seat) = Terminal::open() else { return };
    let mut stage = stage();
    stage.push_live("one");
    let asked = stage.path("asked");
    let askpass = stage.path("askpass");
    program(&askpass, &format!("#!/bin/sh\necho \"$@\" >>{}\necho yes\n", asked.display()));
    let (server, ssh) = (Refusing::start(), Ssh::start(&stage.path("")));
    let seated = seat.slave.try_clone().unwrap();
    stage.restart_daemon_as(|stage, command| {
        // The daemon leads a session whose terminal this is, as when somebody starts it by hand.
        let mut seating = Command::new("setsid");
        seating.arg("--ctty").arg(command.get_program()).args(command.get_args());
        seating.current_dir(stage.path("")).stdin(seated).env("DISPLAY", ":0");
        for name in ["GIT_ASKPASS", "SSH_ASKPASS", "SUDO_ASKPASS"] {
            seating.env(name, &askpass);
        }
        seating.env("SSH_ASKPASS_REQUIRE", "force").env("GIT_TERMINAL_PROMPT", "1");
        seating
    });
    assert_ne!(terminal(stage.daemon_pid()), 0, "the daemon has a terminal");
    // A password is wanted and there is none.
    stage.point_to(&format!("http://{}/remote.git", server.address));
    let status = stage.until("a refusal", |status| !status["remote"]["error"].is_null());
    assert!(status["remote"]["error"].as_str().unwrap().contains("none to try"), "{status:#}");
    assert!(stage.pids(" git-worker").into_iter().all(|pid| terminal(pid) == 0), "the worker has none");
    // A host key that is not known, then a key with a passphrase.
    if let Some(ssh) = ssh {
        let locked = ssh.path("locked");
        let done = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "a passphrase", "-f"])
            .arg(&locked)
            .stdin(Stdio::null())
            .status();
        assert!(done.unwrap().success());
        let known = ssh.path("known-none");
        let auth = |key: &std::path::Path, known: &std::path::Path| {
            stage.configure(&format!("[app.shop.auth]\nssh_key = {key:?}\nknown_hosts = {known:?}"));
            stage.point_to(&ssh.url(&stage.path("remote.git")));
        };
        auth(&ssh.path("client"), &known);
        stage.until_remote_says("host key");
        auth(&locked, &ssh.known_hosts("known-right", "host"));
        stage.until_remote_says("a key with a passphrase");
    }
    // Nor has a build anybody to ask.
    stage.configure("");
    stage.done(&["reload"]);
    let look = "if (: </dev/tty) 2>/dev/null; then echo a terminal; exit 1; fi; test -z \"$(cat)\"";
    let two = stage.push_with("two", "", look);
    stage.wait_live(&two);
    assert!(!asked.exists(), "{}", fs::read_to_string(&asked).unwrap());
    assert!(!seat.was_written_to(), "something was written to the terminal");
    let shims = stage.shims();
    assert!(!shims.is_empty() && shims.into_iter().all(|pid| terminal(pid) == 0), "nor has a shim");
    drop(seat);
    assert_eq!(stage.served(), "two");
}

#[test]
fn a8_an_unknown_or_changed_host_key_is_an_error_with_host_file_and_fingerprint_and_never_accepted() {
    let stage = stage();
    let one = stage.push_live("one");
    let Some(ssh) = Ssh::start(&stage.path("")) else { return };
    let follow = |known: &std::path::Path| {
        let key = ssh.path("client");
        stage.configure(&format!("[app.shop.auth]\nssh_key = {key:?}\nknown_hosts = {known:?}"));
        stage.point_to(&ssh.url(&stage.path("remote.git")));
    };
    let load = stage.load();
    load.sees("one");
    let none = ssh.path("known-none");
    follow(&none);
    let names = |error: &str, file: &std::path::Path| {
        for part in ["127.0.0.1", file.to_str().unwrap(), &ssh.fingerprint()] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    };
    let two = stage.push("two", "");
    let said = |status: &serde_json::Value| status["remote"]["error"].as_str().unwrap().to_owned();
    names(&said(&stage.until_remote_says("unknown")), &none);
    assert!(!none.exists(), "nothing was accepted by writing it down");
    // Asked for by hand it is refused as well, with what to do.
    let ran = stage.bgd(&["deploy"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(&ssh.fingerprint()) && ran.stderr.contains("ssh-keyscan"), "{ran:?}");
    assert_eq!(stage.value("live.commit"), one);
    follow(&ssh.known_hosts("known-right", "host"));
    stage.wait_live(&two);
    let other = ssh.known_hosts("known-other", "host2");
    let before = fs::read(&other).unwrap();
    follow(&other);
    stage.push("three", "");
    names(&said(&stage.until_remote_says("has changed")), &other);
    assert_eq!(fs::read(&other).unwrap(), before, "nothing was accepted by writing it down");
    assert_eq!(stage.value("live.commit"), two);
    load.end_without_loss();
}

#[test]
fn a13_bytes_that_forge_lines_and_colours_stay_within_their_line() {
    let stage = stage();
    stage.push("one", "");
    let subject = b"two\x1b[2J\x1b[31m\xff\r[shop] live now: forged\n\nbody\n";
    fs::write(stage.path("message"), subject).unwrap();
    let name = "user.name=A\u{202e}nn\x07 \u{9b}31m";
    let message = stage.path("message");
    stage.git(&[
        "-c",
        name,
        "-c",
        "i18n.commitEncoding=none",
        "commit",
        "-q",
        "--allow-empty",
        "--cleanup=verbatim",
        "-F",
        message.to_str().unwrap(),
    ]);
    stage.git(&["push", "-q", "origin", "HEAD:main"]);
    let two = stage.git(&["rev-parse", "HEAD"]);
    stage.wait_live(&two);
    for words in
        [&["events"][..], &["history"], &["status"], &["status", "--oneline"], &["show", "2"], &["why"]]
    {
        let shown = stage.done(words);
        let wild = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!shown.contains(wild), "bgd {words:?}: {shown:?}");
        assert!(!shown.lines().any(|line| line.trim_start().starts_with("[shop] live")), "{shown}");
    }
    let events = stage.done(&["events", "--json"]);
    let number =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap();
    let numbers: Vec<u64> = events.lines().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "one event a line: {numbers:?}");
}

#[test]
fn b11_a_release_holds_no_credential_and_no_repository() {
    let stage = stage();
    // Basic x-access-token:right-token
    let server = Http::start(&stage.path(""), Some("Basic eC1hY2Nlc3MtdG9rZW46cmlnaHQtdG9rZW4="));
    fs::write(stage.path("token"), "right-token\n").unwrap();
    stage.configure(&format!("[app.shop.auth]\ntoken_file = {:?}", stage.path("token")));
    stage.point_to(&server.url(""));
    let commit = stage.push_with("one", "", "env; find . -name .git");
    stage.wait_live(&commit);
    let release = stage.path("state/shop/releases").join(&stage.releases()[0]);
    assert!(!release.join(".git").exists());
    for dir in [release, stage.path("state/shop/logs"), stage.path("state/shop/mirror.git")] {
        assert!(!crate::stage::git::holds_text(&dir, "right-token"), "{}", dir.display());
    }
    let app = stage.value("live.pid");
    for (pid, line) in stage.processes() {
        assert!(!line.contains("right-token"), "{pid}: {line}");
    }
    let environment = fs::read(format!("/proc/{app}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("right-token"));
    assert!(!stage.done(&["logs", "--build"]).contains(".git"));
    assert!(http::get(stage.public(), "/").is_ok());
}
