//! What the front says of real traffic: requests, errors and times of each color.

use std::time::Duration;

use bgd::rules::{ids::Color, traffic::Figures};

use super::support::{self, Backend, Client, Script, TestFront, until};

async fn blue(front: &TestFront) -> Figures {
    front.front.figures().await.unwrap().blue
}

async fn counted(front: &TestFront, requests: u64) -> Figures {
    until(async || blue(front).await.requests >= requests).await;
    let found = blue(front).await;
    assert_eq!(found.requests, requests);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_tell_requests_errors_and_times_of_each_color() {
    let front = TestFront::start().await;
    let (backend, green) = (Backend::start("blue").await, Backend::start("green").await);
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    for status in [200, 204, 302, 404, 499, 500, 503, 599] {
        assert_eq!(client.get(&format!("/status?{status}")).await.unwrap().status, status);
    }
    let first = counted(&front, 8).await;
    assert_eq!((first.errors, first.took.total()), (3, 8));
    // Until the last byte, not until the head.
    for path in ["/slow?ms=60", "/late?60"] {
        let before = blue(&front).await;
        client.get(path).await.unwrap();
        let since = counted(&front, before.requests + 1).await.since(&before);
        assert!(since.took.percentile(95).unwrap() >= Duration::from_millis(60), "{path}: {since:?}");
    }
    front.route(2, Color::Green, green.port).await;
    client.post("/echo", b"x").await.unwrap();
    until(async || front.front.figures().await.unwrap().green.requests == 1).await;
    let figures = front.front.figures().await.unwrap();
    assert_eq!((figures.green.errors, figures.green.took.total()), (0, 1));
    assert_eq!((figures.blue.requests, figures.blue.errors), (10, 3));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_answer_is_an_error_and_has_no_time() {
    let front = TestFront::start().await;
    let script = Script::start(vec![Script::OK, Script::CLOSE, Script::HALF]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = Client::connect(front.address).await;
    assert_eq!(client.post("/", b"x").await.unwrap().status, 200);
    assert_eq!(client.post("/", b"x").await.unwrap().status, 502);
    let found = counted(&front, 2).await;
    assert_eq!((found.errors, found.took.total()), (1, 1));
    // The head came, the rest did not.
    client.get("/").await.unwrap_err();
    let found = counted(&front, 3).await;
    assert_eq!((found.errors, found.took.total()), (2, 1));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_counts_with_its_head() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut stays = Client::connect(front.address).await;
    stays.send("GET /events HTTP/1.1\r\nhost: t\r\n\r\n").await;
    stays.read_until("\r\n\r\n").await;
    counted(&front, 1).await;
    backend.release();
    stays.read_until("data: 1").await;
    let mut cut = Client::connect(front.address).await;
    cut.send("GET /events HTTP/1.1\r\nhost: t\r\n\r\n").await;
    counted(&front, 2).await;
    front.front.cut(Color::Blue).await.unwrap();
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 0).await;
    let found = counted(&front, 2).await;
    assert_eq!((found.errors, found.took.total()), (0, 2), "each once, and none of them failed");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_counts_with_its_head_and_a_client_that_went_away_with_its_wait() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    let found = counted(&front, 1).await;
    assert_eq!((found.errors, found.took.total()), (0, 1));
    assert_eq!(front.front.inflight(Color::Blue).await.unwrap(), 1, "still open");
    let mut impatient = Client::connect(front.address).await;
    impatient.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
    backend.awaited_by(1).await;
    drop(impatient);
    let found = counted(&front, 2).await;
    assert_eq!((found.errors, found.took.total()), (0, 2));
    drop(tunnel);
    until(async || front.front.inflight(Color::Blue).await.unwrap() == 0).await;
    counted(&front, 2).await;
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_never_fall_when_a_successor_takes_over_and_begin_anew_after_a_kill() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let (mut count, mut errors) = (0_usize, 0);
    let mut pid = front.front.ensure_running().await.unwrap().pid;
    for copy in ["bgd-2", "bgd-3"] {
        let mut client = Client::connect(front.address).await;
        for _ in 0..20 {
            assert_eq!(client.get_with("/status?500", "").await.status, 500);
        }
        drop(client);
        let tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
        let mut last = Client::connect(front.address).await;
        last.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
        count += 22;
        errors += 20;
        backend.awaited_by(count / 22).await;
        let next = front.heir(copy).ensure_running().await.unwrap().pid;
        // What the former front ends after it has left the door to the next one counts too.
        backend.release();
        assert_eq!(last.answer("GET").await.unwrap().text(), "waited");
        assert_eq!(counted(&front, count as u64).await.errors, errors);
        drop(tunnel);
        until(async || !support::is_running(pid)).await;
        assert_eq!(counted(&front, count as u64).await.errors, errors, "its numbers stay when it has gone");
        pid = next;
    }
    support::killed(pid).await;
    front.front.ensure_running().await.unwrap();
    counted(&front, 0).await;
    front.end().await;
}
