//! The probes for FastCGI and uWSGI against real sockets: the request, the judgement of answers, and what a server
//! can't do to the prober.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use super::*;
use crate::config::settings::FastCgiProbe;

/// A server's behaviour on a connection, after the request.
type Say = Box<dyn Fn(&mut TcpStream) + Send>;

/// Serves one connection for each of `answers`, after its request `is_whole`.
fn serve_bytes(is_whole: fn(&[u8]) -> bool, answers: Vec<Say>) -> (u16, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let each = answers.iter().map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut piece) = (Vec::new(), [0; 1024]);
            while !is_whole(&asked) {
                let count = stream.read(&mut piece).unwrap();
                assert!(count > 0, "cut short: {}", asked.escape_ascii());
                asked.extend_from_slice(&piece[..count]);
            }
            answer(&mut stream);
            asked
        });
        each.collect()
    });
    (port, served)
}

fn gives(bytes: impl AsRef<[u8]> + Send + 'static) -> Say {
    Box::new(move |stream| stream.write_all(bytes.as_ref()).unwrap())
}

/// Writes the bytes and keeps the connection until the other side closes it.
fn gives_and_stays(bytes: impl AsRef<[u8]> + Send + 'static) -> Say {
    Box::new(move |stream| {
        stream.write_all(bytes.as_ref()).unwrap();
        wait_for_end(stream);
    })
}

async fn asked(served: JoinHandle<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    tokio::task::spawn_blocking(|| served.join().unwrap()).await.unwrap()
}

/// A record with padding, as php-fpm sends them.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let padding = content.len().wrapping_neg() % 8;
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[1, kind, 0, 1, high, low, padding as u8, 0], content, &[9; 8][..padding]].concat()
}

const STDOUT: u8 = 6;
const STDERR: u8 = 7;

fn end(protocol_status: u8) -> Vec<u8> {
    record(3, &[0, 0, 0, 0, protocol_status, 0, 0, 0])
}

fn php(page: &str) -> Vec<u8> {
    [record(STDOUT, page.as_bytes()), record(STDOUT, b""), end(0)].concat()
}

fn is_whole_fastcgi(bytes: &[u8]) -> bool {
    bytes.ends_with(&[1, 5, 0, 1, 0, 0, 0, 0])
}

fn is_whole_uwsgi(bytes: &[u8]) -> bool {
    bytes
        .get(1..3)
        .is_some_and(|length| bytes.len() == 4 + usize::from(u16::from_le_bytes(length.try_into().unwrap())))
}

fn fastcgi(page: HttpProbe) -> Probe {
    Probe::FastCgi(FastCgiProbe { page, script: Some("public/index.php".into()) })
}

/// One FastCGI probe of a server with this answer.
async fn ask_fastcgi(page: HttpProbe, answer: Say) -> ProbeResult {
    let (port, served) = serve_bytes(is_whole_fastcgi, vec![answer]);
    let answer = within(fastcgi(page), port, Duration::from_secs(20)).await;
    asked(served).await;
    answer
}

async fn ask_uwsgi(page: HttpProbe, answer: Say) -> ProbeResult {
    let (port, served) = serve_bytes(is_whole_uwsgi, vec![answer]);
    let answer = within(Probe::Uwsgi(page), port, Duration::from_secs(20)).await;
    asked(served).await;
    answer
}

