//! One worker: a thread with a runtime of its own that accepts from the shared listening socket and serves
//! what it accepted to the end. One per core; connections never move between workers. Started by `role`.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::service::service_fn;
use tokio::{net::TcpStream, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::{
    crowd::{Crowd, is_shortage},
    guest::Guest,
    headers::ClientAddress,
    journal::Journal,
    limits::InForce,
    proxy::ClientSession,
    sockets::{Doing, OpenSockets},
    switch::Switch,
};

/// Time between two sweeps, and the unit of a client connection's age.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// Time between two sweeps while the process stops.
const STOPPING_TICK: Duration = Duration::from_millis(20);
/// Ticks without a client after which the worker sleeps until one comes: nothing is left to sweep or to give back then.
const QUIET_TICKS: u32 = TRIM_TICKS + 5;
/// Ticks after which an idle client connection is closed: 75 s.
const IDLE_TICKS: u32 = 150;
/// Ticks after which an idle client connection gives up its buffers: 1 s.
const PARK_TICKS: u32 = 2;
/// Connections parked or ended after which memory is given back to the system ...
const WORTH_A_TRIM: usize = 256;
/// ... at most once in so many ticks: 10 s.
const TRIM_TICKS: u32 = 20;
/// Ticks within which a request's head must be complete: 20 s.
const HEAD_TICKS: u32 = 40;
/// Ticks after which a client that takes nothing of its answer is closed: 60 s.
const TAKE_TICKS: u32 = 120;
/// Pause after a failed accept, and between two checks for room when no client could be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause after clients were closed, until their descriptors are free.
const CLOSE_PAUSE: Duration = Duration::from_millis(2);
/// Ticks after which a client without a whole request may be closed to make room: half a second to a second, so that
/// new clients are spared.
const GRACE_TICKS: u32 = 2;

/// What one worker's connections share.
pub(super) struct FrontWorker {
    pub(super) id: usize,
    pub(super) switch: Arc<Switch>,
    pub(super) journal: Arc<Journal>,
    pub(super) clients: Arc<OpenSockets>,
    pub(super) house: Arc<House>,
    /// Notified of each accepted connection.
    pub(super) arrival: Notify,
}

/// What all workers share with the main thread.
pub(super) struct House {
    /// Cancelled when no more connections are accepted.
    pub(super) closed: CancellationToken,
    /// Set with it: each answer is the last one of its connection.
    pub(super) leaving: AtomicBool,
    /// Cancelled when idle connections are to be closed at once.
    pub(super) stopping: CancellationToken,
    /// Workers that still accept.
    pub(super) accepting: AtomicUsize,
    /// How long clients and apps may take.
    pub(super) limits: InForce,
    /// How many clients there may be.
    pub(super) crowd: Crowd,
}

impl House {
    /// The shared state for this many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            closed: CancellationToken::new(),
            leaving: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            accepting: AtomicUsize::new(0),
            limits: InForce::default(),
            crowd: Crowd::new(workers),
        }
    }
}

impl FrontWorker {
    /// Whether connections are to be closed after their next answer.
    pub(super) fn is_leaving(&self) -> bool {
        self.house.leaving.load(Ordering::Relaxed)
    }

