//! Probes against real sockets and real commands.

mod protocols;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    num::NonZeroU32,
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Instant,
};

use super::*;
use crate::config::settings::HttpProbe;

/// Serves `count` connections: reads the head of the request, then calls `answer`, which may do anything with the
/// stream.
fn serve(
    count: usize,
    answer: impl Fn(&mut TcpStream, usize) + Send + 'static,
) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        (0..count)
            .map(|at| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    head.push(byte[0]);
                }
                answer(&mut stream, at);
                String::from_utf8(head).unwrap()
            })
            .collect()
    });
    (port, served)
}

/// The received requests; leaves the runtime free to close the probe's connection meanwhile.
async fn requests(served: JoinHandle<Vec<String>>) -> Vec<String> {
    tokio::task::spawn_blocking(|| served.join().unwrap()).await.unwrap()
}

fn says(text: &'static str) -> impl Fn(&mut TcpStream, usize) + Send + 'static {
    move |stream, _| stream.write_all(text.as_bytes()).unwrap()
}

/// Keeps the connection until the other side closes it.
fn wait_for_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

fn health(probe: Probe, timeout: Duration) -> Health {
    Health {
        probe,
        interval: Duration::from_millis(1),
        timeout,
        deadline: Duration::from_secs(60),
        successes: NonZeroU32::MIN,
    }
}

fn http() -> HttpProbe {
    HttpProbe { path: "/up".to_owned(), host: None, status: vec![200], body: None }
}

async fn ask_http(probe: HttpProbe, port: u16) -> ProbeResult {
    within(Probe::Http(probe), port, Duration::from_secs(20)).await
}

async fn within(probe: Probe, port: u16, timeout: Duration) -> ProbeResult {
    once(
        &health(probe, timeout),
        &Target { address: Address::Port(port), release_dir: "/srv/shop".into(), command: None },
    )
    .await
}

fn why(answer: &ProbeResult) -> String {
    match &answer.verdict {
        ProbeVerdict::Healthy => panic!("healthy: {answer:?}"),
        ProbeVerdict::Unhealthy(reason) => reason.to_string(),
    }
}

/// A port without a listener.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nall ok\n";

#[tokio::test]
async fn an_app_that_answers_200_is_healthy() {
    let (port, served) = serve(1, says(OK));
    let answer = ask_http(http(), port).await;
    assert_eq!(answer.verdict, ProbeVerdict::Healthy);
    assert_eq!(answer.excerpt, "all ok");
    let head = requests(served).await.remove(0).to_lowercase();
    assert!(head.starts_with("get /up http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")), "{head}");
}

#[tokio::test]
async fn e4_the_host_header_is_as_configured() {
    let (port, served) = serve(1, says(OK));
    let probe = HttpProbe { host: Some("shop.example.com".to_owned()), ..http() };
    assert!(ask_http(probe, port).await.verdict.is_healthy());
    let head = requests(served).await.remove(0).to_lowercase();
    assert!(head.contains("\r\nhost: shop.example.com\r\n"), "{head}");
    assert_eq!(head.matches("host:").count(), 1);
}

#[tokio::test]
async fn every_probe_uses_a_connection_of_its_own() {
    let keep = says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (port, served) = serve(3, keep);
    for _ in 0..3 {
        assert!(ask_http(http(), port).await.verdict.is_healthy());
    }
    assert_eq!(requests(served).await.len(), 3);
}

#[tokio::test]
async fn another_status_is_named_with_the_expected_one_and_the_page() {
    let page = "HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n<h1>\nno \x07database</h1>";
    let (port, served) = serve(1, says(page));
    let answer = ask_http(HttpProbe { status: vec![200, 204], ..http() }, port).await;
    assert_eq!(why(&answer), "GET /up answered 500 (expected 200 or 204)");
    assert_eq!(answer.excerpt, "<h1> no database</h1>");
    requests(served).await;
}

#[tokio::test]
async fn e3_a_redirect_is_not_health_and_is_not_followed() {
    let to = "HTTP/1.1 301 Moved\r\nLocation: https://shop.example.com/login\r\nContent-Length: 0\r\n\r\n";
    let (port, served) = serve(1, says(to));
    let answer = ask_http(http(), port).await;
    assert_eq!(
        why(&answer),
        "GET /up redirects to https://shop.example.com/login (301), which is not health"
    );
    requests(served).await;
}

