//! One backend as the proxy sees it: counts of requests in flight, idle connections, open sockets, each per
//! worker thread so that threads don't share cache lines. The pool belongs to the target and dies with it:
//! once retired, nothing is put back or taken out. Made and retired by `switch`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{sockets::OpenSockets, tally::WorkerTally, upstream::Upstream};
use crate::rules::{
    address::Address,
    ids::{Color, ReleaseId},
    route::Side,
};

/// How long an idle connection is kept. Short on purpose: apps close theirs after 2 to 5 s, and an app
/// that serves one connection at a time must not be blocked by ours. A new one costs about 50 µs.
const IDLE_KEPT: Duration = Duration::from_secs(1);
/// How long a target that refused a connection is passed over, where there is another one: a restart takes a moment,
/// and each try costs a request another attempt.
const REST: Duration = Duration::from_millis(100);
/// Idle connections kept per worker; more than this are closed after their exchange.
const IDLE_MOST: usize = 256;

/// Identifies a target: two backends with equal fields are one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) color: Color,
    pub(super) origin: Origin,
    pub(super) release: ReleaseId,
}

/// Where the answers of a target come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// An instance that listens there.
    Instance(Address),
    /// The directory of a static site.
    Directory(PathBuf),
}

impl Origin {
    /// The address of an instance.
    pub(super) fn address(&self) -> Option<&Address> {
        match self {
            Self::Instance(address) => Some(address),
            Self::Directory(_) => None,
        }
    }

    /// The directory of a static site.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Instance(_) => None,
            Self::Directory(directory) => Some(directory),
        }
    }

    /// For people: `port 9501`.
    pub(super) fn named(&self) -> String {
        match self {
            Self::Instance(address) => address.named(),
            Self::Directory(directory) => directory.display().to_string(),
        }
    }
}

impl Identity {
    /// The identities of all instances of a side, or that of its directory.
    pub(super) fn all(side: &Side) -> impl Iterator<Item = Self> {
        let instances = side.addresses.iter().cloned().map(Origin::Instance);
        let origins = instances.chain(side.directory.clone().map(Origin::Directory));
        origins.map(|origin| Self { color: side.color, origin, release: side.release.clone() })
    }
}

/// One worker's share of a target. Aligned so that two workers never write to one cache line.
#[repr(align(128))]
#[derive(Default)]
struct Lane {
    in_flight: AtomicU64,
    idle: Mutex<Vec<IdleConnection>>,
    sockets: Arc<OpenSockets>,
}

struct IdleConnection {
    upstream: Upstream,
    since: Instant,
}

/// The time that `ProxyTarget::rests_until` is counted from.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The number of the next target.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One backend as the proxy sees it.
pub(super) struct ProxyTarget {
    pub(super) identity: Identity,
    /// Unique among the targets of this process.
    pub(super) number: u64,
    /// Until when it is passed over, in milliseconds since [`BEGUN`]; 0: not at all.
    rests_until: AtomicU64,
    lanes: Box<[Lane]>,
    tallies: Arc<[WorkerTally]>,
    retired: AtomicBool,
    /// Notified when the last request in flight of a retired target ends.
    empty: Arc<Notify>,
    /// Ends the upgraded connections that are open now.
    pub(super) cut: Notify,
}

impl ProxyTarget {
    /// A target with one lane for each tally, that is, for each worker.
    pub(super) fn new(identity: Identity, tallies: Arc<[WorkerTally]>, empty: Arc<Notify>) -> Self {
        Self {
            identity,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            rests_until: AtomicU64::new(0),
            lanes: tallies.iter().map(|_| Lane::default()).collect(),
            tallies,
            retired: AtomicBool::new(false),
            empty,
            cut: Notify::new(),
        }
    }

