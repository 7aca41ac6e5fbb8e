//! The guard on the way back over a contract migration: when its barrier goes up, and what the barrier refuses: flips,
//! deploys of older commits, and the automatic way back.

use super::{AskReply, Denial, DenialKind, Turn};
use crate::rules::{
    app::{App, Deploy, End, Kind, Release, Work},
    barrier::{Barrier, OnFailure, SchemaNews, Stranded},
    effect::Note,
    event::Want,
    ids::CommitId,
    words::{Failure, Nature, Outcome, Phase},
};

/// Why a flip without force is refused because of the barrier; `None` if the barrier is not in its way.
pub fn flip_refusal(app: &App) -> Option<Denial> {
    let to = &app.flips_to()?.commit;
    Some(refusal(app.barrier_after(to)?, to, "`bgd flip --force` does it all the same"))
}

/// Why a deploy of this commit by its name is refused without force. `contained`: git found the contract in the commit.
pub fn deploy_refusal(app: &App, to: &CommitId, contained: bool) -> Option<Denial> {
    let barrier = app.barrier_after(to).filter(|_| !contained)?;
    Some(refusal(barrier, to, FORCE_DEPLOY))
}

const FORCE_DEPLOY: &str = "`bgd deploy --force` does it all the same";

fn refusal(barrier: &Barrier, to: &CommitId, advice: &'static str) -> Denial {
    Denial { kind: DenialKind::Barred, message: barrier.objection(to), advice: advice.into() }
}

impl Turn<'_> {
    /// Puts up the deploy's barrier, if it has a contract. Called in the step that asks for the first effect that may
    /// change the database, and so recorded before that runs: a crash in between can't forget it.
    pub(super) fn raise_barrier(&mut self, work: &Work) {
        let now = self.now();
        if let Some(barrier) = self.app.raise_barrier((&work.deploy, &work.release), now) {
            self.note(Note::BarrierSet(barrier));
        }
    }

    /// Whether the first command of the deploy puts up a barrier.
    pub(super) fn raises_barrier(&self, work: &Work) -> bool {
        let contract = work.deploy.migration.as_ref().is_some_and(|migration| migration.contract.is_some());
        contract && self.app.barrier.as_ref().is_none_or(|barrier| barrier.deploy != work.deploy.id)
    }

    /// A flip by force: the same as without, and a note of the barrier that it passes.
    pub(super) fn asked_flip_by_force(&mut self, by: &str) -> AskReply {
        let to = self.app.flips_to().map(|release| release.commit.clone());
        let passed = to.and_then(|to| Some((self.app.barrier_after(&to).cloned()?, to)));
        let answer = self.flip(by);
        if let (Some((barrier, to)), false) = (passed, matches!(answer, AskReply::Denied(_))) {
            self.pass(to, barrier);
        }
        answer
    }

    /// Takes in what the fetch found. Answers with the reason if the barrier keeps the commit from being deployed.
    pub(super) fn judge_schema(
        &mut self,
        (deploy, commit): (&mut Deploy, &CommitId),
        news: &SchemaNews,
    ) -> Option<Failure> {
        if news.behind {
            self.app.is_behind(commit);
        }
        deploy.migration.clone_from(&news.migration);
        let barrier = self.app.barrier_after(commit)?.clone();
        if deploy.forced {
            self.pass(commit.clone(), barrier);
            return None;
        }
        self.is_step_back(deploy, &barrier).then(|| Failure {
            phase: Phase::Fetching,
            nature: Nature::Deterministic,
            cause: barrier.objection(commit),
            hint: Some(FORCE_DEPLOY.to_owned()),
            log_tail: Vec::new(),
        })
    }

    fn pass(&mut self, to: CommitId, barrier: Barrier) {
        if let Some(barrier) = &mut self.app.barrier {
            barrier.passed = true;
        }
        self.note(Note::BarrierPassed { to, barrier });
    }

    /// Whether a deploy of a commit from before the barrier is a step back: of one that an operator names, or of the
    /// branch. The branch may go on from an older release that serves because an operator forced it.
    fn is_step_back(&self, deploy: &Deploy, barrier: &Barrier) -> bool {
        let named = matches!(deploy.kind, Kind::Manual { want: Want::Rev(_), .. });
        let forced = barrier.passed && self.app.schema_ahead().is_some();
        named || self.app.live().is_some() && !forced
    }

    /// The barrier that keeps bgd from going back to the former release by itself.
    fn keeps_from(&self, former: Option<&Release>) -> Option<&Barrier> {
        let barrier = self.app.barrier_after(&former?.commit);
        barrier.filter(|_| self.context.policy.on_failure == OnFailure::Stay)
    }

    /// Whether bgd may go back to the former release by itself.
    pub(super) fn may_go_back(&self, former: Option<&Release>) -> bool {
        self.keeps_from(former).is_none()
    }

    /// The watch failed and the barrier stands in the way back: the release stays live, and a person decides.
    pub(super) fn stay(&mut self, work: Work, former: Option<Release>, failure: &Failure) {
        let Some((barrier, to)) = self.keeps_from(former.as_ref()).cloned().zip(former.as_ref()) else {
            return;
        };
        let why = format!("it stays live and a person has to decide: {}", barrier.objection(&to.commit));
        let cause = format!("{}; {why}", failure.cause);
        let hint =
            "deploy a newer commit that mends it; or `bgd flip --force` goes back all the same".to_owned();
        let why = format!("{} failed its watch; {why}", work.release.commit.short());
        self.app.stranded = Some(Stranded { deploy: work.deploy.id, why });
        self.adopt_as_previous(former);
        let failure = Failure { cause, hint: Some(hint), ..failure.clone() };
        self.retire(work, End { outcome: Outcome::Failed, failure: Some(failure) });
    }
}
