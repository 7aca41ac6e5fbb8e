//! The watch over a new release while it has traffic, all of it or a share: its health check, and what its real
//! traffic looks like beside the former release's. Called by the interpreter; ends the deploy only by what it reports.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    interpreter::{Interpreter, failure, tail},
    starting::answer_line,
};
use crate::{
    probe::{self, Target},
    rules::{
        app::Release,
        event::Done,
        ids::Color,
        traffic::Judgement,
        words::{Failure, Nature, Phase},
    },
};

/// Failed probes in a row that end a watch: one slow answer under load is not an outage.
pub(super) const FAILURES_THAT_COUNT: u32 = 3;
/// A watch without an end; a century, which no clock overflows at.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The probes of one watch.
struct Vigil {
    target: Target,
    end: Instant,
    period: Duration,
    /// An instance that is only just started again, as after a power cut, first has `health.deadline` to be up.
    boots_until: Option<Instant>,
    failures: u32,
}

impl Interpreter {
    /// For `period`, or until it is called off.
    pub(super) async fn watch(
        &self,
        release: &Release,
        color: Color,
        period: Option<Duration>,
    ) -> Result<Done, Failure> {
        let health = &self.settings.health;
        let period = period.unwrap_or(FOR_EVER);
        let boots = !self.instances.is_proven(color, &release.id);
        let mut vigil = Vigil {
            target: self.target(release, color)?,
            end: Instant::now() + period,
            period,
            boots_until: boots.then(|| Instant::now() + health.deadline),
            failures: 0,
        };
        loop {
            let healthy = self.probe_watched(&mut vigil, color).await?;
            let seen = self.judge_traffic(color).await?;
            let now = Instant::now();
            if now >= vigil.end && healthy {
                return Ok(seen.map_or(Done::Ensured, |seen| Done::Inconclusive { seen }));
            }
            // A watch does not end on a failed probe: the next ones decide.
            let left = vigil.end.saturating_duration_since(now);
            sleep(if left.is_zero() { health.interval } else { health.interval.min(left) }).await;
        }
    }

    async fn probe_watched(&self, vigil: &mut Vigil, color: Color) -> Result<bool, Failure> {
        let answer = probe::once(&self.settings.health, &vigil.target).await;
        let (healthy, line) = answer_line(&answer);
        if healthy && vigil.boots_until.take().is_some() {
            vigil.end = Instant::now() + vigil.period;
        }
        let boots = vigil.boots_until.is_some_and(|until| Instant::now() < until);
        vigil.failures = if healthy || boots { 0 } else { vigil.failures + 1 };
        if vigil.failures < FAILURES_THAT_COUNT {
            return Ok(healthy);
        }
        let cause = format!("not healthy while it was watched, {} times in a row: {line}", vigil.failures);
        Err(self.bad_in_watch(color, cause))
    }

    /// What was seen of too little traffic; `None`: enough, and it is well.
    async fn judge_traffic(&self, color: Color) -> Result<Option<String>, Failure> {
        let limits = &self.settings.watch.traffic;
        if !limits.any() {
            return Ok(None);
        }
        self.count_traffic().await;
        let (new, old) = (self.traffic.since_mark(color), self.traffic.last_minutes(color.other()));
        match limits.judge(&new, &old) {
            Judgement::Well => Ok(None),
            Judgement::TooLittle(seen) => Ok(Some(format!("too little traffic to tell: {seen}"))),
            Judgement::Bad(why) => {
                Err(self.bad_in_watch(color, format!("worse than allowed on real traffic: {why}")))
            }
        }
    }

    fn bad_in_watch(&self, color: Color, cause: String) -> Failure {
        Failure {
            hint: Some(format!("`bgd logs --color {color}` shows its output; push a fix")),
            log_tail: tail(&self.instance_log(color)),
            ..failure(Phase::Watching, Nature::Deterministic, cause)
        }
    }
}
