//! The daemon's side of the builtin front: starts it, replaces it, sends it the route. One connection is kept open, so
//! that a flip costs one line each way; waits go over connections of their own. Called by `front` and `supervise`.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    net::UnixStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::{
    BuiltinError,
    control::{ControlAnswer, ControlRequest, FrontCounters, Hello, PerColor},
    limits::ExchangeLimits,
    link::ControlLink,
    spare::Spare,
    spawn::{self, PassedSocket, build_of},
};
use crate::{
    front::live_link::LiveLink,
    os::{ended::ended, process::PidFd},
    rules::{
        address::Address,
        ids::{AppName, Color},
        route::Route,
        traffic::Figures,
    },
};

/// How long a front may take for an answer. It has nothing slow to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long the control socket of a running front may be missing: the front makes it again by itself.
const SOCKET_BACK_WITHIN: Duration = Duration::from_secs(3);
/// Time between two checks for a control socket that is missing.
const LOOK: Duration = Duration::from_millis(50);
/// How long a front may take to end; its own limit is 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(35);
/// How long to wait until a killed process is gone.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// The addresses and files of an app's front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontPlace {
    /// The app, for people who look at the process list.
    pub app: AppName,
    /// The public address.
    pub listen: SocketAddr,
    /// The control socket; at most 95 bytes long.
    pub control: PathBuf,
    /// The log file.
    pub log: PathBuf,
}

/// An app's front, seen from the daemon.
pub struct Builtin {
    exe: PathBuf,
    place: FrontPlace,
    limits: ExchangeLimits,
    /// Tells what a static site serves; `None` where nobody asks.
    pub(super) live: Option<LiveLink>,
    kept: Mutex<KeptRoute>,
}

/// Under one lock, so that the front's route and the route that its heir would get never differ.
#[derive(Default)]
struct KeptRoute {
    link: Option<ControlLink>,
    spare: Option<Spare>,
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builtin").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Builtin {
    /// The front at `place`, run by the program `exe` (bgd itself). Nothing is started yet.
    pub fn new(exe: PathBuf, place: FrontPlace) -> Self {
        Self { exe, place, limits: ExchangeLimits::default(), live: None, kept: Mutex::default() }
    }

    /// Sets the time limits for clients and apps.
    pub fn limited(self, limits: ExchangeLimits) -> Self {
        Self { limits, ..self }
    }

    /// Sets the link that tells what a static site serves.
    pub(super) fn shown_at(self, live: LiveLink) -> Self {
        Self { live: Some(live), ..self }
    }

    /// The addresses and files of the front.
    pub fn place(&self) -> &FrontPlace {
        &self.place
    }

    /// Ensures that this build of bgd serves the address with our limits: starts a front, or replaces one of another
    /// build or address, which finishes its connections. A front started fresh routes nothing yet.
    pub async fn ensure_running(&self) -> Result<Hello, BuiltinError> {
        let mut kept = self.kept.lock().await;
        let hello = self.ensure_one_runs(&mut kept).await?;
        if hello.limits != Some(self.limits) {
            self.ask_over(&mut kept.link, &ControlRequest::Limits { limits: self.limits }).await?;
        }
        self.keep_spare(&mut kept.spare, hello.pid).await;
        Ok(hello)
    }

    async fn ensure_one_runs(
        &self,
        KeptRoute { link, spare }: &mut KeptRoute,
    ) -> Result<Hello, BuiltinError> {
        let exe = &self.exe;
        let build = build_of(exe).map_err(|source| BuiltinError::Spawn { exe: exe.clone(), source })?;
        let wanted = |hello: &Hello| {
            hello.build == build
                && hello.version == env!("CARGO_PKG_VERSION")
                && hello.listen == self.place.listen
        };
        let entrance = match self.greet(link).await? {
            Some(hello) if wanted(&hello) => return Ok(hello),
            Some(_) => PassedSocket::Takeover,
            None => match spare.as_ref() {
                Some(spare) if spare.is_orphaned() => PassedSocket::Heir(spare),
                Some(_) | None => PassedSocket::Fresh,
            },
        };
        self.make_control_directory()?;
        match spawn::start(exe, &self.place, entrance).await {
            // Perhaps our own front has the address, and its control socket was deleted: it makes it again soon.
            Err(taken @ BuiltinError::AddressTaken { .. }) => match self.socket_back(link).await? {
                Some(hello) if wanted(&hello) => return Ok(hello),
                Some(_) => spawn::start(exe, &self.place, PassedSocket::Takeover).await?,
                None => return Err(taken),
            },
            other => other?,
        }
        *link = None;
        self.greet(link).await?.ok_or_else(|| self.not_running())
    }

