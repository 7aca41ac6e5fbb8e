//! The emergency way back (promises F4, N4), for a front that can't be moved because of configuration that bgd does
//! not own: the wanted release replaces what serves, on the port that the front routes to. If the wanted release runs
//! on the other color, a stand-in on that port passes requests on to it, and nobody waits. Only if it runs nowhere
//! does it start on that port, which costs the gap of a restart. Used by flips and by a failed watch, never forward. A
//! canary's release gives way to the live release likewise: whatever share the front gives the two colors, no request
//! reaches the abandoned one.
//!
//! Until the front takes a route, the idle color then stands in for the live one.

use super::{Turn, recovering::may_route_to};
use crate::rules::{
    app::{End, Idle, Instance, Kind, Live, Placing, Release, Serving, Stage, StandingIn, Telling, Work},
    backoff,
    effect::{Action, Note},
    event::{Done, Facts, Routed},
    ids::EffectId,
    words::{Failure, Nature, Outcome, Phase},
};

impl Turn<'_> {
    /// Goes around the front when it refuses a rollback's switch because of configuration that bgd does not own.
    /// Returns false in any other case.
    pub(super) fn switch_in_place(&mut self, work: &Work, failure: &Failure) -> bool {
        let rollback = work.deploy.kind == Kind::Rollback && matches!(self.app.idle, Idle::Taken);
        if !rollback || !self.is_stuck_where_it_was(failure) {
            return false;
        }
        self.front_refuses(failure);
        self.replace(work.clone(), (work.release.clone(), End::live()), Placing::PassedOn)
    }

    /// Goes around the front when it refuses a way back because of configuration that bgd does not own. Returns false
    /// in any other case.
    pub(super) fn revert_in_place(&mut self, work: &Work, end: &End, failure: &Failure) -> bool {
        let switched = self.is_switched(work);
        match &self.app.idle {
            Idle::Warm { release, .. } if switched && self.is_stuck_where_it_was(failure) => {
                let wanted = release.clone();
                self.replace(work.clone(), (wanted, end.clone()), Placing::PassedOn)
            }
            // Whether the share is certain does not matter: the release that is replaced was to get none.
            Idle::Taken | Idle::Warm { .. } if !switched && failure.nature == Nature::FrontStuck => {
                self.replace_canary(work.clone(), end.clone())
            }
            Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. } => false,
        }
    }

    /// Puts the live release in the canary's place. Returns false when no share is being taken back.
    fn replace_canary(&mut self, work: Work, end: End) -> bool {
        let Some(live) = self.app.live().filter(|_| self.app.canary.is_some()) else { return false };
        let (wanted, up) = (live.release.clone(), matches!(live.instance, Instance::Up { .. }));
        self.app.idle = Idle::Taken;
        self.place(work, (wanted, end), if up { Placing::PassedOn } else { Placing::Started });
        true
    }

    /// Whether the deploy's color is a canary's, beside the live release, which serves on.
    fn replaces_canary(&self, work: &Work) -> bool {
        self.app.live().is_some_and(|live| live.color != work.color)
    }

    /// Whether the front is stuck, and known to route to the live color: nothing is replaced where it may route
    /// elsewhere.
    fn is_stuck_where_it_was(&self, failure: &Failure) -> bool {
        failure.nature == Nature::FrontStuck && !self.app.front_unsure
    }

    fn replace(&mut self, work: Work, (wanted, end): (Release, End), by: Placing) -> bool {
        let Some(Live { color, release, instance, .. }) = self.app.live().cloned() else { return false };
        if let Instance::Starting { effect, .. } | Instance::Waiting { effect, .. } = instance {
            self.act(Action::Cancel(effect));
        }
        self.set_dead();
        let work = Work { color, ..work };
        self.place_instead_of(release, work, (wanted, end), by);
        true
    }

    /// Replaces the deploy's own release.
    fn place(&mut self, work: Work, end: (Release, End), by: Placing) {
        self.place_instead_of(work.release.clone(), work, end, by);
    }

    fn place_instead_of(&mut self, out: Release, work: Work, (wanted, end): (Release, End), by: Placing) {
        let (color, out, release) = (work.color, out.id, wanted.clone());
        let action = match by {
            Placing::PassedOn => Action::StandIn { color, out, release },
            Placing::Started => Action::Replace { color, out, release },
        };
        let effect = self.act(action);
        self.at(work, Stage::Replacing { effect, wanted, by, end });
    }

    /// The release that was to take the place died: asks for it again, where it is already.
    pub(super) fn place_again(&mut self, work: Work, (wanted, end): (Release, End), by: Placing) {
        let (color, release) = (work.color, wanted.clone());
        let effect = self.act(match by {
            Placing::Started => Action::Probe { release, color },
            Placing::PassedOn => Action::StandIn { color, out: wanted.id.clone(), release },
        });
        self.at(work, Stage::Replacing { effect, wanted, by, end });
    }

    /// After a restart: asks for the replacement again; the effect finds what is done already.
    pub(super) fn replace_again(&mut self, work: Work, (wanted, end): (Release, End), facts: &Facts) {
        if self.replaces_canary(&work) {
            // The front may take the route now; what took the canary's place is found running.
            return self.revert(work, end);
        }
        let runs = facts.running.get(&work.color.other()) == Some(&wanted.id);
        let by = if runs { Placing::PassedOn } else { Placing::Started };
        self.replace(work, (wanted, end), by);
    }

    pub(super) fn replaced(
        &mut self,
        mut work: Work,
        (wanted, end, by): (Release, End, Placing),
        result: &Result<Done, Failure>,
    ) {
        match (by, result) {
            (Placing::PassedOn, Err(trouble)) => {
                self.note(Note::Trouble(trouble.clone()));
                let out = self.app.live().filter(|live| live.color == work.color);
                let out = out.map_or_else(|| work.release.clone(), |live| live.release.clone());
                return self.place_instead_of(out, work, (wanted, end), Placing::Started);
            }
            (_, result) if self.replaces_canary(&work) => {
                return self.canary_replaced(work, (wanted, end, by), result);
            }
            (Placing::PassedOn, Ok(_)) => return self.passed_on(work, (wanted, end)),
            (Placing::Started, Err(trouble)) => return self.not_replaced(work, trouble),
            (Placing::Started, Ok(_)) => {}
        }
        self.stepped(&mut work.deploy, Phase::Switching);
        self.note(Note::Replaced { color: work.color, by });
        let live = Live {
            color: work.color,
            release: wanted.clone(),
            since: self.now(),
            instance: Instance::Up { since: self.now(), attempt: 0 },
            healthy: Some(true),
        };
        self.went_live(live.color, wanted.clone());
        let former = std::mem::replace(&mut self.app.serving, Serving::Live(live));
        if let (Serving::Live(former), Kind::Rollback) = (former, &work.deploy.kind) {
            self.app.previous = Some(former.release);
        }
        // bgd sends the new release's name as soon as the front takes routes again. Only then does its first instance
        // stop: an earlier try to move the traffic to that color may have come true.
        self.at(work, Stage::Retiring { end });
        self.app.idle = Idle::Warm { release: wanted, timer: None, healthy: true };
        self.reroute();
    }

    /// The wanted release is live on the color on which it runs, and a stand-in serves on the one that the front still
    /// routes to.
    fn passed_on(&mut self, mut work: Work, (wanted, end): (Release, End)) {
        let Some(out) = self.app.live().cloned() else { return };
        self.stepped(&mut work.deploy, Phase::Switching);
        self.note(Note::Replaced { color: work.color, by: Placing::PassedOn });
        let instead = Idle::Warm { release: wanted.clone(), timer: None, healthy: true };
        let runs = match std::mem::replace(&mut self.app.idle, instead) {
            Idle::Warm { .. } | Idle::Taken => true,
            // The instance died meanwhile.
            Idle::Draining { effect, .. } | Idle::Stopping { effect, .. } => {
                self.act(Action::Cancel(effect));
                false
            }
            Idle::Vacant => false,
        };
        let color = out.color.other();
        self.app.serving = Serving::Live(Live {
            color,
            release: wanted.clone(),
            since: self.now(),
            instance: Instance::Up { since: self.now(), attempt: 0 },
            healthy: Some(true),
        });
        if work.deploy.kind == Kind::Rollback {
            self.app.previous = Some(out.release);
        }
        self.went_live(color, wanted.clone());
        if !runs {
            self.start_live(0, color, wanted);
        }
        self.reroute();
        self.end_deploy(end);
    }

    /// The release that was stopped for the replacement starts again; the traffic stays there.
    fn not_replaced(&mut self, work: Work, trouble: &Failure) {
        self.note(Note::Trouble(trouble.clone()));
        if let Some(Live { color, release, .. }) = self.app.live().cloned() {
            self.start_live(0, color, release);
        }
        self.reroute();
        let end = End { outcome: Outcome::Failed, failure: Some(trouble.clone()) };
        match self.app.idle.clone() {
            Idle::Taken => self.discard(work.deploy, Some(work.release), end),
            Idle::Warm { release: former, .. } => {
                // The way back failed this time; the next flip still goes there.
                self.app.previous = Some(former);
                self.retire(work, end);
            }
            Idle::Vacant | Idle::Draining { .. } | Idle::Stopping { .. } => {
                self.retire(work, end);
            }
        }
    }

    /// The live release has the canary's share too. Its place there ends once the front has a new route.
    fn canary_replaced(
        &mut self,
        mut work: Work,
        (wanted, end, by): (Release, End, Placing),
        result: &Result<Done, Failure>,
    ) {
        self.app.idle = Idle::Warm { release: wanted, timer: None, healthy: result.is_ok() };
        if let Err(trouble) = result {
            self.note(Note::Trouble(trouble.clone()));
            return self.revert_later(work, end);
        }
        self.stepped(&mut work.deploy, Phase::Switching);
        self.note(Note::Replaced { color: work.color, by });
        self.reroute();
        self.end_deploy(end);
    }

    /// Whether the idle color stands in for the live release, because the front may still send requests there.
    pub(super) fn stands_in(&self) -> bool {
        self.app.rerouting.is_some() && self.is_doubled()
    }

    fn is_doubled(&self) -> bool {
        let Idle::Warm { release, .. } = &self.app.idle else { return false };
        self.app.live().is_some_and(|live| live.release.id == release.id)
    }

    /// Starts a stand-in again that died: without it the front would route to a closed port.
    pub(super) fn stand_in_again(&mut self) {
        let Some(live) = self.app.live().cloned() else { return };
        let (color, out) = (live.color.other(), live.release.id.clone());
        let effect = self.act(Action::StandIn { color, out, release: live.release });
        self.app.standing_in = Some(StandingIn { effect, telling: Telling::Now { attempt: 1 } });
    }

    pub(super) fn stood_in(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        let Some(StandingIn { telling, .. }) = self.app.standing_in.filter(|it| it.effect == effect) else {
            return false;
        };
        self.app.standing_in = None;
        match (telling, result) {
            // The front took a route meanwhile.
            (_, _) if !self.stands_in() => {}
            (Telling::Now { .. }, Ok(_)) => {
                if let Idle::Warm { healthy, .. } = &mut self.app.idle {
                    *healthy = true;
                }
            }
            (Telling::Now { attempt }, Err(trouble)) => {
                self.note(Note::Trouble(trouble.clone()));
                let next = attempt.saturating_add(1);
                let effect = self.act(Action::Wake { after: backoff::restart_delay(next) });
                self.app.standing_in = Some(StandingIn { effect, telling: Telling::Later { attempt: next } });
            }
            (Telling::Later { attempt }, _) => {
                self.stand_in_again();
                if let Some(standing_in) = &mut self.app.standing_in {
                    standing_in.telling = Telling::Now { attempt };
                }
            }
        }
        true
    }

    /// Cancels the start of a stand-in: the front took a route.
    pub(super) fn stand_in_no_more(&mut self) {
        if let Some(standing_in) = self.app.standing_in.take() {
            self.act(Action::Cancel(standing_in.effect));
        }
    }

    /// Starts a stand-in again that died while bgd was down, if the front may still route there. Returns false in any
    /// other case.
    pub(super) fn recover_stand_in(&mut self, facts: &Facts) -> bool {
        let color = self.app.idle_color();
        let needed = facts.routed == Routed::Unknown || may_route_to(color, facts);
        let gone = self.is_doubled() && !facts.running.contains_key(&color);
        if needed && gone {
            self.stand_in_again();
        }
        needed && gone
    }
}
