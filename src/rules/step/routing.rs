//! Routes for the front. A way back, and a route sent again beside a deploy, have to succeed: while the front refuses
//! them bgd tries again with growing waits, because until then it is unknown where the front routes, and nothing may be
//! stopped. A new route always cancels the one before.

use super::{Turn, deploying::backend};
use crate::rules::{
    app::{
        Backup, Deploy, DownStage, End, Idle, Instance, Kind, Live, Pipeline, Release, Rerouting, Serving,
        Stage, StageGroup, Telling, Work,
    },
    backoff,
    effect::{Action, Backend, CanaryShare, Note},
    event::Done,
    ids::{Color, EffectId},
    words::{Failure, Outcome, Phase},
};

/// The first try.
const FIRST: Telling = Telling::Now { attempt: 1 };

impl Turn<'_> {
    /// Sends the front a route without canary and backup; a route under way beside it is void.
    pub(super) fn route(&mut self, to: Option<Backend>) -> EffectId {
        self.tell(to, None, None)
    }

    /// The deploy's route takes the place of one that is being sent again, which the front has not proven: if the front
    /// refuses the deploy's route, the live release is sent once more. A way back goes around such a front instead.
    pub(super) fn overtake_rerouting(&mut self, work: &Work) {
        self.app.front_unsure |= self.app.rerouting.is_some() && work.deploy.kind != Kind::Rollback;
    }

    /// Sends the front the route to this deploy's release, with the former one as the backup during the watch.
    pub(super) fn route_new(&mut self, work: &Work) -> EffectId {
        let former = self.app.live().filter(|live| matches!(live.instance, Instance::Up { .. }));
        let former = former.map(|live| backend(&live.release, live.color));
        let backup = former.filter(|former| {
            self.context.policy.backup && former.color != work.color && self.is_watched(work)
        });
        self.tell(Some(backend(&work.release, work.color)), None, backup)
    }

    /// Sends the front the route to the live release, with the canary and the backup in force.
    fn route_live(&mut self) -> EffectId {
        let (canary, backup) = (self.sharing(), self.warm_backup());
        self.tell(self.live_backend(), canary, backup)
    }

    /// Sends the front the route to the live release, with the share that a canary is to have.
    pub(super) fn route_shared(&mut self, canary: Option<CanaryShare>) -> EffectId {
        self.tell(self.live_backend(), canary, None)
    }

    fn live_backend(&self) -> Option<Backend> {
        self.app.live().map(|live| backend(&live.release, live.color))
    }

    /// The backup: the former release, while the live one is watched.
    fn warm_backup(&self) -> Option<Backend> {
        let watching = self.app.pipeline.group() == Some(StageGroup::Live);
        match &self.app.idle {
            Idle::Warm { release, .. } if watching && self.context.policy.backup => {
                Some(backend(release, self.app.idle_color()))
            }
            Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. } => None,
        }
    }

    fn tell(
        &mut self,
        to: Option<Backend>,
        canary: Option<CanaryShare>,
        backup: Option<Backend>,
    ) -> EffectId {
        if let Some(older) = self.app.rerouting.take() {
            self.act(Action::Cancel(older.effect));
        }
        self.app.generation.0 += 1;
        self.app.backup = match (&backup, self.app.backup) {
            (Some(_), _) => Backup::Told,
            (None, Backup::Absent) => Backup::Absent,
            (None, Backup::Told | Backup::Withdrawn) => Backup::Withdrawn,
        };
        self.act(Action::Route { generation: self.app.generation, to, canary, backup })
    }

    /// The front routes nothing now: the stage that sent the last route sends it again.
    pub(super) fn front_restarted(&mut self) {
        match self.app.pipeline.clone() {
            Pipeline::Deploying(work) => self.front_restarted_at(work),
            Pipeline::TakingDown { effect, stage: DownStage::Unrouting } => {
                self.act(Action::Cancel(effect));
                let effect = self.route(None);
                self.app.pipeline = Pipeline::TakingDown { effect, stage: DownStage::Unrouting };
            }
            Pipeline::TakingDown { stage: DownStage::Draining | DownStage::Stopping, .. } => {
                self.ignore("the front was started again; nothing is to be routed");
            }
            Pipeline::Resting | Pipeline::Fetching { .. } | Pipeline::Discarding { .. } => {
                self.reroute_live();
            }
        }
    }

    fn front_restarted_at(&mut self, work: Work) {
        match (work.stage.clone(), work.stage.group()) {
            (Stage::Switching(effect), _) => {
                self.call_off(effect);
                let effect = self.route_new(&work);
                self.at(work, Stage::Switching(effect));
            }
            (Stage::Sharing(effect), _) => {
                self.call_off(effect);
                self.share(work);
            }
            (Stage::Reverting { effect, end, .. }, _) => {
                self.call_off(effect);
                self.revert(work, end);
            }
            (
                _,
                StageGroup::BeforePivot
                | StageGroup::Sharing
                | StageGroup::Pivot
                | StageGroup::Live
                | StageGroup::Ending,
            ) => {
                self.reroute_live();
            }
        }
    }

    /// Sends the route to the live release again; a new front routes nothing, which is right while nothing is live.
    fn reroute_live(&mut self) {
        if self.app.live().is_some() || self.app.rerouting.is_some() {
            self.reroute();
        }
    }

    /// The front has proven the last route.
    pub(super) fn front_is_sure(&mut self) {
        self.app.front_unsure = false;
        self.app.front_refusal = None;
        if self.app.backup == Backup::Withdrawn {
            self.app.backup = Backup::Absent;
        }
    }

    /// Keeps the front's refusal, as bgd tries again after a wait. Notes only the first: the texts of later ones differ
    /// in time and pid.
    pub(super) fn front_refuses(&mut self, trouble: &Failure) {
        if self.app.front_refusal.replace(trouble.cause.clone()).is_none() {
            self.note(Note::Trouble(trouble.clone()));
        }
    }

    /// A backup is for the watch alone: after it bgd sends a route without one, before it stops the backup's color.
    pub(super) fn settle_backup(&mut self) {
        let belongs = self.app.pipeline.group() == Some(StageGroup::Live) || self.is_telling();
        if self.app.backup != Backup::Absent && !belongs && self.app.rerouting.is_none() {
            self.reroute();
        }
    }

    /// Cancels a route, which may have come true all the same.
    pub(super) fn call_off(&mut self, switch: EffectId) {
        self.act(Action::Cancel(switch));
        self.app.front_unsure = true;
    }

    /// Whether the pipeline sends the front a route, or is about to: nothing else does so then.
    pub(super) fn is_telling(&self) -> bool {
        match &self.app.pipeline {
            Pipeline::Deploying(work) => {
                work.stage.group() == StageGroup::Pivot || matches!(work.stage, Stage::Sharing(_))
            }
            Pipeline::TakingDown { .. } => true,
            Pipeline::Resting | Pipeline::Fetching { .. } | Pipeline::Discarding { .. } => false,
        }
    }

    /// Sends the route to the live release until the front proves it.
    pub(super) fn reroute(&mut self) {
        let effect = self.route_live();
        self.app.rerouting = Some(Rerouting { effect, telling: FIRST });
    }

    pub(super) fn reroute_done(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        let Some(Rerouting { telling, .. }) = self.app.rerouting.filter(|it| it.effect == effect) else {
            return false;
        };
        match (telling, result) {
            (Telling::Now { .. }, Ok(_)) => {
                self.app.rerouting = None;
                self.front_is_sure();
                self.retire_leftover();
            }
            (Telling::Now { attempt }, Err(trouble)) => {
                self.front_refuses(trouble);
                let (effect, telling) = self.tell_later(attempt);
                self.app.rerouting = Some(Rerouting { effect, telling });
            }
            (Telling::Later { attempt }, _) => {
                self.app.rerouting = None;
                self.reroute();
                if let Some(rerouting) = &mut self.app.rerouting {
                    rerouting.telling = Telling::Now { attempt };
                }
            }
        }
        true
    }

    fn tell_later(&mut self, attempt: u32) -> (EffectId, Telling) {
        let next = attempt.saturating_add(1);
        let effect = self.act(Action::Wake { after: backoff::restart_delay(next) });
        (effect, Telling::Later { attempt: next })
    }

    /// Whether this deploy's release is live on this deploy's color; the release may run on the other color too.
    pub(super) fn is_switched(&self, work: &Work) -> bool {
        self.app.live().is_some_and(|live| live.color == work.color && live.release.id == work.release.id)
    }

    /// Moves the traffic (back) to the release that is live without this deploy.
    pub(super) fn revert(&mut self, work: Work, end: End) {
        self.revert_again(work, end, FIRST);
    }

    fn revert_again(&mut self, work: Work, end: End, telling: Telling) {
        let to = match (&self.app.serving, &self.app.idle) {
            (Serving::Live(live), Idle::Warm { release, .. }) if self.is_switched(&work) => {
                Some(backend(release, live.color.other()))
            }
            (Serving::Live(live), _) => Some(backend(&live.release, live.color)),
            (Serving::Nothing | Serving::OutOfService(_), _) => None,
        };
        let effect = self.route(to);
        self.at(work, Stage::Reverting { effect, end, telling });
    }

    /// Moves the traffic back after a wait.
    pub(super) fn revert_later(&mut self, work: Work, end: End) {
        let (effect, telling) = self.tell_later(1);
        self.at(work, Stage::Reverting { effect, end, telling });
    }

    pub(super) fn reverted(
        &mut self,
        work: Work,
        (end, telling): (End, Telling),
        result: &Result<Done, Failure>,
    ) {
        match (telling, result) {
            (Telling::Now { .. }, Ok(_)) => self.traffic_is_back(work, end),
            (Telling::Now { attempt }, Err(trouble)) => {
                self.front_refuses(trouble);
                if self.revert_in_place(&work, &end, trouble) {
                    return;
                }
                let (effect, telling) = self.tell_later(attempt);
                self.at(work, Stage::Reverting { effect, end, telling });
            }
            (Telling::Later { attempt }, _) => {
                self.revert_again(work, end, Telling::Now { attempt });
            }
        }
    }

    pub(super) fn traffic_is_back(&mut self, work: Work, end: End) {
        self.front_is_sure();
        let had_share = self.app.canary.take().is_some();
        match (self.is_switched(&work), &self.app.idle) {
            (false, Idle::Taken) if had_share => {
                // It answers the requests it has before it is stopped.
                self.app.idle = Idle::Warm { release: work.release.clone(), timer: None, healthy: false };
                self.retire(work, end);
            }
            (false, _) => self.discard(work.deploy, Some(work.release), end),
            (true, Idle::Warm { .. }) => {
                let mut work = work;
                self.stepped(&mut work.deploy, Phase::Switching);
                self.swap_back();
                self.retire(work, end);
            }
            (true, Idle::Vacant | Idle::Taken | Idle::Draining { .. } | Idle::Stopping { .. }) => {
                self.stay_then_roll_back(work.deploy, end);
            }
        }
    }

    /// The former instance died while the traffic was on its way back: the new one serves until the former release runs
    /// again.
    fn stay_then_roll_back(&mut self, deploy: Deploy, end: End) {
        self.revive();
        let outcome = if end.outcome == Outcome::RolledBack { Outcome::Failed } else { end.outcome };
        self.end_deploy(End { outcome, ..end });
        self.roll_back_after(&deploy);
    }

    /// Starts a rollback after a deploy whose way back was not warm.
    pub(super) fn roll_back_after(&mut self, deploy: &Deploy) {
        let Some(to) = self.app.previous.clone().filter(|_| !self.app.down_wanted) else { return };
        let id = self.fresh();
        let deploy = self.new_deploy(id, Kind::Rollback, deploy.by.clone());
        self.roll_back_to(deploy, to);
    }

    /// The warm former release is live again; the abandoned one drains.
    pub(super) fn swap_back(&mut self) {
        let Serving::Live(abandoned) = &self.app.serving else { return };
        let Idle::Warm { release, healthy, timer: _ } = &self.app.idle else { return };
        let (abandoned, healthy) = (abandoned.clone(), *healthy);
        let live = Live {
            color: abandoned.color.other(),
            release: release.clone(),
            since: self.now(),
            instance: Instance::Up { since: self.now(), attempt: 0 },
            healthy: Some(healthy),
        };
        self.went_live(live.color, live.release.clone());
        self.app.serving = Serving::Live(live);
        self.app.idle = Idle::Warm { release: abandoned.release, timer: None, healthy: false };
        // A pending restart of the abandoned instance ends with it.
        if let Instance::Starting { effect, .. } | Instance::Waiting { effect, .. } = abandoned.instance {
            self.act(Action::Cancel(effect));
        }
    }

    /// Notes that a release is live, and removes the verdict on its commit, whatever that was.
    pub(super) fn went_live(&mut self, color: Color, release: Release) {
        self.app.verdicts.remove(&release.commit);
        self.app.stranded = None;
        self.note(Note::WentLive { color, release: release.clone() });
        self.announce(color, release);
    }

    /// The warm instance died: traffic that was on its way there stays where it is.
    pub(super) fn warm_died_in_revert(&mut self, warm: &Release) {
        let Some(work) = self.app.pipeline.work().cloned() else { return };
        let Stage::Reverting { effect, end, .. } = work.stage.clone() else { return };
        if !self.is_switched(&work) {
            return;
        }
        self.app.previous = Some(warm.clone());
        self.call_off(effect);
        self.revert(work, end);
    }
}
