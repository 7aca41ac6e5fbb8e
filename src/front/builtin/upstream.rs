//! One connection to a backend, driven by the task of the request that uses it: no task and no wake-up
//! between threads or tasks per exchange. Between two requests nobody polls it. Used by `proxy`, `reply`
//! and kept by `target`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::{
    flow::Flow,
    sockets::{Doing, Slot, Wire, is_silent_and_open},
    target::Lease,
};
use crate::rules::address::Address;

/// A backend on loopback accepts at once, or its backlog is full: longer than one retransmission.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of a response head, and of what is read ahead of a slow client.
pub(super) const BUFFER: usize = 64 * 1024;
/// Ports from here on may be given to outgoing connections, so one could meet itself.
const FIRST_EPHEMERAL: u16 = 1024;

/// How far an upload is.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

impl Progress {
    /// Whether the upload is that far.
    pub(super) fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }
}

/// The body of a request on its way to the backend, passed on frame by frame.
pub(super) struct Upload {
    body: Option<Incoming>,
    progress: Arc<Progress>,
}

impl Upload {
    /// More may come.
    pub(super) const GOING: u8 = 0;
    /// Nothing more comes.
    pub(super) const WHOLE: u8 = 1;
    /// The client failed to send the rest.
    pub(super) const BROKEN: u8 = 2;

    /// The client's body.
    pub(super) fn new(body: Incoming) -> Self {
        let state = if body.is_end_stream() { Self::WHOLE } else { Self::GOING };
        Self { body: Some(body), progress: Arc::new(Progress(AtomicU8::new(state))) }
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self { body: None, progress: Arc::new(Progress(AtomicU8::new(Self::WHOLE))) }
    }

    /// To be asked after the body was given away.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let state = match &polled {
            Poll::Ready(Some(Err(_))) => Self::BROKEN,
            Poll::Ready(None) => Self::WHOLE,
            Poll::Ready(Some(Ok(_))) if body.is_end_stream() => Self::WHOLE,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => return polled,
        };
        self.progress.0.store(state, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A failed exchange.
pub(super) struct Failed {
    /// What hyper said.
    pub(super) cause: hyper::Error,
    /// The request, when not a byte of it was sent.
    pub(super) unsent: Option<Request<Upload>>,
    /// Whether not a byte of an answer came.
    pub(super) silent: bool,
}

/// One connection to a backend.
pub(super) struct Upstream {
    sender: SendRequest<Upload>,
    /// `None` once it has ended, or is driven elsewhere.
    driver: Option<Connection<TokioIo<Wire>, Upload>>,
    slot: Arc<Slot>,
}

/// Opens a socket to the backend of a lease.
pub(super) async fn connect(lease: &Lease) -> io::Result<Wire> {
    let address = &lease.target().identity.address;
    let flow = tokio::time::timeout(CONNECT_WITHIN, reach(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(lease.target().sockets(lease.worker()).admit(flow))
}

async fn reach(address: &Address) -> io::Result<Flow> {
    let port = match address {
        Address::Port(port) => *port,
        Address::Socket(path) => return Ok(UnixStream::connect(path).await?.into()),
    };
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(to).await?;
    if port >= FIRST_EPHEMERAL && stream.local_addr()? == to {
        // Nobody listens, and the kernel joined the socket with itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

/// How hyper speaks to backends: forgiving, since what apps send can't be helped here.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER).max_header_size(BUFFER);
    builder.allow_obsolete_multiline_headers_in_responses(true).ignore_invalid_headers_in_responses(true);
    builder
}

impl Upstream {
    /// Opens a connection to the backend of a lease.
    pub(super) async fn open(lease: &Lease) -> io::Result<Self> {
        let wire = connect(lease).await?;
        let slot = Arc::clone(wire.slot());
        let (sender, driver) = builder().handshake(TokioIo::new(wire)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(driver), slot })
    }

    /// Whether a kept connection looks alive at this moment.
    pub(super) fn is_alive(&self) -> bool {
        self.driver.is_some() && is_silent_and_open(&self.slot)
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn exchange(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Failed> {
        self.slot.set(Doing::Quiet);
        let answer = self.sender.try_send_request(request);
        let driver = &mut self.driver;
        let mut answer = std::pin::pin!(answer);
        let result = std::future::poll_fn(|cx| {
            drive(driver, cx);
            // The driver alone completes the answer, and it was just polled: no waker is needed.
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        result.await.map_err(|failed| self.failed(failed))
    }

    fn failed(&self, mut failed: TrySendError<Request<Upload>>) -> Failed {
        let unsent = failed.take_message();
        Failed { cause: failed.into_error(), unsent, silent: self.slot.is(Doing::Quiet) }
    }

    /// Moves bytes both ways as far as they go now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Lets a task of its own move the bytes, for an upload that goes on after the answer has begun: the
    /// client may send all of it before it reads.
    pub(super) fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            // An error reaches the body of the answer as well.
            tokio::spawn(async move { driver.await.ok() });
        }
    }

    /// Whether the task of the request has to move the bytes.
    pub(super) fn is_driven_here(&self) -> bool {
        self.driver.is_some()
    }

    /// Whether another request can be sent; to be asked after the end of an answer.
    pub(super) fn is_reusable(&mut self) -> bool {
        if !self.sender.is_ready() {
            drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        }
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive(driver: &mut Option<Connection<TokioIo<Wire>, Upload>>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && Pin::new(running).poll(cx).is_ready()
    {
        *driver = None;
    }
}
