//! The watch over a new release while it has all traffic or a share: its health, and its real traffic beside the former
//! release's. Called by the interpreter; only its result ends the deploy.

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
    shim::{CommandExit, Slot},
};

/// Failed probes in a row that end a watch: one slow answer under load is not an outage.
pub(crate) const FAILURES_THAT_COUNT: u32 = 3;
/// The period of a watch without an end: a century, which overflows no clock.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The probes of one watch.
struct Vigil {
    watched: Vec<Watched>,
    end: Instant,
    period: Duration,
    /// Until when failed probes don't count: an instance that is being started again, as after a power cut, has
    /// `health.deadline` to be up.
    boots_until: Option<Instant>,
}

/// One watched instance.
struct Watched {
    slot: Slot,
    target: Target,
    /// Failed probes in a row.
    failures: u32,
}

impl Instances {
    /// Watches for `period`; without one, until the future is dropped. `judge` looks at the real traffic: it returns a
    /// sentence on traffic that is too little to judge, and `None` if it is enough and good.
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
            // A watch does not end while a probe fails: the next ones decide.
            let left = vigil.end.saturating_duration_since(now);
            sleep(if left.is_zero() { health.interval } else { health.interval.min(left) }).await;
        }
    }

    /// Probes all instances once; true if all are healthy.
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

    /// The failure of an instance whose probes failed `failures` times in a row.
    async fn unwell(&self, (slot, number): (Slot, u16), failures: u32, line: &str) -> Failure {
        if let Some(exit) = self.exit_of(slot).await {
            let cause = format!("the new instance died while it was watched: {exit}");
            let hint = Some(format!("`bgd logs --color {}` shows its last words; push a fix", slot.color));
            return Failure { hint, ..self.bad_in_watch((slot, number), cause) };
        }
        let cause = format!("not healthy while it was watched, {failures} times in a row: {line}");
        self.bad_in_watch((slot, number), cause)
    }

    /// The exit of an instance that has ended: on a busy machine its probes can fail before its end is reported.
    async fn exit_of(&self, slot: Slot) -> Option<CommandExit> {
        let status = self.known.at(slot)?.status().await.ok()?;
        status.main.exit().filter(|_| status.tree.is_empty())
    }

    /// A failure in the watch with this cause, and with the instance's output.
    pub(crate) fn bad_in_watch(&self, (slot, number): (Slot, u16), cause: String) -> Failure {
        Failure {
            hint: Some(format!("{} shows its output; push a fix", logs_of_slot(slot, number))),
            log_tail: tail(&self.commands.instance_log(slot)),
            ..failure(Phase::Watching, Nature::Deterministic, cause)
        }
    }
}
