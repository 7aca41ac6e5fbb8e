//! The machine: `step` takes the state, one event and the time, and says what is next. Pure and total: every
//! event is answered in every state, if only by a note that says why it was ignored. Called by the engine, which
//! commits the result before it runs the effects.
//!
//! `deploying` carries a deploy forward, `canary` gives it the traffic by degrees, `ending` ends it (well or not),
//! `serving` keeps the live instance up and empties the other color, `routing` sends routes to the front, `replacing`
//! goes around a front that can't be moved, `gates` takes over what keeps a commit back, `guarding` refuses ways back
//! over a contract migration, `tasking` runs the app's tasks, `announcing` tells the app what is live, `working` has its
//! workers follow, `asking` answers operators, `recovering` goes on after a restart.

mod announcing;
mod asking;
mod canary;
mod deploying;
mod ending;
mod gates;
mod guarding;
mod recovering;
mod replacing;
mod routing;
mod serving;
mod tasking;
#[cfg(test)]
mod tests;
mod working;

use std::time::Duration;

pub use guarding::{deploy_refusal, flip_refusal};

use super::{
    advice::Advice,
    app::{App, Deploy, Idle, Kind, Pipeline, Release, Stage, StageGroup, Until, Verdict, Work},
    barrier::OnFailure,
    canary::CanaryStep,
    effect::{Action, Effect, Note},
    event::{Event, Want},
    gate::Passage,
    ids::{Color, CommitId, DeployId, EffectId},
    task::TaskRule,
    time::Time,
    words::{Outcome, Phase},
};

/// The number of pushes in a row that may be superseded before one goes through, so that constant pushing still
/// promotes something (promise A11).
const SUPERSEDED_AT_MOST: u32 = 3;

/// The input of a step beside state and event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub now: Time,
    /// The time as in the names of release directories: `YYYYMMDDTHHMMSSZ`.
    pub utc: String,
    /// The number that the next deploy gets.
    pub fresh: DeployId,
    /// The record can't be written: a flip goes on without it, and nothing else begins until it can be written again.
    pub unrecorded: bool,
    /// The app's configuration.
    pub policy: Policy,
}

/// The part of an app's configuration that the machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether a new instance is warmed up before it gets traffic.
    pub warmup: bool,
    /// Shares of the traffic on the way to all of it; empty: all at once.
    pub canary: Vec<CanaryStep>,
    /// The limit of a canary's step that waits for an operator.
    pub canary_deadline: Option<Duration>,
    /// Whether too little traffic to judge keeps a canary's step or a watch from ending well.
    pub hold_inconclusive: bool,
    /// The length of the watch after a switch; zero: no watch.
    pub watch: Duration,
    /// Whether the former release is the front's backup during the watch.
    pub backup: bool,
    /// How long the former color stays warm after the watch.
    pub standby: Duration,
    /// Whether bgd restarts a live instance that dies.
    pub restart: bool,
    /// Whether there is a `before_start` hook.
    pub before_start: bool,
    /// The tasks, in the order of the file.
    pub tasks: Vec<TaskRule>,
    /// Whether there is an `after_live` hook.
    pub after_live: bool,
    /// Whether there is an `after_failed` hook.
    pub after_failed: bool,
    /// What follows when the watch of a release with a contract migration fails.
    pub on_failure: OnFailure,
    /// Whether there are workers.
    pub workers: bool,
}

