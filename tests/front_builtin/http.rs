//! What HTTP/1.1 asks of a proxy, request by request and answer by answer.

use bgd::rules::ids::Color;

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
