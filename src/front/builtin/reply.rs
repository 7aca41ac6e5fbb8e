//! The body of an answer on its way to the client. Drives the backend's connection while hyper reads the body, returns
//! it to the pool at the end, and keeps the request counted as in flight until hyper has taken the last byte or the
//! client is gone. Made by `proxy`.
//!
//! An answer that breaks off ends visibly for the client, but only after the client has all that came: hyper drops what
//! it has not written when a body fails.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::{
    files::Content,
    sockets::{Doing, SocketState},
    target::Lease,
    upstream::Upstream,
};

/// The body of an answer.
pub(super) struct ReplyBody {
    source: BodySource,
    client: Arc<SocketState>,
}

enum BodySource {
    /// A text of the front itself.
    Text(Option<Bytes>),
    /// The backend's body.
    Stream(Box<BodyStream>),
    /// A file of this host.
    File(Box<OnDisk>),
}

/// A file on its way, and the request that it counts for.
struct OnDisk {
    content: Option<Content>,
    lease: Option<Lease>,
}

struct BodyStream {
    body: Incoming,
    /// `None` once it went back to the pool, or broke off.
    upstream: Option<Upstream>,
    lease: Lease,
    /// The error that broke it off, until the client has what came before.
    cut: Option<hyper::Error>,
    end: BodyEnd,
}

/// How the client knows that the body is whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    /// By its length, or its last chunk.
    Framed,
    /// By the end of the connection. A body that broke off ends in a reset; `looks` is how many more ticks the client
    /// has before it to acknowledge what came.
    Connection { looks: u8 },
}

/// Checks, one a tick, whether a client has acknowledged what came, before its connection is reset.
const LOOKS: u8 = 20;

impl ReplyBody {
    /// A text of the front itself.
    pub(super) fn text(text: &'static str, client: Arc<SocketState>) -> Self {
        let text = (!text.is_empty()).then(|| Bytes::from_static(text.as_bytes()));
        Self { source: BodySource::Text(text), client }
    }

    /// A file of this host; an answer without a body has no content.
    pub(super) fn file(content: Option<Content>, lease: Option<Lease>, client: Arc<SocketState>) -> Self {
        let mut file = OnDisk { content, lease };
        if file.content.is_none() {
            file.finish();
        }
        Self { source: BodySource::File(Box::new(file)), client }
    }

    /// The backend's body; `upstream` drives the connection, unless a task of its own does.
    pub(super) fn stream(
        body: Incoming,
        upstream: Option<Upstream>,
        lease: Lease,
        client: Arc<SocketState>,
    ) -> Self {
        let mut stream = BodyStream { body, upstream, lease, cut: None, end: BodyEnd::Framed };
        if stream.body.is_end_stream() {
            stream.finish();
        }
        Self { source: BodySource::Stream(Box::new(stream)), client }
    }

    /// Marks the body as one that ends with the connection.
    pub(super) fn ends_with_the_connection(&mut self) {
        if let BodySource::Stream(stream) = &mut self.source {
            stream.end = BodyEnd::Connection { looks: LOOKS };
        }
    }
}

impl BodyStream {
    fn poll(
        &mut self,
        client: &SocketState,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.cut.is_some() {
            return self.poll_cut(client);
        }
        let polled = self.poll_body(cx);
        match polled {
            Poll::Ready(Some(Err(error))) => {
                self.upstream = None;
                self.lease.broke_off();
                self.cut = Some(error);
                client.ask_for_flush();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.finish(),
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    /// The error, once the client has what came before it.
    fn poll_cut(&mut self, client: &SocketState) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !client.is_flushed() {
            return Poll::Pending;
        }
        match &mut self.end {
            BodyEnd::Framed => {}
            BodyEnd::Connection { looks: left @ 1.. } if !client.has_taken_all() => {
                *left -= 1;
                client.wait(1);
                return Poll::Pending;
            }
            BodyEnd::Connection { .. } => client.reset_when_closed(),
        }
        client.wait_no_more();
        Poll::Ready(self.cut.take().map(Err))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(upstream) = self.upstream.as_mut().filter(|upstream| upstream.is_driven_here()) else {
            return Pin::new(&mut self.body).poll_frame(cx);
        };
        // Only the connection fills the body, and it is polled right here: no waker is needed.
        let quiet = &mut Context::from_waker(Waker::noop());
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.body).poll_frame(quiet) {
            return ready;
        }
        upstream.poll(cx);
        Pin::new(&mut self.body).poll_frame(quiet)
    }

    /// Ends a whole answer: counts it, and returns the connection to the pool.
    fn finish(&mut self) {
        self.lease.ended();
        if let Some(mut upstream) = self.upstream.take()
            && upstream.is_reusable()
        {
            self.lease.target().put_back(self.lease.worker(), upstream);
        }
    }
}

impl OnDisk {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(content) = &mut self.content else { return Poll::Ready(None) };
        let Poll::Ready(read) = content.poll(cx) else { return Poll::Pending };
        match &read {
            Some(Ok(_)) if content.left() == 0 => self.finish(),
            Some(Err(_)) => {
                self.content = None;
                self.lease.iter_mut().for_each(Lease::broke_off);
            }
            Some(Ok(_)) => {}
            None => self.finish(),
        }
        Poll::Ready(read.map(|read| read.map(Frame::data).map_err(Into::into)))
    }

    /// Ends a whole answer: the request is no longer in flight once the client has it.
    fn finish(&mut self) {
        self.content = None;
        self.lease.iter_mut().for_each(Lease::ended);
    }
}

/// An error of a backend's connection, or of the disk.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { source, client } = &mut *self;
        match source {
            BodySource::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            BodySource::Stream(stream) => {
                stream.poll(client, cx).map(|polled| polled.map(|frame| frame.map_err(Into::into)))
            }
            BodySource::File(file) => file.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Text(text) => text.is_none(),
            BodySource::Stream(stream) => stream.body.is_end_stream(),
            BodySource::File(file) => file.content.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            BodySource::Stream(stream) => stream.body.size_hint(),
            BodySource::File(file) => SizeHint::with_exact(file.content.as_ref().map_or(0, Content::left)),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        // An upgraded connection has its own state already.
        if self.client.is(Doing::Answering) {
            self.client.set(Doing::Quiet);
        }
    }
}
