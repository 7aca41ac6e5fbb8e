//! A front in a temporary directory, backends inside the test, and clients that speak HTTP by hand, so that
//! nothing is repaired silently.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bgd::{
    front::builtin::{Builtin, ExchangeLimits, FrontPlace},
    rules::{
        address::Address,
        ids::{Color, Generation},
        route::{FlatRoute, Weighted},
    },
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::stage::{GENEROUS, copy_of_program};

/// The program under test.
pub fn exe() -> PathBuf {
    env!("CARGO_BIN_EXE_bgd").into()
}

/// Waits for what can't be awaited otherwise.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + GENEROUS;
    while !holds().await {
        assert!(Instant::now() < deadline, "did not come true in time");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process runs (a zombie does not).
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Ends a process at once.
pub fn kill(pid: u32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGKILL).unwrap();
}

/// The same to a child of this process, and waits until it was reaped: its first thread may have ended before the
/// others, and the others still hold its sockets open.
pub async fn killed(pid: u32) {
    kill(pid);
    until(async || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

/// The session a process belongs to.
pub fn session_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1.to_owned();
    after_name.split(' ').nth(3).unwrap().parse().unwrap()
}

/// A front's handle for files in `dir`; nothing is started.
pub fn front_at(dir: &Path, listen: SocketAddr) -> Builtin {
    let place =
        FrontPlace { app: "shop".parse().unwrap(), listen, control: dir.join("c"), log: dir.join("log") };
    Builtin::new(exe(), place)
}

/// A running front, which ends with the test however that ends.
pub struct TestFront {
    pub front: Builtin,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
}

impl TestFront {
    pub async fn start() -> Self {
        Self::limited(ExchangeLimits::default()).await
    }

    /// One that lets clients and apps take this long.
    pub async fn limited(limits: ExchangeLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let front = front_at(dir.path(), "127.0.0.1:0".parse().unwrap()).limited(limits);
        let address = front.ensure_running().await.unwrap().bound;
        Self { front, address, dir }
    }

    /// One that runs already.
    pub fn of(front: Builtin, address: SocketAddr, dir: tempfile::TempDir) -> Self {
        Self { front, address, dir }
    }

    /// One that somebody else started.
    pub async fn found(dir: tempfile::TempDir, control: PathBuf) -> Self {
        until(async || control.exists()).await;
        let front = front_at(dir.path(), "127.0.0.1:0".parse().unwrap());
        let address = front.hello().await.unwrap().unwrap().bound;
        Self { front, address, dir }
    }

    /// The same place, run by another file of the program.
    pub fn heir(&self, name: &str) -> Builtin {
        let copy = self.dir.path().join(name);
        copy_of_program(&exe(), &copy, "755");
        Builtin::new(copy, self.front.place().clone())
    }

    pub async fn route(&self, generation: u64, color: Color, port: u16) {
        let route = FlatRoute::new(Generation(generation), vec![routed(color, port, 100)]).into();
        self.front.route(&route).await.unwrap();
    }

    pub async fn get(&self, path: &str) -> Answer {
        Client::connect(self.address).await.get(path).await.unwrap()
    }

    pub async fn end(self) {
        self.front.stop().await.unwrap();
    }
}

impl Drop for TestFront {
    /// After a failed test: whoever is told to leave and then left alone ends by itself.
    fn drop(&mut self) {
        if let Ok(mut control) = std::os::unix::net::UnixStream::connect(&self.front.place().control) {
            let _ended_already = io::Write::write_all(&mut control, b"{\"do\":\"leave\"}\n");
            let _ended_already = io::Read::read(&mut control, &mut [0; 64]);
        }
    }
}

/// A place in a route.
pub fn routed(color: Color, port: u16, weight: u16) -> Weighted {
    let release = match color {
        Color::Blue => "20261121T101112Z-1-0123456",
        Color::Green => "20261121T111213Z-2-89abcde",
    };
    Weighted { color, address: Address::Port(port), weight, release: release.parse().unwrap() }
}

/// A port of its own on which nobody listens.
pub struct Refusing {
    pub port: u16,
    _socket: tokio::net::TcpSocket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { port: socket.local_addr().unwrap().port(), _socket: socket }
    }
}

