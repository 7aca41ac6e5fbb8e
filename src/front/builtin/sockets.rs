//! Open sockets and how long each has been quiet: lets a sweep close idle and slow connections, and lets a
//! cut reach sockets that hyper owns, without a timer or a task per connection. Used for clients and for
//! backends alike. A socket is shut down only under the registry's lock, which its owner takes before
//! closing, so a reused descriptor number is never hit.

use std::{
    collections::HashMap,
    io,
    io::IoSlice,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown, sockopt::Linger};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flow::Flow;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Doing {
    /// Nothing was received since the last exchange ended (client) or since the request was sent (backend).
    Quiet = 0,
    /// Bytes came, but no whole head yet (client); the answer has begun (backend).
    Hearing = 1,
    /// A request is being answered.
    Answering = 2,
    /// Upgraded; bytes are copied both ways.
    Tunnel = 3,
}

/// One socket's state, shared by its owner and the registry.
#[derive(Debug)]
pub(super) struct SocketState {
    fd: RawFd,
    /// Its number among those admitted.
    number: u64,
    /// Shut down by [`OpenSockets::close_longest`], and soon gone.
    closing: AtomicBool,
    doing: AtomicU8,
    since: AtomicU32,
    /// The last write had to wait: the peer did not take all that we have for it.
    clogged: AtomicBool,
    /// While clogged: the tick at which the peer last took something, and the bytes that the kernel then still had for
    /// it.
    took: AtomicU32,
    queued: AtomicI32,
    /// The task waits until all that was written is with the kernel.
    flush_asked: AtomicBool,
    /// Whole interim answers (1xx), to be written before anything else.
    interim: Mutex<Vec<u8>>,
    has_interim: AtomicBool,
    /// The tick at which the task's wait is overdue; [`NEVER`]: it does not wait.
    due: AtomicU32,
    parking: AtomicU8,
    /// The waker of the task that serves a client.
    waker: OnceLock<Waker>,
    ticks: Arc<AtomicU32>,
    /// Shared with [`OpenSockets::total`].
    total: Arc<AtomicUsize>,
}

/// Open sockets beyond which an idle one keeps no buffers, not even until the next sweep. hyper's are 16 KiB a
/// connection, so 128 of them take 2 MiB. Allocating them again is two allocations a request.
pub(super) const KEEP_BUFFERS: usize = 128;

/// [`SocketState::due`]: the task does not wait.
const NEVER: u32 = u32::MAX;
/// [`SocketState::parking`]: in use.
const USED: u8 = 0;
/// [`SocketState::parking`]: the task was asked to park.
const ASKED: u8 = 1;
/// [`SocketState::parking`]: parked.
const PARKED: u8 = 2;

impl SocketState {
    /// Records what the connection does from now on.
    pub(super) fn set(&self, doing: Doing) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    /// Whether the connection does this.
    pub(super) fn is(&self, doing: Doing) -> bool {
        self.doing.load(Ordering::Relaxed) == doing as u8
    }

