//! Measures what a flip costs the public: while the traffic moves, and until the release that lost it is stopped,
//! requests go to the public address at a low rate. Follows the state as `tend` does, decides nothing, and delays
//! nothing; its own errors never reach the deploy. An incomplete measurement is not recorded.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::interpreter::Interpreter;
use crate::{
    config::settings::PublicAddress,
    os::errors::chain,
    probe::{Public, PublicReply},
    rules::{
        app::{App, Pipeline, StageGroup},
        ids::DeployId,
    },
    store::record::MeterRecord,
};

/// Between two requests: ten a second burden no app, and show a gap that a user would notice.
const PERIOD: Duration = Duration::from_millis(100);
/// A flip with a long watch or drain is not measured for longer.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// No user waits longer for an answer; slow is not lost, and shows as a gap.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests in flight at once: with a front that hangs, no more are sent.
const AT_ONCE: usize = 64;

/// Measures the flips of one app.
#[derive(Debug)]
pub(super) struct Meter {
    interpreter: Arc<Interpreter>,
    /// The deploy that moves traffic, measured or not.
    moving: Option<DeployId>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Meter {
    /// A flip that began before this daemon did is not measured.
    pub(super) fn new(interpreter: Arc<Interpreter>, state: &App) -> Self {
        let moving = moving(&state.pipeline);
        Self { interpreter, moving, stop: CancellationToken::new(), tasks: Vec::new() }
    }

    /// Begins and ends measurements to fit the state.
    pub(super) fn reconcile(&mut self, state: &App) {
        let moving = moving(&state.pipeline);
        if moving == self.moving {
            return;
        }
        self.moving = moving;
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.tasks.retain(|task| !task.is_finished());
        // Without a live release no request can be lost.
        let Some(deploy) = moving.filter(|_| state.live().is_some() && begins(&state.pipeline)) else {
            return;
        };
        let Some(address) = self.interpreter.settings().public.clone() else { return };
        let task = measure_and_keep(self.interpreter.clone(), (deploy, address), self.stop.clone());
        self.tasks.push(tokio::spawn(task));
    }

    /// Abandons the measurements.
    pub(super) fn end(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

/// The deploy whose flip is under way, from the order to the front until the former release is stopped. A share may
/// last for hours, so only its end is measured.
fn moving(pipeline: &Pipeline) -> Option<DeployId> {
    let work = pipeline.work()?;
    match work.stage.group() {
        StageGroup::Pivot | StageGroup::Live | StageGroup::Ending => Some(work.deploy.id),
        StageGroup::BeforePivot | StageGroup::Sharing => None,
    }
}

/// Whether a flip begins here; a deploy whose commit is live already ends without one.
fn begins(pipeline: &Pipeline) -> bool {
    pipeline.group() == Some(StageGroup::Pivot)
}

async fn measure_and_keep(
    interpreter: Arc<Interpreter>,
    (deploy, address): (DeployId, PublicAddress),
    stop: CancellationToken,
) {
    let app = interpreter.settings().name.clone();
    let public = match Public::new(&address, PATIENCE) {
        Ok(public) => public,
        Err(reason) => {
            tracing::warn!(%app, deploy = deploy.0, %reason, "the flip is not measured");
            return;
        }
    };
    let (meter, first) = match measure(&public, &stop).await {
        Ok(tally) => (tally.record(), tally.first_loss),
        Err(err) => {
            tracing::error!(%app, deploy = deploy.0, %err, "a measuring request panicked");
            return;
        }
    };
    // The flip ended before anything was asked.
    if meter.requests == 0 {
        return;
    }
    if let Some(err) = first {
        tracing::warn!(%app, deploy = deploy.0, lost = meter.lost, requests = meter.requests, err, "requests were lost");
    }
    let kept = tokio::task::spawn_blocking(move || interpreter.store.keep_meter(deploy, &meter)).await;
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(err)) => {
            tracing::warn!(%app, deploy = deploy.0, err = %chain(&err), "what the flip cost is not recorded");
        }
        Err(err) => tracing::error!(%app, deploy = deploy.0, %err, "recording what the flip cost panicked"),
    }
}

/// Asks until told to stop, without waiting for one answer before the next question: a slow answer hides no other.
async fn measure(public: &Public, stop: &CancellationToken) -> Result<AnswerTally, JoinError> {
    let mut tally = AnswerTally::begin(Instant::now());
    let mut asked = JoinSet::new();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut longest = pin!(sleep(LONGEST));
    loop {
        // All arms are cancel-safe: a token, a sleep, a tick, and the end of a task, which take nothing when dropped.
        tokio::select! {
            () = stop.cancelled() => break,
            () = &mut longest => break,
            Some(done) = asked.join_next() => tally.take(done?),
            _ = ticks.tick(), if asked.len() < AT_ONCE => {
                tally.requests += 1;
                let public = public.clone();
                asked.spawn(async move { (public.ask().await, Instant::now()) });
            }
        }
    }
    while let Some(done) = asked.join_next().await {
        tally.take(done?);
    }
    Ok(tally)
}

/// Counts of the answers so far.
#[derive(Debug)]
struct AnswerTally {
    requests: u64,
    lost: u64,
    /// The last answer; before the first one, the beginning.
    answered: Instant,
    longest: Duration,
    first_loss: Option<String>,
}

impl AnswerTally {
    fn begin(at: Instant) -> Self {
        Self { requests: 0, lost: 0, answered: at, longest: Duration::ZERO, first_loss: None }
    }