#[tokio::test]
async fn the_body_must_contain_the_text() {
    let (port, served) = serve(2, says(OK));
    let wants = |text: &str| HttpProbe { body: Some(text.to_owned()), ..http() };
    assert!(ask_http(wants("l ok"), port).await.verdict.is_healthy());
    assert_eq!(why(&ask_http(wants("ready"), port).await), "GET /up: body lacks \"ready\"");
    requests(served).await;
}

#[tokio::test]
async fn d3_a_closed_port_is_said_so() {
    let port = closed_port();
    for probe in [Probe::Tcp, Probe::Http(http())] {
        let answer = within(probe, port, Duration::from_secs(20)).await;
        assert_eq!(why(&answer), format!("connection refused on 127.0.0.1:{port}"));
    }
}

#[tokio::test]
async fn e6_an_app_that_accepts_and_is_silent_costs_one_limit() {
    let (port, served) = serve(1, |stream, _| wait_for_end(stream));
    let limit = Duration::from_millis(150);
    let answer = within(Probe::Http(http()), port, limit).await;
    assert_eq!(why(&answer), "no answer within 150ms");
    assert!(answer.took >= limit && answer.took < Duration::from_secs(10), "{:?}", answer.took);
    requests(served).await;
}

#[tokio::test]
async fn e6_a_body_that_hangs_is_not_healthy() {
    let (port, served) = serve(1, |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall ").unwrap();
        wait_for_end(stream);
    });
    let answer = within(Probe::Http(http()), port, Duration::from_millis(150)).await;
    assert_eq!(why(&answer), "GET /up answered 200, but its body did not end within 150ms");
    assert_eq!(answer.excerpt, "all");
    requests(served).await;
}

#[tokio::test]
async fn e6_a_body_without_end_is_read_only_so_far() {
    let (told, sent) = mpsc::channel();
    let (port, served) = serve(1, move |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut bytes = 0_u64;
        while stream.write_all(&[b'x'; 8192]).is_ok() {
            bytes += 8192;
        }
        told.send(bytes).unwrap();
    });
    let answer = ask_http(http(), port).await;
    assert!(answer.verdict.is_healthy(), "{answer:?}");
    assert_eq!(answer.excerpt.len(), 200);
    requests(served).await;
    assert!(sent.recv().unwrap() < 64 << 20);
}

#[tokio::test]
async fn a_connection_that_breaks_or_is_not_http_is_said_so() {
    let (port, served) = serve(2, |stream, at| {
        if at == 1 {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").unwrap();
        }
    });
    for _ in 0..2 {
        let text = why(&ask_http(http(), port).await);
        assert!(text.starts_with(&format!("no proper answer from 127.0.0.1:{port}: ")), "{text}");
    }
    requests(served).await;
}

#[tokio::test]
async fn a_body_cut_short_is_not_healthy() {
    let (port, served) = serve(1, says("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nall"));
    assert!(why(&ask_http(http(), port).await).starts_with("no proper answer"));
    requests(served).await;
}

#[tokio::test]
async fn an_impossible_host_header_is_said_so() {
    let probe = HttpProbe { host: Some("a\nb".to_owned()), ..http() };
    assert!(why(&ask_http(probe, closed_port()).await).starts_with("the probe can't be made"));
}

#[tokio::test]
async fn e8_an_open_port_answers_a_tcp_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(within(Probe::Tcp, port, Duration::from_secs(20)).await.verdict.is_healthy());
}

