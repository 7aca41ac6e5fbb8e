//! How long clients and apps may take.

use std::time::Duration;

use bgd::{
    front::builtin::{Builtin, ExchangeLimits},
    rules::ids::Color,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::support::{self, Backend, Client, TestFront};

/// Long enough for anything that is not held back.
const LONG: Duration = Duration::from_secs(60);
/// What a test waits for to be over.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_falls_silent_in_its_request_is_a_408_and_the_app_is_free_again() {
    let front = TestFront::limited(ExchangeLimits::new(SHORT, LONG)).await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    front.route(1, Color::Blue, app.local_addr().unwrap().port()).await;
    let before = front.front.figures().await.unwrap().blue;
    for head in ["content-length: 100\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut client = Client::connect(front.address).await;
        client.send(&format!("POST / HTTP/1.1\r\nhost: t\r\n{head}")).await;
        let (mut worker, _) = app.accept().await.unwrap();
        let mut request = String::new();
        worker.read_to_string(&mut request).await.unwrap();
        assert!(request.contains("abc"), "{request}");
        let answer = client.answer("POST").await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert_eq!(client.read_to_end().await, "");
    }
    assert_eq!(front.front.figures().await.unwrap().blue, before, "the app is not to blame");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_a_little_now_and_then_is_waited_for() {
    let pieces = 5;
    // An app that has not got the whole request owes no answer.
    let front = TestFront::limited(ExchangeLimits::new(SHORT * 2, SHORT * 2)).await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    client.send(&format!("POST /collect HTTP/1.1\r\nhost: t\r\ncontent-length: {pieces}\r\n\r\n")).await;
    for _ in 0..pieces {
        sleep(SHORT / 2).await;
        client.send("x").await;
    }
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "xxxxx"));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_does_not_answer_is_a_504_and_streams_and_websockets_have_no_limit() {
    let front = TestFront::limited(ExchangeLimits::new(LONG, SHORT)).await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut events = Client::connect(front.address).await;
    events.send("GET /events HTTP/1.1\r\nhost: t\r\n\r\n").await;
    events.read_until("\r\n\r\n").await;
    let mut socket = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    for request in ["GET /wait HTTP/1.1\r\n", "POST /wait HTTP/1.1\r\ncontent-length: 0\r\n"] {
        let mut client = Client::connect(front.address).await;
        client.send(&format!("{request}host: t\r\n\r\n")).await;
        let answer = client.answer("GET").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (504, "the app did not answer in time\n"));
        assert_eq!(client.get("/").await.unwrap().status, 200, "the connection serves on");
    }
    let figures = front.front.figures().await.unwrap().blue;
    assert_eq!(figures.errors, 2);
    backend.release();
    events.read_until("data: 1").await;
    socket.write_all(b"ping").await.unwrap();
    socket.read_exact(&mut [0; 4]).await.unwrap();
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_and_an_app_that_takes_no_more_of_a_body_have_the_limit_too() {
    let front = TestFront::limited(ExchangeLimits::new(LONG, SHORT)).await;
    // Accepted by the kernel alone: nobody reads.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    front.route(1, Color::Blue, deaf.local_addr().unwrap().port()).await;
    let mut client = Client::connect(front.address).await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.unwrap().status, 504);
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let size = 64 * 1024 * 1024;
    stream
        .write_all(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {size}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let piece = vec![b'x'; 64 * 1024];
        // Ends when the front has closed the connection.
        while write.write_all(&piece).await.is_ok() {}
    });
    let mut head = [0; 12];
    read.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 504");
    drop(read);
    sending.await.unwrap();
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_limits_are_in_force_at_once_and_the_front_stays() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let before = front.front.hello().await.unwrap().unwrap();
    assert_eq!(before.limits, Some(ExchangeLimits::new(LONG, LONG)));
    let limits = ExchangeLimits::new(LONG, SHORT);
    let other = Builtin::new(support::exe(), front.front.place().clone()).limited(limits);
    let hello = other.ensure_running().await.unwrap();
    assert_eq!(hello.pid, before.pid);
    assert_eq!(other.hello().await.unwrap().unwrap().limits, Some(limits));
    assert_eq!(front.get("/wait").await.status, 504);
    front.end().await;
}