    /// A lost request does not end a gap but shows its least length, because no answer may follow.
    fn take(&mut self, (reply, at): (PublicReply, Instant)) {
        self.longest = self.longest.max(at.saturating_duration_since(self.answered));
        match reply {
            PublicReply::Answered => self.answered = self.answered.max(at),
            PublicReply::Lost(why) => {
                self.lost += 1;
                self.first_loss.get_or_insert(why);
            }
        }
    }

    fn record(&self) -> MeterRecord {
        let longest_gap_ms = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        MeterRecord { requests: self.requests, lost: self.lost, longest_gap_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of lost replies and the longest gap; replies are given with milliseconds from the beginning.
    fn tallied(replies: &[(u64, bool)]) -> (u64, u64) {
        let begun = Instant::now();
        let mut tally = AnswerTally::begin(begun);
        for (ms, answered) in replies {
            let reply = if *answered { PublicReply::Answered } else { PublicReply::Lost(format!("at {ms}")) };
            tally.requests += 1;
            tally.take((reply, begun + Duration::from_millis(*ms)));
        }
        let MeterRecord { requests, lost, longest_gap_ms } = tally.record();
        assert_eq!(requests, replies.len() as u64);
        (lost, longest_gap_ms)
    }

    #[test]
    fn a_gap_is_from_one_answer_to_the_next() {
        assert_eq!(tallied(&[]), (0, 0));
        assert_eq!(tallied(&[(5, true), (105, true), (330, true), (405, true)]), (0, 225));
    }

    #[test]
    fn the_first_answer_ends_a_gap_that_began_with_the_measurement() {
        assert_eq!(tallied(&[(40, true), (50, true)]), (0, 40));
    }

    #[test]
    fn a_loss_ends_no_gap() {
        assert_eq!(tallied(&[(10, true), (110, false), (210, false), (310, true)]), (2, 300));
    }

    #[test]
    fn a_gap_that_no_answer_ends_is_as_long_as_losses_were_seen() {
        assert_eq!(tallied(&[(10, true), (110, false), (510, false)]), (2, 500));
        assert_eq!(tallied(&[(100, false), (200, false)]), (2, 200));
    }

    #[test]
    fn answers_that_arrive_out_of_order_make_no_gap() {
        assert_eq!(tallied(&[(10, true), (120, true), (115, true), (200, true)]), (0, 110));
    }

    #[test]
    fn the_first_loss_is_the_one_that_is_told() {
        let begun = Instant::now();
        let mut tally = AnswerTally::begin(begun);
        for why in ["refused", "reset"] {
            tally.take((PublicReply::Lost(why.to_owned()), begun));
        }
        assert_eq!(tally.first_loss.as_deref(), Some("refused"));
    }
}
