//! More clients than descriptors.

use std::{fs, process::Command, time::Duration};

use bgd::{
    front::builtin::{Builtin, FrontPlace},
    rules::ids::Color,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::support::{self, Backend, Client, TestFront};

/// More clients than a front with this limit can have.
const LIMIT: usize = 160;
const FLOOD: usize = 200;

/// A front that may have no more than [`LIMIT`] descriptors.
async fn poor_front() -> TestFront {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("poor");
    let script = format!("#!/bin/sh\nulimit -n {LIMIT}\nexec '{}' \"$@\"\n", support::exe().display());
    // Written by a process of its own: a child that another test starts meanwhile would have it open for writing.
    let mut write = Command::new("sh");
    write.args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""]).arg(&exe).arg(script);
    assert!(write.status().unwrap().success());
    let place = FrontPlace {
        app: "shop".parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        control: dir.path().join("c"),
        log: dir.path().join("log"),
    };
    let front = Builtin::new(exe, place);
    let address = front.ensure_running().await.unwrap().bound;
    TestFront::of(front, address, dir)
}

async fn is_open(stream: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(1), stream.read(&mut [0; 4096])).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_idle_clients_keep_no_visitor_out_and_busy_ones_stay() {
    let front = poor_front().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    let mut busy = Client::connect(front.address).await;
    busy.send("GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await;
    backend.awaited_by(1).await;
    let mut idle = Vec::new();
    for number in 0..FLOOD {
        let mut one = TcpStream::connect(front.address).await.unwrap();
        match number % 3 {
            // Not a byte, half a head, or kept after an answer.
            0 => {}
            1 => one.write_all(b"GET / HTT").await.unwrap(),
            _ => {
                one.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
                let _answer = one.read(&mut [0; 4096]).await.unwrap();
            }
        }
        idle.push(one);
        if number % 10 == 0 {
            assert_eq!(front.get("/").await.status, 200, "a visitor after {number} idle clients");
        }
    }
    let mut open = 0;
    for one in &mut idle {
        open += usize::from(is_open(one).await);
    }
    assert!(open < LIMIT / 2, "{open} of {FLOOD} idle clients are still open");
    backend.release();
    assert_eq!(busy.answer("GET").await.unwrap().text(), "waited");
    tunnel.write_all(b"ping").await.unwrap();
    tunnel.read_exact(&mut [0; 4]).await.unwrap();
    let hello = front.front.hello().await.unwrap().unwrap();
    assert!(hello.trouble.is_some_and(|it| it.contains("too few descriptors")));
    let log = fs::read_to_string(&front.front.place().log).unwrap();
    assert_eq!(log.matches("too few descriptors").count(), 1, "{log}");
    drop((idle, tunnel));
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_heads_that_never_end_keep_no_visitor_out() {
    let front = poor_front().await;
    let backend = Backend::start("blue").await;
    front.route(1, Color::Blue, backend.port).await;
    let mut slow = Vec::new();
    for _ in 0..FLOOD {
        let mut one = TcpStream::connect(front.address).await.unwrap();
        one.write_all(b"GET / HTT").await.unwrap();
        slow.push(one);
    }
    assert_eq!(front.get("/").await.status, 200);
    drop(slow);
    front.end().await;
}
