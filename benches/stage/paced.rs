//! An open load: so many requests a second, whatever becomes of them, from many clients, each with an address and a
//! cookie of its own. Remembers of each request who asked, when, and which release answered; judges nothing but
//! whether an answer is one. Lost is everything but a whole 200 of one of the releases that are known.
//!
//! Nineteen of twenty requests are a census: clients ask in turn, each on a new connection, and from the first one
//! again when told so. The others are regulars, who come once a second each, on a connection that they keep.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Res, figures::Sample};

/// On their way at the same time; what would come on top is not sent, and that shows in the pace.
const IN_FLIGHT: usize = 2_000;
/// From connecting to the last byte.
const LIMIT: Duration = Duration::from_secs(10);
/// One of so many requests is a regular's.
const REGULAR: u64 = 20;
/// One of so many asks for what takes long enough to be on its way while the traffic moves.
const SLOW: u64 = 50;
/// Numbers of clients are below this one, regulars' above it.
const FIRST_REGULAR: u32 = 1 << 22;
/// What the sample app answers.
pub const PAGE: &[u8] = b"hello\n";

/// The load.
#[derive(Debug, Clone)]
pub struct Plan {
    pub to: SocketAddr,
    /// Requests a second.
    pub rate: u64,
    /// The releases, by `x-version`.
    pub releases: [String; 2],
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    pub client: u32,
    /// Microseconds since 1970, as the daemon's clock has them.
    pub sent: u64,
    pub done: u64,
    /// Which of the releases.
    pub release: usize,
    /// Which of nginx's workers says that it answered.
    pub worker: Option<u32>,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Visits {
    pub answered: Vec<Visit>,
    /// When it was sent, and what became of it.
    pub lost: Vec<(u64, String)>,
    /// Requests that were due by now, and those of them that were sent.
    pub due: u64,
    pub sent: u64,
    /// Kept connections that were closed as they were used again; these requests were sent anew, as browsers do.
    pub anew: u64,
    pub took: Sample,
}

/// The load while it runs.
#[derive(Debug)]
pub struct Paced {
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU32>,
    thread: Option<JoinHandle<io::Result<Visits>>>,
}

impl Paced {
    /// Begins.
    pub fn start(plan: Plan) -> Self {
        let (stop, next) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&next));
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let load = Rc::new(Load { plan, next: shared, ..Load::default() });
            LocalSet::new().block_on(&runtime, Rc::clone(&load).run(&stopped));
            Ok(load.visits.take())
        });
        Self { stop, next, thread: Some(thread) }
    }

    /// From now on the first clients ask again.
    pub fn again_from_first(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    /// Ends it, and awaits what is on its way.
    pub fn end(mut self) -> Res<Visits> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("it has ended")?;
        Ok(thread.join().map_err(|_| "the load panicked")??)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Now, in microseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

struct Load {
    plan: Plan,
    next: Arc<AtomicU32>,
    visits: RefCell<Visits>,
    cookies: RefCell<HashMap<u32, String>>,
    kept: RefCell<HashMap<u32, TcpStream>>,
    /// Who waits for an answer, and so asks nothing else: without its cookie it would be another client.
    waiting: RefCell<HashSet<u32>>,
}

impl Default for Load {
    fn default() -> Self {
        let plan =
            Plan { to: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), rate: 1, releases: Default::default() };
        Self {
            plan,
            next: Arc::default(),
            visits: RefCell::default(),
            cookies: RefCell::default(),
            kept: RefCell::default(),
            waiting: RefCell::default(),
        }
    }
}

/// One request to be made.
#[derive(Debug, Clone, Copy)]
struct Ask {
    client: u32,
    keeps: bool,
    path: &'static str,
}

struct Answer {
    release: usize,
    worker: Option<u32>,
    keep: bool,
}

/// Why there is no answer, and how much of it there was.
struct Cut {
    how: String,
    begun: bool,
}

