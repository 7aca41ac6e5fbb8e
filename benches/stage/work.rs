//! The kinds of load that fronts are compared under, before [`backend`](super::backend). All but one are closed: each
//! client asks again as soon as it was answered, so that the front is at its limit, and a slow one is asked less. How
//! long clients wait for one that is not at its limit shows at a fixed pace, which no slow answer holds up.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    task::JoinSet,
    time::timeout,
};

use super::{
    Res, Sample,
    backend::{self, EVENT, PAGE, PAUSE, UPLOAD, VERSION},
    paced::{Paced, Plan},
};

/// Requests a second of [`Work::Paced`].
const PACE: u64 = 1_000;
/// After the end of a turn, for what is on its way.
const LIMIT: Duration = Duration::from_secs(20);

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Connections that are kept.
    Kept,
    /// A connection for each request.
    New,
    /// Requests at a fixed pace, whatever becomes of the answers.
    Paced,
    /// Large bodies of requests.
    Upload,
    /// Answers that don't end.
    Events,
}

/// What was done in a turn.
#[derive(Debug)]
pub struct Done {
    /// Whole answers, or events.
    pub count: usize,
    /// The turn's length.
    pub within: Duration,
    /// How long answers took, or events were on their way.
    pub took: Sample,
}

impl Work {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Kept, Self::New, Self::Paced, Self::Upload, Self::Events];

    /// For people.
    pub fn words(self) -> String {
        let clients = self.clients();
        match self {
            Self::Kept => format!("{clients} kept connections"),
            Self::New => format!("{clients} clients, a new connection for each request"),
            Self::Paced => format!("{PACE} requests a second, 19 of 20 on a new connection"),
            Self::Upload => format!("{clients} clients, uploads of {} KiB", UPLOAD / 1024),
            Self::Events => format!("{clients} streams, an event each {PAUSE:?}"),
        }
    }

    fn clients(self) -> usize {
        match self {
            Self::Kept | Self::New => 32,
            // As many as it takes.
            Self::Paced => 0,
            Self::Upload => 8,
            Self::Events => 100,
        }
    }

    /// Keeps the server behind this address at work for so long. A request that is not answered as it should be is an
    /// error.
    pub fn run(self, to: SocketAddr, turn: Duration) -> Res<Done> {
        if self == Self::Paced {
            return paced(to, turn);
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.closed(to, turn))
    }

    async fn closed(self, to: SocketAddr, turn: Duration) -> Res<Done> {
        let (stop, request) = (Arc::<AtomicBool>::default(), self.request(to).into());
        let mut clients = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..self.clients() {
            clients.spawn(self.client(to, Arc::clone(&request), Arc::clone(&stop)));
        }
        tokio::time::sleep(turn).await;
        stop.store(true, Ordering::Relaxed);
        let mut took = Sample::default();
        while let Some(ended) = timeout(LIMIT, clients.join_next()).await? {
            ended??.into_iter().for_each(|one| took.add(one));
        }
        Ok(Done { count: took.len(), within: begun.elapsed(), took })
    }

    async fn client(
        self,
        to: SocketAddr,
        request: Arc<[u8]>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Vec<Duration>> {
        let mut stream = connect(to).await?;
        if self == Self::Events {
            return events(stream, &request, &stop).await;
        }
        let mut took = Vec::with_capacity(20_000);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            if self == Self::New {
                stream = connect(to).await?;
            }
            exchange(&mut stream, &request).await?;
            took.push(begun.elapsed());
        }
        Ok(took)
    }

    /// What a client of this kind sends.
    pub fn request(self, to: SocketAddr) -> Vec<u8> {
        let (line, more) = match self {
            Self::Kept | Self::Paced => ("GET /page", String::new()),
            Self::New => ("GET /page", "Connection: close\r\n".to_owned()),
            Self::Upload => ("POST /upload", format!("Content-Length: {UPLOAD}\r\n")),
            Self::Events => ("GET /events", String::new()),
        };
        let head = format!("{line} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: bench\r\n{more}\r\n");
        let body = if self == Self::Upload { UPLOAD } else { 0 };
        [head.into_bytes(), vec![b'u'; body]].concat()
    }
}

fn paced(to: SocketAddr, turn: Duration) -> Res<Done> {
    let releases = [VERSION.to_owned(), String::new()];
    let (load, begun) = (Paced::start(Plan { to, rate: PACE, releases }), Instant::now());
    thread::sleep(turn);
    let visits = load.end()?;
    if let Some((_, how)) = visits.lost.first() {
        return Err(format!("{} of {} requests lost: {how}", visits.lost.len(), visits.sent).into());
    }
    Ok(Done { count: visits.answered.len(), within: begun.elapsed(), took: visits.took })
}

/// A connection on which nothing was asked yet.
pub async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer, a page.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    let mut bytes = Vec::with_capacity(4096);
    let end = head(stream, &mut bytes).await?;
    while bytes.len() < end + PAGE {
        more(stream, &mut bytes).await?;
    }
    Ok(())
}

/// How long each event was on its way.
async fn events(mut stream: TcpStream, request: &[u8], stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    stream.write_all(request).await?;
    let (mut bytes, mut text, mut took) = (Vec::with_capacity(4096), Vec::new(), Vec::new());
    let end = head(&mut stream, &mut bytes).await?;
    bytes.drain(..end);
    loop {
        while let Some(chunk) = chunk(&mut bytes)? {
            text.extend(chunk);
        }
        while text.len() >= EVENT {
            let event: Vec<u8> = text.drain(..EVENT).collect();
            let sent = std::str::from_utf8(&event).ok().and_then(|event| event.strip_prefix("data: "));
            let sent =
                sent.and_then(|sent| sent.trim_end().parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            took.push(backend::now().saturating_sub(Duration::from_nanos(sent)));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(took);
        }
        more(&mut stream, &mut bytes).await?;
    }
}

/// Takes a chunk off, as soon as it is whole.
fn chunk(bytes: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let size = httparse::parse_chunk_size(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    let httparse::Status::Complete((start, size)) = size else { return Ok(None) };
    let end = start + usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
    if bytes.len() < end + 2 {
        return Ok(None);
    }
    let chunk = bytes.drain(..end + 2).collect::<Vec<u8>>();
    Ok(chunk.get(start..end).map(<[u8]>::to_vec))
}

/// Reads on to the end of the head of a good answer; where that is.
async fn head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        more(stream, bytes).await?;
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let is_good = bytes.starts_with(b"HTTP/1.1 200");
            return if is_good { Ok(at + 4) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
