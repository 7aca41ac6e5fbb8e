//! A deploy's end: failure and abandonment before the pivot, the way back after it, retirement of the color it leaves
//! behind, and the verdict on its commit.

use std::time::Duration;

use super::Turn;
use crate::rules::{
    app::{
        Backup, Deploy, DownStage, End, Hold, Idle, Instance, Kind, Live, Pipeline, Release, Serving, Stage,
        Until, Verdict, Work,
    },
    canary::Share,
    effect::{Action, Hook, Note},
    event::Done,
    ids::{CommitId, DeployId},
    time::Time,
    words::{Failure, Nature, Outcome, Phase},
};

/// How often bgd tries a commit that fails for outside reasons (promise A10).
const TRIES: u32 = 5;
/// The wait before the second try; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// Verdicts kept for each app; the oldest deploy's go first.
const VERDICTS_KEPT: usize = 200;

/// The wait after `failures` failed tries.
fn retry_wait(failures: u32) -> Duration {
    FIRST_RETRY * 2u32.saturating_pow(failures.saturating_sub(1))
}

/// Whether it is too early for the next try. A wait longer than the full one means that the clock went back (promise
/// B8): then the try is due.
pub(super) fn waits(not_before: Time, failures: u32, now: Time) -> bool {
    not_before > now && not_before.since(now) <= retry_wait(failures)
}