async fn command(line: &str, dir: &Path, timeout: Duration) -> ProbeResult {
    let command = ProbeCommand {
        argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()],
        cwd: dir.to_owned(),
        env: BTreeMap::from([("PORT".to_owned(), "9502".to_owned())]),
        user: None,
        new_privileges: crate::os::privilege::NewPrivileges::Refused,
    };
    let target = Target { address: Address::Port(9502), release_dir: dir.to_owned(), command: Some(command) };
    once(&health(Probe::Command(line.to_owned()), timeout), &target).await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn e8_a_command_decides_by_its_exit_code_and_sees_only_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let quiet = command("test $PORT = 9502 && test -z \"$HOME\" && ! read x", dir.path(), LONG).await;
    assert_eq!((quiet.verdict, quiet.excerpt.as_str()), (ProbeVerdict::Healthy, ""));
    let no = command("echo out; echo err >&2; exit 3", dir.path(), LONG).await;
    assert_eq!(why(&no), "health command ended with exit code 3: out err");
    let signal = command("kill -KILL $$", dir.path(), LONG).await;
    assert_eq!(why(&signal), "health command ended with signal 9");
}

#[tokio::test]
async fn a_command_that_can_not_run_is_said_so() {
    let answer = command("true", Path::new("/does/not/exist"), LONG).await;
    assert!(why(&answer).starts_with("can't run health command /bin/sh: "), "{answer:?}");
}

/// Waits until the kernel has no such process any more.
fn gone(pid: &str) -> bool {
    let begun = Instant::now();
    let process = Path::new("/proc").join(pid.trim());
    let ended = |text: String| text.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"));
    while begun.elapsed() < Duration::from_secs(20) {
        if fs::read_to_string(process.join("stat")).map_or(true, ended) {
            return true;
        }
        thread::yield_now();
    }
    false
}

#[tokio::test]
async fn e6_a_command_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let line = "echo begun; sleep 1000 & echo $! > child; wait";
    let answer = command(line, dir.path(), Duration::from_millis(500)).await;
    assert_eq!(why(&answer), "health command did not end within 500ms: begun");
    assert!(gone(&fs::read_to_string(dir.path().join("child")).unwrap()));
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_delays_nothing_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let answer = command("sleep 1000 & echo $! > child; echo fine", dir.path(), LONG).await;
    assert_eq!((answer.verdict, answer.excerpt.as_str()), (ProbeVerdict::Healthy, "fine"));
    assert!(answer.took < LONG);
    assert!(gone(&fs::read_to_string(dir.path().join("child")).unwrap()));
}

#[tokio::test]
async fn a_flood_of_output_costs_no_memory_and_keeps_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let answer =
        command("head -c 3000000 /dev/zero | tr '\\0' x; echo ' last words'; exit 1", dir.path(), LONG);
    let text = why(&answer.await);
    assert!(text.ends_with("xxx last words") && text.len() < 400, "{text}");
}

#[tokio::test]
async fn an_abandoned_command_probe_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let probe = command("echo $$ > new; mv new child; sleep 1000", dir.path(), LONG);
    tokio::select! {
        answer = probe => panic!("ended: {answer:?}"),
        // Ends as soon as the command is known to run.
        () = async { while !child.exists() { tokio::task::yield_now().await } } => {}
    }
    assert!(gone(&fs::read_to_string(child).unwrap()));
}

#[tokio::test]
async fn l3_a_command_runs_as_its_user_with_its_groups() {
    if !geteuid_is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let probe = ProbeCommand {
        argv: [
            "/bin/sh",
            "-c",
            "id -un; id -G; grep -E '^(NoNew|CapPrm)' /proc/self/status; ls /proc/self/fd",
        ]
        .map(str::to_owned)
        .to_vec(),
        cwd: "/".into(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        user: Some("nobody".to_owned()),
        new_privileges: crate::os::privilege::NewPrivileges::Refused,
    };
    let health = health(Probe::Command(String::new()), LONG);
    let target = Target { address: Address::Port(1), release_dir: "/".into(), command: Some(probe) };
    let answer = once(&health, &target).await;
    assert!(answer.verdict.is_healthy(), "{answer:?}");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // 3 is the listing itself.
    let expected = format!("nobody {} CapPrm: 0000000000000000 NoNewPrivs: 1 0 1 2 3", nobody.gid);
    assert_eq!(answer.excerpt.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{answer:?}");
    let mut unknown = target;
    unknown.command.as_mut().unwrap().user = Some("no-such-user".to_owned());
    let answer = once(&health, &unknown).await;
    assert_eq!(why(&answer), "can't run health command /bin/sh: no such user: no-such-user");
}

fn geteuid_is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