    /// Requests in flight. Each is counted in one lane from its choice to its end, so a sum of 0 after the
    /// flip means that none of them is left.
    pub(super) fn in_flight(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.in_flight.load(Ordering::SeqCst)).sum()
    }

    /// Passes the target over for at least this long.
    pub(super) fn rest(&self, within: Duration) {
        let until = BEGUN.elapsed().saturating_add(within).as_millis();
        self.rests_until.fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Stops passing the target over.
    pub(super) fn rest_no_more(&self) {
        self.rests_until.store(0, Ordering::Relaxed);
    }

    /// Whether it is passed over: it refused a connection a moment ago, or hangs.
    pub(super) fn rests(&self) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until > 0 && BEGUN.elapsed().as_millis() < u128::from(until)
    }

    /// Closes idle connections, and has none reused from now on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for lane in &self.lanes {
            self.idle(lane).clear();
        }
    }

    /// Closes all connections, idle or not; returns how many those were.
    pub(super) fn cut(&self) -> usize {
        // Sockets first: a tunnel that is woken closes its own, and would not be counted.
        let closed = self.lanes.iter().map(|lane| lane.sockets.close_all()).sum();
        self.cut.notify_waiters();
        closed
    }

    /// The registry for sockets that `worker` opens.
    pub(super) fn sockets(&self, worker: usize) -> &Arc<OpenSockets> {
        &self.lanes[worker].sockets
    }

    /// The most recently used idle connection of `worker` that is not older than `within`.
    pub(super) fn take(&self, worker: usize, within: Duration) -> Option<Upstream> {
        let mut idle = self.idle(&self.lanes[worker]);
        let fresh_enough = idle.last().is_some_and(|newest| newest.since.elapsed() <= within);
        if fresh_enough { idle.pop().map(|entry| entry.upstream) } else { None }
    }

    /// Keeps a connection for the next request, unless the target is retired.
    pub(super) fn put_back(&self, worker: usize, upstream: Upstream) {
        let mut idle = self.idle(&self.lanes[worker]);
        // Read under the lock that `retire` takes after setting it: nothing slips in behind it.
        if !self.retired.load(Ordering::SeqCst) && idle.len() < IDLE_MOST {
            idle.push(IdleConnection { upstream, since: Instant::now() });
        }
    }

    /// Closes connections of `worker` that have been idle for longer than [`IDLE_KEPT`].
    pub(super) fn sweep(&self, worker: usize) {
        let mut idle = self.idle(&self.lanes[worker]);
        let due = idle.partition_point(|entry| entry.since.elapsed() > IDLE_KEPT);
        idle.drain(..due);
    }

    /// Closes all idle connections of `worker`.
    pub(super) fn close_idle(&self, worker: usize) {
        self.idle(&self.lanes[worker]).clear();
    }

    fn idle<'lane>(&self, lane: &'lane Lane) -> MutexGuard<'lane, Vec<IdleConnection>> {
        lane.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's claim on a target: in flight until dropped. It also counts what became of the request.
pub(super) struct Lease {
    target: Arc<ProxyTarget>,
    worker: usize,
    course: Course,
    /// Whether it counts as real traffic.
    measured: bool,
}

/// The request's progress.
#[derive(Clone, Copy)]
enum Course {
    /// Not sent, or counted already.
    Quiet,
    /// Sent at this time.
    Sent(Instant),
    /// Sent at this time; the answer has begun with this status.
    Answered(Instant, u16),
}

impl Lease {
    pub(super) fn new(target: Arc<ProxyTarget>, worker: usize) -> Self {
        target.lanes[worker].in_flight.fetch_add(1, Ordering::SeqCst);
        Self { target, worker, course: Course::Quiet, measured: true }
    }

    /// Keeps the request out of the figures: it is not real traffic.
    pub(super) fn unmeasured(mut self) -> Self {
        self.measured = false;
        self
    }

    pub(super) fn target(&self) -> &ProxyTarget {
        &self.target
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    /// The request is about to be sent.
    pub(super) fn sent(&mut self) {
        self.course = Course::Sent(Instant::now());
    }

    /// The request will be sent again and counted then, or its failure is not the app's.
    pub(super) fn unsent(&mut self) {
        self.course = Course::Quiet;
    }

    /// The head of the answer came.
    pub(super) fn answered(&mut self, status: u16) {
        self.tally().answered(self.color(), status);
        if let Course::Sent(since) = self.course {
            self.course = Course::Answered(since, status);
        }
    }

    /// The last byte of the answer came, or there is nothing more to measure.
    pub(super) fn ended(&mut self) {
        let (since, status) = match std::mem::replace(&mut self.course, Course::Quiet) {
            Course::Quiet => return,
            Course::Sent(since) => (since, None),
            Course::Answered(since, status) => (since, Some(status)),
        };
        if self.measured {
            self.tally().ended(self.color(), status, since.elapsed());
        }
    }

    /// The answer broke off. It counts as failed unless the request was counted already.
    pub(super) fn broke_off(&mut self) {
        if !matches!(self.course, Course::Quiet) {
            self.failed();
        }
    }

    /// The answer did not come, or not to its end.
    pub(super) fn failed(&mut self) {
        self.course = Course::Quiet;
        if self.measured {
            self.tally().failed(self.color());
        }
    }

    /// The target could not be connected: it is passed over for a moment.
    pub(super) fn not_connected(&self) {
        self.target.rest(REST);
        self.tally().not_connected(self.color());
    }

    /// The front answered the request in place of the target.
    pub(super) fn answered_for(&self, status: u16) {
        self.tally().answered(self.color(), status);
    }

    fn tally(&self) -> &WorkerTally {
        &self.target.tallies[self.worker]
    }

    fn color(&self) -> Color {
        self.target.identity.color
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If the client went away, its waiting time counts, but not as an error of the app.
        self.ended();
        self.target.lanes[self.worker].in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.target.retired.load(Ordering::SeqCst) {
            self.target.empty.notify_waiters();
        }
    }
}
