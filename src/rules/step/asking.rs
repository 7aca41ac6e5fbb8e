//! Requests of operators: carried out, joined to what is under way, queued, or denied with a reason. The way back,
//! `flip`, pre-empts a deploy in any phase (promise I3).

use super::{AskReply, Blocked, Denial, DenialKind, Turn, flip_refusal, wanted};
use crate::rules::{
    advice::{Advice, Verb},
    app::{
        Deploy, End, Hold, Idle, Kind, Live, Pipeline, Queued, Release, Serving, Stage, StageGroup, Until,
        Verdict, Work,
    },
    effect::{Action, Note},
    event::{Ask, Want},
    ids::{CommitId, EffectId, ReleaseId},
    words::{Outcome, Phase},
};

impl Turn<'_> {
    pub(super) fn asked(&mut self, by: &str, ask: &Ask) {
        let answer = match ask {
            Ask::Deploy(want) => self.asked_deploy(by, want, false),
            Ask::ForceDeploy(want) => self.asked_deploy(by, want, true),
            Ask::Flip => flip_refusal(&self.app).map_or_else(|| self.flip(by), AskReply::Denied),
            Ask::ForceFlip => self.asked_flip_by_force(by),
            Ask::Hold { reason } => {
                self.place_hold(by.to_owned(), reason.clone(), Until::Resumed);
                AskReply::Said("automatic deploys are off; `bgd resume` turns them on again".to_owned())
            }
            Ask::Resume => self.asked_resume(by),
            Ask::SetShare(share) => self.asked_share(*share),
            Ask::ResumeSteps => self.asked_resume_steps(),
            Ask::Promote => self.asked_promote(),
            Ask::NextStep => self.asked_next_step(),
            Ask::Down => self.asked_down(),
            Ask::Up => self.asked_up(by),
        };
        self.answer = Some(answer);
    }

    fn asked_deploy(&mut self, by: &str, want: &Want, forced: bool) -> AskReply {
        if self.app.down_wanted || matches!(self.app.serving, Serving::OutOfService(_)) {
            return denied(DenialKind::Held, "the app was taken out of service by `bgd down`", Verb::Up);
        }
        if let Some(Hold { by, reason, until: Until::Resumed, .. }) = &self.app.hold {
            let message = format!("deploys are on hold by {by}: {reason}");
            return denied(DenialKind::Held, &message, Verb::Resume);
        }
        let id = self.fresh();
        if matches!(self.app.pipeline, Pipeline::Resting) && !self.context.unrecorded {
            let kind = Kind::Manual { want: want.clone(), live: self.live_id(), tip: self.app.head.clone() };
            let deploy = Deploy { forced, ..self.new_deploy(id, kind, by.to_owned()) };
            self.begin(deploy, want.clone());
        } else {
            let (live, tip) = (self.live_id(), self.app.head.clone());
            let queued = Queued { id, want: want.clone(), by: by.to_owned(), live, tip, forced };
            if let Some(older) = self.app.queued.replace(queued.clone()) {
                self.note(Note::QueueReplaced(older));
            }
            self.note(Note::Queued(queued));
        }
        AskReply::Deploying(id)
    }

    fn live_id(&self) -> Option<ReleaseId> {
        self.app.live().map(|live| live.release.id.clone())
    }

    fn asked_resume(&mut self, by: &str) -> AskReply {
        if self.app.hold.take().is_none() {
            return AskReply::Said("there was no hold; automatic deploys are on".to_owned());
        }
        self.note(Note::HoldReleased { why: format!("resumed by {by}") });
        let bad = matches!(wanted(&self.app, self.now()), Err(Blocked::BadCommit));
        AskReply::Said(match self.app.head.as_ref().filter(|_| bad) {
            Some(head) => format!(
                "automatic deploys are on again, but not of {head}, which is marked bad: push a newer commit, or \
                 `bgd deploy` to try it again",
                head = head.short()
            ),
            None => "automatic deploys are on again".to_owned(),
        })
    }

    /// Goes back, or cancels the deploy under way.
    pub(super) fn flip(&mut self, by: &str) -> AskReply {
        self.drop_queue();
        match self.app.pipeline.clone() {
            Pipeline::Resting if self.app.down_wanted => being_taken_down(),
            Pipeline::Resting if self.stands_in() => moved_already(self.app.live()),
            Pipeline::Resting => self.roll_back(by),
            Pipeline::TakingDown { .. } => being_taken_down(),
            Pipeline::Fetching { deploy, .. } => self.cancel_before_pivot(by, &deploy),
            Pipeline::Deploying(work) => self.flip_at(by, work),
            Pipeline::Discarding { deploy, .. } => self.goes_already(by, &deploy),
        }
    }

    fn flip_at(&mut self, by: &str, work: Work) -> AskReply {
        match (work.stage.clone(), work.stage.group()) {
            (Stage::Switching(effect), _) => self.cancel_switch(by, work, effect),
            (Stage::Watching { effect, former, .. }, _) => self.cancel_watch(by, work, (effect, former)),
            // The deploy is itself the way back, so the flip joins it.
            (Stage::Replacing { .. }, _) if work.deploy.kind == Kind::Rollback => {
                AskReply::RollingBack(work.deploy.id)
            }
            (Stage::Retiring { .. }, _) if self.app.down_wanted => being_taken_down(),
            (Stage::Retiring { end }, _) if end.outcome == Outcome::Live => {
                self.end_deploy(end);
                self.roll_back(by)
            }
            (_, StageGroup::BeforePivot | StageGroup::Sharing) => self.cancel_before_pivot(by, &work.deploy),
            (_, StageGroup::Pivot | StageGroup::Live | StageGroup::Ending) => {
                self.goes_already(by, &work.deploy)
            }
        }
    }

    /// The traffic is back already, or on its way; what remains is to mark the commit bad and to place the hold.
    fn goes_already(&mut self, by: &str, deploy: &Deploy) -> AskReply {
        self.condemn(by);
        AskReply::Cancelling(deploy.id)
    }

    /// Drops the queued deploy: a flip or a `down` is newer than it.
    fn drop_queue(&mut self) {
        if let Some(older) = self.app.queued.take() {
            self.note(Note::QueueReplaced(older));
        }
    }

    /// A second flip joins the first: cancelling a rollback would keep the bad release live.
    fn cancel_before_pivot(&mut self, by: &str, deploy: &Deploy) -> AskReply {
        match deploy.kind {
            Kind::Rollback => AskReply::RollingBack(deploy.id),
            Kind::Push | Kind::Manual { .. } | Kind::Up => {
                self.condemn(by);
                self.abandon(Outcome::Cancelled);
                AskReply::Cancelling(deploy.id)
            }
        }
    }

    fn cancel_switch(&mut self, by: &str, work: Work, switch: EffectId) -> AskReply {
        let id = work.deploy.id;
        if work.deploy.kind == Kind::Rollback {
            return AskReply::RollingBack(id);
        }
        self.condemn(by);
        self.act(Action::Cancel(switch));
        self.revert(work, cancelled());
        AskReply::Cancelling(id)
    }

    fn cancel_watch(
        &mut self,
        by: &str,
        mut work: Work,
        (watch, former): (EffectId, Option<Release>),
    ) -> AskReply {
        if !self.way_back_is_warm() {
            if former.is_none() && self.app.previous.is_none() {
                return no_way_back(&work.release);
            }
            // The former instance died meanwhile or is unwell: the way back is a rollback that proves it first.
            self.act(Action::Cancel(watch));
            self.adopt_as_previous(former);
            self.end_deploy(End::live());
            return self.roll_back(by);
        }
        let id = work.deploy.id;
        self.condemn(by);
        self.act(Action::Cancel(watch));
        self.stepped(&mut work.deploy, Phase::Watching);
        self.enter(Phase::Switching);
        // The operator who flipped owns what follows.
        by.clone_into(&mut work.deploy.by);
        self.revert(work, cancelled());
        AskReply::Cancelling(id)
    }

    /// Marks the commit of the deploy under way bad, and places a hold until a newer commit.
    fn condemn(&mut self, by: &str) {
        let Some(deploy) = self.app.pipeline.deploy().cloned() else { return };
        if !matches!(deploy.kind, Kind::Push | Kind::Manual { .. }) {
            return;
        }
        let commit = self.app.pipeline.commit().cloned();
        if let Some(commit) = commit.clone().filter(|commit| !self.serves_anyway(commit)) {
            self.judge(commit, Verdict::Bad { deploy: deploy.id, why: format!("flipped away by {by}") });
        }
        self.hold_until_newer(by, commit);
    }

    /// Whether the commit serves, or will again, without the deploy under way, which then is a redeploy of it.
    fn serves_anyway(&self, commit: &CommitId) -> bool {
        let work = self.app.pipeline.work();
        let other = match (work.map(|work| &work.stage), &self.app.idle) {
            (Some(Stage::Watching { former, .. }), _) => former.as_ref(),
            (Some(Stage::Reverting { .. }), Idle::Warm { release, .. })
                if work.is_some_and(|work| self.is_switched(work)) =>
            {
                Some(release)
            }
            _ => self.app.live().map(|live| &live.release),
        };
        other.is_some_and(|release| release.commit == *commit)
    }

    fn hold_until_newer(&mut self, by: &str, commit: Option<CommitId>) {
        // A hold placed by hand is stronger: it stays until it is resumed.
        if matches!(self.app.hold, Some(Hold { until: Until::Resumed, .. })) {
            return;
        }
        let from = commit.as_ref().map(|commit| format!(" from {}", commit.short())).unwrap_or_default();
        let reason = format!("flipped away{from}");
        // The hold ends with a commit newer than the tip: the operator who flipped knew the tip.
        let until = Until::NewerThan(self.app.head.clone().or(commit));
        self.place_hold(by.to_owned(), reason, until);
    }

    /// Moves the traffic to the release that was live before: a deploy of an older release.
    fn roll_back(&mut self, by: &str) -> AskReply {
        let live = match &self.app.serving {
            Serving::Live(live) => live.clone(),
            Serving::OutOfService(_) => {
                let message =
                    "there is no way back: nothing is live, the app was taken out of service by `bgd down`";
                return denied(DenialKind::NothingLive, message, Verb::Up);
            }
            Serving::Nothing => {
                return denied(
                    DenialKind::NothingLive,
                    "there is no way back: nothing is live yet",
                    Verb::Deploy,
                );
            }
        };
        let Some(to) = self.app.previous.clone() else {
            return no_way_back(&live.release);
        };
        self.abandon_live(by, &live, &to);
        let id = self.fresh();
        let deploy = self.new_deploy(id, Kind::Rollback, by.to_owned());
        self.roll_back_to(deploy, to);
        AskReply::RollingBack(id)
    }

    fn abandon_live(&mut self, by: &str, live: &Live, to: &Release) {
        self.app.verdicts.remove(&to.commit);
        if live.release.commit == to.commit {
            return;
        }
        let bad = Verdict::Bad { deploy: self.context.fresh, why: format!("flipped away by {by}") };
        self.judge(live.release.commit.clone(), bad);
        self.hold_until_newer(by, Some(live.release.commit.clone()));
    }

    pub(super) fn roll_back_to(&mut self, deploy: Deploy, to: Release) {
        let color = self.app.idle_color();
        let work = Work { deploy, release: to.clone(), color, stage: Stage::Clearing };
        self.app.pipeline = Pipeline::Deploying(work.clone());
        self.note(Note::DeployStarted);
        match self.app.idle.clone() {
            Idle::Warm { release, timer, healthy } if release.id == to.id => {
                if let Some(timer) = timer {
                    self.act(Action::Cancel(timer));
                }
                self.app.idle = Idle::Taken;
                if healthy { self.switch(work) } else { self.probe(work) }
            }
            Idle::Draining { release, effect } if release.id == to.id => {
                self.act(Action::Cancel(effect));
                self.app.idle = Idle::Taken;
                self.probe(work);
            }
            Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. } => self.clear_then_start(work),
        }
    }

    fn asked_down(&mut self) -> AskReply {
        match &self.app.serving {
            // `bgd up` under way is called off.
            Serving::OutOfService(_) if self.app.pipeline.deploy().is_some() => {}
            Serving::OutOfService(_) => {
                return AskReply::Said("the app is out of service already".to_owned());
            }
            Serving::Nothing => {
                let hint = "bgd hold -m TEXT stops deploys; bgd flip cancels the one under way";
                return denied(DenialKind::NothingLive, "nothing to take down: nothing is live yet", hint);
            }
            Serving::Live(_) => {}
        }
        self.app.down_wanted = true;
        self.drop_queue();
        match (self.app.pipeline.group(), self.app.pipeline.work().cloned()) {
            (Some(StageGroup::BeforePivot | StageGroup::Sharing), _) => self.abandon(Outcome::Cancelled),
            (Some(StageGroup::Live), Some(work)) => self.end_watch(work),
            (None | Some(StageGroup::Live | StageGroup::Pivot | StageGroup::Ending), _) => {}
        }
        AskReply::TakingDown
    }

    /// Ends the watch well, so that `bgd down` can take the release down.
    fn end_watch(&mut self, work: Work) {
        let Stage::Watching { effect, former, .. } = work.stage.clone() else { return };
        self.act(Action::Cancel(effect));
        self.adopt_as_previous(former);
        self.retire(work, End::live());
    }

    fn asked_up(&mut self, by: &str) -> AskReply {
        let Serving::OutOfService(live) = &self.app.serving else {
            if self.app.down_wanted {
                return denied(DenialKind::Held, "the app is still being taken out of service", Verb::Status);
            }
            return AskReply::Said("the app is in service".to_owned());
        };
        if let Some(deploy) = self.app.pipeline.deploy() {
            return AskReply::Deploying(deploy.id);
        }
        let release = live.release.clone();
        let id = self.fresh();
        let deploy = self.new_deploy(id, Kind::Up, by.to_owned());
        let work = Work { deploy, release, color: self.app.idle_color(), stage: Stage::Clearing };
        self.app.pipeline = Pipeline::Deploying(work.clone());
        self.note(Note::DeployStarted);
        self.clear_then_start(work);
        AskReply::Deploying(id)
    }
}

fn being_taken_down() -> AskReply {
    denied(DenialKind::Held, "the app is being taken out of service by `bgd down`", Verb::Up)
}

/// The front can't be moved: a flip would wait for it and then bring the abandoned release back.
fn moved_already(live: Option<&Live>) -> AskReply {
    let live = live.map_or("the live release", |live| live.release.commit.short());
    let message = format!("the front can't be moved yet; {live} gets all of the traffic past it already");
    denied(
        DenialKind::Held,
        &message,
        "`bgd doctor` names what the front refuses; when that is mended, `bgd flip` again",
    )
}

fn no_way_back(live: &Release) -> AskReply {
    let message =
        format!("there is no way back: no release was live before {}, which serves on", live.commit.short());
    denied(DenialKind::NoWayBack, &message, "`bgd deploy --rev REV` goes to any commit of the remote")
}

fn cancelled() -> End {
    End { outcome: Outcome::Cancelled, failure: None }
}

pub(super) fn denied(kind: DenialKind, message: &str, advice: impl Into<Advice>) -> AskReply {
    AskReply::Denied(Denial { kind, message: message.to_owned(), advice: advice.into() })
}
