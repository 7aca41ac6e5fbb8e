//! Requests that bgd makes to a new instance before it gets traffic, so that caches, pools and compilers are warm when
//! the first client comes. Called by the interpreter; the instance is proven healthy by then, and its death is reported
//! elsewhere.
//!
//! A few requests at a time, the paths in turn. One path that fails or is slow fails no deploy: only an instance that
//! answers nothing at all does, or one that is not as fast in the end as `until_p95` asks for.

mod figures;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::{StreamExt as _, future::try_join_all, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout_at};

use self::figures::WarmupFigures;
use super::{
    Instances,
    starting::{logs_of_slot, of_one, slots},
};
use crate::command::{failure, tail};
use crate::{
    config::{duration::rough, settings::Warmup},
    probe::{Reason, Visit, Visitor},
    rules::{
        app::Release,
        ids::Color,
        words::{EventKind, Failure, Nature, Phase},
    },
    shim::Slot,
};

/// Requests under way at the same time: more than one, for pools of processes and threads; few, because the host also
/// serves the live color.
const AT_ONCE: usize = 4;
/// The limit for a whole warm-up, as a multiple of `health.deadline`.
const DEADLINES: u32 = 10;
/// The pause after a request that found no connection: if the instance ends, its end is then reported before a hundred
/// refused requests.
const PAUSE: Duration = Duration::from_millis(100);

/// How a warm-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WarmupEnd {
    /// The instance is as fast as asked for.
    Warm,
    /// All requests were made.
    AllMade,
    /// The time was over.
    TimeUp,
}

impl Instances {
    /// Warms up all instances at the same time, each until it is warm or all requests are made. Does nothing if no
    /// warm-up is configured.
    pub(crate) async fn warm_up(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let Some(warmup) = &self.settings.warmup else { return Ok(()) };
        let number = self.number_of(color, &release.id);
        let each = slots(color, number).map(|slot| async move {
            let warmed = self.warm_one(release, (slot, number), warmup).await;
            warmed.map_err(|failure| of_one(slot, number, failure))
        });
        try_join_all(each).await.map(drop)
    }

    async fn warm_one(
        &self,
        release: &Release,
        (slot, number): (Slot, u16),
        warmup: &Warmup,
    ) -> Result<(), Failure> {
        let health = &self.settings.health;
        let host = health.probe.page().and_then(|page| page.host.as_deref());
        let address = self.settings.address_at(slot.color, slot.index);
        let visitor = Visitor::new(address, host, health.timeout)
            .map_err(|reason| failure(Phase::Warming, Nature::Transient, reason.to_string()))?;
        let begun = Instant::now();
        let limit = health.deadline.saturating_mul(DEADLINES);
        let (end, figures) = ask(&visitor, warmup, begun + limit).await;
        match verdict(warmup, (end, limit), &figures) {
            Ok(()) => {
                let which = if number == 1 { String::new() } else { format!("instance {} ", slot.number()) };
                let text = format!("{which}warmed up in {}: {figures}", rough(begun.elapsed()));
                self.say_warm(release, (slot.color, end), &text).await;
                Ok(())
            }
            Err((nature, cause)) => {
                Err(self.not_warm(release, (slot, number), failure(Phase::Warming, nature, cause)))
            }
        }
    }

    fn not_warm(&self, release: &Release, (slot, number): (Slot, u16), failure: Failure) -> Failure {
        let output = format!("{} shows its output", logs_of_slot(slot, number));
        let hint = match failure.nature {
            Nature::Transient | Nature::FrontStuck | Nature::FrontUnmoved => format!(
                "`bgd deploy` tries again; {output}; or raise warmup.until_p95 or warmup.requests of {}",
                self.settings.name
            ),
            Nature::Deterministic => format!("{output}; push a fix, or correct warmup.paths"),
        };
        let log_tail = tail(&self.commands.instance_log(slot));
        tracing::warn!(app = %self.settings.name, release = %release.id, color = %slot.color, err = %failure.cause, "not warm");
        Failure { hint: Some(hint), log_tail, ..failure }
    }

    async fn say_warm(&self, release: &Release, (color, end): (Color, WarmupEnd), text: &str) {
        let app = &self.settings.name;
        match end {
            WarmupEnd::TimeUp => {
                tracing::warn!(%app, release = %release.id, %color, text, "the warm-up ended before its last request");
            }
            WarmupEnd::Warm | WarmupEnd::AllMade => {
                tracing::info!(%app, release = %release.id, %color, text, "warmed up")
            }
        }
        self.record.note(EventKind::WarmedUp, Some(release.id.deploy()), text).await;
    }
}

/// Makes the requests, at most until `until`. Requests under way when the instance is warm are waited for and not cut.
async fn ask(visitor: &Visitor<'_>, warmup: &Warmup, until: Instant) -> (WarmupEnd, WarmupFigures) {
    let mut figures = WarmupFigures::of(warmup);
    let mut to_ask = warmup.paths.iter().cycle().take(warmup.requests.get() as usize);
    let mut under_way = FuturesUnordered::new();
    let mut end = WarmupEnd::AllMade;
    loop {
        while end != WarmupEnd::Warm && under_way.len() < AT_ONCE {
            let Some(path) = to_ask.next() else { break };
            under_way.push(async move { (path, visit(visitor, path).await) });
        }
        // Cancel-safe: a request that is dropped at the end of the time is cut, and nothing else is lost.
        match timeout_at(until, under_way.next()).await {
            Ok(Some((path, found))) => figures.note(path, &found),
            Ok(None) => return (end, figures),
            Err(_) => return (if end == WarmupEnd::Warm { end } else { WarmupEnd::TimeUp }, figures),
        }
        if figures.are_warm() {
            end = WarmupEnd::Warm;
        }
    }
}

async fn visit(visitor: &Visitor<'_>, path: &str) -> Visit {
    let found = visitor.visit(path).await;
    if matches!(found.status, Err(Reason::Refused { .. } | Reason::Broken { .. })) {
        sleep(PAUSE).await;
    }
    found
}

/// Judges a warm-up; the error has the cause, and whether a retry helps.
fn verdict(
    warmup: &Warmup,
    (end, limit): (WarmupEnd, Duration),
    figures: &WarmupFigures,
) -> Result<(), (Nature, String)> {
    let within = match end {
        WarmupEnd::TimeUp => format!(" within {}", rough(limit)),
        WarmupEnd::Warm | WarmupEnd::AllMade => String::new(),
    };
    if figures.answered() == 0 {
        let last = figures.last_trouble().map(|why| format!("; the last: {why}")).unwrap_or_default();
        // The time may have been too short; if all requests failed within it, the app is to blame.
        let nature = if end == WarmupEnd::TimeUp { Nature::Transient } else { Nature::Deterministic };
        let made = figures.made();
        return Err((nature, format!("not one of {made} requests was answered properly{within}{last}")));
    }
    match warmup.until_p95 {
        Some(_) if end != WarmupEnd::Warm => {
            Err((Nature::Transient, format!("not warm{within}: {}", figures.too_slow())))
        }
        Some(_) | None => Ok(()),
    }
}
