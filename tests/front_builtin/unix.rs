//! Backends on unix sockets behind the builtin front.

use std::path::PathBuf;

use bgd::rules::{
    address::Address,
    ids::{Color, Generation},
    route::{FlatRoute, Route},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpStream, UnixListener},
    task::JoinHandle,
};

use super::{
    LONG,
    support::{Backend, Client, TestFront, routed},
};

/// A way into a backend by a socket.
struct Door {
    path: PathBuf,
    open: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Door {
    fn to(backend: &Backend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, port) = (dir.path().join("s"), backend.port);
        let listener = UnixListener::bind(&path).unwrap();
        let open = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut inside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    copy_bidirectional(&mut stream, &mut inside).await.ok();
                });
            }
        });
        Self { path, open, _dir: dir }
    }

    fn route(&self, generation: u64, color: Color) -> Route {
        let mut backend = routed(color, 0, 100);
        backend.address = Address::Socket(self.path.clone());
        FlatRoute::new(Generation(generation), vec![backend]).into()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.open.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_on_unix_sockets_serve_flip_and_tunnel_as_those_on_ports() {
    let front = TestFront::start().await;
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let (blue, green) = (Door::to(&blue), Door::to(&green));
    let mut client = Client::connect(front.address).await;
    for generation in 1..40 {
        let (color, door) = if generation % 2 == 0 { (Color::Green, &green) } else { (Color::Blue, &blue) };
        let route = door.route(generation, color);
        front.front.route(&route).await.unwrap();
        assert_eq!(front.front.routed().await.unwrap(), Some(route));
        // The second one on a connection that was kept.
        for _ in 0..2 {
            let answer = client.get("/").await.unwrap();
            assert_eq!((answer.status, answer.header("x-rev")), (200, Some(color.as_str())));
        }
    }
    let mut tunnel = Client::connect(front.address).await.upgrade("/ws").await.unwrap();
    front.front.route(&green.route(40, Color::Green)).await.unwrap();
    tunnel.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    tunnel.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
    assert!(front.front.cut(Color::Blue).await.unwrap() >= 1);
    assert_eq!(front.front.drained(Color::Blue, LONG).await.unwrap(), 0);
    assert_eq!(tunnel.read(&mut echo).await.unwrap_or(0), 0, "closed");
    drop(green);
    assert_eq!(front.get("/").await.status, 502, "nobody listens there any more");
    front.end().await;
}
