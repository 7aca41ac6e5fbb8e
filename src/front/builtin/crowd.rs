//! Shares out the front's descriptors. Clients get at most half, so that each can have a connection to a backend; some
//! are kept back for control, log and a successor. When there are too many clients, those idle for longest are closed.
//! Shared by the workers; `stage` reports a shortage to the daemon.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;

use super::journal::Journal;

/// Descriptors that neither clients nor backends get.
const KEPT_BACK: usize = 32;
/// More of them for each worker: its listening socket, those of its runtime, and a connection that is about to be
/// closed.
const KEPT_BACK_PER_WORKER: usize = 6;
/// When there are too many clients, one in this many is closed at a time, since each search goes through all of them.
const SHARE: usize = 64;
/// Time after which a shortage is logged again, and after which it is over if it did not recur.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// The limit on clients, and the last shortage of descriptors.
pub(super) struct Crowd {
    clients: Arc<AtomicUsize>,
    most: usize,
    limit: usize,
    short: Mutex<Short>,
    /// Asks all workers to close idle clients.
    plea: Notify,
}

#[derive(Default)]
struct Short {
    last: Option<Instant>,
    said: Option<Instant>,
}

impl Crowd {
    /// Reads the limit of open files of this process.
    pub(super) fn new(workers: usize) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        Self::of(usize::try_from(limit).unwrap_or(usize::MAX), workers)
    }

    fn of(limit: usize, workers: usize) -> Self {
        let kept_back = KEPT_BACK + KEPT_BACK_PER_WORKER * workers;
        let most = (limit.saturating_sub(kept_back) / 2).max(1);
        Self { clients: Arc::default(), most, limit, short: Mutex::default(), plea: Notify::new() }
    }

    /// The number of clients, for those who admit them.
    pub(super) fn clients(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.clients)
    }

    /// Whether there are as many clients as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.clients.load(Relaxed) >= self.most
    }

    /// How many clients to close at a time.
    pub(super) fn some(&self) -> usize {
        (self.most / SHARE).max(1)
    }

    /// Asks all workers to close idle clients.
    pub(super) fn plead(&self) {
        self.plea.notify_waiters();
    }

    /// Waits for the next [`Crowd::plead`]. Cancel-safe.
    pub(super) async fn called(&self) {
        self.plea.notified().await;
    }

    /// Records a shortage, and logs it at most once per [`SAID_AGAIN`].
    pub(super) fn note(&self, journal: &Journal, error: Option<&io::Error>) {
        let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        short.last = Some(now);
        if short.said.is_none_or(|said| now - said >= SAID_AGAIN) {
            short.said = Some(now);
            let cause = error.map_or_else(String::new, |error| format!(" ({error})"));
            journal.warn(format_args!("{}{cause}", self.words()));
        }
    }

    /// A description of a recent shortage, for the operator.
    pub(super) fn trouble(&self) -> Option<String> {
        let last = self.short.lock().unwrap_or_else(PoisonError::into_inner).last?;
        (last.elapsed() < SAID_AGAIN).then(|| self.words())
    }

    fn words(&self) -> String {
        format!(
            "the front has too few descriptors for its clients: it closes those that are idle for longest beyond {} \
             clients, half of its limit of open files: {}",
            self.most, self.limit
        )
    }
}

/// Whether the error is a lack of descriptors or memory, in this process or on the host.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_half_of_what_is_not_kept_back() {
        assert_eq!(Crowd::of(600, 2).most, (600 - 32 - 12) / 2);
        assert_eq!(Crowd::of(20, 16).most, 1);
        let crowd = Crowd::of(50, 2);
        assert_eq!((crowd.most, crowd.some()), (3, 1));
        crowd.clients().fetch_add(3, Relaxed);
        assert!(crowd.is_full());
        crowd.clients().fetch_sub(1, Relaxed);
        assert!(!crowd.is_full());
    }

    #[test]
    fn a_shortage_is_said_once_and_shown_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("front.log");
        let journal = Journal::new(path.clone());
        let crowd = Crowd::of(600, 2);
        assert_eq!(crowd.trouble(), None);
        for _ in 0..3 {
            crowd.note(&journal, Some(&io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("limit of open files: 600") && text.contains("Too many open files"), "{text}");
        assert!(crowd.trouble().is_some());
    }
}
