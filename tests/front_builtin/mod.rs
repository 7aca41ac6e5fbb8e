//! The builtin front as a real process, with backends inside the test and clients that count what is lost.

mod canary;
mod crowd;
mod figures;
mod http;
mod limits;
mod support;
mod unix;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bgd::{
    front::builtin::{Builtin, BuiltinError},
    rules::ids::Color,
};
use support::{Backend, Client, Script, TestFront, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{GENEROUS, ports};

/// Far more than anything here takes.
const LONG: Duration = GENEROUS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_live_is_a_503_that_says_when_to_come_back() {
    let front = TestFront::start().await;
    let answer = front.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(front.front.routed().await.unwrap(), None);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_moves_new_requests_at_once_and_keeps_the_clients_connection() {
    let front = TestFront::start().await;
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut client = Client::connect(front.address).await;
    for generation in 1..200 {
        let (color, backend) =
            if generation % 2 == 0 { (Color::Green, &green) } else { (Color::Blue, &blue) };
        front.route(generation, color, backend.port).await;
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.status, answer.header("x-rev")), (200, Some(color.as_str())));
    }
    let counters = front.front.counters().await.unwrap();
    assert_eq!((counters.blue.requests, counters.green.requests), (100, 99));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_under_load_lose_nothing_though_each_old_backend_is_killed_at_zero_in_flight() {
    const FLIPS: u64 = 300;
    let front = Arc::new(TestFront::start().await);
    let mut live = Backend::start("blue").await;
    front.route(1, Color::Blue, live.port).await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8_u64 {
        let (front, stop, done) = (Arc::clone(&front), Arc::clone(&stop), Arc::clone(&done));
        clients.spawn(async move {
            let mut client = Client::connect(front.address).await;
            for round in 0_u64.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let answer = match (number + round) % 4 {
                    0 => client.post("/echo", b"four").await,
                    1 => client.get("/slow?ms=3").await,
                    2 => client.get("/chunks").await,
                    _ => client.get("/").await,
                };
                let answer =
                    answer.unwrap_or_else(|error| panic!("request {round} of {number} lost: {error}"));
                assert_eq!(answer.status, 200, "{}", answer.text());
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for _ in 0..2 {
        // Short websocket-like conversations: each must be answered for as long as it is open.
        let (front, stop, done) = (Arc::clone(&front), Arc::clone(&stop), Arc::clone(&done));
        clients.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let mut tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
                for _ in 0..5 {
                    tunnel.write_all(b"ping").await.unwrap();
                    let mut echo = [0; 4];
                    tunnel.read_exact(&mut echo).await.unwrap();
                    assert_eq!(&echo, b"ping");
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut slowest = Duration::ZERO;
    for generation in 2..2 + FLIPS {
        let color = if generation % 2 == 0 { Color::Green } else { Color::Blue };
        let next = Backend::start(color.as_str()).await;
        let before = Instant::now();
        front.route(generation, color, next.port).await;
        slowest = slowest.max(before.elapsed());
        assert_eq!(front.front.drained(color.other(), LONG).await.unwrap(), 0);
        live.kill().await;
        live = next;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!("{} requests in {FLIPS} flips, slowest flip {slowest:?}", done.load(Ordering::SeqCst));
    assert!(done.load(Ordering::SeqCst) > FLIPS);
    Arc::into_inner(front).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_passes_chunk_by_chunk_both_ways() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client.send("POST /echo HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    // Each chunk is sent only after the former one came back: nothing waits for the whole.
    for text in ["one", "two!", "three"] {
        client.send(&format!("{:x}\r\n{text}\r\n", text.len())).await;
        client.read_until(text).await;
    }
    client.send("0\r\n\r\n").await;
    client.read_until("0\r\n\r\n").await;
    assert_eq!(client.get("/").await.unwrap().status, 200, "the connection serves on");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_unharmed() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let answer = Client::connect(front.address).await.post("/collect", &body).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_post_whose_backend_closes_after_reading_is_a_502_and_is_not_sent_again() {
    let front = TestFront::start().await;
    let script = Script::start(vec![Script::OK, Script::CLOSE, Script::CLOSE]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = Client::connect(front.address).await;
    // The first one leaves a kept connection behind, on which the second is read and dropped.
    assert_eq!(client.post("/", b"a").await.unwrap().status, 200);
    assert_eq!(client.post("/", b"b").await.unwrap().status, 502);
    assert_eq!(client.post("/", b"c").await.unwrap().status, 502);
    assert_eq!(script.requests(), 3);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_on_a_kept_connection_that_was_closed_is_sent_again_once() {
    let front = TestFront::start().await;
    let script =
        Script::start(vec![Script::OK, Script::CLOSE, Script::OK, Script::CLOSE, Script::CLOSE]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = Client::connect(front.address).await;
    assert_eq!(client.get("/").await.unwrap().status, 200);
    // Read and dropped on the kept connection, then answered on a new one.
    assert_eq!(client.get("/").await.unwrap().status, 200);
    assert_eq!(script.requests(), 3);
    // Dropped on the kept connection and on the new one: no third try.
    assert_eq!(client.get("/").await.unwrap().status, 502);
    assert_eq!(script.requests(), 5);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_survives_an_app_that_closes_its_idle_connections() {
    let front = TestFront::start().await;
    let script = Script::start(vec![Script::OK_THEN_END; 200]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = Client::connect(front.address).await;
    for round in 0..100 {
        assert_eq!(client.post("/", b"x").await.unwrap().status, 200, "round {round}");
        script.closed(round + 1).await;
    }
    assert_eq!(script.requests(), 100);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_for_a_moment_is_waited_for_and_a_dead_one_is_a_502() {
    let front = TestFront::start().await;
    // It comes back to its port, which nobody else may take meanwhile.
    let reserved = ports::reserve();
    let port = reserved.number;
    let mut backend = Backend::start_on("blue", port).await;
    front.route(1, Color::Blue, port).await;
    backend.kill().await;
    assert_eq!(front.get("/").await.status, 502);
    let address = front.address;
    let waiting = tokio::spawn(async move { Client::connect(address).await.post("/echo", b"late").await });
    // Back as soon as the request was refused for the first time.
    let refused = front.front.counters().await.unwrap().blue.connect_failures;
    until(async || front.front.counters().await.unwrap().blue.connect_failures > refused).await;
    let _backend = Backend::start_on("blue", port).await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "late"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_learns_who_asked_and_hop_by_hop_fields_stay_behind() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client
        .send(
            "GET /headers HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 203.0.113.9\r\n\
             X-Forwarded-Proto: https\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nCookie: a=b\r\n\r\n",
        )
        .await;
    let text = client.answer("GET").await.unwrap().text();
    for line in [
        "host: shop.example",
        "x-forwarded-for: 203.0.113.9, 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: shop.example",
        "cookie: a=b",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} not in {text}");
    }
    assert!(!text.contains("x-hop") && !text.contains("connection:"), "{text}");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_and_old_clients_are_framed_right() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let head = client.answer("HEAD").await.unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
        for status in [204, 304] {
            let answer = client.get(&format!("/status?{status}")).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (status, 0));
        }
    }
    // HTTP/1.0: no chunks, and the end of the connection is the end of the body.
    for extra in ["", "host: t\r\n"] {
        let mut old = Client::connect(front.address).await;
        old.send(&format!("GET /chunks HTTP/1.0\r\n{extra}\r\n")).await;
        let all = old.read_to_end().await;
        assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("\r\n\r\none two three "), "{all}");
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client.send("POST /echo HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("body").await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_and_pipelined_requests_pass() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client.send("GET /trailers HTTP/1.1\r\nhost: t\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    client.read_until("x-sum: 42\r\n\r\n").await;
    client.send(&"GET / HTTP/1.1\r\nhost: t\r\n\r\n".repeat(10)).await;
    for _ in 0..10 {
        assert_eq!(client.answer("GET").await.unwrap().text(), "blue");
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_answers_before_the_upload_ends_is_heard() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client.send("POST /refuse HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\nsome").await;
    assert_eq!(client.answer("POST").await.unwrap().status, 413);
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 0).await;
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_counts_as_in_flight_and_outlives_the_flip_until_it_is_cut() {
    let front = TestFront::start().await;
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    front.route(1, Color::Blue, blue.port).await;
    let mut tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    front.route(2, Color::Green, green.port).await;
    assert_eq!(front.front.drained(Color::Blue, Duration::from_millis(50)).await.unwrap(), 1);
    tunnel.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    tunnel.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    assert!(front.front.cut(Color::Blue).await.unwrap() >= 1);
    assert_eq!(front.front.drained(Color::Blue, LONG).await.unwrap(), 0);
    assert_eq!(tunnel.read(&mut echo).await.unwrap_or(0), 0, "closed");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_counts_a_slow_answer_until_its_end_and_a_client_that_went_away_not_at_all() {
    let front = TestFront::start().await;
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    front.route(1, Color::Blue, blue.port).await;
    let mut stays = Client::connect(front.address).await;
    stays.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let mut goes = Client::connect(front.address).await;
    goes.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 2).await;
    front.route(2, Color::Green, green.port).await;
    drop(goes);
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 1).await;
    assert_eq!(front.front.drained(Color::Blue, Duration::from_millis(30)).await.unwrap(), 1);
    blue.release();
    assert_eq!(stays.answer("GET").await.unwrap().text(), "waited");
    assert_eq!(front.front.drained(Color::Blue, LONG).await.unwrap(), 0);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_under_load_and_nothing_is_lost() {
    let front = Arc::new(TestFront::start().await);
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    front.route(1, Color::Blue, blue.port).await;
    let mut tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8_u64 {
        let (front, stop, done) = (Arc::clone(&front), Arc::clone(&stop), Arc::clone(&done));
        clients.spawn(async move {
            let mut client = Client::connect(front.address).await;
            while !stop.load(Ordering::SeqCst) {
                let answer = if number % 2 == 0 {
                    client.get("/slow?ms=2").await
                } else {
                    client.post("/echo", b"x").await
                };
                let answer = answer.unwrap_or_else(|error| panic!("lost by {number}: {error}"));
                assert_eq!(answer.status, 200);
                done.fetch_add(1, Ordering::SeqCst);
                // As any client does: an announced close means a new connection; half of them always.
                if answer.header("connection") == Some("close") || number < 4 {
                    client = Client::connect(front.address).await;
                }
            }
        });
    }
    let first = front.front.hello().await.unwrap().unwrap();
    let mut pids = vec![first.pid];
    for copy in ["bgd-2", "bgd-3"] {
        let before = done.load(Ordering::SeqCst);
        until(async || done.load(Ordering::SeqCst) > before + 100).await;
        let heir = front.heir(copy);
        let hello = heir.ensure_running().await.unwrap();
        assert!(!pids.contains(&hello.pid));
        pids.push(hello.pid);
        assert_eq!(hello.route, first.route, "the route is inherited");
        assert_eq!(heir.ensure_running().await.unwrap().pid, hello.pid, "once");
        let before = done.load(Ordering::SeqCst);
        until(async || done.load(Ordering::SeqCst) > before + 100).await;
    }
    // The first process still holds the websocket, and follows the flip through its successors.
    front.route(2, Color::Green, green.port).await;
    assert_eq!(front.front.inflight(Color::Blue).await.unwrap().min(1), 1);
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(front.front.drained(Color::Blue, Duration::from_millis(50)).await.unwrap(), 1);
    tunnel.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    tunnel.read_exact(&mut echo).await.unwrap();
    drop(tunnel);
    assert_eq!(front.front.drained(Color::Blue, LONG).await.unwrap(), 0);
    for former in &pids[..2] {
        until(async || !support::is_running(*former)).await;
    }
    Arc::into_inner(front).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_survives_its_spawner_and_is_found_again() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let before = front.front.hello().await.unwrap().unwrap();
    let again = Builtin::new(support::exe(), front.front.place().clone());
    assert_eq!(again.ensure_running().await.unwrap().pid, before.pid);
    assert_eq!(again.routed().await.unwrap(), before.route);
    assert_eq!(support::session_of(before.pid), before.pid, "a session of its own");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_end_of_the_front_that_is_meant_cuts_a_wait_short() {
    let front = TestFront::start().await;
    let pid = front.front.ensure_running().await.unwrap().pid;
    support::kill(pid);
    let whole = Duration::from_secs(3600);
    tokio::time::timeout(LONG, front.front.ended(pid, whole)).await.expect("its end is told");
    let (begun, short) = (Instant::now(), Duration::from_millis(50));
    front.front.ended(pid + 1, short).await;
    assert!(begun.elapsed() >= short, "the dead one cut the wait for another short");
    assert_ne!(front.front.ensure_running().await.unwrap().pid, pid);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_a_front_started_by_a_process_that_is_killed_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    // A shell stands for the daemon: it starts a front and is killed at once.
    let control = dir.path().join("c");
    let line = format!(
        "{exe} front --listen 127.0.0.1:0 --control {c} --log {l} & kill -9 $$",
        exe = support::exe().display(),
        c = control.display(),
        l = dir.path().join("log").display()
    );
    let status =
        tokio::process::Command::new("setsid").args(["-w", "sh", "-c", &line]).status().await.unwrap();
    assert!(!status.success());
    let front = TestFront::found(dir, control).await;
    assert_eq!(front.get("/").await.status, 503);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_a_stranger_holds_is_refused_with_its_name() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let front = support::front_at(dir.path(), stranger.local_addr().unwrap());
    match front.ensure_running().await.unwrap_err() {
        BuiltinError::AddressTaken { holder, .. } => {
            assert!(holder.contains(&std::process::id().to_string()), "{holder}")
        }
        other => panic!("{other:?}"),
    }
    assert!(front.hello().await.unwrap().is_none());
    front.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_control_socket_comes_back_and_the_same_front_is_found() {
    let front = TestFront::start().await;
    let before = front.front.hello().await.unwrap().unwrap();
    let mut place = front.front.place().clone();
    place.listen = front.address;
    std::fs::remove_file(&place.control).unwrap();
    // Asked for the real address, it is found behind the address that is in use, and followed by a
    // successor (another address was asked for); its socket is inherited.
    let hello = Builtin::new(support::exe(), place).ensure_running().await.unwrap();
    assert_ne!(hello.pid, before.pid);
    assert_eq!(hello.bound, before.bound);
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_front_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut idle = Client::connect(front.address).await;
    idle.get("/").await.unwrap();
    let mut busy = Client::connect(front.address).await;
    busy.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 1).await;
    let pid = front.front.hello().await.unwrap().unwrap().pid;
    let stopping = async {
        front.front.stop().await.unwrap();
        assert!(!support::is_running(pid));
    };
    let finishing = async {
        assert_eq!(idle.read_to_end().await, "");
        backend.release();
        let answer = busy.answer("GET").await.unwrap();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("waited", Some("close")));
    };
    tokio::join!(stopping, finishing);
    assert!(front.front.hello().await.unwrap().is_none());
    assert!(!front.front.place().control.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_on_either_socket_is_answered_and_harms_nothing() {
    let front = TestFront::start().await;
    let mut control = tokio::net::UnixStream::connect(&front.front.place().control).await.unwrap();
    control.write_all(b"{\"do\":\"dance\"}\n").await.unwrap();
    let mut line = vec![0; 4096];
    let read = control.read(&mut line).await.unwrap();
    assert!(String::from_utf8_lossy(&line[..read]).contains("refused"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&front.front.place().control).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    for request in
        ["\x16\x03\x01\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n"]
    {
        let mut client = Client::connect(front.address).await;
        client.send(request).await;
        let status = client.answer("GET").await.unwrap().status;
        assert!((400..500).contains(&status), "{request:?}: {status}");
    }
    let mut client = Client::connect(front.address).await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(100_000))).await;
    assert_eq!(client.answer("GET").await.unwrap().status, 431);
    assert_eq!(front.get("/").await.status, 503);
    front.end().await;
}