/// The requests for `/wait` that arrived, and leave for them to go.
struct Waits {
    arrived: AtomicUsize,
    leave: Semaphore,
}

/// A small app.
pub struct Backend {
    pub port: u16,
    waits: Arc<Waits>,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl Backend {
    pub async fn start(rev: &'static str) -> Self {
        Self::start_on(rev, 0).await
    }

    pub async fn start_on(rev: &'static str, port: u16) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        let listener = socket.listen(1024).unwrap();
        let port = listener.local_addr().unwrap().port();
        let waits = Arc::new(Waits { arrived: AtomicUsize::new(0), leave: Semaphore::new(0) });
        let serving = tokio::spawn(serve(listener, rev, Arc::clone(&waits)));
        Self { port, waits, serving: Some(serving) }
    }

    /// Lets one `/wait` go.
    pub fn release(&self) {
        self.waits.leave.add_permits(1);
    }

    /// Waits until so many asked for `/wait`.
    pub async fn awaited_by(&self, count: usize) {
        until(async || self.waits.arrived.load(Ordering::SeqCst) >= count).await;
    }

    /// Ends at once, with all its connections.
    pub async fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener, rev: &'static str, waits: Arc<Waits>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let waits = Arc::clone(&waits);
        let service = service_fn(move |request| app(request, rev, Arc::clone(&waits)));
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        connections.spawn(async move { connection.await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

type Answering = Response<BoxBody<Bytes, hyper::Error>>;

fn whole(text: impl Into<Bytes>) -> BoxBody<Bytes, hyper::Error> {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

async fn app(
    request: Request<Incoming>,
    rev: &'static str,
    waits: Arc<Waits>,
) -> Result<Answering, Infallible> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut status = 200;
    let mut extra = HeaderMap::new();
    let body = match request.uri().path() {
        "/slow" => {
            sleep(Duration::from_millis(query.trim_start_matches("ms=").parse().unwrap())).await;
            whole(rev)
        }
        "/wait" => {
            waits.arrived.fetch_add(1, Ordering::SeqCst);
            waits.leave.acquire().await.unwrap().forget();
            whole("waited")
        }
        "/chunks" => {
            let parts = ["one ", "two ", "three "].map(|part| Ok(Frame::data(Bytes::from(part))));
            StreamBody::new(futures_util::stream::iter(parts)).boxed()
        }
        "/late" => {
            let wait = Duration::from_millis(query.parse().unwrap());
            let parts = futures_util::stream::unfold(0, move |sent| async move {
                let part = *["early ", "late"].get(sent)?;
                if sent == 1 {
                    sleep(wait).await;
                }
                Some((Ok(Frame::data(Bytes::from(part))), sent + 1))
            });
            StreamBody::new(parts).boxed()
        }
        "/events" => {
            extra.insert("content-type", "text/event-stream; charset=utf-8".parse().unwrap());
            let parts = futures_util::stream::once(async move {
                waits.leave.acquire().await.unwrap().forget();
                Ok(Frame::data(Bytes::from("data: 1\n\n")))
            });
            StreamBody::new(parts).boxed()
        }
        "/cookie" => {
            extra.insert("set-cookie", "app=1; Path=/shop".parse().unwrap());
            whole(rev)
        }
        "/echo" => request.into_body().boxed(),
        "/collect" => whole(request.into_body().collect().await.unwrap().to_bytes()),
        "/refuse" => {
            status = 413;
            whole("too large")
        }
        "/status" => {
            status = query.parse().unwrap();
            whole("")
        }
        "/headers" => {
            let lines = request.headers().iter().map(|(k, v)| format!("{k}: {}\n", v.to_str().unwrap()));
            whole(lines.collect::<String>())
        }
        "/trailers" => {
            extra.insert("trailer", "x-sum".parse().unwrap());
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "42".parse().unwrap())]);
            let frames = [Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            StreamBody::new(futures_util::stream::iter(frames)).boxed()
        }
        "/ws" => return Ok(echo_upgrade(request)),
        _ => whole(rev),
    };
    let mut answer = Response::builder().status(status).header("x-rev", rev).body(body).unwrap();
    answer.headers_mut().extend(extra);
    Ok(answer)
}

/// Echoes after the upgrade. Ends with the backend, since the task of the connection carries it.
fn echo_upgrade(request: Request<Incoming>) -> Answering {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut read, &mut write).await.ok();
        }
    });
    let builder =
        Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
    builder.body(whole("")).unwrap()
}

