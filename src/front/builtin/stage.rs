//! What the front's process knows about itself, and its answers to control requests. While a predecessor still finishes
//! its connections, the successor leads it: it forwards a new route before it answers, and adds up the counts of both.
//! Used by `answer`; set up by `role`.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    control::{ControlAnswer, ControlRequest, FrontCounters, Hello, PerColor},
    journal::Journal,
    link::ControlLink,
    switch::Switch,
    worker::House,
};
use crate::rules::{ids::Color, traffic::Figures};

/// How long a predecessor may take for an answer. After that it is no longer led, and finishes its connections alone.
const LED_WITHIN: Duration = Duration::from_secs(2);
/// Time between two checks of a predecessor that is being drained.
const LED_LOOK: Duration = Duration::from_millis(20);

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepts and serves.
    Serving,
    /// A successor accepts, and leads this process, which serves open connections until they end.
    Leaving,
    /// Idle connections are closed, requests in flight finish, then the process ends.
    Stopping,
}

/// The state of the front's process.
pub(super) struct FrontProcess {
    pub(super) listen: SocketAddr,
    pub(super) bound: SocketAddr,
    pub(super) control: PathBuf,
    pub(super) build: String,
    pub(super) started_at_ms: u64,
    pub(super) switch: Arc<Switch>,
    pub(super) journal: Arc<Journal>,
    pub(super) house: Arc<House>,
    pub(super) phase: watch::Sender<Phase>,
    /// The public socket, kept for a successor; `None` once this process accepts no more.
    pub(super) listener: Mutex<Option<TcpListener>>,
    pub(super) predecessor: tokio::sync::Mutex<Option<ControlLink>>,
    /// The predecessor's figures, as it last reported them.
    pub(super) former: Mutex<PerColor<Figures>>,
}

impl FrontProcess {
    /// Answers everything but a handover, which needs the connection itself.
    pub(super) async fn answer(&self, request: ControlRequest) -> ControlAnswer {
        match request {
            ControlRequest::Hello => ControlAnswer::Hello(Box::new(self.hello().await)),
            ControlRequest::Route { ref route } => match self.switch.apply(route) {
                Ok(()) => {
                    let generation = route.generation;
                    self.lead(&request).await;
                    ControlAnswer::Applied(generation)
                }
                Err(outdated) => ControlAnswer::Refused(outdated.to_string()),
            },
            ControlRequest::Limits { limits } => {
                self.house.limits.set(limits);
                ControlAnswer::Limited
            }
            ControlRequest::Inflight => ControlAnswer::Inflight(self.in_flight().await),
            ControlRequest::Drained { color, deadline_ms } => {
                ControlAnswer::Left(self.drained(color, Duration::from_millis(deadline_ms)).await)
            }
            ControlRequest::Cut { color } => {
                let own = self.switch.cut(color) as u64;
                match self.lead(&request).await {
                    Some(ControlAnswer::Closed(led)) => ControlAnswer::Closed(own + led),
                    _ => ControlAnswer::Closed(own),
                }
            }
            ControlRequest::PassOver { ref addresses, for_ms } => {
                self.switch.pass_over(addresses, Duration::from_millis(for_ms));
                self.lead(&request).await;
                ControlAnswer::PassedOver
            }
            ControlRequest::Counters => ControlAnswer::Counters(self.counters().await),
            ControlRequest::Figures => ControlAnswer::Figures(self.figures().await),
            ControlRequest::Handover => ControlAnswer::Refused("already handed over".to_owned()),
            ControlRequest::Leave => {
                self.close(Phase::Leaving);
                ControlAnswer::Leaving
            }
        }
    }

    /// Enters `phase` and accepts no more; queued connections stay with the socket if a successor has it.
    pub(super) fn close(&self, phase: Phase) {
        self.house.leaving.store(true, Ordering::SeqCst);
        self.house.closed.cancel();
        if phase == Phase::Stopping {
            self.house.stopping.cancel();
        }
        self.listener().take();
        self.phase.send_replace(phase);
    }

    /// Waits until the process leaves or stops. Cancel-safe.
    pub(super) async fn no_longer_serving(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is ours, so the wait can't fail.
        let _phase = phase.wait_for(|phase| *phase != Phase::Serving).await;
    }

    /// The listening socket kept for a successor.
    pub(super) fn listener(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hello(&self) -> Hello {
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: self.build.clone(),
            pid: std::process::id(),
            started_at_ms: self.started_at_ms,
            listen: self.listen,
            bound: self.bound,
            route: self.switch.route(),
            inflight: self.in_flight().await,
            limits: Some(self.house.limits.get()),
            trouble: self.house.crowd.trouble(),
        }
    }

    async fn in_flight(&self) -> PerColor<u64> {
        let own = self.switch.in_flight();
        match self.lead(&ControlRequest::Inflight).await {
            Some(ControlAnswer::Inflight(led)) => PerColor::from_fn(|color| own.of(color) + led.of(color)),
            _ => own,
        }
    }

    async fn counters(&self) -> PerColor<FrontCounters> {
        let own = self.switch.counters();
        match self.lead(&ControlRequest::Counters).await {
            Some(ControlAnswer::Counters(led)) => {
                PerColor::from_fn(|color| own.of(color).plus(led.of(color)))
            }
            _ => own,
        }
    }

    /// Our figures plus the predecessor's, which are kept when it has gone so that the numbers don't fall.
    async fn figures(&self) -> PerColor<Figures> {
        let led = self.lead(&ControlRequest::Figures).await;
        let own = self.switch.figures();
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ControlAnswer::Figures(led)) = led {
            *former = led;
        }
        PerColor::from_fn(|color| own.of(color).plus(former.of(color)))
    }

    async fn drained(&self, color: Color, within: Duration) -> u64 {
        let deadline = Instant::now() + within.min(Duration::from_secs(24 * 3600));
        loop {
            let own = self.switch.drained(color, deadline).await;
            let left = match self.lead(&ControlRequest::Inflight).await {
                Some(ControlAnswer::Inflight(led)) => own + led.of(color),
                _ => own,
            };
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(LED_LOOK).await;
        }
    }

    /// Whether no predecessor is left to lead.
    pub(super) async fn leads_nobody(&self) -> bool {
        let mut predecessor = self.predecessor.lock().await;
        *predecessor = predecessor.take().filter(|link| !link.is_stale());
        predecessor.is_none()
    }

    /// Sends a request to the predecessor, if there is one, and returns its answer. A predecessor that does not answer
    /// is dropped: it sees the end of the link and finishes on its own.
    async fn lead(&self, request: &ControlRequest) -> Option<ControlAnswer> {
        let mut predecessor = self.predecessor.lock().await;
        let link = predecessor.as_mut()?;
        match link.ask(request, LED_WITHIN).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.journal.info(format_args!("predecessor let go: {error}"));
                *predecessor = None;
                None
            }
        }
    }
}