/// The variables of a FastCGI request.
fn params(bytes: &[u8]) -> BTreeMap<String, String> {
    let (mut left, mut all) = (bytes, Vec::new());
    while let [1, kind, 0, 1, high, low, padding, _, rest @ ..] = left {
        let (content, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if *kind == 4 {
            all.extend_from_slice(content);
        }
        left = &rest[usize::from(*padding)..];
    }
    assert!(left.is_empty());
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_str().unwrap().to_owned();
    let (mut left, mut found) = (&all[..], BTreeMap::new());
    while !left.is_empty() {
        let mut lengths = [0; 2];
        for length in &mut lengths {
            let long = left[0] >= 128;
            let (bytes, rest) = left.split_at(if long { 4 } else { 1 });
            *length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            *length &= if long { usize::MAX >> 33 } else { usize::MAX };
            left = rest;
        }
        let (name, rest) = left.split_at(lengths[0]);
        let (value, rest) = rest.split_at(lengths[1]);
        found.insert(text(name), text(value));
        left = rest;
    }
    found
}

#[tokio::test]
async fn php_is_asked_for_the_script_and_told_the_path() {
    let (port, served) = serve_bytes(is_whole_fastcgi, vec![gives(php("Content-type: x/y\r\n\r\nfine"))]);
    let long = format!("/up%20there?{}", "q".repeat(200));
    let answer = within(fastcgi(HttpProbe { path: long.clone(), ..http() }), port, LONG).await;
    assert_eq!((answer.verdict, answer.excerpt.as_str()), (ProbeVerdict::Healthy, "fine"));
    let asked = asked(served).await.remove(0);
    assert!(asked.starts_with(b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00"), "a responder, not kept");
    let params = params(&asked);
    for (name, value) in [
        ("SCRIPT_FILENAME", "/srv/shop/public/index.php"),
        ("SCRIPT_NAME", "/index.php"),
        ("PATH_INFO", "/up there"),
        ("DOCUMENT_ROOT", "/srv/shop/public"),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", &long),
        ("QUERY_STRING", &"q".repeat(200)),
        ("HTTP_HOST", &format!("127.0.0.1:{port}")),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ] {
        assert_eq!(params[name], value, "{name}");
    }
}

#[tokio::test]
async fn without_a_script_the_path_is_the_script() {
    let (port, served) = serve_bytes(is_whole_fastcgi, vec![gives(php("a: b\n\npong"))]);
    let page = HttpProbe { path: "/ping".into(), host: Some("shop.example.com".into()), ..http() };
    let probe = Probe::FastCgi(FastCgiProbe { page, script: None });
    assert!(within(probe, port, LONG).await.verdict.is_healthy());
    let params = params(&asked(served).await[0]);
    assert_eq!((params["SCRIPT_NAME"].as_str(), params["HTTP_HOST"].as_str()), ("/ping", "shop.example.com"));
    assert_eq!(params["SCRIPT_FILENAME"], "/srv/shop/ping");
}

#[tokio::test]
async fn uwsgi_is_asked_for_the_path() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nfine";
    let (port, served) = serve_bytes(is_whole_uwsgi, vec![gives(page)]);
    let probe = Probe::Uwsgi(HttpProbe { path: "/up%20now?deep".into(), ..http() });
    let answer = within(probe, port, LONG).await;
    assert_eq!((answer.verdict, answer.excerpt.as_str()), (ProbeVerdict::Healthy, "fine"));
    let asked = asked(served).await.remove(0);
    assert_eq!((asked[0], asked[3]), (0, 0));
    let says = |part: &[u8]| asked.windows(part.len()).any(|window| window == part);
    assert!(says(b"\x09\x00PATH_INFO\x07\x00/up now"), "{}", asked.escape_ascii());
    assert!(says(b"\x0c\x00QUERY_STRING\x04\x00deep"), "{}", asked.escape_ascii());
}

#[tokio::test]
async fn the_page_is_judged_as_over_http() {
    let missing =
        [record(STDERR, b"Primary script unknown"), php("Status: 404 Not Found\r\n\r\nFile not found.\n")];
    let answer = ask_fastcgi(http(), gives(missing.concat())).await;
    assert_eq!(why(&answer), "GET /up answered 404 (expected 200)");
    assert_eq!(answer.excerpt, "Primary script unknown File not found.");
    let answer = ask_uwsgi(http(), gives("HTTP/1.1 302 X\r\nLocation: /login\r\n\r\n")).await;
    assert_eq!(why(&answer), "GET /up redirects to /login (302), which is not health");
    let wants = |text: &str| HttpProbe { body: Some(text.to_owned()), ..http() };
    assert!(ask_uwsgi(wants("l ok"), gives(OK)).await.verdict.is_healthy());
    let answer = ask_fastcgi(wants("ready"), gives(php("a: b\r\n\r\nall ok"))).await;
    assert_eq!(why(&answer), "GET /up: body lacks \"ready\"");
}

#[tokio::test]
async fn a_page_is_whole_though_the_connection_stays() {
    assert!(ask_fastcgi(http(), gives_and_stays(php("a: b\n\nok"))).await.verdict.is_healthy());
    assert!(ask_uwsgi(http(), gives_and_stays(OK)).await.verdict.is_healthy());
}

#[tokio::test]
async fn d3_a_closed_port_is_said_so_by_these_too() {
    let port = closed_port();
    for probe in [fastcgi(http()), Probe::Uwsgi(http())] {
        let answer = within(probe, port, Duration::from_secs(20)).await;
        assert_eq!(why(&answer), format!("connection refused on 127.0.0.1:{port}"));
    }
}

#[tokio::test]
async fn e6_a_server_that_hangs_costs_one_limit() {
    let part = record(STDOUT, b"a: b\r\n\r\nall ");
    let line = b"HTTP/1.1 200 OK\r\n\r\nall ".to_vec();
    let hung = "GET /up answered 200, but its body did not end within 2s";
    // Where a part of the answer must arrive, the limit leaves it enough time.
    for (is_whole, probe, said, limit, expected) in [
        (is_whole_fastcgi as fn(&[u8]) -> bool, fastcgi(http()), vec![], 150, "no answer within 150ms"),
        (is_whole_uwsgi, Probe::Uwsgi(http()), vec![], 150, "no answer within 150ms"),
        (is_whole_fastcgi, fastcgi(http()), part, 2000, hung),
        (is_whole_uwsgi, Probe::Uwsgi(http()), line, 2000, hung),
    ] {
        let (port, served) = serve_bytes(is_whole, vec![gives_and_stays(said)]);
        let answer = within(probe, port, Duration::from_millis(limit)).await;
        assert_eq!(why(&answer), expected);
        asked(served).await;
    }
}

/// Writes `first`, then `then` until the other side closes.
fn endless(first: Vec<u8>, then: Vec<u8>) -> Say {
    Box::new(move |stream| {
        stream.write_all(&first).unwrap();
        while stream.write_all(&then).is_ok() {}
    })
}

#[tokio::test]
async fn e6_an_answer_without_end_is_read_only_so_far() {
    let body = record(STDOUT, &[b'x'; 8192]);
    let answer = ask_fastcgi(http(), endless(record(STDOUT, b"a: b\r\n\r\n"), body)).await;
    assert_eq!((answer.verdict, answer.excerpt.len()), (ProbeVerdict::Healthy, 200));
    let answer = ask_uwsgi(http(), endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 8192])).await;
    assert_eq!((answer.verdict, answer.excerpt.len()), (ProbeVerdict::Healthy, 200));
    let answer = ask_fastcgi(http(), endless(Vec::new(), record(STDERR, &[b'e'; 8192]))).await;
    assert!(why(&answer).ends_with("its answer is longer than 262144 bytes"), "{answer:?}");
    let answer = ask_uwsgi(http(), endless(Vec::new(), b"a: b\r\n".to_vec())).await;
    assert!(why(&answer).contains("its head is"), "{answer:?}");
}

