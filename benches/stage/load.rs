//! A steady load of requests, each on a connection of its own, that counts what is lost and the longest time
//! without an answer. Lost is everything that is not a 200.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::http;

/// What became of the requests so far.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// When and how the others were lost.
    pub lost: Vec<(Instant, String)>,
    /// The longest time between two answers.
    pub gap: Duration,
    last: Instant,
}

impl Tally {
    /// How many were lost since then.
    pub fn lost_since(&self, since: Instant) -> usize {
        self.lost.iter().filter(|(at, _)| *at >= since).count()
    }
}

/// What was lost, in words, the same ones once: `3 x connection refused`.
pub fn words(lost: &[(Instant, String)]) -> String {
    let mut kinds = std::collections::BTreeMap::<&str, u64>::new();
    for (_, what) in lost {
        *kinds.entry(what).or_default() += 1;
    }
    let words: Vec<String> = kinds.iter().map(|(what, count)| format!("{count} x {what}")).collect();
    words.join(", ")
}

/// The load while it runs; ends when dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `clients` threads that each ask for one of the paths in turn, this long apart.
    pub fn start(to: SocketAddr, clients: usize, pause: Duration) -> Self {
        let begun = Tally { answered: 0, lost: Vec::new(), gap: Duration::ZERO, last: Instant::now() };
        let (tally, stop) = (Arc::new(Mutex::new(begun)), Arc::<AtomicBool>::default());
        let client = |_| {
            let (tally, stop) = (tally.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let due = Instant::now() + pause;
                    ask(to, &tally);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { tally, stop, clients }
    }

    /// So far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it.
    pub fn end(mut self) -> Tally {
        self.halt();
        self.tally()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            // A client that panicked has asked for less, and that shows.
            let _panicked = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt();
    }
}

fn ask(to: SocketAddr, tally: &Mutex<Tally>) {
    let answer = http::get(to, "/");
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(answer) if answer.status == 200 => {
            let now = Instant::now();
            tally.answered += 1;
            tally.gap = tally.gap.max(now.duration_since(tally.last));
            tally.last = now;
        }
        Ok(answer) => tally.lost.push((Instant::now(), format!("answered {}", answer.status))),
        Err(err) => tally.lost.push((Instant::now(), err.kind().to_string())),
    }
}