    /// Keeps the waker of the task that serves this client; a task has the same one all its life.
    pub(super) fn remember(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            self.waker.get_or_init(|| waker.clone());
        }
    }

    /// Marks the connection as parked if it was asked to park or is one of many, and if it can; returns whether it did.
    pub(super) fn may_park(&self) -> bool {
        let asked = self.parking.load(Ordering::Relaxed) == ASKED
            || self.total.load(Ordering::Relaxed) > KEEP_BUFFERS;
        let can = asked && self.is(Doing::Quiet) && !self.clogged.load(Ordering::Relaxed);
        if asked {
            self.parking.store(if can { PARKED } else { USED }, Ordering::Relaxed);
        }
        can
    }

    /// Whether it has given up its buffers.
    pub(super) fn is_parked(&self) -> bool {
        self.parking.load(Ordering::Relaxed) == PARKED
    }

    /// The connection is in use again.
    pub(super) fn unpark(&self) {
        self.parking.store(USED, Ordering::Relaxed);
    }

    /// Begins a wait of the task: the sweep wakes it when the wait does not end within so many ticks.
    pub(super) fn wait(&self, ticks: u32) {
        let now = self.ticks.load(Ordering::Relaxed);
        self.due.store(now.saturating_add(ticks).min(NEVER - 1), Ordering::Relaxed);
    }

    /// Ends the task's wait.
    pub(super) fn wait_no_more(&self) {
        self.due.store(NEVER, Ordering::Relaxed);
    }

    /// Whether the task's wait is overdue.
    pub(super) fn is_overdue(&self) -> bool {
        self.due.load(Ordering::Relaxed) <= self.ticks.load(Ordering::Relaxed)
    }

    /// Has the task woken when all that was written until now is with the kernel; [`SocketState::is_flushed`] is true then.
    pub(super) fn ask_for_flush(&self) {
        self.flush_asked.store(true, Ordering::Relaxed);
    }

    /// Whether all that was written before [`SocketState::ask_for_flush`] is with the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        !self.flush_asked.load(Ordering::Relaxed)
    }

    /// Whether the peer has acknowledged all that was written.
    pub(super) fn has_taken_all(&self) -> bool {
        unacknowledged(self.fd) == 0
    }

    /// Makes closing the connection reset it, so that the peer sees a broken answer and not a whole one.
    pub(super) fn reset_when_closed(&self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the caller has the slot's stream in use, so the descriptor is open. If it fails, the connection is
        // closed as usual.
        let _closed_as_usual =
            nix::sys::socket::setsockopt(&unsafe { BorrowedFd::borrow_raw(self.fd) }, Linger, &at_once);
    }

    /// Has a whole message written before the answer. The message is dropped while the peer has not taken all of the
    /// former answer: it would land in the middle of that.
    pub(super) fn write_interim(&self, message: &[u8]) {
        if self.clogged.load(Ordering::Relaxed) {
            return;
        }
        self.lock_interim().extend_from_slice(message);
        self.has_interim.store(true, Ordering::Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    fn lock_interim(&self) -> MutexGuard<'_, Vec<u8>> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks since [`SocketState::set`].
    fn age(&self) -> u32 {
        self.ticks.load(Ordering::Relaxed).wrapping_sub(self.since.load(Ordering::Relaxed))
    }

    /// Records whether a write had to wait.
    fn wrote(&self, is_pending: bool) {
        if is_pending && !self.clogged.load(Ordering::Relaxed) {
            self.took.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
            self.queued.store(i32::MAX, Ordering::Relaxed);
        }
        self.clogged.store(is_pending, Ordering::Relaxed);
    }

    /// Whether the peer has taken nothing for so many ticks, though bytes are ready for it. Call it at each tick.
    fn is_stuck(&self, ticks: u32) -> bool {
        if !self.clogged.load(Ordering::Relaxed) {
            return false;
        }
        let now = self.ticks.load(Ordering::Relaxed);
        let left = unacknowledged(self.fd);
        if left < self.queued.swap(left, Ordering::Relaxed) {
            self.took.store(now, Ordering::Relaxed);
        }
        now.wrapping_sub(self.took.load(Ordering::Relaxed)) >= ticks
    }
}

/// All open sockets of one worker (clients), or of one worker at one target (backends).
#[derive(Debug, Default)]
pub(super) struct OpenSockets {
    open: Mutex<HashMap<RawFd, Arc<SocketState>>>,
    ticks: Arc<AtomicU32>,
    admitted: AtomicU64,
    /// How many sockets are open here and in the registries that share this count.
    total: Arc<AtomicUsize>,
}

impl OpenSockets {
    /// A registry that shares its count with others.
    pub(super) fn counted(total: Arc<AtomicUsize>) -> Self {
        Self { total, ..Self::default() }
    }

    /// Takes a connected socket into the registry.
    pub(super) fn admit(self: &Arc<Self>, stream: impl Into<Flow>) -> Wire {
        let stream = stream.into();
        let fd = stream.as_raw_fd();
        let slot = Arc::new(SocketState {
            fd,
            number: self.admitted.fetch_add(1, Ordering::Relaxed),
            closing: AtomicBool::new(false),
            doing: AtomicU8::new(Doing::Quiet as u8),
            since: AtomicU32::new(self.ticks.load(Ordering::Relaxed)),
            clogged: AtomicBool::new(false),
            took: AtomicU32::new(0),
            queued: AtomicI32::new(0),
            flush_asked: AtomicBool::new(false),
            interim: Mutex::default(),
            has_interim: AtomicBool::new(false),
            due: AtomicU32::new(NEVER),
            parking: AtomicU8::new(PARKED),
            waker: OnceLock::new(),
            ticks: Arc::clone(&self.ticks),
            total: Arc::clone(&self.total),
        });
        self.total.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(fd, Arc::clone(&slot));
        Wire { stream, unread: Bytes::new(), slot, sockets: Arc::clone(self) }
    }

    /// One tick of the clock that [`OpenSockets::close`] measures ages with.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Shuts down sockets that have been `doing` this for at least `ticks` and have nothing left to write. Call it on
    /// the thread that serves these sockets, so that none is between two steps of an answer.
    pub(super) fn close(&self, doing: Doing, ticks: u32) {
        for slot in self.lock().values() {
            if slot.is(doing) && slot.age() >= ticks && !slot.clogged.load(Ordering::Relaxed) {
                shut(slot.fd);
            }
        }
    }

    /// Shuts down `count` of those that have been `doing` this for longest, at least for `ticks`; returns how many
    /// those were. Call it on the thread that serves these sockets, like [`OpenSockets::close`].
    pub(super) fn close_longest(&self, doing: Doing, ticks: u32, count: usize) -> usize {
        let open = self.lock();
        let may_go = |slot: &&Arc<SocketState>| {
            slot.is(doing)
                && slot.age() >= ticks
                && !slot.clogged.load(Ordering::Relaxed)
                && !slot.closing.load(Ordering::Relaxed)
        };
        let mut found: Vec<_> = open.values().filter(may_go).collect();
        let count = count.min(found.len());
        if count < found.len() {
            found.select_nth_unstable_by_key(count, |slot| (u32::MAX - slot.age(), slot.number));
        }
        for slot in &found[..count] {
            slot.closing.store(true, Ordering::Relaxed);
            shut(slot.fd);
        }
        count
    }

    /// Shuts down sockets whose peer has taken nothing for so many ticks, though bytes are ready for it. Upgraded
    /// connections are left alone: what they send is not an answer.
    pub(super) fn close_stuck(&self, ticks: u32) {
        for slot in self.lock().values() {
            if !slot.is(Doing::Tunnel) && slot.is_stuck(ticks) {
                shut(slot.fd);
            }
        }
    }

    /// Wakes the tasks whose wait is overdue.
    pub(super) fn wake_overdue(&self) {
        let open = self.lock();
        let overdue = open.values().filter(|slot| slot.is_overdue());
        overdue.filter_map(|slot| slot.waker.get()).for_each(Waker::wake_by_ref);
    }

    /// Asks connections that have been quiet for at least `ticks` to give up their buffers; returns how many were
    /// asked.
    pub(super) fn park(&self, ticks: u32) -> usize {
        let open = self.lock();
        let due = open.values().filter(|slot| slot.is(Doing::Quiet) && slot.age() >= ticks);
        due.filter(|slot| !slot.is_parked())
            .filter_map(|slot| slot.waker.get().map(|waker| (slot, waker)))
            .map(|(slot, waker)| {
                slot.parking.store(ASKED, Ordering::Relaxed);
                waker.wake_by_ref();
            })
            .count()
    }

    /// Shuts down all sockets; returns how many those were.
    pub(super) fn close_all(&self) -> usize {
        self.lock().values().map(|slot| shut(slot.fd)).count()
    }

    /// How many sockets are open, upgraded ones left out.
    pub(super) fn plain(&self) -> usize {
        self.lock().values().filter(|slot| !slot.is(Doing::Tunnel)).count()
    }

    /// How many sockets are open.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RawFd, Arc<SocketState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shuts down both directions. The only possible error is that the peer has gone already, which does no harm.
fn shut(fd: RawFd) {
    let _gone_already = shutdown(fd, Shutdown::Both);
}

/// Bytes that the peer has not acknowledged; 0 where the kernel does not say.
fn unacknowledged(fd: RawFd) -> i32 {
    let mut left: libc::c_int = 0;
    // SAFETY: the descriptor is open (its owner removes the slot under the lock before closing it), and the kernel
    // writes one int.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut left) };
    if asked == 0 { left } else { 0 }
}

/// A stream that is in the registry for as long as it is open.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Flow,
    /// Bytes that were read too far, for the next reader.
    unread: Bytes,
    slot: Arc<SocketState>,
    sockets: Arc<OpenSockets>,
}

impl Wire {
    /// The state of this socket.
    pub(super) fn slot(&self) -> &Arc<SocketState> {
        &self.slot
    }

    /// Puts back bytes that were read too far.
    pub(super) fn unread(mut self, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.slot.set(Doing::Hearing);
        }
        // Copied: even an empty slice of a buffer would keep all of it.
        self.unread = Bytes::copy_from_slice(bytes);
        self
    }

    /// Waits until there seems to be something to read, or an end, without a buffer.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unread.is_empty() {
            return Poll::Ready(());
        }
        self.stream.poll_readable(cx)
    }
}