#[tokio::test]
async fn what_is_no_answer_is_said_so() {
    let huge = [&[1, STDOUT, 0, 1, 0xff, 0xff, 0xff, 0][..], b"a: b\r\n\r\nall"].concat();
    let cut = "it ended before its last record";
    for (said, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "it does not speak FastCGI"),
        (vec![2; 64], "it does not speak FastCGI"),
        (record(11, &[0; 8]), "it does not speak FastCGI"),
        (vec![1, STDOUT, 0, 2, 0, 0, 0, 0], "it does not speak FastCGI"),
        (Vec::new(), cut),
        (vec![1, STDOUT, 0], cut),
        (huge, cut),
        (record(STDOUT, b"a: b\r\n\r\nall"), cut),
        (record(3, &[0; 4]), "its last record is too short"),
        (end(2), "the request is refused: overloaded"),
        (end(0), "it ended before its head was whole"),
        (php("Content-Length: 9\r\n\r\nall"), "it ended after 3 of 9 bytes"),
        (php("SSH-2.0\r\n\r\n"), "its head is not as in HTTP or CGI: invalid header name"),
    ] {
        let shown = said.escape_ascii().to_string();
        let text = why(&ask_fastcgi(http(), gives(said)).await);
        assert!(
            text.starts_with("no proper answer from 127.0.0.1:") && text.ends_with(expected),
            "{shown}: {text}"
        );
    }
    for (said, expected) in [
        ("", "it ended before its head was whole"),
        ("HTTP/1.1 200 OK\r\nConte", "it ended before its head was whole"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall", "it ended after 3 of 9 bytes"),
        ("\0\0\0\0", "its head is not as in HTTP or CGI: invalid header name"),
    ] {
        let text = why(&ask_uwsgi(http(), gives(said)).await);
        assert!(text.ends_with(expected), "{said:?}: {text}");
    }
}

#[tokio::test]
async fn a_path_too_long_for_uwsgi_is_said_so() {
    let probe = Probe::Uwsgi(HttpProbe { path: format!("/{}", "a".repeat(70_000)), ..http() });
    let text = why(&within(probe, closed_port(), LONG).await);
    assert_eq!(text, "the probe can't be made: the path is longer than a packet of uwsgi");
    // FastCGI has no such limit.
    let (port, served) = serve_bytes(is_whole_fastcgi, vec![gives(php("a: b\n\n"))]);
    let long = HttpProbe { path: format!("/{}", "a".repeat(70_000)), ..http() };
    assert!(within(fastcgi(long.clone()), port, LONG).await.verdict.is_healthy());
    assert_eq!(params(&asked(served).await[0])["REQUEST_URI"], long.path);
}
