//! One request: claim a target, pass the request on, pass the answer back. Called by `worker` for each
//! request of each client connection.
//!
//! Requests that are sent again, and when:
//! - a request of which nothing was sent: at once to another instance of its color, if there is one; then to the other
//!   color, if that receives traffic as well (not for a preview: a client that asks for the canary must not see the
//!   live release); else on another connection, for up to [`PATIENCE`] while the backend refuses connections (the live
//!   instance is being restarted); the target is chosen anew each time;
//! - an idempotent request without a body whose *kept* connection ended before a byte came back: once, on
//!   a new connection;
//! - anything else (a POST that was sent, a body that was begun): never; the client gets a 502.

use std::{io, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SET_COOKIE, USER_AGENT},
    http::request::Parts,
};
use tokio::time::{Instant, sleep};

use super::{
    crowd::is_shortage,
    files,
    headers::{self, ClientAddress},
    interim,
    reply::ReplyBody,
    sockets::SocketState,
    target::Lease,
    tunnel::{self, UpgradeFailure},
    upload::{Upload, UploadProgress},
    upstream::{AnswerWait, FailedExchange, Upstream, UpstreamFault},
    wish::Wish,
    worker::FrontWorker,
};
use crate::front::traffic::OWN;

/// How long a request that was not sent waits for a backend that refuses connections.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before the second try to connect; doubled each time, up to ten times this.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A kept connection serves a request that can be repeated for this long ...
const KEPT_IF_REPEATABLE: Duration = Duration::from_secs(1);
/// ... and any other one only if it was used within this time and is seen to be open.
const KEPT_IF_ONCE: Duration = Duration::from_millis(250);

/// The methods that the answer to CONNECT allows.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A client's connection, as its requests see it.
pub(super) struct ClientSession {
    pub(super) worker: Arc<FrontWorker>,
    pub(super) client: ClientAddress,
    pub(super) slot: Arc<SocketState>,
}

/// The attempts to send one request.
struct Attempts {
    wish: Wish,
    /// When the first attempt failed.
    refused: Option<Instant>,
    pause: Duration,
    kept_allowed: bool,
    /// Whether bgd itself made the request: it is not real traffic.
    own: bool,
    /// Whether the client understands interim answers (1xx).
    hears_interim: bool,
}

