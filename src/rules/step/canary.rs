//! A canary: a new release receives shares of the traffic, step by step, before the pivot. The live release stays live
//! meanwhile. A share can be taken back at any moment, and its requests are answered before anything stops.

use std::time::Duration;

use super::{AskReply, DenialKind, Turn, asking::denied, deploying::backend, recovering::gone_while};
use crate::rules::{
    advice::Verb,
    app::{End, Idle, Instance, Kind, Release, Stage, StageGroup, Work},
    canary::{Canary, Place, Share},
    effect::{self, Action, Note},
    event::{Done, Facts, Routed},
    words::{Failure, Nature, Outcome, Phase},
};

/// The pause before another look at a release that had too little traffic to judge.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What the record says of the front after a restart in the middle of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CanaryRecord {
    /// bgd had asked the front for a share, without proof yet.
    HalfWay,
    /// The front had proven the share.
    Proven,
}

impl Turn<'_> {
    /// Gives the release its first share of the traffic, or all of it: without canary steps, and when no healthy live
    /// release is up to share with. After a restart of the canary, the share of its current step.
    pub(super) fn share_or_switch(&mut self, work: Work) {
        let by_degrees = matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. });
        let beside = self
            .app
            .live()
            .is_some_and(|live| matches!(live.instance, Instance::Up { .. }) && live.healthy != Some(false));
        let begun = self.app.canary.take().map(Canary::anew);
        let policy = &self.context.policy;
        let deadline = policy.canary_deadline;
        let first = || Canary::begin(&policy.canary, self.now()).map(|canary| Canary { deadline, ..canary });
        let canary = begun.or_else(first);
        match canary.filter(|_| by_degrees && beside) {
            Some(canary) => {
                self.app.canary = Some(canary);
                self.share(work);
                self.enter(Phase::Canary);
            }
            None => self.switch(work),
        }
    }

    /// The canary that the front should have beside the live release.
    pub(super) fn sharing(&self) -> Option<effect::CanaryShare> {
        let canary = self.app.canary.as_ref()?;
        let work = self.app.pipeline.work()?;
        let share = match work.stage {
            Stage::Sharing(_) => canary.share,
            Stage::Canary(_) => canary.in_force().share,
            _ => return None,
        };
        Some(its_share(work, share))
    }

    /// Asks the front for the wanted share.
    pub(super) fn share(&mut self, work: Work) {
        let share = self.app.canary.as_ref().map(|canary| canary.share);
        self.overtake_rerouting(&work);
        let effect = self.route_shared(share.map(|share| its_share(&work, share)));
        self.at(work, Stage::Sharing(effect));
    }

    /// The share is in force: its time begins.
    pub(super) fn shared(&mut self, work: Work) {
        self.app.front_unsure = false;
        self.app.front_refusal = None;
        let now = self.now();
        if let Some(canary) = self.app.canary.take() {
            self.note(Note::ShareChanged(canary.share));
            self.app.canary = Some(canary.prove(now));
        }
        self.watch_step(work);
    }

    fn watch_step(&mut self, work: Work) {
        let now = self.now();
        let period = self.app.canary.as_ref().and_then(|canary| canary.left(now));
        self.watch_canary(work, period);
    }

    fn watch_canary(&mut self, work: Work, period: Option<Duration>) {
        self.act_at(work, Stage::Canary, |release, color| Action::Watch { release, color, period });
    }

    /// A step's time is over, and no check of the release has failed.
    pub(super) fn step_passed(&mut self, work: Work, done: &Done) {
        let Some(canary) = self.app.canary.clone() else { return self.switch(work) };
        if canary.refused > 0 {
            // The step before earned the wanted share; this watch only bridged the time until the next try.
            return self.ask_again(work, canary.share);
        }
        if let Some(limit) = canary.approval() {
            // The watch of a step without a length ends by its deadline alone.
            return self.unapproved(work, limit);
        }
        if canary.share != Share::NONE
            && let Some(seen) = self.too_little(done, &canary.held)
        {
            self.app.canary = Some(Canary { held: Some(seen), ..canary });
            return self.watch_canary(work, Some(LOOK_AGAIN));
        }
        self.go_on(work, canary);
    }

    /// Nobody promoted the release in time: it is given up, and not tried again by itself.
    fn unapproved(&mut self, work: Work, limit: Duration) {
        let failure = Failure {
            phase: Phase::Canary,
            nature: Nature::Deterministic,
            cause: format!("nobody promoted it within {} s (canary.deadline)", limit.as_secs_f64()),
            hint: Some("`bgd deploy` tries it again; `bgd promote` then has to come in time".to_owned()),
            log_tail: Vec::new(),
        };
        self.back_to_live(work, End { outcome: Outcome::Failed, failure: Some(failure) });
    }

    /// Goes on to the next share, or to all of the traffic.
    fn go_on(&mut self, work: Work, canary: Canary) {
        match canary.following() {
            Some(place) => {
                self.app.canary = Some(canary.at(place));
                self.share(work);
            }
            None => self.give_all(work),
        }
    }

    /// Asks again for what the front refused. The count of refusals stays until the front takes it.
    fn ask_again(&mut self, mut work: Work, share: Share) {
        if share != Share::ALL {
            return self.share(work);
        }
        work.deploy.phase_since = self.now();
        self.switch(work);
    }

    /// Goes on from a share to all of the traffic.
    fn give_all(&mut self, mut work: Work) {
        self.stepped(&mut work.deploy, Phase::Canary);
        self.switch(work);
    }

    /// The front refused a step, a share or the switch, and keeps the share that it has proven. So does the canary,
    /// still watched, until the front takes what bgd asks for (promise N5). Returns false in any other case.
    pub(super) fn share_stays(&mut self, work: &Work, (asked, failure): (Share, &Failure)) -> bool {
        let Some(canary) = self.app.canary.clone().filter(|canary| canary.proven.is_some()) else {
            return false;
        };
        if !failure.nature.left_the_front() {
            return false;
        }
        self.front_refuses(failure);
        let refused = canary.refused.saturating_add(1);
        self.app.canary = Some(Canary { share: asked, refused, held: None, ..canary });
        self.watch_step(work.clone());
        if self.app.front_unsure {
            self.reroute();
        }
        true
    }

    /// The report of too little traffic, if it is one and the policy lets that hold the release back. Notes only the
    /// first.
    pub(super) fn too_little(&mut self, done: &Done, held: &Option<String>) -> Option<String> {
        let Done::Inconclusive { seen } = done else { return None };
        if held.is_none() {
            self.note(Note::Inconclusive(seen.clone()));
        }
        self.context.policy.hold_inconclusive.then(|| seen.clone())
    }

    pub(super) fn keep_watching(&mut self, work: Work, former: Option<Release>, seen: String) {
        self.watch(work, (former, Some(seen)), Some(LOOK_AGAIN));
    }

    /// The front did not prove the share, which is not the release's fault.
    pub(super) fn share_refused(&mut self, work: Work, failure: &Failure) {
        let asked = self.app.canary.as_ref().map_or(Share::NONE, |canary| canary.share);
        if self.share_stays(&work, (asked, failure)) {
            return;
        }
        if failure.nature.left_the_front() && !self.app.front_unsure {
            // The release never had a share.
            return self.fail(work, failure);
        }
        self.back_to_live(work, End { outcome: Outcome::Failed, failure: Some(failure.clone()) });
    }

    pub(super) fn canary_failed(&mut self, work: Work, failure: &Failure) {
        self.back_to_live(work, End { outcome: Outcome::RolledBack, failure: Some(failure.clone()) });
    }

    /// Takes the share back from a release that has not failed.
    pub(super) fn take_back(&mut self, work: Work, end: End) {
        self.stop_waiting(&work);
        self.back_to_live(work, end);
    }

    /// Cancels the stage's effect. A route under way may have come true; the end of a watch changes nothing at the
    /// front.
    fn stop_waiting(&mut self, work: &Work) {
        match (&work.stage, work.stage.awaits()) {
            (Stage::Sharing(effect), _) => self.call_off(*effect),
            (_, Some(effect)) => drop(self.act(Action::Cancel(effect))),
            (_, None) => {}
        }
    }

    fn back_to_live(&mut self, mut work: Work, end: End) {
        self.stepped(&mut work.deploy, Phase::Canary);
        self.enter(Phase::Switching);
        self.revert(work, end);
    }

    /// Leaves a share alone that is in force as recorded: its time goes on.
    pub(super) fn recover_canary(&mut self, work: Work, (told, facts): (CanaryRecord, &Facts)) {
        let runs = |color, release| facts.running.get(&color) == Some(release);
        if !runs(work.color, &work.release.id) {
            if self.app.live().is_some_and(|live| !runs(live.color, &live.release.id)) {
                return self.start_canary_again(work);
            }
            let failure = gone_while((work.color, Phase::Canary), "while it had a share of the traffic");
            return self.canary_failed(work, &failure);
        }
        if facts.canary.is_none_or(|(color, _)| color != work.color) {
            // The share is gone: either an unrecorded flip (full disk) took it back, and the release may be about to
            // stop, or somebody edited the front's file and may revert that.
            self.probe(work);
            return self.reroute();
        }
        let share = self.app.canary.as_ref().map(|canary| (work.color, canary.in_force().share));
        let live = self.app.live().map(|live| Routed::Color(live.color));
        let in_force = live == Some(facts.routed) && share == facts.canary;
        // A share that came true without its proof: the front has it even if it refuses the next route.
        let proven = self.app.canary.as_ref().and_then(|canary| canary.proven);
        self.app.front_unsure |= proven.map(|place| (work.color, place.share)) != facts.canary;
        match told {
            CanaryRecord::Proven if in_force => self.watch_step(work),
            CanaryRecord::Proven | CanaryRecord::HalfWay => self.share(work),
        }
    }

    /// After a reboot, which is not the release's fault: proves the release again and then continues the step. Until
    /// then only the live release has traffic.
    fn start_canary_again(&mut self, work: Work) {
        self.app.idle = Idle::Vacant;
        self.at(work, Stage::Clearing);
    }

    /// The deploy whose release has a share of the traffic, or is about to have one.
    pub(super) fn sharing_work(&self) -> Option<Work> {
        self.app.pipeline.work().filter(|work| work.stage.group() == StageGroup::Sharing).cloned()
    }

    pub(super) fn asked_share(&mut self, share: Share) -> AskReply {
        let Some(work) = self.sharing_work() else { return no_canary() };
        if share == Share::ALL {
            return self.asked_promote();
        }
        let Some(canary) = self.app.canary.take() else { return no_canary() };
        let step = canary.in_force().step;
        self.app.canary = Some(canary.at(Place { step, share, by_hand: true }));
        self.stop_waiting(&work);
        self.share(work);
        AskReply::Said(format!(
            "{share} of the traffic for now; `bgd canary resume`, `bgd promote` or `bgd flip`"
        ))
    }

    /// Goes on with the steps, at the first one above the share in force.
    pub(super) fn asked_resume_steps(&mut self) -> AskReply {
        let Some(work) = self.sharing_work() else { return no_canary() };
        let Some(canary) = self.app.canary.clone() else { return no_canary() };
        if !canary.by_hand && canary.share != Share::ALL {
            return AskReply::Said("the canary goes through its steps already".to_owned());
        }
        let place = canary.resumed();
        let share = place.share;
        self.app.canary = Some(canary.at(place));
        self.stop_waiting(&work);
        self.share(work);
        AskReply::Said(format!("the canary goes on through its steps, with {share} of the traffic"))
    }

    /// Goes on to the next step only; after the last step, and in a watch, does what `promote` does.
    pub(super) fn asked_next_step(&mut self) -> AskReply {
        let Some(work) = self.sharing_work() else { return self.asked_promote() };
        let Some(canary) = self.app.canary.clone() else { return self.asked_promote() };
        let Some(place) = canary.following() else { return self.asked_promote() };
        let (step, steps, share) = (place.step + 1, canary.plan.len(), place.share);
        self.stop_waiting(&work);
        self.go_on(work, canary);
        AskReply::Said(format!("step {step} of {steps}: {share} of the traffic"))
    }

    pub(super) fn asked_promote(&mut self) -> AskReply {
        let Some(work) = self.app.pipeline.work().cloned() else { return no_canary() };
        let id = work.deploy.id;
        match (work.stage.clone(), work.stage.group()) {
            (Stage::Watching { effect, former, .. }, _) => {
                self.act(Action::Cancel(effect));
                self.watch_passed(work, former);
            }
            (Stage::Switching(_), _) => {}
            (_, StageGroup::Sharing) => {
                self.stop_waiting(&work);
                if let Some(canary) = &mut self.app.canary {
                    canary.refused = 0;
                }
                self.give_all(work);
            }
            (_, StageGroup::BeforePivot | StageGroup::Pivot | StageGroup::Live | StageGroup::Ending) => {
                return no_canary();
            }
        }
        AskReply::Promoting(id)
    }
}

fn its_share(work: &Work, share: Share) -> effect::CanaryShare {
    effect::CanaryShare { backend: backend(&work.release, work.color), share }
}

fn no_canary() -> AskReply {
    denied(
        DenialKind::NoCanary,
        "no release has a share of the traffic, and none is being watched",
        Verb::Status,
    )
}
