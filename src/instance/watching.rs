//! The watch over a new release while it has traffic, all of it or a share: its health check, and what its real
//! traffic looks like beside the former release's. Called by the interpreter; ends the deploy only by what it reports.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{
    Instances,
    starting::{answer_line, logs_of_slot, of_one, slots},
};
use crate::{
    command::{failure, tail},
    probe::{self, Target},
    rules::{
        app::Release,
        event::Done,
        ids::Color,
        words::{Failure, Nature, Phase},
    },
    shim::{Exit, Slot},
};

/// Failed probes in a row that end a watch: one slow answer under load is not an outage.
pub(crate) const FAILURES_THAT_COUNT: u32 = 3;
/// A watch without an end; a century, which no clock overflows at.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The probes of one watch.
struct Vigil {
    watched: Vec<Watched>,
    end: Instant,
    period: Duration,
    /// An instance that is only just started again, as after a power cut, first has `health.deadline` to be up.
    boots_until: Option<Instant>,
}

/// One of the instances.
struct Watched {
    slot: Slot,
    target: Target,
    /// In a row.
    failures: u32,
}

impl Instances {
    /// For `period`, or until it is called off. `judge` looks at the real traffic: what was seen of too little of it, or
    /// `None` where it is enough and well.
    pub(crate) async fn watch<J>(
        &self,
        release: &Release,
        color: Color,
        period: Option<Duration>,
        judge: impl Fn() -> J,
    ) -> Result<Done, Failure>
    where
        J: Future<Output = Result<Option<String>, Failure>>,
    {
        let health = &self.settings.health;
        let period = period.unwrap_or(FOR_EVER);
        let boots = !self.known.are_proven(color, &release.id);
        let watched = slots(color, self.number_of(color, &release.id))
            .map(|slot| Ok(Watched { slot, target: self.target(release, slot)?, failures: 0 }));
        let mut vigil = Vigil {
            watched: watched.collect::<Result<_, Failure>>()?,
            end: Instant::now() + period,
            period,
            boots_until: boots.then(|| Instant::now() + health.deadline),
        };
        loop {
            let healthy = self.probe_watched(&mut vigil).await?;
            let seen = judge().await?;
            let now = Instant::now();
            if now >= vigil.end && healthy {
                return Ok(seen.map_or(Done::Ensured, |seen| Done::Inconclusive { seen }));
            }
            // A watch does not end on a failed probe: the next ones decide.
            let left = vigil.end.saturating_duration_since(now);
            sleep(if left.is_zero() { health.interval } else { health.interval.min(left) }).await;
        }
    }

    /// Whether all of them are healthy.
    async fn probe_watched(&self, vigil: &mut Vigil) -> Result<bool, Failure> {
        let asked = vigil.watched.iter().map(|one| probe::once(&self.settings.health, &one.target));
        let answers: Vec<_> = join_all(asked).await.iter().map(answer_line).collect();
        let healthy = answers.iter().all(|(healthy, _)| *healthy);
        if healthy && vigil.boots_until.take().is_some() {
            vigil.end = Instant::now() + vigil.period;
        }
        let boots = vigil.boots_until.is_some_and(|until| Instant::now() < until);
        let number = u16::try_from(vigil.watched.len()).unwrap_or(u16::MAX);
        for (one, (healthy, line)) in vigil.watched.iter_mut().zip(answers) {
            one.failures = if healthy || boots { 0 } else { one.failures + 1 };
            if one.failures >= FAILURES_THAT_COUNT {
                let failure = self.unwell((one.slot, number), one.failures, &line).await;
                return Err(of_one(one.slot, number, failure));
            }
        }
        Ok(healthy)
    }

    /// Probes failed that often in a row.
    async fn unwell(&self, (slot, number): (Slot, u16), failures: u32, line: &str) -> Failure {
        if let Some(exit) = self.exit_of(slot).await {
            let cause = format!("the new instance died while it was watched: {exit}");
            let hint = Some(format!("`bgd logs --color {}` shows its last words; push a fix", slot.color));
            return Failure { hint, ..self.bad_in_watch((slot, number), cause) };
        }
        let cause = format!("not healthy while it was watched, {failures} times in a row: {line}");
        self.bad_in_watch((slot, number), cause)
    }

    /// How the instance ended, if it has: on a busy machine its probes can fail before its end is heard of.
    async fn exit_of(&self, slot: Slot) -> Option<Exit> {
        let status = self.known.at(slot)?.status().await.ok()?;
        status.main.exit().filter(|_| status.tree.is_empty())
    }

    /// What is said against an instance, with its output.
    pub(crate) fn bad_in_watch(&self, (slot, number): (Slot, u16), cause: String) -> Failure {
        Failure {
            hint: Some(format!("{} shows its output; push a fix", logs_of_slot(slot, number))),
            log_tail: tail(&self.commands.instance_log(slot)),
            ..failure(Phase::Watching, Nature::Deterministic, cause)
        }
    }
}
