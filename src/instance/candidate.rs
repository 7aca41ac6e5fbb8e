//! Proves a new instance: looks until its port is open, probes until it is healthy, and proves that its socket belongs
//! to it alone. Used by `starting`, which reports the result.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Instances,
    starting::{answer_line, logs_of, note_answer, slots, variable},
};
use crate::{
    command::{self, failure, tail, trouble},
    config::settings::Probe,
    os::blocking::blocking,
    probe::{self, Target},
    rules::{
        address::Address,
        health::{Decision, Found, Seen, Streak, pause},
        words::{Failure, Nature, Phase},
    },
    shim::{Bystanders, ExpectedAddresses, Handle, Listening, ListeningLook, Slot},
};

/// A new instance that is not proven yet.
pub(crate) struct Candidate {
    pub slot: Slot,
    pub handle: Handle,
    pub target: Target,
    /// The command that started it.
    pub command: command::Command,
    pub places: Arc<ExpectedAddresses>,
    pub bystanders: Arc<Bystanders>,
    pub answers: VecDeque<String>,
}

impl Instances {
    /// Probes until enough answers in a row are good; `rules::health` says when to probe again.
    pub(crate) async fn until_healthy(&self, one: &mut Candidate, deadline: Instant) -> Result<(), Failure> {
        let health = &self.settings.health;
        let begun = Instant::now();
        let mut streak = Streak::new(health.successes);
        let (mut passed, mut unshared) = (BTreeSet::new(), BTreeSet::new());
        let mut said = None;
        loop {
            let look = self.look(one, &passed).await?;
            passed = look.foreign;
            if matches!(look.own, Listening::Instance { .. }) {
                self.open_socket(&one.places.own)?;
            }
            let answer = self.ask((&look.own, &one.target), deadline, &mut said).await;
            note_answer(&mut one.answers, answer.1);
            let (found, decision) = self.judge(one, (&look.own, answer.0), &mut streak);
            let sockets = match &look.own {
                Listening::Instance { sockets, .. } if matches!(found, Found::Good(_)) => sockets.clone(),
                _ => BTreeSet::new(),
            };
            let healthy = decision == Decision::Healthy;
            let left = deadline.saturating_duration_since(Instant::now());
            if !healthy && left.is_zero() {
                return Err(self.not_healthy(one, &look.own).await);
            }
            let pause = match healthy {
                true => Duration::ZERO,
                false => pause(found, begun.elapsed(), health.interval).min(left),
            };
            // During the pause: promise D1, in full.
            let (shared, ()) = tokio::join!(self.is_shared(one, &sockets, &unshared), sleep(pause));
            if shared {
                // The instance waits for the other process to go, as for any stranger that listens there.
                streak = Streak::new(health.successes);
                sleep(health.interval.min(left)).await;
                continue;
            }
            unshared.extend(sockets);
            if healthy && self.still_alone(one, &unshared).await? {
                return Ok(());
            }
        }
    }

    /// Derives the next decision from an answer.
    fn judge(
        &self,
        one: &Candidate,
        (own, good): (&Listening, bool),
        streak: &mut Streak<i32>,
    ) -> (Found, Decision) {
        let Listening::Instance { pid, .. } = own else { return (Found::Closed, Decision::Keep) };
        let early = self.early(&one.handle).filter(|_| good);
        let counts = good && early.is_none();
        let decision = streak.observe(if counts { Seen::Healthy } else { Seen::Unhealthy }, pid);
        let found = match early {
            Some(left) => Found::Early(left),
            None if counts => Found::Good(streak.successes()),
            None => Found::Bad,
        };
        (found, decision)
    }

    /// Looks where the instance listens. Promise D2: an app on its neighbour's port takes the live color's traffic,
    /// healthy or not, so it is refused as soon as it is seen there and not at the deadline.
    async fn look(&self, one: &Candidate, passed: &BTreeSet<u64>) -> Result<ListeningLook, Failure> {
        let (handle, places, passed) = (one.handle.clone(), one.places.clone(), passed.clone());
        let look = blocking(move || handle.look(&places, &passed)).await;
        let look = look.map_err(|err| trouble(Phase::Probing, &err))?;
        match &look.elsewhere {
            Some(other) => Err(self.in_other_place(&one.handle, other)),
            None => Ok(look),
        }
    }

    /// Promise D1: whether another process has one of the instance's sockets open, whichever created it. Sockets in
    /// `unshared` are not checked again.
    async fn is_shared(&self, one: &Candidate, sockets: &BTreeSet<u64>, unshared: &BTreeSet<u64>) -> bool {
        if sockets.is_subset(unshared) {
            return false;
        }
        let (handle, sockets, bystanders) = (one.handle.clone(), sockets.clone(), one.bystanders.clone());
        match blocking(move || handle.sharer(&sockets, &bystanders)).await {
            Ok(sharer) => sharer.is_some(),
            Err(err) => {
                tracing::warn!(app = %self.settings.name, %err, "who else has the instance's socket open can't be seen");
                true
            }
        }
    }

    /// Checks just before the flip that the sockets are the proven ones, and that the instance listens nowhere else.
    async fn still_alone(&self, one: &Candidate, unshared: &BTreeSet<u64>) -> Result<bool, Failure> {
        let look = self.look(one, &BTreeSet::new()).await?;
        Ok(matches!(look.own, Listening::Instance { sockets, .. } if sockets.is_subset(unshared)))
    }

    /// Probes once if the port is open; `said` is the result of the last complete probe.
    async fn ask(
        &self,
        (own, target): (&Listening, &Target),
        deadline: Instant,
        said: &mut Option<String>,
    ) -> (bool, String) {
        if !matches!(own, Listening::Instance { .. }) {
            return (false, format!("{} is not open yet", target.address.named()));
        }
        // A complete earlier answer tells more than a probe that was cut short.
        let late = |said: &mut Option<String>| {
            said.take().unwrap_or_else(|| "no answer before the deadline".to_owned())
        };
        if Instant::now() >= deadline {
            return (false, late(said));
        }
        let Ok(answer) = timeout_at(deadline, probe::once(&self.settings.health, target)).await else {
            return (false, late(said));
        };
        let answer = answer_line(&answer);
        *said = Some(answer.1.clone());
        answer
    }

    /// How long it must still be up before its answers count: an open port alone is weak evidence.
    fn early(&self, handle: &Handle) -> Option<Duration> {
        let settle = match self.settings.health.probe {
            Probe::Tcp => Probe::TCP_SETTLE,
            Probe::Http(_) | Probe::FastCgi(_) | Probe::Uwsgi(_) | Probe::Command(_) => Duration::ZERO,
        };
        settle.checked_sub(handle.age()).filter(|left| !left.is_zero())
    }

    fn in_other_place(&self, handle: &Handle, other: &Address) -> Failure {
        let own = handle.role().slot();
        let its_own_color = own.is_some_and(|own| {
            let siblings = slots(own.color, handle.siblings());
            siblings.into_iter().any(|it| self.settings.address_at(it.color, it.index) == *other)
        });
        let whose = if its_own_color { "another instance's" } else { "the other color's" };
        let cause = format!("the new instance listens on {}, which is {whose}", other.named());
        let variable = variable(other);
        Failure {
            hint: Some(format!(
                "the app must listen on {variable} alone; {} shows its output",
                logs_of(handle)
            )),
            log_tail: tail(handle.log()),
            ..failure(Phase::Probing, Nature::Deterministic, cause)
        }
    }
}