impl Turn<'_> {
    pub(super) fn fetch_failed(
        &mut self,
        deploy: Deploy,
        commit: Option<CommitId>,
        failure: Option<Failure>,
    ) {
        let failure = failure.unwrap_or_else(|| Failure {
            phase: Phase::Fetching,
            nature: Nature::Transient,
            cause: "the fetch ended without a commit".to_owned(),
            hint: Some("`bgd deploy` asks the remote again".to_owned()),
            log_tail: Vec::new(),
        });
        let end = End { outcome: Outcome::Failed, failure: Some(failure) };
        // Without a release the commit is known only here.
        if let Some(commit) = commit {
            self.pass_verdict(&deploy, commit, &end);
        }
        self.discard(deploy, None, end);
    }

    /// Fails a deploy before the pivot: the live color was never touched.
    pub(super) fn fail(&mut self, work: Work, failure: &Failure) {
        let end = End { outcome: Outcome::Failed, failure: Some(failure.clone()) };
        self.discard(work.deploy, Some(work.release), end);
    }

    /// Ends a deploy before the pivot that has not failed.
    pub(super) fn abandon(&mut self, outcome: Outcome) {
        if let Some(work) = self.sharing_work() {
            return self.take_back(work, End { outcome, failure: None });
        }
        self.leave_task();
        if let Some(effect) = self.app.pipeline.awaits() {
            self.act(Action::Cancel(effect));
        }
        let release = self.app.pipeline.release().cloned();
        if let Some(deploy) = self.app.pipeline.deploy().cloned() {
            self.discard(deploy, release, End { outcome, failure: None });
        }
    }

    pub(super) fn discard(&mut self, deploy: Deploy, release: Option<Release>, end: End) {
        let color = self.app.idle_color();
        let id = release.as_ref().map(|release| release.id.clone());
        let effect = self.act(Action::Discard { color, release: id });
        self.app.pipeline = Pipeline::Discarding { deploy, release, effect, end };
    }

    pub(super) fn discarded(&mut self, release: Option<Release>, end: End, result: &Result<Done, Failure>) {
        let taken = matches!(self.app.idle, Idle::Taken);
        if taken {
            self.app.idle = Idle::Vacant;
        }
        if let Err(trouble) = result {
            self.note(Note::Trouble(trouble.clone()));
            // This includes an instance that a restart found where the color counts as vacant.
            if let Some(release) = release.filter(|_| self.idle_is_vacant()) {
                self.app.idle = self.stop_later(release);
            }
        }
        self.retire_leftover();
        self.end_deploy(end);
    }

    /// The front did not prove the switch. Where it routes is uncertain: sends it the route to the former color.
    pub(super) fn switch_failed(&mut self, work: Work, failure: &Failure) {
        if self.switch_in_place(&work, failure) {
            return;
        }
        if failure.nature.left_the_front() && !self.app.front_unsure {
            return match self.share_stays(&work, (Share::ALL, failure)) {
                true => {}
                // The front was not changed, so that there is nothing to take back.
                false => self.fail(work, failure),
            };
        }
        let end = End { outcome: Outcome::Failed, failure: Some(failure.clone()) };
        self.revert(work, end);
    }

    pub(super) fn watch_failed(&mut self, mut work: Work, former: Option<Release>, failure: &Failure) {
        self.stepped(&mut work.deploy, Phase::Watching);
        if !self.may_go_back(former.as_ref()) {
            return self.stay(work, former, failure);
        }
        self.unpin(&work.deploy);
        if self.way_back_is_warm() {
            self.enter(Phase::Switching);
            let end = End { outcome: Outcome::RolledBack, failure: Some(failure.clone()) };
            return self.revert(work, end);
        }
        let end = End { outcome: Outcome::Failed, failure: Some(failure.clone()) };
        if former.is_none() {
            return self.retire(work, end);
        }
        // The former instance is gone or unwell too: bgd deploys its release again, and proves it first.
        self.app.previous = former;
        self.end_deploy(end);
        self.roll_back_after(&work.deploy);
    }

    /// Whether the former release still runs, and healthy, beside the watched one.
    pub(super) fn way_back_is_warm(&self) -> bool {
        matches!(self.app.idle, Idle::Warm { healthy: true, .. })
    }

    /// Releases the hold of a manual deploy whose release did not last.
    fn unpin(&mut self, deploy: &Deploy) {
        if self.app.hold.as_ref().is_some_and(|hold| hold.pins == Some(deploy.id)) {
            self.app.hold = None;
            self.note(Note::HoldReleased { why: "what was deployed by hand did not last".to_owned() });
        }
    }

    /// The outcome is decided: keeps the other color warm, or empties it.
    pub(super) fn retire(&mut self, work: Work, end: End) {
        let keep_warm =
            end.outcome == Outcome::Live && !self.context.policy.standby.is_zero() && !self.app.down_wanted;
        self.at(work, Stage::Retiring { end });
        if keep_warm {
            self.start_standby();
        } else {
            self.retire_warm();
        }
    }

    fn start_standby(&mut self) {
        if !matches!(self.app.idle, Idle::Warm { .. }) {
            return;
        }
        let wake = self.act(Action::Wake { after: self.context.policy.standby });
        if let Idle::Warm { timer, .. } = &mut self.app.idle {
            *timer = Some(wake);
        }
    }

    /// Ends the deploy once the idle color is warm or vacant as planned.
    pub(super) fn settle_retiring(&mut self) -> bool {
        match &self.app.idle {
            // It drains once the front has proven that it has no backup any more.
            Idle::Warm { timer: None, .. } if self.app.backup != Backup::Absent => return false,
            Idle::Vacant | Idle::Warm { .. } => {}
            Idle::Taken | Idle::Draining { .. } | Idle::Stopping { .. } => return false,
        }
        let Some(Stage::Retiring { end }) = self.app.pipeline.stage() else { return false };
        let end = end.clone();
        self.end_deploy(end);
        true
    }

    /// Records the end, passes the verdict, and rests.
    pub(super) fn end_deploy(&mut self, end: End) {
        if let (Some(deploy), Some(commit)) = (self.app.pipeline.deploy(), self.app.pipeline.commit()) {
            let (deploy, commit) = (deploy.clone(), commit.clone());
            self.pass_verdict(&deploy, commit, &end);
        }
        if end.outcome != Outcome::Superseded {
            self.app.superseded_in_a_row = 0;
        }
        self.note(Note::DeployEnded(end.clone()));
        if let (Some(failure), Some(release)) = (&end.failure, self.app.pipeline.release().cloned())
            && self.context.policy.after_failed
        {
            let color = self.app.idle_color();
            let failure = Some(failure.clone());
            let deploy = self.app.pipeline.deploy().map(|deploy| deploy.id);
            self.act(Action::RunHook { hook: Hook::AfterFailed, release, color, failure, deploy });
        }
        let was_up = self.app.pipeline.deploy().is_some_and(|deploy| deploy.kind == Kind::Up);
        if was_up && end.outcome == Outcome::Failed {
            self.give_up_on_up();
        }
        self.app.pipeline = Pipeline::Resting;
        self.app.canary = None;
        let protect = self.app.needed_releases();
        self.act(Action::Prune { before: self.next_release(), protect });
    }

    /// The least number of any release made from here on: a queued deploy has its number already.
    pub(super) fn next_release(&self) -> DeployId {
        let queued = self.app.queued.as_ref().map(|queued| queued.id);
        queued.map_or(self.context.fresh, |queued| queued.min(self.context.fresh))
    }

    /// The release of `bgd up` does not start. The app counts as in service all the same, so that the next commit or
    /// `bgd deploy` can bring it back; else a broken release could never be replaced.
    fn give_up_on_up(&mut self) {
        // The idle color is named relative to what serves: it must not change while something runs there.
        if !self.idle_is_vacant() {
            return;
        }
        if let Serving::OutOfService(live) = self.app.serving.clone() {
            self.app.serving = Serving::Nothing;
            self.app.previous = Some(live.release);
        }
    }

    fn pass_verdict(&mut self, deploy: &Deploy, commit: CommitId, end: &End) {
        if matches!(deploy.kind, Kind::Rollback | Kind::Up) {
            return;
        }
        let Some(failure) = &end.failure else { return };
        let failures = match self.app.verdicts.get(&commit) {
            Some(Verdict::Retry { failures, .. }) => failures + 1,
            // A manual deploy tried a bad commit again, and it failed for another reason: it stays bad.
            Some(Verdict::Bad { .. }) => TRIES,
            None => 1,
        };
        // A release that failed with real traffic is not tried on it again.
        let may_retry = failure.nature != Nature::Deterministic && end.outcome != Outcome::RolledBack;
        let verdict = if may_retry && failures < TRIES {
            Verdict::Retry { failures, not_before: self.now().plus(retry_wait(failures)) }
        } else {
            Verdict::Bad { deploy: deploy.id, why: failure.cause.clone() }
        };
        self.judge(commit, verdict);
    }

    pub(super) fn judge(&mut self, commit: CommitId, verdict: Verdict) {
        if matches!(verdict, Verdict::Bad { .. }) {
            self.note(Note::MarkedBad(commit.clone()));
        }
        self.app.verdicts.insert(commit, verdict);
        while self.app.verdicts.len() > VERDICTS_KEPT {
            let age = |verdict: &Verdict| match verdict {
                Verdict::Bad { deploy, .. } => deploy.0,
                Verdict::Retry { .. } => u64::MAX,
            };
            let oldest = self.app.verdicts.iter().min_by_key(|(_, verdict)| age(verdict));
            let Some(oldest) = oldest.map(|(commit, _)| commit.clone()) else { return };
            self.app.verdicts.remove(&oldest);
        }
    }

    pub(super) fn place_hold(&mut self, by: String, reason: String, until: Until) {
        self.hold(Hold { by, reason, since: self.now(), until, pins: None });
    }

    pub(super) fn hold(&mut self, hold: Hold) {
        self.app.hold = Some(hold.clone());
        self.note(Note::HoldPlaced(hold));
    }

    /// `bgd down`, once nothing else is under way: warm color first, then the live one.
    pub(super) fn settle_down(&mut self) -> bool {
        if !self.idle_is_vacant() {
            self.retire_warm();
            return false;
        }
        match &self.app.serving {
            Serving::Live(_) => {
                let effect = self.route(None);
                self.app.pipeline = Pipeline::TakingDown { effect, stage: DownStage::Unrouting };
                true
            }
            Serving::Nothing | Serving::OutOfService(_) => {
                self.app.down_wanted = false;
                true
            }
        }
    }

    pub(super) fn down_stage_done(&mut self, stage: DownStage, result: &Result<Done, Failure>) {
        let Serving::Live(live) = self.app.serving.clone() else {
            self.app.pipeline = Pipeline::Resting;
            return;
        };
        match (stage, result) {
            (DownStage::Unrouting | DownStage::Stopping, Err(trouble)) => {
                self.note(Note::Trouble(trouble.clone()));
                self.stay_in_service(live);
            }
            (DownStage::Unrouting, Ok(_)) => {
                self.front_is_sure();
                if let Instance::Starting { effect, .. } | Instance::Waiting { effect, .. } = live.instance {
                    self.act(Action::Cancel(effect));
                    self.set_dead();
                }
                let effect = self.act(Action::Drain { color: live.color });
                self.app.pipeline = Pipeline::TakingDown { effect, stage: DownStage::Draining };
            }
            (DownStage::Draining, _) => {
                let effect = self.act(Action::Stop { color: live.color, release: live.release.id });
                self.app.pipeline = Pipeline::TakingDown { effect, stage: DownStage::Stopping };
            }
            (DownStage::Stopping, Ok(_)) => {
                self.app.serving = Serving::OutOfService(Live { instance: Instance::Dead, ..live });
                self.app.down_wanted = false;
                self.app.pipeline = Pipeline::Resting;
                self.note(Note::TakenDown);
            }
        }
    }

    /// `bgd down` failed: brings the live release back whole.
    fn stay_in_service(&mut self, live: Live) {
        self.app.pipeline = Pipeline::Resting;
        self.app.down_wanted = false;
        if !matches!(live.instance, Instance::Starting { .. } | Instance::Waiting { .. }) {
            self.start_live(0, live.color, live.release);
        }
        self.reroute();
    }
}