    /// Runs a thread that serves `listener`, until the process ends.
    pub(super) fn start(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.house.accepting.fetch_add(1, Ordering::SeqCst);
        std::thread::Builder::new().name(format!("front-{}", self.id)).spawn(move || {
            runtime.block_on(async {
                let sweeping = self.sweep();
                tokio::join!(self.accept(listener), sweeping);
            });
        })?;
        Ok(())
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener) {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => loop {
                // Cancel-safe: a cancelled accept leaves the connection in the queue for the successor.
                let accepted = tokio::select! {
                    biased;
                    () = self.house.closed.cancelled() => break,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        self.serve(stream, peer);
                        self.make_room().await;
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) if is_shortage(&error) => {
                        let closed = self.relieve(Some(&error));
                        tokio::time::sleep(if closed > 0 { CLOSE_PAUSE } else { ACCEPT_PAUSE }).await;
                    }
                    Err(error) => {
                        self.journal.warn(format_args!("can't accept: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
            Err(error) => self.journal.warn(format_args!("worker {} can't listen: {error}", self.id)),
        }
        self.house.accepting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until there is room for another client. New connections stay in the queue meanwhile.
    async fn make_room(&self) {
        while self.house.crowd.is_full() && !self.house.closed.is_cancelled() {
            let closed = self.relieve(None);
            tokio::time::sleep(if closed > 0 { CLOSE_PAUSE } else { ACCEPT_PAUSE }).await;
        }
    }

    /// Frees descriptors: closes idle or slow clients of this worker, or asks all workers to do so when this one has
    /// none. Returns how many of its own clients it closed.
    pub(super) fn relieve(&self, error: Option<&io::Error>) -> usize {
        self.house.crowd.note(&self.journal, error);
        let closed = self.close_idle();
        if closed == 0 {
            self.house.crowd.plead();
        }
        closed
    }

    /// Closes clients that have been idle for longest; if there are none, those whose request head is incomplete.
    /// Returns how many.
    fn close_idle(&self) -> usize {
        let some = self.house.crowd.some();
        match self.clients.close_longest(Doing::Quiet, GRACE_TICKS, some) {
            0 => self.clients.close_longest(Doing::Hearing, GRACE_TICKS, some),
            closed => closed,
        }
    }

    /// Serves one connection in a task of its own.
    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let wire = self.clients.admit(stream);
        self.arrival.notify_one();
        let session = Arc::new(ClientSession {
            worker: Arc::clone(self),
            client: ClientAddress::of(peer.ip()),
            slot: Arc::clone(wire.slot()),
        });
        let service = service_fn(move |request| {
            let session = Arc::clone(&session);
            async move { Ok::<_, Infallible>(session.answer(request).await) }
        });
        tokio::spawn(Guest::new(wire, service));
    }

    /// Closes idle and slow connections, until the process ends.
    async fn sweep(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut trim = Trim::default();
        let mut quiet = 0;
        while !self.house.stopping.is_cancelled() {
            // Cancel-safe: an unfinished tick is awaited again in the next round, and a worker that pleads does so
            // again.
            tokio::select! {
                () = self.house.stopping.cancelled() => break,
                () = self.house.crowd.called() => {
                    self.close_idle();
                    continue;
                }
                _ = tick.tick() => {}
            }
            self.clients.tick();
            self.clients.close(Doing::Quiet, IDLE_TICKS);
            self.clients.close(Doing::Hearing, HEAD_TICKS);
            self.clients.close_stuck(TAKE_TICKS);
            self.clients.wake_overdue();
            self.switch.sweep(self.id);
            let parked = self.clients.park(PARK_TICKS);
            trim.tick(parked, self.clients.len());
            quiet = if self.clients.len() == 0 { quiet + 1 } else { 0 };
            if quiet >= QUIET_TICKS {
                // Cancel-safe: an arrival that nobody took is kept.
                tokio::select! {
                    () = self.house.stopping.cancelled() => break,
                    () = self.arrival.notified() => quiet = 0,
                }
            }
        }
        loop {
            self.clients.close(Doing::Quiet, 0);
            tokio::time::sleep(STOPPING_TICK).await;
        }
    }
}

/// Gives freed memory back after many connections at once became idle or ended: the allocator alone keeps
/// what lies between pieces in use.
#[derive(Default)]
struct Trim {
    freed: usize,
    open: usize,
    waited: u32,
}

impl Trim {
    fn tick(&mut self, parked: usize, open: usize) {
        self.waited += 1;
        // Connections that were asked to park at the former tick have parked by now.
        if self.freed >= WORTH_A_TRIM && self.waited >= TRIM_TICKS {
            *self = Self { open: self.open, ..Self::default() };
            #[cfg(target_env = "gnu")]
            // SAFETY: only returns unused memory; takes the allocator's own locks.
            unsafe {
                libc::malloc_trim(0);
            }
        }
        self.freed += parked + self.open.saturating_sub(open);
        self.open = open;
    }
}

/// Whether an error of `accept` concerns only the connection, which is gone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