impl Load {
    async fn run(self: Rc<Self>, stop: &AtomicBool) {
        let (begun, mut due, mut all) = (Instant::now(), 0, JoinSet::new());
        let mut tick = interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            let elapsed = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            while due < elapsed * self.plan.rate / 1_000_000 {
                due += 1;
                if self.waiting.borrow().len() < IN_FLIGHT {
                    self.visits.borrow_mut().sent += 1;
                    all.spawn_local(Rc::clone(&self).visit(self.ask(due)));
                }
            }
            while all.try_join_next().is_some() {}
        }
        while all.join_next().await.is_some() {}
        self.visits.borrow_mut().due = due;
    }

    fn ask(&self, number: u64) -> Ask {
        let mut waiting = self.waiting.borrow_mut();
        let regulars = (self.plan.rate / REGULAR).max(1);
        let regular = FIRST_REGULAR + u32::try_from(number / REGULAR % regulars).unwrap_or(0);
        if number.is_multiple_of(REGULAR) && waiting.insert(regular) {
            return Ask { client: regular, keeps: true, path: "/" };
        }
        let path = if number % SLOW == 1 { "/slow" } else { "/" };
        loop {
            let client = self.next.fetch_add(1, Ordering::Relaxed);
            if waiting.insert(client) {
                return Ask { client, keeps: false, path };
            }
        }
    }

    async fn visit(self: Rc<Self>, ask: Ask) {
        let sent = now();
        let late = || Err(format!("no whole answer within {} s", LIMIT.as_secs()));
        let outcome = timeout(LIMIT, self.asked(ask)).await.unwrap_or_else(|_| late());
        let (done, mut visits) = (now(), self.visits.borrow_mut());
        self.waiting.borrow_mut().remove(&ask.client);
        match outcome {
            Ok(Answer { release, worker, .. }) => {
                visits.answered.push(Visit { client: ask.client, sent, done, release, worker });
                if ask.path == "/" {
                    visits.took.add(Duration::from_micros(done.saturating_sub(sent)));
                }
            }
            Err(how) => visits.lost.push((sent, how)),
        }
    }

    async fn asked(&self, ask: Ask) -> Result<Answer, String> {
        let kept = self.kept.borrow_mut().remove(&ask.client);
        if let Some(mut stream) = kept {
            match self.exchange(&mut stream, ask).await {
                Ok(answer) => return Ok(self.keep(ask, stream, answer)),
                Err(cut) if cut.begun => return Err(cut.how),
                // Closed as it was used again: what was sent there was not heard.
                Err(_) => self.visits.borrow_mut().anew += 1,
            }
        }
        let mut stream =
            connect(ask.client, self.plan.to).await.map_err(|err| format!("connecting: {}", err.kind()))?;
        let answer = self.exchange(&mut stream, ask).await.map_err(|cut| cut.how)?;
        Ok(self.keep(ask, stream, answer))
    }

    fn keep(&self, ask: Ask, stream: TcpStream, answer: Answer) -> Answer {
        if ask.keeps && answer.keep {
            self.kept.borrow_mut().insert(ask.client, stream);
        }
        answer
    }

    async fn exchange(&self, stream: &mut TcpStream, ask: Ask) -> Result<Answer, Cut> {
        let cookie = self.cookies.borrow().get(&ask.client).map(|cookie| format!("Cookie: {cookie}\r\n"));
        let close = if ask.keeps { "" } else { "Connection: close\r\n" };
        let cookie = cookie.unwrap_or_default();
        let words = format!("GET {} HTTP/1.1\r\nHost: shop\r\n{cookie}{close}\r\n", ask.path);
        let none = |how: io::Error| Cut { how: format!("sending: {}", how.kind()), begun: false };
        stream.write_all(words.as_bytes()).await.map_err(none)?;
        let mut bytes = Vec::with_capacity(1024);
        loop {
            let count = stream.read_buf(&mut bytes).await;
            let cut = |how| Cut { how, begun: !bytes.is_empty() };
            match count {
                Ok(0) => return Err(cut(format!("closed after {} bytes", bytes.len()))),
                Err(err) => return Err(cut(format!("{} after {} bytes", err.kind(), bytes.len()))),
                Ok(_) => {}
            }
            if let Some(answer) = self.read(&bytes, ask).map_err(cut)? {
                return Ok(answer);
            }
        }
    }

    /// `None` until it is whole.
    fn read(&self, bytes: &[u8], ask: Ask) -> Result<Option<Answer>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(end) = head.parse(bytes).map_err(|err| format!("no HTTP: {err}"))?
        else {
            return Ok(None);
        };
        let field = |name: &str| {
            let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| std::str::from_utf8(field.value).ok())
        };
        let length: usize = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let body = bytes.get(end..).unwrap_or_default();
        if body.len() < length {
            return Ok(None);
        }
        let status = head.code.unwrap_or_default();
        if status != 200 {
            return Err(format!("answered {status}"));
        }
        let version = field("x-version").unwrap_or_default();
        let release = self.plan.releases.iter().position(|release| release == version);
        let release = release.filter(|_| body == PAGE).ok_or("an answer that is none of the app's")?;
        if let Some(cookie) = field("set-cookie").and_then(|cookie| cookie.split(';').next()) {
            self.cookies.borrow_mut().insert(ask.client, cookie.to_owned());
        }
        let keep = field("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        let worker = field("x-worker").and_then(|text| text.parse().ok());
        Ok(Some(Answer { release, worker, keep }))
    }
}

async fn connect(client: u32, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((address(client), 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// All different, in no order, and of this host: the middle of 127.0.0.0/8.
fn address(client: u32) -> Ipv4Addr {
    const PLACES: u32 = 1 << 23;
    Ipv4Addr::from(0x7f20_0000 + client.wrapping_mul(2_654_435_761) % PLACES)
}
