//! Clients that ask without pause and count what is lost: each request on a fresh connection, over kept ones,
//! slow ones, and uploads. Lost is everything that is not a 200 with the name of a revision.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// An answer that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Between two requests of one client: a steady load, not a stress test.
const PAUSE: Duration = Duration::from_millis(8);
/// How many clients ask at the same time.
pub const CLIENTS: usize = 7;
/// How long the slow requests take.
const SLOW_MS: u64 = 700;

/// What the front may do with a kept connection that is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Nothing: it stays.
    Stays,
    /// Close it at a reload, as nginx does; a request that meets that is sent again, as clients do.
    MayClose,
}

#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Answered, by revision.
    pub answered: BTreeMap<String, u64>,
    /// When and what.
    pub lost: Vec<String>,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }
}

/// The load while it runs.
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(to: SocketAddr, idle: Idle) -> Self {
        let (counts, stop) = (Arc::<Mutex<Counts>>::default(), Arc::<AtomicBool>::default());
        let begun = Instant::now();
        let kinds: [_; CLIENTS] = ["fresh", "fresh", "kept", "kept", "slow", "slow", "upload"];
        let clients = kinds.map(|kind| {
            let (counts, stop) = (counts.clone(), stop.clone());
            let mut client = Client { to, idle, kind, kept: None };
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let result = client.ask();
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(rev) => *counts.answered.entry(rev).or_default() += 1,
                        Err(err) => counts.lost.push(format!("{:?} {kind}: {err}", begun.elapsed())),
                    }
                    drop(counts);
                    thread::sleep(PAUSE);
                }
            })
        });
        Self { counts, stop, clients: clients.into() }
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that revision has answered a few times more.
    pub fn sees(&self, rev: &str) {
        self.rises(&format!("{rev} does not answer"), |counts| {
            counts.answered.get(rev).copied().unwrap_or_default()
        });
    }

    /// Waits until any revision has: in the middle of a switch nobody knows which.
    pub fn goes_on(&self) {
        self.rises("nobody answers", Counts::total);
    }

    fn rises(&self, else_said: &str, count: impl Fn(&Counts) -> u64) {
        let (before, until) = (count(&self.counts()), Instant::now() + LOST_AFTER);
        while count(&self.counts()) < before + 5 {
            let told = |counts: Counts| (counts.answered, counts.lost.len(), counts.lost.first().cloned());
            assert!(Instant::now() < until, "{else_said}: {:?}", told(self.counts()));
            thread::sleep(PAUSE);
        }
    }

    /// Ends it; what became of all requests.
    pub fn end(mut self) -> Counts {
        self.stop();
        self.counts()
    }

    /// Ends it. An instance that dies while it is live takes with it what it was working on: one request for each
    /// client, and nothing that came after.
    pub fn end_with_loss_in_flight(self) {
        let Counts { lost, .. } = self.end();
        let in_flight = |what: &String| what.contains("without an answer");
        assert!(lost.len() <= CLIENTS && lost.iter().all(in_flight), "lost {}: {lost:#?}", lost.len());
    }

    /// Ends it; nothing may be lost.
    pub fn end_without_loss(self) -> Counts {
        let counts = self.end();
        assert!(
            counts.lost.is_empty(),
            "lost {} of {}: {:#?}",
            counts.lost.len(),
            counts.total(),
            &counts.lost[..counts.lost.len().min(12)]
        );
        assert!(counts.total() > 0, "nothing was asked");
        counts
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            // A panic of a client shows as requests that were never counted.
            let _ = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Client {
    to: SocketAddr,
    idle: Idle,
    kind: &'static str,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    fn ask(&mut self) -> io::Result<String> {
        match self.kind {
            "kept" => self.ask_over_kept(),
            "slow" => once(self.to, "GET", &format!("/slow?ms={SLOW_MS}"), ""),
            "upload" => once(self.to, "POST", "/", "hello"),
            _ => once(self.to, "GET", "/", ""),
        }
        .and_then(Answer::rev)
    }

    fn ask_over_kept(&mut self) -> io::Result<Answer> {
        let reused = self.kept.is_some();
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => connect(self.to)?,
        };
        let result = exchange(&mut stream, "GET", "/", "");
        match result {
            Ok(answer) => {
                if !answer.closes {
                    self.kept = Some(stream);
                }
                Ok(answer)
            }
            Err(err) if reused && self.idle == Idle::MayClose && is_closed(&err) => self.ask_over_kept(),
            Err(err) => Err(err),
        }
    }
}

/// Before a byte of the answer.
fn is_closed(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

pub struct Answer {
    pub status: u16,
    pub head: BTreeMap<String, String>,
    pub body: String,
    closes: bool,
}

impl Answer {
    fn rev(self) -> io::Result<String> {
        match self.head.get("x-rev") {
            Some(rev) if self.status == 200 => Ok(rev.clone()),
            _ => Err(io::Error::other(format!("answered {}: {:?}", self.status, self.body.trim()))),
        }
    }
}

pub fn connect(to: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, LOST_AFTER)?;
    stream.set_read_timeout(Some(LOST_AFTER))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request on a fresh connection.
pub fn once(to: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    exchange(&mut connect(to)?, method, path, body)
}

fn exchange(stream: &mut BufReader<TcpStream>, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    send(stream, method, path, body)?;
    answer(stream)
}

pub fn send(stream: &mut BufReader<TcpStream>, method: &str, path: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(text.as_bytes())
}

pub fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"));
    }
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut head = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the answer is cut short"));
        }
        match line.trim().split_once(':') {
            Some((name, value)) => head.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = head.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|err| io::Error::other(format!("the body is cut short: {err}")))?;
    let closes = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned(), closes })
}