/// Whether an idle connection can still be written to: nothing to read, not even an end. The caller owns
/// the [`Wire`] of this slot, so the descriptor is open.
pub(super) fn is_silent_and_open(slot: &SocketState) -> bool {
    let mut byte = [0];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(slot.fd, &mut byte, flags), Err(nix::errno::Errno::EAGAIN))
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Before the stream is closed (fields drop after this): see the file's head.
        self.sockets.lock().remove(&self.slot.fd);
        self.sockets.total.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.slot.is(Doing::Quiet) {
            self.slot.set(Doing::Hearing);
        }
        result
    }
}

impl Wire {
    /// Writes the interim answers, which go before everything else.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.slot.has_interim.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut interim = self.slot.lock_interim();
        while !interim.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &interim);
            self.slot.wrote(written.is_pending());
            interim.drain(..ready!(written)?);
        }
        // An idle connection keeps no buffer.
        *interim = Vec::new();
        self.slot.has_interim.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.slot.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.slot.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        if self.slot.flush_asked.swap(false, Ordering::Relaxed)
            && let Some(waker) = self.slot.waker.get()
        {
            waker.wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Only an upgraded connection is shut down: its other direction may go on. hyper closes any other next, which
    /// tells the peer as much.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.slot.is(Doing::Tunnel) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn those_that_are_idle_for_longest_go_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let total = Arc::<AtomicUsize>::default();
        let sockets = Arc::new(OpenSockets::counted(Arc::clone(&total)));
        let mut wires = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..6 {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            wires.push(sockets.admit(listener.accept().await.unwrap().0));
        }
        wires[0].slot().set(Doing::Answering);
        sockets.tick();
        // Used since: younger than those after it.
        wires[1].slot().set(Doing::Quiet);
        wires[2].slot().set(Doing::Hearing);
        assert_eq!(sockets.close_longest(Doing::Quiet, 0, 2), 2);
        assert_eq!(sockets.close_longest(Doing::Hearing, 1, 2), 0, "not long enough");
        assert_eq!(sockets.close_longest(Doing::Quiet, 0, 5), 2);
        assert_eq!(sockets.close_longest(Doing::Quiet, 0, 5), 0, "each is closed once");
        for closed in [3, 4, 5, 1] {
            assert_eq!(peers[closed].read(&mut [0]).await.unwrap(), 0);
        }
        assert_eq!(total.load(Ordering::Relaxed), 6);
        drop(wires);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let sockets = Arc::<OpenSockets>::default();
        let mut wire = sockets.admit(listener.accept().await.unwrap().0);
        let slot = Arc::clone(wire.slot());
        slot.set(Doing::Answering);
        let look = || {
            sockets.tick();
            sockets.close_stuck(2);
        };
        let writing = tokio::spawn(async move {
            let piece = vec![0; 64 * 1024];
            while wire.write_all(&piece).await.is_ok() {}
        });
        while !slot.clogged.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        let mut taken = vec![0; 64 * 1024];
        for _ in 0..8 {
            look();
            // Until the kernel was told that there is room again.
            let before = unacknowledged(slot.fd);
            while slot.clogged.load(Ordering::Relaxed) && unacknowledged(slot.fd) >= before {
                peer.read_exact(&mut taken).await.unwrap();
                tokio::task::yield_now().await;
            }
            while !slot.clogged.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            assert!(!writing.is_finished());
        }
        (0..4).for_each(|_| look());
        timeout(Duration::from_secs(20), writing).await.unwrap().unwrap();
    }
}
