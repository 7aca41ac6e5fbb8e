//! The gate scripts of `contrib/gates` against a small forge: what opens the gate, what keeps it waiting, what closes it
//! for good.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
};

use super::sample::{contrib, installed};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OPEN: i32 = 0;
const CLOSED: i32 = 1;
const NOT_YET: i32 = 75;

/// A forge that gives one answer to everything. It lives as long as the process of the tests, without a task between.
struct Forge {
    address: String,
    body: Arc<Mutex<String>>,
    /// Path and credentials of each request.
    asked: Receiver<(String, String)>,
}

impl Forge {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/base", listener.local_addr().expect("an address"));
        let body = Arc::new(Mutex::new(String::new()));
        let (tell, asked) = channel();
        let answer = body.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let head: Vec<String> = BufReader::new(&stream)
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let path =
                    head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
                let secret = head.iter().find(|line| line.contains("the-token")).cloned().unwrap_or_default();
                // The receiver is gone when the test is over.
                let _over = tell.send((path, secret));
                let body = answer.lock().expect("the answer").clone();
                let status = if body.is_empty() { "503 Service Unavailable" } else { "200 OK" };
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                // A script that has read enough may have closed the connection.
                let _closed = stream.write_all(text.as_bytes());
            }
        });
        Self { address, body, asked }
    }
}

/// A script, the names that it is to look for, the forge's answer, and the exit code.
type Row = (&'static str, &'static [&'static str], &'static str, i32);

const ROWS: &[Row] = &[
    ("github", &[], r#"{"check_runs": [], "statuses": []}"#, NOT_YET),
    (
        "github",
        &[],
        r#"{"check_runs": [{"name": "test", "status": "completed", "conclusion": "success"}]}"#,
        OPEN,
    ),
    (
        "github",
        &["test"],
        r#"{"check_runs": [{"name": "test", "status": "in_progress", "conclusion": null}]}"#,
        NOT_YET,
    ),
    (
        "github",
        &["test"],
        r#"{"statuses": [{"context": "test", "state": "success"}, {"context": "x", "state": "failure"}]}"#,
        OPEN,
    ),
    (
        "github",
        &[],
        r#"{"statuses": [{"context": "test", "state": "success"}, {"context": "x", "state": "failure"}]}"#,
        CLOSED,
    ),
    (
        "github",
        &["lint"],
        r#"{"check_runs": [{"name": "test", "status": "completed", "conclusion": "success"}]}"#,
        NOT_YET,
    ),
    ("gitlab", &[], r#"[{"id": 7, "status": "success"}]"#, OPEN),
    ("gitlab", &[], r#"[{"id": 7, "status": "running"}]"#, NOT_YET),
    ("gitlab", &[], "[]", NOT_YET),
    ("gitlab", &[], r#"[{"id": 7, "status": "canceled"}]"#, CLOSED),
    (
        "gitlab",
        &["unit test"],
        r#"[{"id": 1, "name": "unit test", "status": "failed"}, {"id": 2, "name": "unit test", "status": "success"}]"#,
        OPEN,
    ),
    ("gitlab", &["late", "lint"], r#"[{"id": 1, "name": "lint", "status": "failed"}]"#, CLOSED),
    ("gitlab", &["lint"], r#"[{"id": 1, "name": "lint", "status": "failed", "allow_failure": true}]"#, OPEN),
    (
        "gitea",
        &["CI / test (push)"],
        r#"{"statuses": [{"id": 1, "context": "CI / test (push)", "status": "pending"}, {"id": 2, "context": "CI / test (push)", "status": "success"}]}"#,
        OPEN,
    ),
    (
        "gitea",
        &[],
        r#"{"statuses": [{"id": 1, "context": "a", "status": "success"}, {"id": 2, "context": "b", "status": "pending"}]}"#,
        NOT_YET,
    ),
    (
        "gitea",
        &[],
        r#"{"statuses": [{"id": 1, "context": "a", "status": "error"}, {"id": 2, "context": "b", "status": "pending"}]}"#,
        CLOSED,
    ),
    ("gitea", &[], r#"{"statuses": []}"#, NOT_YET),
    (
        "bitbucket",
        &["build-1"],
        r#"{"values": [{"name": "Build", "key": "build-1", "state": "SUCCESSFUL"}]}"#,
        OPEN,
    ),
    (
        "bitbucket",
        &["Build"],
        r#"{"values": [{"name": "Build", "key": "build-1", "state": "INPROGRESS"}]}"#,
        NOT_YET,
    ),
    ("bitbucket", &[], r#"{"values": [{"name": "Build", "key": "build-1", "state": "STOPPED"}]}"#, CLOSED),
    ("bitbucket", &[], r#"{"values": []}"#, NOT_YET),
    // The forge does not answer, or with something else.
    ("github", &[], "", NOT_YET),
    ("gitlab", &[], "", NOT_YET),
    ("gitea", &[], "<html>", NOT_YET),
    ("bitbucket", &[], "<html>", NOT_YET),
];

#[test]
fn the_scripts_tell_green_red_and_not_yet_apart_on_each_forge() {
    if !installed(&["curl", "jq"]) {
        return;
    }
    let forge = Forge::start();
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "the-token\n").expect("a token");
    for (at, (script, names, body, code)) in ROWS.iter().enumerate() {
        *forge.body.lock().expect("the answer") = (*body).to_owned();
        let forms = [
            "git@git.example.com:acme/shop.git",
            "https://git.example.com/acme/shop",
            "ssh://git@git.example.com:2222/acme/shop.git/",
        ];
        let output = Command::new("sh")
            .arg(contrib("gates").join(script))
            .args(*names)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BGD_COMMIT", COMMIT)
            .env("BGD_REMOTE", forms[at % forms.len()])
            .env("GATE_API", &forge.address)
            .env("GATE_TOKEN_FILE", &token)
            .stdin(Stdio::null())
            .output()
            .expect("run the script");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{script} {names:?} {body}: {said}");
        assert_eq!(said.trim().is_empty(), *code == OPEN, "{script} {names:?} {body}: {said}");
        let asked: Vec<_> = forge.asked.try_iter().collect();
        assert!(!asked.is_empty(), "{script}");
        for (path, secret) in asked {
            assert!(path.starts_with("/base/") && path.contains(COMMIT), "{script}: {path}");
            assert!(path.contains("acme/shop") || path.contains("acme%2Fshop"), "{script}: {path}");
            assert!(secret.ends_with("the-token"), "{script}: {secret}");
        }
    }
}
