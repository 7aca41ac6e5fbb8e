//! One connection to a backend, driven by the task of the request that uses it: no task and no wake-up
//! between threads or tasks per exchange. Between two requests nobody polls it. Used by `proxy`, `reply`
//! and kept by `target`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::{
    flow::Flow,
    sockets::{Doing, SocketState, Wire, is_silent_and_open},
    target::Lease,
    upload::{Upload, UploadProgress},
};
use crate::rules::address::Address;

/// A backend on loopback accepts at once, or its backlog is full: longer than one retransmission.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of a response head, and of what is read ahead of a slow client.
pub(super) const BUFFER: usize = 64 * 1024;
/// Ports from here on may be given to outgoing connections, so a socket could connect to itself.
const FIRST_EPHEMERAL: u16 = 1024;

/// How long an answer may take, and the task to wake when it took too long.
pub(super) struct AnswerWait<'a> {
    /// The slot of the client that waits for the answer.
    pub(super) slot: &'a SocketState,
    /// Ticks until the head of the answer; they do not run while the client owes a piece of the request.
    pub(super) ticks: u32,
    /// The state of the client's upload.
    pub(super) progress: &'a UploadProgress,
}

impl AnswerWait<'_> {
    /// Whether the time is over. It begins anew whenever the backend took another piece of the request, and does not
    /// run while the client owes one.
    fn is_over(&self, asked: &mut Option<u32>) -> bool {
        let now = self.progress.asked();
        if self.progress.is(Upload::AWAITED) {
            self.slot.wait_no_more();
        } else if asked.replace(now) != Some(now) {
            self.slot.wait(self.ticks);
        }
        self.slot.is_overdue()
    }
}

/// Why the backend did not answer.
pub(super) enum UpstreamFault {
    /// The answer took too long.
    Late,
    /// hyper's error.
    Broken(hyper::Error),
}

/// A failed exchange.
pub(super) struct FailedExchange {
    pub(super) fault: UpstreamFault,
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
    slot: Arc<SocketState>,
}

/// Opens a socket to the backend of a lease.
pub(super) async fn connect(lease: &Lease) -> io::Result<Wire> {
    let address = lease.target().identity.origin.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
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
        // Nothing listens there, and the kernel connected the socket to itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

/// hyper's settings for backends: lenient, since the front can't correct what apps send.
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
    pub(super) async fn exchange(
        &mut self,
        request: Request<Upload>,
        wait: AnswerWait<'_>,
    ) -> Result<Response<Incoming>, FailedExchange> {
        self.slot.set(Doing::Quiet);
        let answer = self.sender.try_send_request(request);
        let driver = &mut self.driver;
        let mut answer = std::pin::pin!(answer);
        let mut asked = None;
        let result = std::future::poll_fn(|cx| {
            drive(driver, cx);
            // The driver alone completes the answer, and it was just polled: no waker is needed.
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if wait.is_over(&mut asked) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let result = result.await;
        wait.slot.wait_no_more();
        match result {
            Some(answer) => answer.map_err(|failed| self.failed(failed)),
            None => Err(FailedExchange { fault: UpstreamFault::Late, unsent: None, silent: false }),
        }
    }

    fn failed(&self, mut failed: TrySendError<Request<Upload>>) -> FailedExchange {
        let unsent = failed.take_message();
        FailedExchange {
            fault: UpstreamFault::Broken(failed.into_error()),
            unsent,
            silent: self.slot.is(Doing::Quiet),
        }
    }

    /// Moves bytes both ways, as many as pass without waiting.
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

    /// Whether another request can be sent. Call it after the end of an answer.
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
