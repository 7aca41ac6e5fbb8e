//! Workers follow the live release. Which ones are to work is a function of the state, asked for at the end of each
//! step: what it gives is an action only when it differs from what was asked for last, and after each restart.

use super::Turn;
use crate::rules::{
    app::{DownStage, Idle, Kind, Pipeline, Serving, Stage, StageGroup, Telling},
    effect::Action,
    event::Event,
    ids::ReleaseId,
    words::{Failure, Nature, Outcome, Phase},
    workers::{WantedWorkers, WorkerSlot, WorkersOf},
};

/// How a worker died: exit code or signal, and the end of its log.
pub(super) type WorkerDeath<'a> = (&'a WorkerSlot, &'a str, &'a [String]);

impl Turn<'_> {
    /// Asks for the workers that the state wants, if others were asked for last, or nobody knows what became of them.
    pub(super) fn settle_workers(&mut self, event: &Event) {
        let wanted = self.wanted_workers();
        let unknown = match event {
            Event::Recovered(facts) => self.context.policy.workers || facts.workers,
            _ => false,
        };
        if wanted != self.app.workers || unknown {
            self.app.workers = wanted.clone();
            self.act(Action::Workers(wanted));
        }
    }

    fn wanted_workers(&self) -> WantedWorkers {
        if !self.context.policy.workers {
            return WantedWorkers::default();
        }
        let live = self.app.live().filter(|_| !self.is_turned_away());
        let live = live.map(|live| WorkersOf { release: live.release.clone(), color: live.color });
        let watched = match (&live, self.is_undecided()) {
            (Some(_), true) => self.app.workers.watched.clone(),
            (_, false) | (None, _) => live.clone(),
        };
        WantedWorkers { quiet: live.is_some() && self.traffic_leaves(), live, watched }
    }

    /// `bgd down` has turned the traffic away.
    fn is_turned_away(&self) -> bool {
        matches!(
            self.app.pipeline,
            Pipeline::TakingDown { stage: DownStage::Draining | DownStage::Stopping, .. }
        )
    }

    /// Whether it is still open that the live release stays: it is watched, the traffic is on its way back from it, or
    /// `bgd down` is next.
    fn is_undecided(&self) -> bool {
        let Some(work) = self.app.pipeline.work() else { return self.app.down_wanted };
        let switched = self.is_switched(work);
        // After a failed watch the former release is started again, and proven first.
        let rolls_back = work.deploy.kind == Kind::Rollback && !switched;
        let leaves = switched && work.stage.end().is_some_and(|end| end.outcome != Outcome::Live);
        self.app.down_wanted || rolls_back || leaves || work.stage.group() == StageGroup::Live
    }

    /// Whether the front is just asked to move the traffic away from the live release.
    fn traffic_leaves(&self) -> bool {
        let Some(work) = self.app.pipeline.work() else { return false };
        match &work.stage {
            Stage::Switching(_) => true,
            // A front that refuses the way back may do so for long: then the workers work on.
            Stage::Reverting { telling: Telling::Now { attempt: 1 }, .. } => {
                self.is_switched(work) && matches!(self.app.idle, Idle::Warm { .. })
            }
            _ => false,
        }
    }

    /// A worker of the watched release that dies is as bad as an instance that dies: the way back is taken. Otherwise
    /// it is only started again, which the engine does by itself.
    pub(super) fn worker_died(&mut self, release: &ReleaseId, (worker, how, last_words): WorkerDeath<'_>) {
        let Some((work, watch, former)) = self.watched() else {
            return self.ignore(format!("the worker {worker} of {release} died outside of a watch"));
        };
        if work.release.id != *release || former.is_none() {
            return self
                .ignore(format!("the worker {worker} of {release} died; there is no way back from it"));
        }
        self.act(Action::Cancel(watch));
        let failure = Failure {
            phase: Phase::Watching,
            nature: Nature::Deterministic,
            cause: format!("the worker {worker} died while the release was watched: {how}"),
            hint: Some(format!("`bgd logs --worker {}` shows its last words; push a fix", worker.name)),
            log_tail: last_words.to_vec(),
        };
        self.watch_failed(work, former, &failure);
    }

    /// The last process of a worker that left has ended: nothing uses its release's directory any more.
    pub(super) fn worker_left(&mut self, release: &ReleaseId) {
        let rests = self.app.pipeline == Pipeline::Resting && !self.context.unrecorded;
        let protect = self.app.needed_releases();
        if rests && !matches!(self.app.serving, Serving::Nothing) && !protect.contains(release) {
            self.act(Action::Prune { before: self.next_release(), protect });
        } else {
            self.ignore(format!(
                "a worker of {release} has left; the end of a deploy removes what is not needed"
            ));
        }
    }
}