#[cfg(test)]
impl Policy {
    /// Nothing beside the deploy itself but a watch of 30 s.
    pub(crate) fn quiet() -> Self {
        Self {
            warmup: false,
            canary: Vec::new(),
            canary_deadline: None,
            hold_inconclusive: false,
            backup: false,
            watch: Duration::from_secs(30),
            standby: Duration::ZERO,
            restart: true,
            before_start: false,
            tasks: Vec::new(),
            after_live: false,
            after_failed: false,
            on_failure: OnFailure::Stay,
            workers: false,
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The new state.
    pub next: App,
    /// The effects to run, in order, once this step is committed.
    pub effects: Vec<Effect>,
    /// The notes to record, in order.
    pub notes: Vec<Noted>,
    /// The reply to the operator, if one asked.
    pub answer: Option<AskReply>,
}

/// A note and the deploy it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The deploy under way at the time of the note.
    pub deploy: Option<Deploy>,
    /// The commit and release of that deploy, once known.
    pub release: Option<Release>,
    pub note: Note,
}

/// The immediate reply to an operator's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskReply {
    /// A deploy began, or waits for its turn, under this number.
    Deploying(DeployId),
    /// The deploy is cancelled; the traffic stays, or is brought back.
    Cancelling(DeployId),
    /// The traffic moves back by this deploy.
    RollingBack(DeployId),
    /// All of the traffic moves to this deploy's release.
    Promoting(DeployId),
    /// The app is being taken out of service.
    TakingDown,
    /// Done; one sentence.
    Said(String),
    /// Not done.
    Denied(Denial),
}

impl AskReply {
    /// The deploy that the reply is about.
    pub fn deploy(&self) -> Option<DeployId> {
        match self {
            Self::Deploying(id) | Self::Cancelling(id) | Self::RollingBack(id) | Self::Promoting(id) => {
                Some(*id)
            }
            Self::TakingDown | Self::Said(_) | Self::Denied(_) => None,
        }
    }

    /// The deploy that the request began.
    pub fn begun(&self) -> Option<DeployId> {
        self.deploy().filter(|_| !matches!(self, Self::Cancelling(_) | Self::Promoting(_)))
    }
}

/// Why an operator's request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The kind of the denial.
    pub kind: DenialKind,
    /// The request, and what stands against it.
    pub message: String,
    /// The next step for the operator.
    pub advice: Advice,
}

/// The kinds of denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialKind {
    /// A hold, or a state that excludes it.
    Held,
    /// Nothing is live.
    NothingLive,
    /// There is nothing to go back to.
    NoWayBack,
    /// No release has a share of the traffic that could be changed.
    NoCanary,
    /// A contract migration stands between what is live and what was asked for.
    Barred,
}

/// Takes one event: total and pure.
pub fn step(app: &App, event: &Event, context: &Context) -> Step {
    let mut turn = Turn {
        app: app.clone(),
        context,
        effects: Vec::new(),
        notes: Vec::new(),
        answer: None,
        fresh_used: false,
    };
    match event {
        Event::HeadSeen(commit) => {
            turn.app.gates = None;
            turn.head_seen(commit);
        }
        Event::GatesSeen(look) => turn.gates_seen(look),
        Event::Asked { by, ask } => turn.asked(by, ask),
        Event::Done { effect, result } => turn.done(*effect, result),
        Event::InstanceDied { color, release, how, last_words } => {
            turn.instance_died(*color, release, (how, last_words));
        }
        Event::HealthChanged { color, release, healthy, answer } => {
            turn.health_changed(*color, release, (*healthy, answer));
        }
        Event::WorkerDied { worker, release, how, last_words } => {
            turn.worker_died(release, (worker, how, last_words));
        }
        Event::WorkerLeft { release } => turn.worker_left(release),
        Event::FrontRestarted => turn.front_restarted(),
        Event::Recovered(facts) => turn.recovered(facts),
        Event::Ticked => {}
    }
    turn.settle();
    turn.settle_workers(event);
    Step { next: turn.app, effects: turn.effects, notes: turn.notes, answer: turn.answer }
}

/// Why no deploy starts by itself, for `bgd why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// The remote was not seen yet.
    NotSeen,
    /// The tip is live.
    UpToDate,
    /// A deploy is under way.
    Deploying,
    /// A hold.
    Held,
    /// The tip is marked bad.
    BadCommit,
    /// The tip failed for outside reasons and is tried again later.
    RetryLater(Time),
    /// Taken out of service.
    OutOfService,
    /// A closed gate, the first of the tip's.
    Gate,
    /// The gates have to be asked again.
    GatesUnasked,
}

