//! The emergency way back (promise F4): somebody else's configuration keeps the front from being moved, so the
//! wanted release is started on the port that the front routes to, in the place of what serves there. Costs a
//! restart's gap, which is less than a bad release costs. Used by flips and by a failed watch, never forward.
//! What serves a canary's share is replaced by the live release in the same way: then it runs on both colors, and
//! whichever share the front gives them nobody meets the abandoned one.

use super::Turn;
use crate::rules::{
    app::{End, Idle, Instance, Kind, Live, Pipeline, Release, Serving, Work},
    effect::{Action, Note},
    event::Done,
    words::{Failure, Nature, Outcome, Phase},
};

impl Turn<'_> {
    /// A rollback whose switch the front refuses for reasons that are not ours to mend. False: not that case.
    pub(super) fn switch_in_place(&mut self, work: &Work, failure: &Failure) -> bool {
        let rollback = work.deploy.kind == Kind::Rollback && matches!(self.app.idle, Idle::Taken);
        if !rollback || !self.is_stuck_where_it_was(failure) {
            return false;
        }
        self.app.pipeline = Pipeline::Switching(work.clone());
        self.note(Note::Trouble(failure.clone()));
        self.replace(work.clone(), (work.release.clone(), End::live()))
    }

    /// A way back that the front refuses for reasons that are not ours to mend. False: not that case.
    pub(super) fn revert_in_place(&mut self, work: &Work, end: &End, failure: &Failure) -> bool {
        let switched = self.is_switched(work);
        match &self.app.idle {
            Idle::Warm { release, .. } if switched && self.is_stuck_where_it_was(failure) => {
                let wanted = release.clone();
                self.replace(work.clone(), (wanted, end.clone()))
            }
            // Sure of the share or not: what is replaced was to get none.
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

    /// False: no share is being taken back.
    fn replace_canary(&mut self, work: Work, end: End) -> bool {
        let Some(live) = self.app.live().filter(|_| self.app.canary.is_some()) else { return false };
        let wanted = live.release.clone();
        let action =
            Action::Replace { color: work.color, out: work.release.id.clone(), release: wanted.clone() };
        self.app.idle = Idle::Taken;
        self.app.pipeline = Pipeline::Replacing { work: self.again(work, action), wanted, end };
        true
    }

    /// Beside what is live, which serves on.
    fn replaces_canary(&self, work: &Work) -> bool {
        self.app.live().is_some_and(|live| live.color != work.color)
    }

    /// In the place of what serves, and never beside it: the front must be known to route there.
    fn is_stuck_where_it_was(&self, failure: &Failure) -> bool {
        failure.nature == Nature::FrontStuck && !self.app.front_unsure
    }

    fn replace(&mut self, work: Work, (wanted, end): (Release, End)) -> bool {
        let Some(Live { color, release, instance, .. }) = self.app.live().cloned() else { return false };
        if let Instance::Starting { effect, .. } | Instance::Waiting { effect, .. } = instance {
            self.act(Action::Cancel(effect));
        }
        self.set_dead();
        let effect = self.act(Action::Replace { color, out: release.id, release: wanted.clone() });
        self.app.pipeline = Pipeline::Replacing { work: Work { color, effect, ..work }, wanted, end };
        true
    }

    /// After a restart: asked for again; what of it is done already is found so.
    pub(super) fn replace_again(&mut self, work: Work, (wanted, end): (Release, End)) {
        if self.replaces_canary(&work) {
            // The front may take it now; what took the canary's place is found running.
            return self.revert(work, end);
        }
        let unchanged = work.clone();
        if !self.replace(work, (wanted.clone(), end.clone())) {
            self.app.pipeline = Pipeline::Replacing { work: unchanged, wanted, end };
        }
    }

    pub(super) fn replaced(
        &mut self,
        mut work: Work,
        (wanted, end): (Release, End),
        result: &Result<Done, Failure>,
    ) {
        self.app.pipeline =
            Pipeline::Replacing { work: work.clone(), wanted: wanted.clone(), end: end.clone() };
        if self.replaces_canary(&work) {
            return self.canary_replaced(work, (wanted, end), result);
        }
        if let Err(trouble) = result {
            return self.not_replaced(work, trouble);
        }
        self.stepped(&mut work.deploy, Phase::Switching);
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
        // The front learns the new release's name as soon as it can be told again. Only then its first instance goes:
        // an earlier try to move the traffic to that color may have come true.
        self.app.pipeline = Pipeline::Retiring { deploy: work.deploy, release: work.release, end };
        self.app.idle = Idle::Warm { release: wanted, timer: None, healthy: true };
        self.reroute();
    }

    /// What was stopped for it comes back; the traffic stays there.
    fn not_replaced(&mut self, work: Work, trouble: &Failure) {
        self.note(Note::Trouble(trouble.clone()));
        if let Some(Live { color, release, .. }) = self.app.live().cloned() {
            self.start_live(0, color, release);
        }
        self.reroute();
        let end = End { outcome: Outcome::Failed, failure: Some(trouble.clone()) };
        match self.app.idle.clone() {
            Idle::Taken => self.discard((work.deploy, Some(work.release)), end),
            Idle::Warm { release: former, .. } => {
                // Not reached this time, and still where the next flip goes.
                self.app.previous = Some(former);
                self.retire(work.deploy, work.release, end);
            }
            Idle::Vacant | Idle::Draining { .. } | Idle::Stopping { .. } => {
                self.retire(work.deploy, work.release, end);
            }
        }
    }

    /// The live release has the canary's share too. It goes from there once the front was told.
    fn canary_replaced(
        &mut self,
        mut work: Work,
        (wanted, end): (Release, End),
        result: &Result<Done, Failure>,
    ) {
        self.app.idle = Idle::Warm { release: wanted, timer: None, healthy: result.is_ok() };
        if let Err(trouble) = result {
            self.note(Note::Trouble(trouble.clone()));
            return self.revert_later(work, end);
        }
        self.stepped(&mut work.deploy, Phase::Switching);
        self.reroute();
        self.end_deploy(end);
    }

    /// Whether the idle color runs the live release, for what the front may still send there.
    pub(super) fn stands_in(&self) -> bool {
        let Idle::Warm { release, .. } = &self.app.idle else { return false };
        self.app.rerouting.is_some() && self.app.live().is_some_and(|live| live.release.id == release.id)
    }
}
