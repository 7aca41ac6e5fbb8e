//! One request: claim a target, pass the request on, pass the answer back. Called by `worker` for each
//! request of each client connection.
//!
//! What is sent again, and when:
//! - a request of which nothing was sent: on another connection, for up to [`PATIENCE`] while the backend
//!   refuses connections (the live instance is being restarted); the target is chosen anew each time;
//! - an idempotent request without a body whose *kept* connection ended before a byte came back: once, on
//!   a new connection;
//! - anything else (a POST that was sent, a body that was begun): never; the client gets a 502.

use std::{io, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    http::request::Parts,
};
use tokio::time::{Instant, sleep};

use super::{
    headers::{self, Client},
    reply::Reply,
    sockets::Slot,
    target::Lease,
    tunnel::{self, Broken},
    upstream::{Failed, Upload, Upstream},
    worker::Worker,
};

/// How long a request that was not sent waits for a backend that refuses connections.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to connect, at first; doubled each time up to ten times this.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A kept connection serves a request that can be repeated for this long ...
const KEPT_IF_REPEATABLE: Duration = Duration::from_secs(1);
/// ... and any other one only if it was used within this time and is seen to be open.
const KEPT_IF_ONCE: Duration = Duration::from_millis(250);

/// A client's connection, as its requests see it.
pub(super) struct Session {
    pub(super) worker: Arc<Worker>,
    pub(super) client: Client,
    pub(super) slot: Arc<Slot>,
}

/// The attempts to send one request.
struct Attempts {
    /// Since the first refusal.
    refused: Option<Instant>,
    pause: Duration,
    kept_allowed: bool,
}

impl Session {
    /// Answers one request; whatever goes wrong is an answer too.
    pub(super) async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Reply> {
        self.slot.set(super::sockets::Doing::Answering);
        let upgrade = request.extensions_mut().remove();
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return self.own(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not possible here\n");
        }
        let tunnel = headers::wants_upgrade(&parts);
        if let Err(reason) = headers::request(&mut parts, &self.client) {
            return self.own(StatusCode::BAD_REQUEST, reason);
        }
        let mut answer = match upgrade {
            Some(client) if tunnel => {
                self.upgrade(Request::from_parts(parts, Upload::new(body)), client).await
            }
            _ if body.is_end_stream() && parts.method.is_idempotent() => self.repeatable(parts).await,
            _ => self.once(Request::from_parts(parts, Upload::new(body))).await,
        };
        if self.worker.is_leaving() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// A request that may be sent twice: no body, and idempotent.
    async fn repeatable(&self, parts: Parts) -> Response<Reply> {
        let mut attempts = Attempts::new();
        loop {
            let Some(lease) = self.worker.switch.lease(self.worker.id) else { return self.nothing_live() };
            let kept = attempts.kept(&lease, KEPT_IF_REPEATABLE);
            let was_kept = kept.is_some();
            let mut upstream = match self.connection(kept, &lease).await {
                Ok(upstream) => upstream,
                Err(error) => match attempts.refused(lease, error).await {
                    Ok(()) => continue,
                    Err((lease, error)) => return self.unreachable(&lease, &error),
                },
            };
            let request = Request::from_parts(parts.clone(), Upload::empty());
            match upstream.exchange(request).await {
                Ok(answer) => return self.pass(answer, Some(upstream), lease),
                Err(failed) if was_kept && failed.silent => attempts.kept_allowed = false,
                Err(failed) => return self.broken(&lease, &failed.cause),
            }
        }
    }

    /// A request that must reach the backend at most once.
    async fn once(&self, mut request: Request<Upload>) -> Response<Reply> {
        let mut attempts = Attempts::new();
        let progress = request.body().progress();
        loop {
            let Some(lease) = self.worker.switch.lease(self.worker.id) else { return self.nothing_live() };
            let kept = attempts.kept(&lease, KEPT_IF_ONCE).filter(Upstream::is_alive);
            let was_kept = kept.is_some();
            let mut upstream = match self.connection(kept, &lease).await {
                Ok(upstream) => upstream,
                Err(error) => match attempts.refused(lease, error).await {
                    Ok(()) => continue,
                    Err((lease, error)) => return self.unreachable(&lease, &error),
                },
            };
            match upstream.exchange(request).await {
                Ok(answer) => {
                    if progress.is(Upload::GOING) {
                        upstream.detach();
                    }
                    return self.pass(answer, Some(upstream), lease);
                }
                Err(Failed { unsent: Some(unsent), .. }) if was_kept => {
                    request = unsent;
                    attempts.kept_allowed = false;
                }
                Err(_) if progress.is(Upload::BROKEN) => {
                    return self.own(StatusCode::BAD_REQUEST, "the body of the request ended early\n");
                }
                Err(failed) => return self.broken(&lease, &failed.cause),
            }
        }
    }

    /// A request to leave HTTP.
    async fn upgrade(
        &self,
        mut request: Request<Upload>,
        client: hyper::upgrade::OnUpgrade,
    ) -> Response<Reply> {
        let mut attempts = Attempts::new();
        loop {
            let Some(lease) = self.worker.switch.lease(self.worker.id) else { return self.nothing_live() };
            match tunnel::ask(&lease, request).await {
                Ok(mut answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    self.worker.switch.count_answer(&lease, answer.status().as_u16());
                    tunnel::join(lease, Arc::clone(&self.slot), client, &mut answer);
                    let (mut parts, _) = answer.into_parts();
                    headers::response(&mut parts);
                    return Response::from_parts(parts, Reply::text("", Arc::clone(&self.slot)));
                }
                Ok(answer) => return self.pass(answer, None, lease),
                Err(Broken::Exchange(cause)) => return self.broken(&lease, &cause),
                Err(Broken::Connect(error, unsent)) => {
                    request = *unsent;
                    if let Err((lease, error)) = attempts.refused(lease, error).await {
                        return self.unreachable(&lease, &error);
                    }
                }
            }
        }
    }

    async fn connection(&self, kept: Option<Upstream>, lease: &Lease) -> io::Result<Upstream> {
        let opened = match kept {
            Some(upstream) => Ok(upstream),
            None => Upstream::open(lease).await,
        };
        opened.inspect_err(|_| self.worker.switch.count_connect_failure(lease))
    }

    fn pass(&self, answer: Response<Incoming>, upstream: Option<Upstream>, lease: Lease) -> Response<Reply> {
        let (mut parts, body) = answer.into_parts();
        self.worker.switch.count_answer(&lease, parts.status.as_u16());
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.own(StatusCode::BAD_GATEWAY, "the app changed the protocol unasked\n");
        }
        headers::response(&mut parts);
        Response::from_parts(parts, Reply::stream(body, upstream, lease, Arc::clone(&self.slot)))
    }

