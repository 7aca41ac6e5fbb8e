//! A restart is an ordinary event: the machine takes the recorded state and what bgd finds on the host. Where the front
//! routes decides what is live; the record explains it, and gives way to it. Every effect that was under way is asked
//! for again under a new number.

use super::{Turn, canary::CanaryRecord};
use crate::rules::{
    app::{
        Backup, DownStage, End, Idle, Instance, Kind, Live, Pipeline, Release, Serving, Stage, StageGroup,
        Until, Work,
    },
    effect::{Action, Note},
    event::{Facts, Routed, Want},
    ids::{Color, EffectId, ReleaseId},
    words::{Failure, Moment, Nature, Outcome, Phase},
};

impl Turn<'_> {
    pub(super) fn recovered(&mut self, facts: &Facts) {
        // Effects of the former process report no more.
        self.app.standing_in = None;
        let was_rerouting = self.app.rerouting.take().is_some();
        self.app.front_unsure = facts.routed == Routed::Unknown || facts.half_told;
        if facts.backup && self.app.backup == Backup::Absent {
            // An unrecorded flip (full disk) gave the front a backup.
            self.app.backup = Backup::Withdrawn;
        }
        let announcing = self.app.announcing.take().is_some();
        self.recover_contradiction(facts);
        self.recover_pipeline(facts);
        self.recover_idle(facts);
        self.recover_live(facts);
        self.recover_rerouting(was_rerouting || facts.half_told);
        if announcing {
            self.announce_live();
        }
        self.recover_errands();
    }

    /// Sends the route again to a front that was interrupted: it may route as recorded now and otherwise after its next
    /// start.
    fn recover_rerouting(&mut self, half_told: bool) {
        if half_told && !self.is_telling() && self.app.rerouting.is_none() {
            self.reroute();
        }
    }

    /// Adopts a release that the record does not call live: the front routes to it and no switch was under way, or it
    /// runs in the recorded release's place (an unrecorded flip on a full disk).
    fn recover_contradiction(&mut self, facts: &Facts) {
        let recorded = match &self.app.serving {
            Serving::Live(live) => Some(live.clone()),
            // An unrecorded flip (full disk) may have moved the traffic away from what `bgd up` was bringing back.
            Serving::OutOfService(live) if self.app.pipeline.deploy().is_some() => Some(live.clone()),
            Serving::Nothing => None,
            Serving::OutOfService(_) => return,
        };
        let routed = match (facts.routed, &recorded) {
            // A stand-in passes requests on to the other color.
            (Routed::Color(color), _) if facts.stands_in == Some(color) => color.other(),
            (Routed::Color(color), _) => color,
            (Routed::Nothing | Routed::Unknown, Some(live)) => live.color,
            (Routed::Nothing | Routed::Unknown, None) => return,
        };
        let runs = facts.running.get(&routed);
        let on_its_color = recorded.as_ref().filter(|live| live.color == routed);
        let replaced = on_its_color.filter(|live| runs.is_some_and(|release| *release != live.release.id));
        let work = self.app.pipeline.work().filter(|work| work.stage.group() == StageGroup::Pivot);
        let replacing = work.is_some_and(|work| matches!(work.stage, Stage::Replacing { .. }));
        let switching = work.is_some_and(|work| self.app.live().is_some() || work.color == routed);
        let explained = replacing || replaced.is_none() && (switching || on_its_color.is_some());
        if explained {
            return;
        }
        let Some(release) = runs.and_then(|id| self.named(id, facts)) else {
            let saw = format!("the front routes to {routed}, where no release of ours runs");
            return self.note(Note::Contradiction(saw));
        };
        let found = release.commit.short();
        self.note(Note::Contradiction(match (replaced, &recorded) {
            (Some(live), _) => {
                format!("{found} runs on {routed} in place of {}", live.release.commit.short())
            }
            (None, Some(live)) => format!("the front routes to {routed} ({found}), not to {}", live.color),
            (None, None) => format!("the front routes to {routed} ({found}), not to nothing"),
        }));
        self.adopt_routed(routed, release, recorded);
    }

    /// The release of that name, from the record or the state.
    fn named(&self, id: &ReleaseId, facts: &Facts) -> Option<Release> {
        let idle = match &self.app.idle {
            Idle::Vacant | Idle::Taken => None,
            Idle::Warm { release, .. } | Idle::Draining { release, .. } | Idle::Stopping { release, .. } => {
                Some(release)
            }
        };
        let live = self.app.live().map(|live| &live.release);
        let state = [live, idle, self.app.previous.as_ref(), self.app.pipeline.release()];
        state.into_iter().flatten().chain(&facts.known).find(|release| release.id == *id).cloned()
    }

    fn adopt_routed(&mut self, color: Color, release: Release, recorded: Option<Live>) {
        let adopted = release.id.clone();
        self.app.canary = None;
        let instance = Instance::Up { since: self.now(), attempt: 0 };
        let live = Live { color, release, since: self.now(), instance, healthy: None };
        self.went_live(color, live.release.clone());
        self.app.serving = Serving::Live(live);
        if let Some(recorded) = recorded {
            if recorded.color != color {
                self.app.idle = Idle::Warm { release: recorded.release.clone(), timer: None, healthy: false };
            }
            if recorded.release.id != adopted {
                self.app.previous = Some(recorded.release);
                self.hold_what_a_hand_did();
            }
        }
        self.end_contradicted(&adopted);
        // A file that somebody edited still says otherwise (promise F6).
        self.reroute();
    }

    /// A manual move of the traffic was meant: as after a flip, only a newer commit moves it again.
    fn hold_what_a_hand_did(&mut self) {
        let head = self.app.head.clone();
        let is_tip = self.app.live().map(|live| &live.release.commit) == head.as_ref();
        if self.app.hold.is_none() && head.is_some() && !is_tip {
            let reason = "another release was found live than recorded".to_owned();
            self.place_hold("bgd".to_owned(), reason, Until::NewerThan(head));
        }
    }

    /// Ends the deploy under way, which made another release than the one found live.
    fn end_contradicted(&mut self, adopted: &ReleaseId) {
        let end = End { outcome: Outcome::Failed, failure: Some(contradicted()) };
        let is_it = self.app.pipeline.release().is_some_and(|release| release.id == *adopted);
        if is_it && matches!(self.app.idle, Idle::Taken) {
            self.app.idle = Idle::Vacant;
        }
        match self.app.pipeline.clone() {
            Pipeline::Resting | Pipeline::Fetching { .. } => {}
            Pipeline::TakingDown { .. } => self.app.pipeline = Pipeline::Resting,
            Pipeline::Deploying(work) => match work.stage.group() {
                StageGroup::BeforePivot if !is_it || work.stage == Stage::Clearing => {
                    self.leave_task();
                    self.discard(work.deploy, Some(work.release), end);
                }
                StageGroup::Sharing if !is_it => {
                    // It answers the requests it has, once the front sends it no more.
                    self.app.idle = Idle::Warm { release: work.release, timer: None, healthy: false };
                    self.end_deploy(end);
                }
                StageGroup::BeforePivot
                | StageGroup::Sharing
                | StageGroup::Pivot
                | StageGroup::Live
                | StageGroup::Ending => {
                    self.end_deploy(end);
                }
            },
            Pipeline::Discarding { .. } if !is_it => {}
            Pipeline::Discarding { .. } => self.end_deploy(end),
        }
    }

    fn recover_live(&mut self, facts: &Facts) {
        let stage = self.app.pipeline.stage();
        if matches!(stage, Some(Stage::Replacing { .. })) {
            return;
        }
        // A route is under way.
        let switching =
            matches!(stage, Some(Stage::Sharing(_) | Stage::Switching(_) | Stage::Reverting { .. }));
        if matches!(self.app.pipeline, Pipeline::TakingDown { .. }) {
            // It is about to stop, so it does not start again. Timers of the former process fire no more.
            if self.app.live().is_some_and(|live| !matches!(live.instance, Instance::Up { .. })) {
                self.set_dead();
            }
            return;
        }
        let shared_right = facts.canary == self.sharing().map(|it| (it.backend.color, it.share));
        let routed_right = match &self.app.serving {
            Serving::Live(live) => facts.routed == Routed::Color(live.color),
            Serving::OutOfService(_) => facts.routed == Routed::Nothing,
            // A front that routes to a color where nothing runs would send traffic to the first instance there before
            // that is proven.
            Serving::Nothing => match facts.routed {
                Routed::Color(color) => facts.running.contains_key(&color),
                Routed::Nothing | Routed::Unknown => true,
            },
        };
        if !(switching || routed_right && shared_right) {
            self.reroute();
        }
        let Some(live) = self.app.live().cloned() else { return };
        if facts.running.get(&live.color) == Some(&live.release.id) {
            if !matches!(live.instance, Instance::Up { .. }) {
                self.set_up(live.since);
            }
        } else if self.is_leaving() {
            // It starts again only if the traffic then stays there.
            self.set_dead();
        } else {
            self.start_live(0, live.color, live.release);
        }
    }

    /// Whether the traffic is on its way back from the live release.
    fn is_leaving(&self) -> bool {
        self.reverts_switch() && matches!(self.app.idle, Idle::Warm { .. })
    }

    fn reverts_switch(&self) -> bool {
        let work = self.app.pipeline.work();
        work.is_some_and(|it| matches!(it.stage, Stage::Reverting { .. }) && self.is_switched(it))
    }

    fn set_up(&mut self, since: crate::rules::time::Time) {
        if let Serving::Live(live) = &mut self.app.serving {
            live.instance = Instance::Up { since, attempt: 0 };
        }
    }

    fn recover_idle(&mut self, facts: &Facts) {
        let color = self.app.idle_color();
        let running = facts.running.get(&color);
        if self.app.live().is_none()
            && let Some(orphan) = facts.running.get(&color.other())
        {
            self.stop_orphan(color.other(), orphan);
        }
        if self.recover_stand_in(facts) {
            return;
        }
        // An unrecorded flip (full disk) may have put another release there.
        let found = running.and_then(|id| self.named(id, facts));
        match self.app.idle.clone() {
            Idle::Taken => self.recover_taken(color, facts),
            Idle::Draining { effect, .. } | Idle::Stopping { effect, .. } if self.is_fresh(Some(effect)) => {}
            Idle::Warm { release, timer, healthy } if running == Some(&release.id) => {
                let timer = timer.map(|_| self.act(Action::Wake { after: self.context.policy.standby }));
                self.app.idle = Idle::Warm { release, timer, healthy };
                // A color that the front may route to stops after the next route.
                if facts.routed != Routed::Unknown && !may_route_to(color, facts) {
                    self.retire_leftover();
                }
            }
            Idle::Warm { release, .. } | Idle::Draining { release, .. } | Idle::Stopping { release, .. }
                if running.is_some() && may_route_to(color, facts) =>
            {
                self.app.idle = self.until_told(found.unwrap_or(release));
            }
            Idle::Vacant => self.recover_orphan(color, facts),
            Idle::Draining { release, .. } => {
                let effect = self.act(Action::Drain { color });
                self.app.idle = Idle::Draining { release: found.unwrap_or(release), effect };
            }
            Idle::Warm { release, .. } | Idle::Stopping { release, .. } => {
                self.app.idle = self.stop_idle(found.unwrap_or(release));
            }
        }
    }

    /// Keeps a release running that the front may still route to, until the next route is proven.
    fn until_told(&mut self, release: Release) -> Idle {
        if self.reverts_switch() {
            // A warm color would become the target of the way back.
            return self.stop_later(release);
        }
        Idle::Warm { release, timer: None, healthy: false }
    }

    /// Retires a warm color without a timer, unless a switch or a watch needs it.
    pub(super) fn retire_leftover(&mut self) {
        let endless = matches!(self.app.idle, Idle::Warm { timer: None, .. });
        let kept = matches!(self.app.pipeline.group(), Some(StageGroup::Pivot | StageGroup::Live));
        if endless && !kept {
            self.retire_warm();
        }
    }

    /// Stops an instance on the idle color that no deploy claims (promise D1: an orphan of an earlier release is
    /// ended).
    fn recover_orphan(&mut self, color: Color, facts: &Facts) {
        let Some(orphan) = self.unclaimed(color, facts) else { return };
        match self.named(orphan, facts) {
            Some(release) => {
                self.note_orphan(color, orphan);
                self.app.idle = if may_route_to(color, facts) {
                    self.until_told(release)
                } else {
                    self.stop_idle(release)
                };
            }
            None => self.stop_orphan(color, orphan),
        }
    }

    /// An unrecorded flip (full disk) may have put another release on the color of the deploy under way, and the front
    /// may route to it. It retires like a warm color once that deploy has ended: by then the front has a new route.
    fn recover_taken(&mut self, color: Color, facts: &Facts) {
        let Some(orphan) = self.unclaimed(color, facts) else { return };
        match self.named(orphan, facts) {
            Some(release) => {
                self.note_orphan(color, orphan);
                self.app.idle = Idle::Warm { release, timer: None, healthy: false };
            }
            None => self.stop_orphan(color, orphan),
        }
    }

    fn unclaimed<'a>(&self, color: Color, facts: &'a Facts) -> Option<&'a ReleaseId> {
        let claimed = self.app.pipeline.release().map(|release| &release.id);
        facts.running.get(&color).filter(|running| Some(*running) != claimed)
    }

    fn stop_orphan(&mut self, color: Color, orphan: &ReleaseId) {
        self.note_orphan(color, orphan);
        self.act(Action::Stop { color, release: orphan.clone() });
    }

    fn note_orphan(&mut self, color: Color, orphan: &ReleaseId) {
        self.note(Note::Contradiction(format!("{orphan} runs on {color} and nothing needs it; stopping it")));
    }

    /// Whether an earlier part of this step asked for the effect.
    fn is_fresh(&self, effect: Option<EffectId>) -> bool {
        self.effects.iter().any(|made| Some(made.id) == effect)
    }

    fn recover_pipeline(&mut self, facts: &Facts) {
        if self.is_fresh(self.app.pipeline.awaits()) {
            return;
        }
        match self.app.pipeline.clone() {
            Pipeline::Resting => {}
            Pipeline::Fetching { deploy, commit, .. } => {
                let want = match (&deploy.kind, &commit) {
                    (_, Some(commit)) => Want::Commit(commit.clone()),
                    (Kind::Manual { want, .. }, None) => want.clone(),
                    (_, None) => Want::Tip,
                };
                let effect = self.fetch(want);
                self.app.pipeline = Pipeline::Fetching { deploy, effect, commit };
            }
            Pipeline::Deploying(work) => self.recover_stage(work, facts),
            Pipeline::Discarding { deploy, release, end, .. } => self.discard(deploy, release, end),
            Pipeline::TakingDown { stage, .. } => self.recover_down(stage, facts),
        }
    }

    fn recover_stage(&mut self, work: Work, facts: &Facts) {
        let built = facts.builds.contains(&work.release.id);
        let runs = facts.running.get(&work.color) == Some(&work.release.id);
        match work.stage.clone() {
            Stage::Clearing | Stage::Retiring { .. } => {}
            // A built release was checked out, although an unrecorded step left no word of it.
            Stage::CheckingOut(_) if built => self.checked_out(work),
            Stage::Building(_) if built => self.build(work),
            Stage::CheckingOut(_) | Stage::Building(_) => self.check_out_again(work),
            // The front may route there, so that an unproven start would get traffic; or an unrecorded flip put another
            // release there, which a deploy that ends before its start would leave behind.
            Stage::Hooking(_)
            | Stage::Starting(_)
            | Stage::Probing(_)
            | Stage::Warming(_)
            | Stage::Tasking { when: Moment::BeforeStart | Moment::BeforeSwitch, .. }
                if may_route_to(work.color, facts) || another_runs(&work, facts) =>
            {
                self.app.idle = Idle::Vacant;
                self.at(work, Stage::Clearing);
            }
            Stage::Hooking(_) => self.run_before_start(work),
            Stage::Tasking { .. } => self.recover_task(work, facts),
            Stage::Probing(_) if runs => self.probe_again(work),
            Stage::Warming(_) if runs => self.warm_up(work),
            Stage::Starting(_) | Stage::Probing(_) | Stage::Warming(_) => self.start_instance(work),
            Stage::Sharing(_) => self.recover_canary(work, (CanaryRecord::HalfWay, facts)),
            Stage::Canary(_) => self.recover_canary(work, (CanaryRecord::Proven, facts)),
            Stage::Switching(_) => self.recover_switching(work, facts),
            Stage::Watching { former, .. } => self.recover_watching(work, former, facts),
            Stage::Reverting { end, .. } => self.recover_reverting(work, end, facts),
            Stage::Replacing { wanted, end, .. } => self.replace_again(work, (wanted, end), facts),
        }
    }

    /// A watched release that died while bgd was down: the former release, if still up, serves at once. With neither up
    /// (a reboot), the new one starts again and the watch decides.
    fn recover_watching(&mut self, work: Work, former: Option<Release>, facts: &Facts) {
        let gone = facts.running.get(&work.color) != Some(&work.release.id);
        if gone && self.way_back_is_warm() && self.warm_runs(facts) && self.may_go_back(former.as_ref()) {
            let failure = gone_while((work.color, Phase::Watching), "while it was watched");
            return self.watch_failed(work, former, &failure);
        }
        let period = Some(self.context.policy.watch);
        self.watch(work, (former, None), period);
    }

    fn warm_runs(&self, facts: &Facts) -> bool {
        let Idle::Warm { release, .. } = &self.app.idle else { return false };
        facts.running.get(&self.app.idle_color()) == Some(&release.id)
    }

    fn recover_reverting(&mut self, work: Work, end: End, facts: &Facts) {
        let was_switched = self.is_switched(&work);
        let Idle::Warm { release: former, .. } = self.app.idle.clone() else { return self.revert(work, end) };
        let is_back = facts.routed == Routed::Color(work.color.other()) && !facts.half_told;
        if was_switched && self.warm_runs(facts) && is_back {
            // The way back came true, but bgd ended before it had the proof.
            self.traffic_is_back(work, end);
            return self.reroute();
        }
        if !was_switched || self.warm_runs(facts) {
            return self.revert(work, end);
        }
        if facts.running.get(&work.color) == Some(&work.release.id) {
            // There is nothing to go back to now: the new release serves until the former runs again.
            self.app.previous = Some(former.clone());
            self.app.idle = self.stop_idle(former);
            self.revert(work, end);
        } else {
            // Neither runs: the release that the traffic was on its way to starts.
            self.at(work, Stage::Retiring { end });
            self.swap_back();
        }
    }

    fn check_out_again(&mut self, work: Work) {
        self.act_at(work, Stage::CheckingOut, |release, color| Action::CheckOut { release, color });
        self.enter(Phase::CheckingOut);
    }

    /// The pivot decides: where the front routes says on which side of it bgd ended.
    fn recover_switching(&mut self, work: Work, facts: &Facts) {
        let runs = facts.running.get(&work.color) == Some(&work.release.id);
        match (facts.routed, runs) {
            (Routed::Color(routed), true) if routed == work.color => {
                self.switched(work);
                // Either bgd's route was never confirmed, or somebody edited the front's file.
                self.reroute();
            }
            (_, true) => {
                let share = self.app.canary.as_ref().map(|canary| (work.color, canary.in_force().share));
                self.app.front_unsure |= share != facts.canary;
                let effect = self.route_new(&work);
                self.at(work, Stage::Switching(effect));
            }
            (_, false) => {
                let failure = gone_while((work.color, Phase::Switching), "in the middle of the switch");
                self.switch_failed(work, &failure);
            }
        }
    }

    fn recover_down(&mut self, stage: DownStage, facts: &Facts) {
        self.app.pipeline = Pipeline::Resting;
        let Serving::Live(live) = self.app.serving.clone() else { return };
        if facts.running.contains_key(&live.color.other()) {
            // An unrecorded flip (full disk) started it. It stops first, like a warm color.
            self.app.down_wanted = true;
            return;
        }
        let unrouted = facts.routed == Routed::Nothing && !facts.half_told;
        let stage = if unrouted { stage } else { DownStage::Unrouting };
        let effect = match stage {
            DownStage::Unrouting => self.route(None),
            DownStage::Draining => self.act(Action::Drain { color: live.color }),
            DownStage::Stopping => self.act(Action::Stop { color: live.color, release: live.release.id }),
        };
        self.app.pipeline = Pipeline::TakingDown { effect, stage };
    }
}

/// Whether the front gives traffic to the color, or may once it is started again.
pub(super) fn may_route_to(color: Color, facts: &Facts) -> bool {
    let shared = facts.canary.is_some_and(|(canary, _)| canary == color);
    facts.routed == Routed::Color(color) || shared || facts.half_told
}

fn another_runs(work: &Work, facts: &Facts) -> bool {
    facts.running.get(&work.color).is_some_and(|running| *running != work.release.id)
}

fn contradicted() -> Failure {
    Failure {
        phase: Phase::Switching,
        nature: Nature::Transient,
        cause: "another release was found live after a restart".to_owned(),
        hint: Some("`bgd status` shows what serves; `bgd deploy` tries again".to_owned()),
        log_tail: Vec::new(),
    }
}

pub(super) fn gone_while((color, phase): (Color, Phase), when: &str) -> Failure {
    Failure {
        phase,
        nature: Nature::Deterministic,
        cause: format!("the new instance was gone when bgd came back {when}"),
        hint: Some(format!("`bgd logs --color {color}` shows its last words; `bgd deploy` tries again")),
        log_tail: Vec::new(),
    }
}