impl ClientSession {
    /// Answers one request; every error becomes an answer too.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<ReplyBody> {
        self.slot.set(super::sockets::Doing::Answering);
        let is_old = request.version() == Version::HTTP_10;
        let is_head = request.method() == Method::HEAD;
        let mut answer = self.reply(request).await;
        // To an HTTP/1.0 client, a body of unknown length ends with its connection.
        let endless = is_old && !is_head && answer.body().size_hint().exact().is_none();
        if (endless || self.worker.is_leaving()) && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if endless {
            answer.body_mut().ends_with_the_connection();
        }
        if is_old && answer.headers().contains_key(CONNECTION) {
            // Otherwise hyper announces that it keeps the connection.
            *answer.version_mut() = Version::HTTP_10;
        }
        answer
    }

    async fn reply(&self, mut request: Request<Incoming>) -> Response<ReplyBody> {
        let upgrade = request.extensions_mut().remove();
        let (mut parts, body) = request.into_parts();
        let hears_interim = parts.version == Version::HTTP_11;
        if parts.method == Method::CONNECT {
            return self.no_connect();
        }
        let wish = self.worker.switch.wish(&parts.headers, &self.client);
        let files = self.worker.switch.files();
        let attempts = Attempts { hears_interim, ..Attempts::new(wish, &parts.headers) };
        let tunnel = headers::wants_upgrade(&parts);
        let former = files::former(&parts, &files);
        if let Err(refusal) = headers::request(&mut parts, &self.client) {
            return self.refuse(refusal.status, refusal.reason);
        }
        if self.worker.switch.has_directories()
            && let Some(lease) = self.lease(&attempts)
            && let Some(directory) = lease.target().identity.origin.directory()
        {
            let answer = files::site(files::Request::of(&parts), directory.to_owned(), files);
            return self.served_by_disk(answer, lease, &attempts).await;
        }
        let answer = self.served_by_app((parts, body), attempts, upgrade.filter(|_| tunnel)).await;
        match former.filter(|_| answer.status() == StatusCode::NOT_FOUND) {
            Some(former) => self.instead(answer, former).await,
            None => answer,
        }
    }

    /// An answer from the directory of a static site.
    async fn served_by_disk(
        &self,
        answer: impl Future<Output = files::Answer>,
        mut lease: Lease,
        attempts: &Attempts,
    ) -> Response<ReplyBody> {
        lease.sent();
        let (mut parts, content) = answer.await.into_parts();
        lease.answered(parts.status.as_u16());
        attempts.greet(&mut parts);
        Response::from_parts(parts, ReplyBody::file(content, Some(lease), Arc::clone(&self.slot)))
    }

    /// The file of a former release in place of the app's 404, or that answer, not to be stored.
    async fn instead(&self, answer: Response<ReplyBody>, former: files::Former) -> Response<ReplyBody> {
        match files::of_former(former).await {
            Some(found) => {
                let (parts, content) = found.into_parts();
                drop(answer);
                // The dropped answer has ended the slot's request.
                self.slot.set(super::sockets::Doing::Answering);
                Response::from_parts(parts, ReplyBody::file(content, None, Arc::clone(&self.slot)))
            }
            None => files::not_stored(answer),
        }
    }

    /// An answer of the app.
    async fn served_by_app(
        &self,
        (parts, body): (Parts, Incoming),
        attempts: Attempts,
        upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<ReplyBody> {
        match upgrade {
            Some(client) => {
                self.upgrade(Request::from_parts(parts, self.upload(body)), client, attempts).await
            }
            _ if body.is_end_stream() && parts.method.is_idempotent() => {
                self.repeatable(parts, attempts).await
            }
            _ => self.once(Request::from_parts(parts, self.upload(body)), attempts).await,
        }
    }

    fn upload(&self, body: Incoming) -> Upload {
        Upload::new(body, self.worker.house.limits.request())
    }

    fn hear_interim(&self, request: &mut Request<Upload>, attempts: &Attempts) {
        if attempts.hears_interim {
            interim::pass_on(request, &self.slot, self.worker.house.limits.response_ticks());
        }
    }

    fn wait<'a>(&'a self, progress: &'a UploadProgress) -> AnswerWait<'a> {
        AnswerWait { slot: &self.slot, ticks: self.worker.house.limits.response_ticks(), progress }
    }

    /// A request that may be sent twice: no body, and idempotent.
    async fn repeatable(&self, parts: Parts, mut attempts: Attempts) -> Response<ReplyBody> {
        loop {
            let Some(mut lease) = self.lease(&attempts) else { return self.nothing_live() };
            let kept = attempts.kept(&lease, KEPT_IF_REPEATABLE);
            let was_kept = kept.is_some();
            let mut upstream = match Self::connection(kept, &lease).await {
                Ok(upstream) => upstream,
                Err(error) => match self.refused(&mut attempts, lease, error).await {
                    Ok(()) => continue,
                    Err(answer) => return answer,
                },
            };
            lease.sent();
            let mut request = Request::from_parts(parts.clone(), Upload::empty());
            self.hear_interim(&mut request, &attempts);
            let progress = request.body().progress();
            match upstream.exchange(request, self.wait(&progress)).await {
                Ok(answer) => return self.pass(answer, Some(upstream), lease, &attempts),
                Err(failed) if was_kept && failed.silent => {
                    lease.unsent();
                    attempts.kept_allowed = false;
                }
                Err(failed) => return self.broken(&mut lease, &failed.fault),
            }
        }
    }

    /// A request that must reach the backend at most once.
    async fn once(&self, mut request: Request<Upload>, mut attempts: Attempts) -> Response<ReplyBody> {
        self.hear_interim(&mut request, &attempts);
        let progress = request.body().progress();
        loop {
            let Some(mut lease) = self.lease(&attempts) else { return self.nothing_live() };
            let kept = attempts.kept(&lease, KEPT_IF_ONCE).filter(Upstream::is_alive);
            let was_kept = kept.is_some();
            let mut upstream = match Self::connection(kept, &lease).await {
                Ok(upstream) => upstream,
                Err(error) => match self.refused(&mut attempts, lease, error).await {
                    Ok(()) => continue,
                    Err(answer) => return answer,
                },
            };
            lease.sent();
            match upstream.exchange(request, self.wait(&progress)).await {
                Ok(answer) => {
                    if progress.is_going() {
                        upstream.detach();
                    }
                    return self.pass(answer, Some(upstream), lease, &attempts);
                }
                Err(FailedExchange { unsent: Some(unsent), .. }) if was_kept => {
                    request = unsent;
                    lease.unsent();
                    attempts.kept_allowed = false;
                }
                Err(_) if progress.is(Upload::BROKEN) => {
                    return self.own(StatusCode::BAD_REQUEST, "the body of the request ended early\n");
                }
                Err(_) if progress.is(Upload::LATE) => return self.client_late(&mut lease),
                Err(failed) => return self.broken(&mut lease, &failed.fault),
            }
        }
    }

    /// A request to change the protocol.
    async fn upgrade(
        &self,
        mut request: Request<Upload>,
        client: hyper::upgrade::OnUpgrade,
        mut attempts: Attempts,
    ) -> Response<ReplyBody> {
        self.hear_interim(&mut request, &attempts);
        let progress = request.body().progress();
        let within = self.worker.house.limits.response();
        loop {
            let Some(mut lease) = self.lease(&attempts) else { return self.nothing_live() };
            lease.sent();
            match tunnel::ask(&lease, request, within).await {
                Ok(mut answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    lease.answered(answer.status().as_u16());
                    // After the head the client decides how long it takes, so that time is not measured.
                    lease.ended();
                    tunnel::join(lease, Arc::clone(&self.slot), client, &mut answer);
                    let (mut parts, _) = answer.into_parts();
                    headers::response(&mut parts);
                    attempts.greet(&mut parts);
                    return Response::from_parts(parts, ReplyBody::text("", Arc::clone(&self.slot)));
                }
                Ok(answer) => return self.pass(answer, None, lease, &attempts),
                Err(UpgradeFailure::Exchange(_)) if progress.is(Upload::LATE) => {
                    return self.client_late(&mut lease);
                }
                Err(UpgradeFailure::Exchange(fault)) => return self.broken(&mut lease, &fault),
                Err(UpgradeFailure::Connect(error, unsent)) => {
                    request = *unsent;
                    lease.unsent();
                    if let Err(answer) = self.refused(&mut attempts, lease, error).await {
                        return answer;
                    }
                }
            }
        }
    }

    fn lease(&self, attempts: &Attempts) -> Option<Lease> {
        let lease = self.worker.switch.lease(self.worker.id, &attempts.wish);
        if attempts.own { lease.map(Lease::unmeasured) } else { lease }
    }

    /// Handles a failed connect: returns when the next try is due, or gives the answer when there is no other try.
    /// Drops the lease meanwhile: a request that waits is not in flight.
    async fn refused(
        &self,
        attempts: &mut Attempts,
        mut lease: Lease,
        error: io::Error,
    ) -> Result<(), Response<ReplyBody>> {
        if is_shortage(&error) {
            return self.out_of_descriptors(attempts, lease, &error).await;
        }
        lease.not_connected();
        if self.pass_over(attempts, &lease, &error) {
            return Ok(());
        }
        if self.turn_away(attempts, &mut lease, &error) {
            return Ok(());
        }
        if !attempts.may_wait(&error) {
            if attempts.wish.refuse(lease.target().identity.color) {
                lease.failed();
            }
            return Err(self.unreachable(&lease, &error));
        }
        drop(lease);
        attempts.wait().await;
        Ok(())
    }

    /// Frees descriptors and waits for the next try, or gives a 503. The app is not to blame, so nothing counts against
    /// it.
    async fn out_of_descriptors(
        &self,
        attempts: &mut Attempts,
        mut lease: Lease,
        error: &io::Error,
    ) -> Result<(), Response<ReplyBody>> {
        lease.unsent();
        drop(lease);
        self.worker.relieve(Some(error));
        self.worker.switch.close_idle(self.worker.id);
        if !attempts.are_patient() {
            return Err(self.come_back("the front has too few descriptors\n"));
        }
        attempts.wait().await;
        Ok(())
    }

    /// Makes the next try go to another instance of the color; returns whether there is one that has not refused as
    /// well.
    fn pass_over(&self, attempts: &mut Attempts, lease: &Lease, error: &io::Error) -> bool {
        let target = lease.target();
        let color = target.identity.color;
        attempts.wish.pass_over(target.number);
        let another = self.worker.switch.has_more_of(color, &attempts.wish);
        if another {
            let place = target.identity.origin.named();
            let journal = &self.worker.journal;
            journal.warn(format_args!("can't connect to {color} on {place}, trying another: {error}"));
        }
        another
    }

    /// Makes the next try go to the other color; returns whether there is one that has not refused as well.
    fn turn_away(&self, attempts: &mut Attempts, lease: &mut Lease, error: &io::Error) -> bool {
        let target = lease.target();
        let color = target.identity.color;
        let wish = &mut attempts.wish;
        let other = color.other();
        if wish.is_preview() || wish.is_refused(other) || !self.worker.switch.has_other_than(color) {
            return false;
        }
        let place = target.identity.origin.named();
        let journal = &self.worker.journal;
        journal.warn(format_args!("can't connect to {color} on {place}, trying {other}: {error}"));
        if wish.refuse(color) {
            lease.failed();
        }
        true
    }

    async fn connection(kept: Option<Upstream>, lease: &Lease) -> io::Result<Upstream> {
        match kept {
            Some(upstream) => Ok(upstream),
            None => Upstream::open(lease).await,
        }
    }

    fn pass(
        &self,
        answer: Response<Incoming>,
        upstream: Option<Upstream>,
        mut lease: Lease,
        attempts: &Attempts,
    ) -> Response<ReplyBody> {
        let (mut parts, body) = answer.into_parts();
        if let Some(text) = unfit(&parts) {
            let target = &lease.target().identity;
            let place = target.origin.named();
            self.worker.journal.warn(format_args!("{} on {place}: {}", target.color, text.trim_end()));
            lease.failed();
            return self.bad_gateway(&lease, text);
        }
        lease.answered(parts.status.as_u16());
        if headers::is_events(&parts) {
            lease.ended();
        }
        headers::response(&mut parts);
        attempts.greet(&mut parts);
        Response::from_parts(parts, ReplyBody::stream(body, upstream, lease, Arc::clone(&self.slot)))
    }

    fn nothing_live(&self) -> Response<ReplyBody> {
        self.come_back("nothing is live\n")
    }

    fn come_back(&self, text: &'static str) -> Response<ReplyBody> {
        let mut answer = self.own(StatusCode::SERVICE_UNAVAILABLE, text);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }

    fn unreachable(&self, lease: &Lease, error: &io::Error) -> Response<ReplyBody> {
        let target = &lease.target().identity;
        let place = target.origin.named();
        self.worker.journal.warn(format_args!("can't connect to {} on {place}: {error}", target.color));
        self.bad_gateway(lease, "the app can't be reached\n")
    }

    fn broken(&self, lease: &mut Lease, fault: &UpstreamFault) -> Response<ReplyBody> {
        let within = self.worker.house.limits.response();
        let (status, text, cause) = match fault {
            UpstreamFault::Broken(cause) => (StatusCode::BAD_GATEWAY, reason(cause), cause.to_string()),
            UpstreamFault::Late => {
                let text = "the app did not answer in time\n";
                (StatusCode::GATEWAY_TIMEOUT, text, format!("none within {within:?}"))
            }
        };
        let target = &lease.target().identity;
        let place = target.origin.named();
        self.worker.journal.warn(format_args!("no answer from {} on {place}: {cause}", target.color));
        lease.failed();
        self.in_place_of(lease, status, text)
    }

    /// A 408. The app is not to blame, so the request does not count.
    fn client_late(&self, lease: &mut Lease) -> Response<ReplyBody> {
        lease.unsent();
        self.refuse(StatusCode::REQUEST_TIMEOUT, "the rest of the request did not come in time\n")
    }

    fn bad_gateway(&self, lease: &Lease, text: &'static str) -> Response<ReplyBody> {
        self.in_place_of(lease, StatusCode::BAD_GATEWAY, text)
    }

    /// An answer of the front that counts as the app's.
    fn in_place_of(&self, lease: &Lease, status: StatusCode, text: &'static str) -> Response<ReplyBody> {
        lease.answered_for(status.as_u16());
        self.own(status, text)
    }

    fn no_connect(&self) -> Response<ReplyBody> {
        let mut answer = self.own(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not possible here\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
        answer
    }

    /// An answer that closes the connection: the bytes that follow on it may not be a request.
    fn refuse(&self, status: StatusCode, text: &'static str) -> Response<ReplyBody> {
        let mut answer = self.own(status, text);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }

    fn own(&self, status: StatusCode, text: &'static str) -> Response<ReplyBody> {
        let mut answer = Response::new(ReplyBody::text(text, Arc::clone(&self.slot)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        answer
    }
}

/// Why an answer can't be passed on; `None` when it can.
fn unfit(answer: &hyper::http::response::Parts) -> Option<&'static str> {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return Some("the app changed the protocol unasked\n");
    }
    let coded = !headers::is_framed_plainly(answer);
    coded.then_some("the app's answer has a transfer coding other than chunked\n")
}

/// The text for the client when the app's answer is not a valid one.
fn reason(cause: &hyper::Error) -> &'static str {
    if cause.is_parse_too_large() {
        "the head of the app's answer has more than 64 KiB or 100 fields\n"
    } else if cause.is_parse() {
        "the app's answer is not HTTP/1.1\n"
    } else {
        "the app closed the connection without an answer\n"
    }
}

impl Attempts {
    fn new(wish: Wish, headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        let own = agent.is_some_and(|agent| agent.starts_with(OWN.as_bytes()));
        Self { wish, refused: None, pause: FIRST_PAUSE, kept_allowed: true, own, hears_interim: false }
    }

    fn kept(&self, lease: &Lease, within: Duration) -> Option<Upstream> {
        if self.kept_allowed { lease.target().take(lease.worker(), within) } else { None }
    }

    /// Whether the backend refused the connection, and [`PATIENCE`] is not used up.
    fn may_wait(&mut self, error: &io::Error) -> bool {
        self.are_patient() && error.kind() == io::ErrorKind::ConnectionRefused
    }

    /// Whether the first attempt failed less than [`PATIENCE`] ago.
    fn are_patient(&mut self) -> bool {
        self.refused.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }

    async fn wait(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(FIRST_PAUSE * 10);
        self.wish.try_all_again();
    }

    /// Gives a new client its ticket.
    fn greet(&self, answer: &mut hyper::http::response::Parts) {
        if let Some(cookie) = self.wish.greeting() {
            answer.headers.append(SET_COOKIE, cookie);
        }
    }
}