/// The commit that bgd would deploy by itself now, or why none.
pub fn wanted(app: &App, now: Time) -> Result<CommitId, Blocked> {
    if app.down_wanted || matches!(app.serving, super::app::Serving::OutOfService(_)) {
        return Err(Blocked::OutOfService);
    }
    let head = app.head.as_ref().ok_or(Blocked::NotSeen)?;
    if app.live().is_some_and(|live| live.release.commit == *head) {
        return Err(Blocked::UpToDate);
    }
    if app.hold.is_some() {
        return Err(Blocked::Held);
    }
    let commit = match app.passage(head, now) {
        Passage::Open(commit) => commit,
        Passage::Closed(_) => return Err(Blocked::Gate),
        Passage::Unasked => return Err(Blocked::GatesUnasked),
    };
    match app.verdicts.get(commit) {
        Some(Verdict::Bad { .. }) => Err(Blocked::BadCommit),
        Some(Verdict::Retry { not_before, failures }) if ending::waits(*not_before, *failures, now) => {
            Err(Blocked::RetryLater(*not_before))
        }
        Some(Verdict::Retry { .. }) | None => Ok(commit.clone()),
    }
}

/// Whether something may begin as time passes; if not, a tick changes nothing.
pub fn waits_for_time(app: &App) -> bool {
    let passing = app.gates.as_ref().and_then(|look| look.passes.as_ref());
    let verdict = passing.or(app.head.as_ref()).and_then(|commit| app.verdicts.get(commit));
    app.queued.is_some()
        || app.pipeline != Pipeline::Resting
        || matches!(verdict, Some(Verdict::Retry { .. }))
}

/// A step in progress.
struct Turn<'a> {
    app: App,
    context: &'a Context,
    effects: Vec<Effect>,
    notes: Vec<Noted>,
    answer: Option<AskReply>,
    fresh_used: bool,
}

