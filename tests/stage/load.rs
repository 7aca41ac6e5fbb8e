//! Clients that ask without pause and count what is lost.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufReader},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    LOOK,
    http::{self, Answer, LOST_AFTER, connect, exchange, once},
};

/// Between two requests of one client: a steady load, not a stress test.
pub const PAUSE: Duration = Duration::from_millis(8);
/// How many clients of a mixed load ask at the same time.
pub const CLIENTS: usize = 7;
/// How long the slow requests of a mixed load take, in milliseconds.
pub const SLOW: u64 = 700;
/// Slow ones that an app answers well within the second that a relay shares its socket with it, before it has to end.
pub const BRIEF: u64 = 150;

/// Asks once: who answered, or how the request was lost.
pub type Client = Box<dyn FnMut() -> Result<String, String> + Send>;

/// How requests were lost, equal ones once: `3 x connection refused`.
pub fn words<'a>(lost: impl IntoIterator<Item = &'a str>) -> String {
    let mut kinds = BTreeMap::<&str, u64>::new();
    for how in lost {
        *kinds.entry(how).or_default() += 1;
    }
    let words: Vec<String> = kinds.iter().map(|(how, count)| format!("{count} x {how}")).collect();
    words.join(", ")
}

/// What the front may do with a kept connection that is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Nothing: it stays.
    Stays,
    /// Close it at a reload, as nginx does; a request that meets that is sent again, as clients do.
    MayClose,
}

#[derive(Clone)]
pub struct Loss {
    pub at: Instant,
    /// Since the load began.
    after: Duration,
    pub how: String,
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.after, self.how)
    }
}

#[derive(Debug, Clone)]
pub struct Counts {
    /// By who answered.
    pub answered: BTreeMap<String, u64>,
    pub lost: Vec<Loss>,
    /// The longest time between two answers.
    pub gap: Duration,
    last: Instant,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    /// All losses in [`words`].
    pub fn losses(&self) -> String {
        words(self.lost.iter().map(|lost| lost.how.as_str()))
    }

    fn note(&mut self, begun: Instant, result: Result<String, String>) {
        let at = Instant::now();
        match result {
            Ok(who) => {
                *self.answered.entry(who).or_default() += 1;
                self.gap = self.gap.max(at.duration_since(self.last));
                self.last = at;
            }
            Err(how) => self.lost.push(Loss { at, after: at.duration_since(begun), how }),
        }
    }
}

/// The load while it runs; it ends when dropped.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each client begins its next request so long after it began the last one, or when that has ended.
    pub fn of(clients: impl IntoIterator<Item = Client>, pause: Duration) -> Self {
        let begun = Instant::now();
        let none = Counts { answered: BTreeMap::new(), lost: Vec::new(), gap: Duration::ZERO, last: begun };
        let (counts, stop) = (Arc::new(Mutex::new(none)), Arc::<AtomicBool>::default());
        let work = |mut ask: Client| {
            let (counts, stop) = (counts.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let due = Instant::now() + pause;
                    let result = ask();
                    counts.lock().unwrap_or_else(PoisonError::into_inner).note(begun, result);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            })
        };
        let clients = clients.into_iter().map(work).collect();
        Self { counts, stop, clients }
    }

    /// So many clients, each request on a connection of its own.
    pub fn fresh(to: SocketAddr, clients: usize, pause: Duration) -> Self {
        let client = |_| Box::new(move || named(http::get(to, "/"), "x-version")) as Client;
        Self::of((0..clients).map(client), pause)
    }

    /// Requests on fresh connections, over kept ones, slow ones, and uploads. Lost is everything that is not a 200 with
    /// the name of a revision.
    pub fn mixed(to: SocketAddr, idle: Idle, slow_ms: u64) -> Self {
        let kinds: [_; CLIENTS] = ["fresh", "fresh", "kept", "kept", "slow", "slow", "upload"];
        let clients = kinds.map(|kind| {
            let mut kept = KeptConnection { to, idle, stream: None };
            let mut ask = move || match kind {
                "kept" => kept.ask(),
                "slow" => once(to, "GET", &format!("/slow?ms={slow_ms}"), ""),
                "upload" => once(to, "POST", "/", "hello"),
                _ => once(to, "GET", "/", ""),
            };
            Box::new(move || match ask() {
                Ok(answer) if answer.status == 200 && answer.head.contains_key("x-rev") => {
                    Ok(answer.field("x-rev").to_owned())
                }
                Ok(answer) => Err(format!("{kind}: answered {}: {:?}", answer.status, answer.body.trim())),
                Err(err) => Err(format!("{kind}: {err}")),
            }) as Client
        });
        Self::of(clients, PAUSE)
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that one has answered a few times more.
    pub fn sees(&self, who: &str) {
        self.rises(&format!("{who} does not answer"), |counts| {
            counts.answered.get(who).copied().unwrap_or_default()
        });
    }

    /// Waits until anyone has: in the middle of a switch nobody knows who.
    pub fn goes_on(&self) {
        self.rises("nobody answers", Counts::total);
    }

    fn rises(&self, else_said: &str, count: impl Fn(&Counts) -> u64) {
        let (before, until) = (count(&self.counts()), Instant::now() + LOST_AFTER);
        while count(&self.counts()) < before + 5 {
            let told = |counts: Counts| (counts.answered, counts.lost.len(), counts.lost.first().cloned());
            assert!(Instant::now() < until, "{else_said}: {:?}", told(self.counts()));
            thread::sleep(LOOK);
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
        let in_flight = |lost: &Loss| lost.how.contains("without an answer");
        assert!(lost.len() <= CLIENTS && lost.iter().all(in_flight), "lost {}: {lost:#?}", lost.len());
    }

    /// Ends it; nothing may be lost.
    pub fn end_without_loss(self) -> Counts {
        let counts = self.end();
        let (lost, all) = (&counts.lost, counts.total());
        assert!(lost.is_empty(), "lost {} of {all}: {:#?}", lost.len(), &lost[..lost.len().min(12)]);
        assert!(all > 0, "nothing was asked");
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

/// A field of a good answer, or how there is none: a kind of error, so that equal ones can be counted.
fn named(answer: io::Result<Answer>, field: &str) -> Result<String, String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(answer.field(field).to_owned()),
        Ok(answer) => Err(format!("answered {}", answer.status)),
        Err(err) => Err(err.kind().to_string()),
    }
}

/// A client that keeps its connection.
struct KeptConnection {
    to: SocketAddr,
    idle: Idle,
    stream: Option<BufReader<TcpStream>>,
}

impl KeptConnection {
    fn ask(&mut self) -> io::Result<Answer> {
        let reused = self.stream.is_some();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.to)?,
        };
        match exchange(&mut stream, "GET", "/", "") {
            Ok(answer) => {
                self.stream = Some(stream).filter(|_| !answer.closes);
                Ok(answer)
            }
            Err(err) if reused && self.idle == Idle::MayClose && is_closed(&err) => self.ask(),
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
