//! A deploy on its way forward: one function a phase, called with the result of that phase's effect.

use std::time::Duration;

use super::Turn;
use crate::rules::{
    app::{
        Deploy, End, Hold, Idle, Instance, Kind, Live, Pipeline, Progress, Release, Serving, Stage, Until,
        Work,
    },
    effect::{Action, Backend, Hook, Note},
    event::{Done, Want},
    ids::{CommitId, DeployId, EffectId, ReleaseId},
    words::{Failure, Moment, Phase},
};

impl Turn<'_> {
    /// Begins a deploy that needs a fetch.
    pub(super) fn begin(&mut self, deploy: Deploy, want: Want) {
        let commit = match &want {
            Want::Commit(commit) => Some(commit.clone()),
            Want::Tip | Want::Rev(_) => None,
        };
        let effect = self.fetch(want);
        self.app.pipeline = Pipeline::Fetching { deploy, effect, commit };
        self.note(Note::DeployStarted);
        self.enter(Phase::Fetching);
    }

    pub(super) fn fetch(&mut self, want: Want) -> EffectId {
        let landmarks = self.app.landmarks();
        self.act(Action::Fetch { want, landmarks })
    }

    pub(super) fn new_deploy(&self, id: DeployId, kind: Kind, by: String) -> Deploy {
        let (started, phase_since) = (self.now(), self.now());
        let progress = Progress::default();
        Deploy { id, kind, by, started, phase_since, migration: None, forced: false, progress }
    }

    /// Carries the deploy on when `effect` is the one it waits for; returns false when it is not. Until the next stage is
    /// set the state stays what it was: notes name the deploy that it holds.
    pub(super) fn pipeline_done(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        if self.app.pipeline.awaits() != Some(effect) {
            return false;
        }
        match self.app.pipeline.clone() {
            Pipeline::Resting => {}
            Pipeline::Fetching { deploy, commit, .. } => self.fetched(deploy, commit, result),
            Pipeline::Deploying(work) => self.stage_done(work, result),
            Pipeline::Discarding { release, end, .. } => self.discarded(release, end, result),
            Pipeline::TakingDown { stage, .. } => self.down_stage_done(stage, result),
        }
        true
    }

    fn stage_done(&mut self, work: Work, result: &Result<Done, Failure>) {
        match (work.stage.clone(), result) {
            (Stage::Clearing | Stage::Retiring { .. }, _) => {}
            (Stage::CheckingOut(_), Ok(_)) => self.checked_out(work),
            (Stage::Building(_), Ok(_)) => self.built(work),
            (Stage::Hooking(_), Ok(_)) => self.hook_ran(work),
            (Stage::Tasking { .. }, result) => self.task_ran(work, result),
            (Stage::Starting(_), Ok(_)) => self.started(work),
            (Stage::Probing(_), Ok(_)) => self.proven_healthy(work),
            (Stage::Warming(_), Ok(_)) => self.warmed_up(work),
            (
                Stage::CheckingOut(_)
                | Stage::Building(_)
                | Stage::Hooking(_)
                | Stage::Starting(_)
                | Stage::Probing(_)
                | Stage::Warming(_),
                Err(failure),
            ) => self.fail(work, failure),
            (Stage::Sharing(_), Ok(_)) => self.shared(work),
            (Stage::Sharing(_), Err(failure)) => self.share_refused(work, failure),
            (Stage::Canary(_), Ok(done)) => self.step_passed(work, done),
            (Stage::Canary(_), Err(failure)) => {
                self.canary_failed(work, &Failure { phase: Phase::Canary, ..failure.clone() });
            }
            (Stage::Switching(_), Ok(_)) => self.switched(work),
            (Stage::Switching(_), Err(failure)) => self.switch_failed(work, failure),
            (Stage::Watching { former, held, .. }, Ok(done)) => match self.too_little(done, &held) {
                Some(seen) => self.keep_watching(work, former, seen),
                None => self.watch_passed(work, former),
            },
            (Stage::Watching { former, .. }, Err(failure)) => self.watch_failed(work, former, failure),
            (Stage::Reverting { end, telling, .. }, result) => self.reverted(work, (end, telling), result),
            (Stage::Replacing { wanted, by, end, .. }, result) => {
                self.replaced(work, (wanted, end, by), result);
            }
        }
    }

    fn fetched(&mut self, mut deploy: Deploy, asked: Option<CommitId>, result: &Result<Done, Failure>) {
        let (commit, subject, author, news) = match result {
            Ok(Done::Fetched { commit, subject, author, news }) => {
                (commit.clone(), subject.clone(), author.clone(), news)
            }
            Ok(Done::Ensured | Done::Inconclusive { .. } | Done::Started { .. } | Done::Ran(_)) => {
                return self.fetch_failed(deploy, asked, None);
            }
            Err(failure) => return self.fetch_failed(deploy, asked, Some(failure.clone())),
        };
        self.stepped(&mut deploy, Phase::Fetching);
        let id = ReleaseId::new(&self.context.utc, deploy.id.0, &commit);
        let release = Release { id, commit, subject, author };
        self.pass_gates(&deploy.kind, &release.commit);
        if let Some(Live { color, release, .. }) = self.tip_went_live_meanwhile(&deploy.kind, &release) {
            let stage = Stage::Retiring { end: End::live() };
            self.app.pipeline = Pipeline::Deploying(Work { deploy, release, color, stage });
            return;
        }
        if let Some(failure) = self.judge_schema((&mut deploy, &release.commit), news) {
            return self.fetch_failed(deploy, Some(release.commit), Some(failure));
        }
        let color = self.app.idle_color();
        let effect = self.act(Action::CheckOut { release: release.clone(), color });
        let stage = Stage::CheckingOut(effect);
        self.app.pipeline = Pipeline::Deploying(Work { deploy, release, color, stage });
        self.note(Note::ReleaseNamed);
        self.enter(Phase::CheckingOut);
    }

    /// The live release that satisfies a `bgd deploy` of the tip, because a deploy of that very commit was under way at
    /// the time of the request.
    fn tip_went_live_meanwhile(&self, kind: &Kind, release: &Release) -> Option<Live> {
        let Kind::Manual { want: Want::Tip, live: then, .. } = kind else { return None };
        let live = self.app.live()?;
        let meanwhile = live.release.commit == release.commit && *then != Some(live.release.id.clone());
        meanwhile.then(|| live.clone())
    }

    pub(super) fn checked_out(&mut self, mut work: Work) {
        self.stepped(&mut work.deploy, Phase::CheckingOut);
        self.build(work);
        self.enter(Phase::Building);
    }

    pub(super) fn build(&mut self, work: Work) {
        self.act_at(work, Stage::Building, |release, color| Action::Build { release, color });
    }

    fn built(&mut self, mut work: Work) {
        self.stepped_within(&mut work.deploy, Phase::Building);
        self.run_tasks(work, Moment::AfterBuild);
    }

    /// Goes on to the start, which needs the idle color vacant.
    pub(super) fn clear_then_start(&mut self, work: Work) {
        self.at(work, Stage::Clearing);
        self.enter(Phase::Starting);
        self.retire_warm();
    }

    pub(super) fn settle_clearing(&mut self) -> bool {
        // While a route is sent again, the front may still send requests to the idle color.
        if !self.idle_is_vacant() || self.app.rerouting.is_some() {
            return false;
        }
        let Some(work) = self.app.pipeline.work().cloned() else { return false };
        // The commands of a contract wait for the record, behind a flip too: a crash would forget the barrier.
        if self.context.unrecorded && self.raises_barrier(&work) {
            return false;
        }
        self.app.idle = Idle::Taken;
        // The idle color may have changed since this deploy was made.
        let work = Work { color: self.app.idle_color(), ..work };
        let hooked = matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. });
        if hooked && self.context.policy.before_start {
            self.run_before_start(work);
        } else {
            self.run_tasks(work, Moment::BeforeStart);
        }
        true
    }

    pub(super) fn run_before_start(&mut self, mut work: Work) {
        self.raise_barrier(&work);
        work.deploy.progress.aside_since.get_or_insert(self.context.now);
        let deploy = Some(work.deploy.id);
        self.act_at(work, Stage::Hooking, |release, color| Action::RunHook {
            hook: Hook::BeforeStart,
            release,
            color,
            failure: None,
            deploy,
        });
    }

    fn hook_ran(&mut self, mut work: Work) {
        self.aside_over(&mut work.deploy);
        self.run_tasks(work, Moment::BeforeStart);
    }

    /// Starts the release. Without a hook or a task the release may migrate as it starts.
    pub(super) fn start_instance(&mut self, work: Work) {
        self.raise_barrier(&work);
        self.act_at(work, Stage::Starting, |release, color| Action::Start { release, color });
    }

    fn started(&mut self, mut work: Work) {
        self.stepped(&mut work.deploy, Phase::Starting);
        self.probe(work);
    }

    pub(super) fn probe(&mut self, work: Work) {
        self.probe_again(work);
        self.enter(Phase::Probing);
    }

    pub(super) fn probe_again(&mut self, work: Work) {
        self.act_at(work, Stage::Probing, |release, color| Action::Probe { release, color });
    }

    fn proven_healthy(&mut self, mut work: Work) {
        self.stepped_within(&mut work.deploy, Phase::Probing);
        self.run_tasks(work, Moment::BeforeSwitch);
    }

    pub(super) fn warm_up_or_share(&mut self, work: Work) {
        let rollback = work.deploy.kind == Kind::Rollback;
        if self.context.policy.warmup && !rollback {
            self.warm_up(work);
        } else {
            self.share_or_switch(work);
        }
    }

    pub(super) fn warm_up(&mut self, work: Work) {
        self.act_at(work, Stage::Warming, |release, color| Action::WarmUp { release, color });
        self.enter(Phase::Warming);
    }

    fn warmed_up(&mut self, mut work: Work) {
        self.stepped(&mut work.deploy, Phase::Warming);
        self.share_or_switch(work);
    }

    /// The pivot: from here on bgd rolls forward, or back through the same machine.
    pub(super) fn switch(&mut self, work: Work) {
        self.overtake_rerouting(&work);
        let effect = self.route_new(&work);
        self.at(work, Stage::Switching(effect));
        self.enter(Phase::Switching);
    }

    /// The front is proven to route to the new color.
    pub(super) fn switched(&mut self, mut work: Work) {
        self.front_is_sure();
        self.app.canary = None;
        self.stepped(&mut work.deploy, Phase::Switching);
        let former = self.make_live(&work);
        self.went_live(work.color, work.release.clone());
        self.line_up(&work, Moment::AfterLive);
        self.pin_or_unpin(&work);
        if self.is_watched(&work) {
            let period = Some(self.context.policy.watch);
            self.watch(work, (former, None), period);
            self.enter(Phase::Watching);
        } else {
            self.line_up(&work, Moment::AfterWatch);
            self.adopt_as_previous(former);
            self.retire(work, End::live());
        }
    }

    /// Whether the deploy's release is watched once it is live.
    pub(super) fn is_watched(&self, work: &Work) -> bool {
        let new = matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. });
        new && !self.context.policy.watch.is_zero() && !self.app.down_wanted
    }

    pub(super) fn watch(
        &mut self,
        work: Work,
        (former, held): (Option<Release>, Option<String>),
        period: Option<Duration>,
    ) {
        let effect = self.act(Action::Watch { release: work.release.clone(), color: work.color, period });
        self.at(work, Stage::Watching { effect, former, held });
    }

    /// Makes the new release the live one; the former stays warm on what is now the idle color.
    fn make_live(&mut self, work: &Work) -> Option<Release> {
        let live = Live {
            color: work.color,
            release: work.release.clone(),
            since: self.now(),
            instance: Instance::Up { since: self.now(), attempt: 0 },
            healthy: Some(true),
        };
        let former = std::mem::replace(&mut self.app.serving, Serving::Live(live));
        self.app.idle = Idle::Vacant;
        let Serving::Live(former) = former else { return None };
        self.app.idle = match former.instance {
            Instance::Up { .. } => Idle::Warm {
                release: former.release.clone(),
                timer: None,
                healthy: former.healthy != Some(false),
            },
            Instance::Starting { effect, .. } | Instance::Waiting { effect, .. } => {
                self.act(Action::Cancel(effect));
                self.stop_idle(former.release.clone())
            }
            Instance::Dead => self.stop_idle(former.release.clone()),
        };
        Some(former.release)
    }

    /// Places a hold until a newer commit for a manual deploy of another release than the tip; a deploy of the tip ends
    /// such a hold.
    fn pin_or_unpin(&mut self, work: &Work) {
        if !matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. }) {
            return;
        }
        let is_tip = self.app.head.as_ref().is_none_or(|head| *head == work.release.commit);
        let pinned = matches!(self.app.hold, Some(Hold { until: Until::NewerThan(_), .. }));
        if is_tip && pinned {
            self.app.hold = None;
            return self.note(Note::HoldReleased { why: "the tip of the branch was deployed".to_owned() });
        }
        let Kind::Manual { tip, .. } = &work.deploy.kind else { return };
        // A tip that arrived after the request is newer than it: no hold.
        if !is_tip && self.app.hold.is_none() && self.app.head == *tip {
            let hold = Hold {
                by: work.deploy.by.clone(),
                reason: format!("{} was deployed by hand", work.release.commit.short()),
                since: self.now(),
                until: Until::NewerThan(self.app.head.clone()),
                pins: Some(work.deploy.id),
            };
            self.hold(hold);
        }
    }

    pub(super) fn watch_passed(&mut self, mut work: Work, former: Option<Release>) {
        self.stepped(&mut work.deploy, Phase::Watching);
        self.line_up(&work, Moment::AfterWatch);
        self.adopt_as_previous(former);
        self.retire(work, End::live());
    }

    pub(super) fn adopt_as_previous(&mut self, former: Option<Release>) {
        if former.is_some() {
            self.app.previous = former;
        }
    }
}

pub(super) fn backend(release: &Release, color: crate::rules::ids::Color) -> Backend {
    Backend { color, release: release.id.clone(), commit: release.commit.clone() }
}
