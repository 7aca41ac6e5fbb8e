//! Warm-ups of real servers: slow at first, in error, silent, without end, or not there.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    num::NonZeroU32,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use super::*;
use crate::rules::address::Address;

/// Longer than anything takes here on a busy machine.
const GENEROUS: Duration = Duration::from_secs(120);

/// A server that answers each connection with the function's result; the function gets the number of the request. Keeps
/// the heads of all requests. Its threads end with the test's process.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, answer) = (heads.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept, answer) = (stream.unwrap(), kept.clone(), answer.clone());
                thread::spawn(move || {
                    let Some(head) = head(&mut stream) else { return };
                    let at = {
                        let mut kept = kept.lock().unwrap();
                        kept.push(head);
                        kept.len() - 1
                    };
                    answer(&mut stream, at);
                });
            }
        });
        Self { port, heads }
    }

    fn paths(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }

    async fn warm_up(&self, warmup: &Warmup, timeout: Duration) -> (WarmupEnd, WarmupFigures) {
        warm_up(self.port, warmup, (timeout, GENEROUS)).await
    }
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        // A client may go away at any time.
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn say(stream: &mut TcpStream, status: &str) {
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
}

/// Keeps the connection until the other side has had enough.
fn say_nothing(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

async fn warm_up(
    port: u16,
    warmup: &Warmup,
    (timeout, limit): (Duration, Duration),
) -> (WarmupEnd, WarmupFigures) {
    let visitor = Visitor::new(Address::Port(port), Some("shop.example.com"), timeout).unwrap();
    ask(&visitor, warmup, Instant::now() + limit).await
}

fn warmup(paths: &[&str], requests: u32, until_p95: Option<Duration>) -> Warmup {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Warmup { paths, requests: NonZeroU32::new(requests).unwrap(), until_p95 }
}

fn judged(warmup: &Warmup, (end, figures): &(WarmupEnd, WarmupFigures)) -> Result<(), (Nature, String)> {
    verdict(warmup, (*end, Duration::from_secs(600)), figures)
}

#[tokio::test]
async fn the_paths_are_asked_in_turn_as_often_as_configured_with_the_host_of_the_health_check() {
    let server = Server::start(|stream, _| say(stream, "200"));
    let warmup = warmup(&["/", "/search?q=x", "/cart"], 11, None);
    let found = server.warm_up(&warmup, GENEROUS).await;
    assert_eq!((found.0, found.1.made(), found.1.answered()), (WarmupEnd::AllMade, 11, 11));
    assert_eq!(judged(&warmup, &found), Ok(()));
    let paths = server.paths();
    let asked = |path: &str| paths.iter().filter(|asked| *asked == path).count();
    assert_eq!((asked("/"), asked("/search?q=x"), asked("/cart")), (4, 4, 3), "{paths:?}");
    let heads = server.heads.lock().unwrap();
    assert!(heads.iter().all(|head| head.starts_with("GET /")), "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains("\r\nhost: shop.example.com\r\n")), "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains(" (warm-up)\r\n")), "{heads:#?}");
}

#[tokio::test]
async fn four_requests_are_under_way_at_once_and_never_more() {
    // How many are here, and were at most.
    let counts = Arc::new((Mutex::new((0_usize, 0_usize)), Condvar::new()));
    let seen = counts.clone();
    let server = Server::start(move |stream, at| {
        let mut counts = seen.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        seen.1.notify_all();
        if at < AT_ONCE {
            // Nobody is answered before four are there, and a fifth had its chance.
            let wait = |counts, most: usize, limit| {
                let waits = |counts: &mut (usize, usize)| counts.1 <= most;
                seen.1.wait_timeout_while(counts, limit, waits).unwrap().0
            };
            counts = wait(wait(counts, AT_ONCE - 1, GENEROUS), AT_ONCE, Duration::from_millis(200));
        }
        // Before the answer: after it the next one may come.
        counts.0 -= 1;
        drop(counts);
        say(stream, "200");
    });
    let found = server.warm_up(&warmup(&["/"], 40, None), GENEROUS).await;
    assert_eq!(found.1.answered(), 40);
    assert_eq!(counts.0.lock().unwrap().1, AT_ONCE);
}

#[tokio::test]
async fn it_ends_as_soon_as_95_of_the_last_100_were_fast_enough() {
    // An error is not fast, however quickly it comes.
    let server = Server::start(|stream, at| say(stream, if at < 40 { "500" } else { "200" }));
    let warmup = warmup(&["/"], 100_000, Some(GENEROUS));
    let found = server.warm_up(&warmup, GENEROUS).await;
    assert_eq!(found.0, WarmupEnd::Warm);
    assert_eq!(judged(&warmup, &found), Ok(()));
    // 40 bad ones, of which the last 100 may hold 5, and what was under way.
    assert!((135..=135 + 2 * AT_ONCE).contains(&(found.1.made() as usize)), "{:?}", found.1);
    assert!(found.1.to_string().contains("the last of 40 without a proper answer"), "{}", found.1);
}