impl Turn<'_> {
    /// Adds an effect and returns its number.
    fn act(&mut self, action: Action) -> EffectId {
        self.app.last_effect.0 += 1;
        let id = self.app.last_effect;
        self.effects.push(Effect { id, action });
        id
    }

    fn note(&mut self, note: Note) {
        let deploy = self.app.pipeline.deploy().cloned();
        let release = self.app.pipeline.release().cloned();
        self.notes.push(Noted { deploy, release, note });
    }

    fn ignore(&mut self, why: impl Into<String>) {
        self.note(Note::Ignored(why.into()));
    }

    fn now(&self) -> Time {
        self.context.now
    }

    fn head_seen(&mut self, commit: &CommitId) {
        if self.app.head.as_ref() != Some(commit) {
            self.app.head = Some(commit.clone());
        }
        let released = match &self.app.hold {
            Some(hold) => matches!(&hold.until, Until::NewerThan(old) if old.as_ref() != Some(commit)),
            None => false,
        };
        let is_live = self.app.live().is_some_and(|live| live.release.commit == *commit);
        let is_bad = matches!(self.app.verdicts.get(commit), Some(Verdict::Bad { .. }));
        if released && !is_live && !is_bad {
            self.app.hold = None;
            self.note(Note::HoldReleased { why: format!("a newer commit arrived: {}", commit.short()) });
        }
    }

    /// Starts what waits for its turn. Runs at the end of each step, until nothing more moves.
    fn settle(&mut self) {
        loop {
            self.settle_backup();
            let moved = match (&self.app.pipeline, self.app.pipeline.group()) {
                (Pipeline::Resting, _) => self.settle_resting(),
                (Pipeline::Deploying(Work { stage: Stage::Clearing, .. }), _) => self.settle_clearing(),
                (_, Some(StageGroup::BeforePivot | StageGroup::Sharing)) => self.settle_before_pivot(),
                (_, Some(StageGroup::Ending)) => self.settle_retiring(),
                (_, None | Some(StageGroup::Pivot | StageGroup::Live)) => false,
            };
            if !moved {
                return self.settle_errands();
            }
        }
    }

    fn settle_resting(&mut self) -> bool {
        if self.context.unrecorded {
            return false;
        }
        if self.app.down_wanted {
            return self.settle_down();
        }
        if let Some(queued) = self.app.queued.take() {
            let kind = Kind::Manual { want: queued.want.clone(), live: queued.live, tip: queued.tip };
            let deploy = Deploy { forced: queued.forced, ..self.new_deploy(queued.id, kind, queued.by) };
            self.begin(deploy, queued.want);
            return true;
        }
        // A step has one fresh number.
        if let (Ok(commit), false) = (wanted(&self.app, self.now()), self.fresh_used) {
            let id = self.fresh();
            let deploy = self.new_deploy(id, Kind::Push, "poller".to_owned());
            self.begin(deploy, Want::Commit(commit));
            return true;
        }
        false
    }

    fn settle_before_pivot(&mut self) -> bool {
        let Some((deploy, commit)) = self.app.pipeline.deploy().zip(self.app.pipeline.commit()) else {
            return false;
        };
        // A task is not cut off half way, as a migration would be: the deploy gives way behind it.
        if matches!(self.app.pipeline.stage(), Some(Stage::Tasking { .. })) {
            return false;
        }
        let yields = deploy.kind == Kind::Push && self.app.superseded_in_a_row < SUPERSEDED_AT_MOST;
        // A tip that bgd would not deploy (held, bad) supersedes nothing; a tip that is live already does.
        let newer = match wanted(&self.app, self.now()) {
            Ok(tip) => tip != *commit,
            Err(Blocked::UpToDate) => true,
            Err(_) => false,
        };
        if !(newer && yields) {
            return false;
        }
        self.app.superseded_in_a_row += 1;
        self.abandon(Outcome::Superseded);
        true
    }

    /// The number for the deploy that begins in this step; the engine keeps one in reserve.
    fn fresh(&mut self) -> DeployId {
        self.fresh_used = true;
        self.context.fresh
    }

    fn enter(&mut self, phase: Phase) {
        self.note(Note::PhaseEntered(phase));
    }

    /// Ends the current phase's step and starts the clock of the next.
    fn stepped(&mut self, deploy: &mut Deploy, phase: Phase) {
        let since = deploy.progress.step_since.unwrap_or(deploy.phase_since);
        let took = self.now().since(since).saturating_sub(deploy.progress.aside);
        self.begin_phase(deploy);
        self.note(Note::StepEnded(phase, took));
    }

    /// Ends the current step within its phase: tasks follow.
    fn stepped_within(&mut self, deploy: &mut Deploy, phase: Phase) {
        let since = deploy.phase_since;
        self.stepped(deploy, phase);
        deploy.progress.step_since = Some(deploy.phase_since);
        deploy.phase_since = since;
    }

    /// Starts the clock of the next phase and its first step.
    fn begin_phase(&mut self, deploy: &mut Deploy) {
        deploy.phase_since = self.now();
        (deploy.progress.step_since, deploy.progress.aside) = (None, Duration::ZERO);
    }

    fn idle_is_vacant(&self) -> bool {
        matches!(self.app.idle, Idle::Vacant)
    }

    /// Puts the deploy under way into this stage.
    fn at(&mut self, work: Work, stage: Stage) {
        self.app.pipeline = Pipeline::Deploying(Work { stage, ..work });
    }

    /// Asks for an effect on the deploy's release, and puts the deploy into the stage that awaits its result.
    fn act_at(
        &mut self,
        work: Work,
        stage: fn(EffectId) -> Stage,
        action: impl FnOnce(Release, Color) -> Action,
    ) {
        let effect = self.act(action(work.release.clone(), work.color));
        self.at(work, stage(effect));
    }
}
