//! What HTTP/1.1 asks of a proxy, request by request and answer by answer.

use bgd::rules::ids::Color;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::support::{Answer, Backend, Client, Script, Step, TestFront};

/// Sends a request in all its bytes on a connection of its own.
async fn ask(front: &TestFront, method: &str, request: &str) -> Answer {
    let mut client = Client::connect(front.address).await;
    client.send(request).await;
    client.answer(method).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_unknown_length_reaches_the_app_whatever_the_method() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "REPORT", "PROPFIND"] {
        let head = format!("{method} /collect HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
        let answer = ask(&front, method, &format!("{head}5\r\nhello\r\n0\r\n\r\n")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{method}");
        let head = format!("{method} /collect HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n");
        let answer = ask(&front, method, &format!("{head}hello")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{method}");
    }
    let head = "HEAD /collect HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = ask(&front, "HEAD", &format!("{head}5\r\nhello\r\n0\r\n\r\n")).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_can_t_pass_on_is_refused_and_the_app_hears_nothing_of_it() {
    let front = TestFront::start().await;
    let backend = Script::start(vec![]).await;
    front.route(1, Color::Blue, backend.port).await;
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let coded = |line: &str| format!("POST / HTTP/1.1\r\nhost: t\r\n{line}\r\n\r\n{body}");
    let hosted = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for (request, status) in [
        (coded("transfer-encoding: gzip, chunked"), 501),
        (coded("transfer-encoding: gzip\r\ntransfer-encoding: chunked"), 501),
        (coded("transfer-encoding: chunked, chunked"), 400),
        (coded("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), 400),
        (coded("transfer-encoding: gzip"), 400),
        (hosted("a b"), 400),
        (hosted("a/evil"), 400),
        (hosted("a, b"), 400),
        ("GET echo HTTP/1.1\r\nhost: t\r\n\r\n".to_owned(), 400),
        ("GET echo:80 HTTP/1.1\r\nhost: t\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(ask(&front, "GET", &request).await.status, status, "{request:?}");
    }
    let refused = ask(&front, "GET", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(refused.status, 405);
    assert!(refused.header("allow").is_some_and(|methods| methods.contains("GET")));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_is_told_whether_its_connection_serves_on() {
    let front = TestFront::start().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut client = Client::connect(front.address).await;
    for method in ["GET", "HEAD"] {
        client.send(&format!("{method} / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")).await;
        let kept = client.answer(method).await.unwrap();
        assert_eq!(kept.header("connection"), Some("keep-alive"), "{method}");
    }
    client.send("GET /chunks HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    let text = client.read_to_end().await;
    assert!(text.contains("connection: close\r\n") && !text.contains("keep-alive"), "{text}");
    assert!(text.ends_with("\r\n\r\none two three "), "{text}");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_502_tells_what_was_wrong_with_the_answer() {
    const NOT_HTTP: Step = || ("SSH-2.0-OpenSSH_9.2\r\n", false);
    const CODED: Step = || ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true);
    const MANY: Step = || {
        static HEAD: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)));
        (HEAD.as_str(), true)
    };
    let front = TestFront::start().await;
    let backend = Script::start(vec![Script::CLOSE, NOT_HTTP, MANY, CODED]).await;
    front.route(1, Color::Blue, backend.port).await;
    for reason in [
        "the app closed the connection without an answer\n",
        "the app's answer is not HTTP/1.1\n",
        "the head of the app's answer has more than 64 KiB or 100 fields\n",
        "the app's answer has a transfer coding other than chunked\n",
    ] {
        let answer = front.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (502, reason));
    }
    assert_eq!(backend.requests(), 4);
    front.end().await;
}

/// Breaks off in the middle of a chunked answer.
const HALF_OF_CHUNKS: Step = || ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", false);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_passed_on_as_far_as_it_came_and_seen_to_be_cut() {
    let front = TestFront::start().await;
    let rounds = 20;
    let script = Script::start([Script::HALF, HALF_OF_CHUNKS].repeat(rounds)).await;
    front.route(1, Color::Blue, script.port).await;
    for _ in 0..rounds {
        let mut client = Client::connect(front.address).await;
        client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let text = client.read_to_end().await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n"), "{text:?}");
        assert!(text.ends_with("\r\n\r\nok"), "{text:?}");
        let mut client = Client::connect(front.address).await;
        client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let text = client.read_to_end().await;
        assert!(text.ends_with("\r\n\r\n2\r\nok\r\n"), "without a last chunk: {text:?}");
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_sees_by_a_reset_that_an_answer_is_cut() {
    let front = TestFront::start().await;
    let script = Script::start(vec![HALF_OF_CHUNKS]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    let end = client.read_to_end(&mut text).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(text.ends_with(b"\r\n\r\nok"), "{}", String::from_utf8_lossy(&text));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_breaks_off_is_a_502() {
    const HALF_A_HEAD: Step = || ("HTTP/1.1 200 OK\r\ncontent-le", false);
    let front = TestFront::start().await;
    let script = Script::start(vec![HALF_A_HEAD; 10]).await;
    front.route(1, Color::Blue, script.port).await;
    for _ in 0..10 {
        assert_eq!(front.get("/").await.status, 502);
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_app_says_before_its_answer_is_passed_on_at_once() {
    let front = TestFront::start().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    front.route(1, Color::Blue, app.local_addr().unwrap().port()).await;
    for request in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"] {
        let mut client = Client::connect(front.address).await;
        client.send(&request.replacen("\r\n", "\r\nhost: t\r\n", 1)).await;
        let (mut worker, _) = app.accept().await.unwrap();
        let _head = worker.read(&mut [0; 4096]).await.unwrap();
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nconnection: x\r\n\r\n";
        worker.write_all(hints.as_bytes()).await.unwrap();
        let early = client.answer("GET").await.unwrap();
        assert_eq!((early.status, early.header("link")), (103, Some("</a.css>; rel=preload")));
        assert_eq!(early.header("connection"), None);
        let rest = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        worker.write_all(rest.as_bytes()).await.unwrap();
        assert_eq!(client.answer("GET").await.unwrap().status, 102, "100 is said by each hop for itself");
        let answer = client.answer("GET").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_hears_nothing_before_the_answer() {
    const HINTS: Step =
        || ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true);
    let front = TestFront::start().await;
    let script = Script::start(vec![HINTS]).await;
    front.route(1, Color::Blue, script.port).await;
    let mut client = Client::connect(front.address).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let text = client.read_to_end().await;
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nok"), "{text}");
    front.end().await;
}