#[tokio::test]
async fn a_release_that_does_not_become_fast_fails_with_what_was_measured_and_may_be_tried_again() {
    let server = Server::start(|stream, at| say(stream, if at % 10 == 0 { "503" } else { "200" }));
    let warmup = warmup(&["/"], 60, Some(GENEROUS));
    let found = server.warm_up(&warmup, GENEROUS).await;
    assert_eq!((found.0, found.1.made()), (WarmupEnd::AllMade, 60));
    let (nature, cause) = judged(&warmup, &found).unwrap_err();
    assert_eq!(nature, Nature::Transient);
    assert!(cause.starts_with("not warm: of the last 60 requests 54 were answered within 2m"), "{cause}");
    assert!(cause.contains("; slowest: GET /, "), "{cause}");
    assert!(cause.ends_with("; the last of 6 without a proper answer: GET /: answered 503"), "{cause}");
}

#[tokio::test]
async fn one_path_that_fails_fails_no_deploy_without_a_limit() {
    let server = Server::start(|stream, at| say(stream, if at == 7 { "200" } else { "500" }));
    let warmup = warmup(&["/", "/broken"], 20, None);
    let found = server.warm_up(&warmup, GENEROUS).await;
    assert_eq!((found.1.made(), found.1.answered()), (20, 1));
    assert_eq!(judged(&warmup, &found), Ok(()));
}

#[tokio::test]
async fn redirects_logins_and_missing_pages_are_answers_and_nothing_is_followed() {
    let server = Server::start(|stream, at| match at % 3 {
        0 => {
            let _ = write!(stream, "HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
        }
        1 => say(stream, "401"),
        _ => say(stream, "404"),
    });
    let warmup = warmup(&["/"], 30, Some(GENEROUS));
    let found = server.warm_up(&warmup, GENEROUS).await;
    assert_eq!(
        (found.0, found.1.answered(), found.1.made()),
        (WarmupEnd::Warm, found.1.made(), found.1.answered())
    );
    assert!(server.paths().iter().all(|path| path == "/"), "{:?}", server.paths());
}

#[tokio::test]
async fn not_one_answer_fails_the_release_with_the_reason() {
    for (status, why) in [("500", "answered 500"), ("Oops", "no proper answer from 127.0.0.1")] {
        let server = Server::start(move |stream, _| say(stream, status));
        let warmup = warmup(&["/", "/a"], 6, None);
        let found = server.warm_up(&warmup, GENEROUS).await;
        let (nature, cause) = judged(&warmup, &found).unwrap_err();
        assert_eq!(nature, Nature::Deterministic);
        assert!(cause.starts_with("not one of 6 requests was answered properly; the last: GET /"), "{cause}");
        assert!(cause.contains(why), "{cause}");
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_or_says_nothing_or_never_ends_is_not_waited_for_longer_than_the_timeout()
 {
    let short = Duration::from_millis(30);
    let silent = Server::start(|stream, _| say_nothing(stream));
    let endless = Server::start(|stream, _| {
        let _ = write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 99999\r\n\r\nbegin");
        say_nothing(stream);
    });
    // Bound, so that nobody else takes it, and not listening.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for (port, why) in [
        (silent.port, "GET /: no answer within 30ms"),
        (endless.port, "within 30ms"),
        (closed.local_addr().unwrap().port(), "connection refused"),
    ] {
        let warmup = warmup(&["/"], 5, None);
        let found = warm_up(port, &warmup, (short, GENEROUS)).await;
        assert_eq!((found.0, found.1.made(), found.1.answered()), (WarmupEnd::AllMade, 5, 0));
        let (_, cause) = judged(&warmup, &found).unwrap_err();
        assert!(cause.contains(why), "{cause}");
    }
}

#[tokio::test]
async fn the_whole_warm_up_has_an_end_of_its_own() {
    let silent = Server::start(|stream, _| say_nothing(stream));
    let all = warmup(&["/"], 100_000, None);
    let found = warm_up(silent.port, &all, (GENEROUS, Duration::from_millis(30))).await;
    assert_eq!((found.0, found.1.made()), (WarmupEnd::TimeUp, 0));
    let (nature, cause) = judged(&all, &found).unwrap_err();
    assert_eq!(
        (nature, cause.as_str()),
        (Nature::Transient, "not one of 0 requests was answered properly within 10m")
    );
}

#[test]
fn what_was_answered_until_the_end_of_the_time_is_enough_unless_it_had_to_be_fast() {
    let without = warmup(&["/"], 100_000, None);
    let with = Warmup { until_p95: Some(GENEROUS), ..without.clone() };
    let mut figures = WarmupFigures::of(&with);
    figures.note("/", &Visit { took: Duration::from_millis(5), status: Ok(200) });
    let found = (WarmupEnd::TimeUp, figures);
    assert_eq!(judged(&without, &found), Ok(()));
    let (nature, cause) = judged(&with, &found).unwrap_err();
    assert_eq!(nature, Nature::Transient);
    assert!(
        cause.starts_with("not warm within 10m: of the last 1 requests 1 were answered within 2m"),
        "{cause}"
    );
}
