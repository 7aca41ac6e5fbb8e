//! The visitors of `bgd demo`: an open-loop client that sends at a fixed rate whatever the answers do, over new
//! and over kept connections, some requests slow, and counts each one. On a thread of its own, so that the
//! story's work does not look like a gap.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};

use super::app::VERSION_HEADER;

/// Requests a second.
pub const RATE: u32 = 150;
/// Kept connections; every other request goes over one of them.
const KEPT: usize = 10;
/// Every so many requests one is slow, so that some are in flight at each flip.
const SLOW_EACH: u64 = 30;
/// A request without an answer for this long is lost: twenty times what a slow one takes.
const LOST_AFTER: Duration = Duration::from_secs(14);

type Tally = Arc<Mutex<LoadCounts>>;

/// The results of the requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadCounts {
    pub sent: u64,
    /// Answered with 200, by version.
    pub answered: BTreeMap<String, u64>,
    /// Lost requests: when, counted from the first request, and why.
    pub lost: Vec<(Duration, String)>,
    /// The longest time between two answers.
    pub longest_gap: Duration,
    /// The slowest answer to a request that is not slow by itself.
    pub slowest: Duration,
    begun: Option<Instant>,
    last: Option<Instant>,
    ended: bool,
}

impl LoadCounts {
    /// Number of answered requests.
    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    fn record(&mut self, result: Result<String, String>, sent: Instant, slow: bool) {
        let now = Instant::now();
        match result {
            Ok(version) => {
                *self.answered.entry(version).or_default() += 1;
                // After the last request is sent only slow ones are still out; the time between them is not a gap.
                if let (Some(last), false) = (self.last.replace(now), self.ended) {
                    self.longest_gap = self.longest_gap.max(now - last);
                }
                if !slow {
                    self.slowest = self.slowest.max(now - sent);
                }
            }
            Err(what) => {
                let since = self.begun.map_or(Duration::ZERO, |begun| now - begun);
                self.lost.push((since, what));
            }
        }
    }
}

/// The load while it runs.
pub struct Load {
    tally: Tally,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to send.
    pub fn start(front: SocketAddr) -> std::io::Result<Self> {
        let tally = Tally::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&tally);
        let thread = std::thread::Builder::new().name("demo-load".to_owned()).spawn(move || {
            runtime.block_on(send_all(front, shared, stopped));
        })?;
        Ok(Self { tally, stop: Some(stop), thread: Some(thread) })
    }

    /// The results so far.
    pub fn counts(&self) -> LoadCounts {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops sending, waits for requests in flight, and returns the result.
    pub fn finish(mut self) -> LoadCounts {
        if let Some(stop) = self.stop.take() {
            // An error only says that the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.counts()
    }
}

/// One request to be sent.
struct Errand {
    slow: bool,
    due: Instant,
}

async fn send_all(front: SocketAddr, tally: Tally, mut stopped: oneshot::Receiver<()>) {
    let mut errands = tokio::task::JoinSet::new();
    let kept: Vec<_> = (0..KEPT)
        .map(|_| {
            let (to, from) = mpsc::unbounded_channel();
            errands.spawn(kept_connection(front, Arc::clone(&tally), from));
            to
        })
        .collect();
    let mut tick = interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0u64.. {
        let due = tokio::select! {
            // The time when the request was due, not when the client noticed: a client that is late must not look
            // fast.
            due = tick.tick() => due.into_std(),
            // Once it is done it is not polled again: the loop ends.
            _ = &mut stopped => break,
        };
        let errand = Errand { slow: number % SLOW_EACH == 7, due };
        with(&tally, |counts| {
            counts.sent += 1;
            counts.begun.get_or_insert(errand.due);
        });
        if number % 2 == 0 || errand.slow {
            errands.spawn(new_connection(front, Arc::clone(&tally), errand));
        } else if let Some(to) = usize::try_from(number / 2).ok().and_then(|n| kept.get(n % KEPT)) {
            // The receiver lives until the sender is dropped below.
            let _ = to.send(errand);
        }
        while errands.try_join_next().is_some() {}
    }
    with(&tally, |counts| counts.ended = true);
    drop(kept);
    while errands.join_next().await.is_some() {}
}

fn with(tally: &Tally, change: impl FnOnce(&mut LoadCounts)) {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
}

async fn new_connection(front: SocketAddr, tally: Tally, errand: Errand) {
    let whole = async { ask(&mut connect(front).await?, front, &errand).await };
    let result = limited(whole).await.map(|(version, _)| version);
    with(&tally, |counts| counts.record(result, errand.due, errand.slow));
}

async fn kept_connection(front: SocketAddr, tally: Tally, mut errands: mpsc::UnboundedReceiver<Errand>) {
    let mut kept = None;
    while let Some(errand) = errands.recv().await {
        let whole = async {
            // A server may close an idle connection, but not one with a request on it.
            let mut connection = match kept.take().filter(|kept: &Connection| !kept.is_closed()) {
                Some(connection) => connection,
                None => connect(front).await?,
            };
            let (version, keep) = ask(&mut connection, front, &errand).await?;
            if keep {
                kept = Some(connection);
            }
            Ok(version)
        };
        let result = limited(whole).await;
        with(&tally, |counts| counts.record(result, errand.due, errand.slow));
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(LOST_AFTER, work).await.unwrap_or_else(|_| Err(format!("no answer within {LOST_AFTER:?}")))
}

type Connection = SendRequest<Empty<Bytes>>;

async fn connect(front: SocketAddr) -> Result<Connection, String> {
    let stream = TcpStream::connect(front).await.map_err(|error| format!("not connected: {error}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the sender; the request reports its errors.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// The version that answered, and whether the connection may be used again.
async fn ask(sender: &mut Connection, front: SocketAddr, errand: &Errand) -> Result<(String, bool), String> {
    let path = if errand.slow { "/slow" } else { "/" };
    let request = Request::get(path)
        .header(header::HOST, front.to_string())
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| format!("closed while kept: {error}"))?;
    let response = sender.send_request(request).await.map_err(|error| format!("not answered: {error}"))?;
    let status = response.status();
    let closes = response.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
    let version = response.headers().get(VERSION_HEADER).and_then(|value| value.to_str().ok());
    let version = version.unwrap_or("?").to_owned();
    response.into_body().collect().await.map_err(|error| format!("cut off: {error}"))?;
    if status.is_success() { Ok((version, !closes)) } else { Err(format!("answered {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_counted_as_lost() {
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let load = Load::start(closed).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while load.counts().lost.len() < 5 {
            assert!(Instant::now() < until, "nothing was sent");
            std::thread::sleep(Duration::from_millis(5));
        }
        let counts = load.finish();
        assert_eq!(counts.total(), 0);
        assert_eq!(counts.lost.len() as u64, counts.sent);
        assert!(counts.lost[0].1.contains("not connected"), "{:?}", counts.lost[0]);
    }

    #[test]
    fn answers_are_counted_by_version_and_a_gap_is_noticed() {
        let mut counts = LoadCounts::default();
        let now = Instant::now();
        counts.record(Ok("1".to_owned()), now, false);
        counts.last = Some(now - Duration::from_secs(3));
        counts.record(Ok("2".to_owned()), now, false);
        assert_eq!(counts.total(), 2);
        assert!(counts.longest_gap >= Duration::from_secs(3));
    }
}