    /// Takes a second handle on the public socket. Without one the front works as well, but a kill loses the
    /// connections in its queue.
    async fn keep_spare(&self, spare: &mut Option<Spare>, pid: u32) {
        if spare.as_ref().is_some_and(|spare| spare.is_of(pid)) {
            return;
        }
        match Spare::take(&self.place.control, pid).await {
            Ok(taken) => *spare = Some(taken),
            Err(err) => {
                tracing::debug!(app = %self.place.app, %err, "no second handle on the public socket");
                *spare = None;
            }
        }
    }

    /// Waits until the front that runs as `pid` has ended, at most `within`. Cancel-safe.
    pub async fn ended(&self, pid: u32, within: Duration) {
        let of_it = |spare: &&Spare| spare.is_of(pid);
        let spare =
            self.kept.lock().await.spare.as_ref().filter(of_it).and_then(|spare| spare.process().ok());
        match spare.or_else(|| PidFd::open(pid.cast_signed()).ok()) {
            // A timeout is not an error.
            Some(process) => drop(timeout(within, ended(process)).await),
            None => sleep(within.min(LOOK)).await,
        }
    }

    /// The front's process id, whether the front answers or not; `None` when no handle on it is kept and nothing
    /// listens on its control socket.
    pub async fn pid(&self) -> Option<u32> {
        if let Some(spare) = &self.kept.lock().await.spare {
            return Some(spare.pid());
        }
        let listening = UnixStream::connect(&self.place.control).await.ok()?;
        listening.peer_cred().ok()?.pid().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Makes the control socket's directory: a runtime directory may be wiped while apps run on.
    fn make_control_directory(&self) -> Result<(), BuiltinError> {
        let path = &self.place.control;
        let Some(directory) = path.parent() else { return Ok(()) };
        std::fs::create_dir_all(directory)
            .map_err(|source| BuiltinError::Control { path: path.clone(), source })
    }

    /// The running front's description of itself; `None` when none runs.
    pub async fn hello(&self) -> Result<Option<Hello>, BuiltinError> {
        self.greet(&mut self.kept.lock().await.link).await
    }

    /// Puts a route in force: when this returns, no new request goes anywhere else.
    pub async fn route(&self, route: &Route) -> Result<(), BuiltinError> {
        let mut kept = self.kept.lock().await;
        let answer =
            self.ask_over(&mut kept.link, &ControlRequest::Route { route: Box::new(route.clone()) }).await?;
        match answer.ok_or_else(|| self.not_running())? {
            ControlAnswer::Applied(_) => {
                kept.spare.iter_mut().for_each(|spare| spare.routed(route));
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The route in force; `None` when no front runs, or it has no route yet.
    pub async fn routed(&self) -> Result<Option<Route>, BuiltinError> {
        Ok(self.hello().await?.and_then(|hello| hello.route))
    }

    /// Waits until nothing is in flight on a color, at most `deadline`; returns the number of requests left.
    pub async fn drained(&self, color: Color, deadline: Duration) -> Result<u64, BuiltinError> {
        let mut link = ControlLink::connect(&self.place.control).await?.ok_or_else(|| self.not_running())?;
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let within = deadline.saturating_add(ANSWER_WITHIN);
        match link.ask(&ControlRequest::Drained { color, deadline_ms }, within).await? {
            ControlAnswer::Left(left) => Ok(left),
            other => Err(unexpected(&other)),
        }
    }

    /// Closes the open connections of a color: websockets, streams, slow requests. Returns how many those were.
    pub async fn cut(&self, color: Color) -> Result<u64, BuiltinError> {
        match self.ask(&ControlRequest::Cut { color }).await? {
            ControlAnswer::Closed(closed) => Ok(closed),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the front pass over the instances at these addresses, and only those, for this long. When all instances of a
    /// color are passed over, they serve all the same.
    pub async fn pass_over(&self, addresses: Vec<Address>, within: Duration) -> Result<(), BuiltinError> {
        let for_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&ControlRequest::PassOver { addresses, for_ms }).await? {
            ControlAnswer::PassedOver => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Requests in flight on a color, upgraded connections included.
    pub async fn inflight(&self, color: Color) -> Result<u64, BuiltinError> {
        match self.ask(&ControlRequest::Inflight).await? {
            ControlAnswer::Inflight(counts) => Ok(*counts.of(color)),
            other => Err(unexpected(&other)),
        }
    }

    /// The plain counters since the front's process began. They fall when the process is replaced.
    pub async fn counters(&self) -> Result<PerColor<FrontCounters>, BuiltinError> {
        match self.ask(&ControlRequest::Counters).await? {
            ControlAnswer::Counters(counters) => Ok(counters),
            other => Err(unexpected(&other)),
        }
    }

    /// The figures of real traffic, per color. They never fall across a handover, but may lack what the replaced front
    /// counted after it was last asked. After a front was killed they begin at 0. Compare them with earlier ones
    /// ([`Figures::since`]). A front of a build without figures refuses.
    pub async fn figures(&self) -> Result<PerColor<Figures>, BuiltinError> {
        match self.ask(&ControlRequest::Figures).await? {
            ControlAnswer::Figures(figures) => Ok(figures),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the front: it finishes requests in flight (up to 30 s); if it does not end, it is killed. Does
    /// nothing when none runs.
    pub async fn stop(&self) -> Result<(), BuiltinError> {
        let mut kept = self.kept.lock().await;
        let Some(hello) = self.greet(&mut kept.link).await? else { return Ok(()) };
        let pid = hello.pid;
        let failed = |source| BuiltinError::Unstoppable { pid, source };
        let process = PidFd::open(pid.cast_signed()).map_err(failed)?;
        // The front answers under the same pid after the handle was opened, so the handle is on its process.
        match self.greet(&mut kept.link).await? {
            Some(again) if again.pid == pid => {}
            _ => return Ok(()),
        }
        // Drops the second handle on the socket too, so that new clients are refused and do not wait in vain.
        *kept = KeptRoute::default();
        process.signal(libc::SIGTERM).map_err(failed)?;
        let ends = process.try_clone().map_err(failed)?;
        if let Ok(Ok(())) = timeout(STOP_WITHIN, ended(ends)).await {
            return Ok(());
        }
        process.signal(libc::SIGKILL).map_err(failed)?;
        let ends = timeout(KILL_WITHIN, ended(process)).await;
        ends.map_err(io::Error::from).flatten().map_err(failed)
    }

    /// Asks over the kept connection. Every request may be sent twice, so a connection that turns out to be closed (the
    /// front was replaced) is opened again.
    async fn ask(&self, request: &ControlRequest) -> Result<ControlAnswer, BuiltinError> {
        let mut kept = self.kept.lock().await;
        self.ask_over(&mut kept.link, request).await?.ok_or_else(|| self.not_running())
    }

    async fn greet(&self, link: &mut Option<ControlLink>) -> Result<Option<Hello>, BuiltinError> {
        match self.ask_over(link, &ControlRequest::Hello).await? {
            Some(ControlAnswer::Hello(hello)) => Ok(Some(*hello)),
            Some(other) => Err(unexpected(&other)),
            None => Ok(None),
        }
    }

    /// `None` when no front listens. The link is kept only after a whole answer: one that was dropped in the
    /// middle of an exchange would give the next question the answer to this one.
    async fn ask_over(
        &self,
        kept: &mut Option<ControlLink>,
        request: &ControlRequest,
    ) -> Result<Option<ControlAnswer>, BuiltinError> {
        if let Some(mut link) = kept.take().filter(|link| !link.is_stale()) {
            match link.ask(request, ANSWER_WITHIN).await {
                Err(BuiltinError::Control { .. }) => {}
                answer => return self.keep(kept, link, answer).map(Some),
            }
        }
        let Some(mut link) = ControlLink::connect(&self.place.control).await? else { return Ok(None) };
        let answer = link.ask(request, ANSWER_WITHIN).await;
        self.keep(kept, link, answer).map(Some)
    }

    fn keep(
        &self,
        kept: &mut Option<ControlLink>,
        link: ControlLink,
        answer: Result<ControlAnswer, BuiltinError>,
    ) -> Result<ControlAnswer, BuiltinError> {
        if matches!(answer, Ok(_) | Err(BuiltinError::Refused { .. })) {
            *kept = Some(link);
        }
        answer
    }

    async fn socket_back(&self, link: &mut Option<ControlLink>) -> Result<Option<Hello>, BuiltinError> {
        let until = Instant::now() + SOCKET_BACK_WITHIN;
        loop {
            match self.greet(link).await? {
                None if Instant::now() < until => sleep(LOOK).await,
                found => return Ok(found),
            }
        }
    }

    fn not_running(&self) -> BuiltinError {
        BuiltinError::NotRunning { path: self.place.control.clone() }
    }
}

fn unexpected(answer: &ControlAnswer) -> BuiltinError {
    BuiltinError::Unexpected { answer: format!("{answer:?}") }
}