    fn nothing_live(&self) -> Response<Reply> {
        let mut answer = self.own(StatusCode::SERVICE_UNAVAILABLE, "nothing is live\n");
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }

    fn unreachable(&self, lease: &Lease, error: &io::Error) -> Response<Reply> {
        let target = &lease.target().identity;
        self.worker
            .journal
            .warn(format_args!("can't connect to {} on port {}: {error}", target.color, target.port));
        self.failed(lease, "the app can't be reached\n")
    }

    fn broken(&self, lease: &Lease, cause: &hyper::Error) -> Response<Reply> {
        let target = &lease.target().identity;
        self.worker
            .journal
            .warn(format_args!("no answer from {} on port {}: {cause}", target.color, target.port));
        self.failed(lease, "the app closed the connection without an answer\n")
    }

    fn failed(&self, lease: &Lease, text: &'static str) -> Response<Reply> {
        self.worker.switch.count_answer(lease, StatusCode::BAD_GATEWAY.as_u16());
        self.own(StatusCode::BAD_GATEWAY, text)
    }

    fn own(&self, status: StatusCode, text: &'static str) -> Response<Reply> {
        let mut answer = Response::new(Reply::text(text, Arc::clone(&self.slot)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        answer
    }
}

impl Attempts {
    fn new() -> Self {
        Self { refused: None, pause: FIRST_PAUSE, kept_allowed: true }
    }

    fn kept(&self, lease: &Lease, within: Duration) -> Option<Upstream> {
        if self.kept_allowed { lease.target().take(lease.worker(), within) } else { None }
    }

    /// Waits before the next try; gives the error back when it is not a refusal or patience is at its end.
    /// The lease is given up meanwhile: a request that waits is not in flight.
    async fn refused(&mut self, lease: Lease, error: io::Error) -> Result<(), (Lease, io::Error)> {
        let since = *self.refused.get_or_insert_with(Instant::now);
        if error.kind() != io::ErrorKind::ConnectionRefused || since.elapsed() >= PATIENCE {
            return Err((lease, error));
        }
        drop(lease);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(FIRST_PAUSE * 10);
        Ok(())
    }
}
