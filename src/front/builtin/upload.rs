//! The body of a request on its way to the backend, passed on piece by piece. Tracks which side has to act next, and
//! gives up on a client that falls silent in the middle, so that it does not hold up the app that reads the body. Used
//! by `proxy`, `tunnel` and `upstream`.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

/// The state of an upload.
#[derive(Debug, Default)]
pub(super) struct UploadProgress {
    state: AtomicU8,
    /// How many times the backend was ready for more.
    asked: AtomicU32,
}

impl UploadProgress {
    /// Whether the upload is in this state, one of the constants of [`Upload`].
    pub(super) fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    /// Whether more may come.
    pub(super) fn is_going(&self) -> bool {
        self.is(Upload::GOING) || self.is(Upload::AWAITED)
    }

    /// How many times the backend was ready for more.
    pub(super) fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// The client failed to send the rest.
    #[error("the client broke off")]
    Broken(#[source] hyper::Error),
    /// The client sent nothing for too long.
    #[error("the client fell silent")]
    Late,
}

/// The body of a request.
pub(super) struct Upload {
    body: Option<Incoming>,
    progress: Arc<UploadProgress>,
    /// The longest time between two pieces.
    limit: Duration,
    /// Runs since the last piece; made when the upload first waits for one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// More may come, and the backend has not asked for it.
    pub(super) const GOING: u8 = 0;
    /// Nothing more comes.
    pub(super) const WHOLE: u8 = 1;
    /// The client failed to send the rest.
    pub(super) const BROKEN: u8 = 2;
    /// The backend is ready for what the client has not sent yet.
    pub(super) const AWAITED: u8 = 3;
    /// The client sent nothing for too long.
    pub(super) const LATE: u8 = 4;

    /// The client's body, with the longest time between two of its pieces.
    pub(super) fn new(body: Incoming, limit: Duration) -> Self {
        let progress = UploadProgress::default();
        progress.set(if body.is_end_stream() { Self::WHOLE } else { Self::GOING });
        Self { body: Some(body), progress: Arc::new(progress), limit, timer: None }
    }

    /// An empty body.
    pub(super) fn empty() -> Self {
        let progress = UploadProgress::default();
        progress.set(Self::WHOLE);
        Self { body: None, progress: Arc::new(progress), limit: Duration::MAX, timer: None }
    }

    /// The upload's state, which can be read after the body was given away.
    pub(super) fn progress(&self) -> Arc<UploadProgress> {
        Arc::clone(&self.progress)
    }

    /// Waits for the client's next piece; gives [`Cut::Late`] when it does not come within the limit.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let limit = self.limit;
        let awaited = self.progress.is(Self::AWAITED);
        self.progress.set(Self::AWAITED);
        let timer = match &mut self.timer {
            Some(timer) => {
                if !awaited {
                    timer.as_mut().reset(Instant::now() + limit);
                }
                timer
            }
            None => self.timer.insert(Box::pin(sleep(limit))),
        };
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.progress.set(Self::LATE);
        Poll::Ready(Some(Err(Cut::Late)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let ended = body.is_end_stream();
        self.progress.asked.fetch_add(1, Ordering::Relaxed);
        let state = match &polled {
            Poll::Pending => return self.poll_late(cx),
            Poll::Ready(Some(Err(_))) => Self::BROKEN,
            Poll::Ready(None) => Self::WHOLE,
            Poll::Ready(Some(Ok(_))) if ended => Self::WHOLE,
            Poll::Ready(Some(Ok(_))) => Self::GOING,
        };
        self.progress.set(state);
        polled.map_err(Cut::Broken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