/// What a scripted backend does with one request.
pub type Step = fn() -> (&'static str, bool);

/// A backend that reads whole requests and treats each by its script.
pub struct Script {
    pub port: u16,
    seen: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Script {
    /// Answers 200 and keeps the connection.
    pub const OK: Step = || ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true);
    /// Closes without a word.
    pub const CLOSE: Step = || ("", false);
    /// Closes in the middle of an answer.
    pub const HALF: Step = || ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", false);
    /// Answers 200 as if it kept the connection, and closes it.
    pub const OK_THEN_END: Step = || ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false);

    pub async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&seen), Arc::clone(&ended));
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (steps, (seen, ended)) = (steps.clone(), counters.clone());
                connections.spawn(async move {
                    while read_request(&mut stream).await.is_some() {
                        let (text, stays) = steps[seen.fetch_add(1, Ordering::SeqCst)]();
                        stream.write_all(text.as_bytes()).await.unwrap();
                        if !stays {
                            break;
                        }
                    }
                    drop(stream);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, seen, ended, serving }
    }

    /// Whole requests that arrived.
    pub fn requests(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until this many connections were closed.
    pub async fn closed(&self, count: usize) {
        until(async || self.ended.load(Ordering::SeqCst) >= count).await;
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&buffer[..read]);
        let head = String::from_utf8_lossy(&text).into_owned();
        let Some(end) = head.find("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if text.len() >= end + 4 + length.unwrap_or(0_usize) {
            return Some(text);
        }
    }
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client on one connection, which repairs nothing.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// From an address of the loopback network.
    pub async fn connect_from(to: SocketAddr, from: std::net::Ipv4Addr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        Self { stream: socket.connect(to).await.unwrap(), read: Vec::new() }
    }

    /// Asks with further lines in the head, each with its end. As any client does, it connects anew after an answer
    /// that says so: a front that is leaving says it.
    pub async fn get_with(&mut self, path: &str, lines: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: t\r\n{lines}\r\n")).await;
        let answer = self.answer("GET").await.unwrap();
        if answer.header("connection") == Some("close") {
            *self = Self::connect(self.stream.peer_addr().unwrap()).await;
        }
        answer
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes()).await?;
        self.answer("GET").await
    }

    pub async fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Answer> {
        let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len());
        let whole = [head.as_bytes(), body].concat();
        let (mut receive, mut send) = self.stream.split();
        // Both at once: an answer may begin before the body has gone.
        let mut first = [0; 4096];
        let (sent, got) = tokio::join!(send.write_all(&whole), receive.read(&mut first));
        sent?;
        match got? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => self.read.extend_from_slice(&first[..got]),
        }
        self.answer("POST").await
    }

    pub async fn upgrade(mut self, path: &str) -> io::Result<TcpStream> {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let answer = self.answer("GET").await?;
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
        Ok(self.stream)
    }

    /// Reads up to and including `text`.
    pub async fn read_until(&mut self, text: &str) {
        loop {
            let found = self.read.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                self.read.drain(..at + text.len());
                return;
            }
            self.more().await.unwrap();
        }
    }

    pub async fn read_to_end(&mut self) -> String {
        while self.more().await.is_ok() {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// Reads one answer to a request of this method.
    pub async fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..end);
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> =
            lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks().await?;
        } else {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            answer.body = self.bytes(length).await?;
        }
        Ok(answer)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.read.windows(2).position(|window| window == b"\r\n") {
                    Some(at) => break at,
                    None => self.more().await?,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.read[..end]).unwrap(), 16).unwrap();
            self.read.drain(..end + 2);
            let chunk = self.bytes(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < count {
            self.more().await?;
        }
        Ok(self.read.drain(..count).collect())
    }

    async fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let read = tokio::time::timeout(GENEROUS, self.stream.read(&mut buffer));
        match read.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.read.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }
}
