//! Tasks in the fake world, what must hold of them, seen from outside, and machines with a defect each that shows only
//! there. A task runs under a shim: once begun it comes to its end, whether or not bgd lives, and its end can be asked
//! for until bgd lets go of it.

use std::collections::BTreeMap;

use bgd::rules::{
    app::{App, Kind, Pipeline, Work},
    effect::{Action, Note},
    event::{Done, Event},
    ids::{ReleaseId, TaskName},
    step::{Context, Policy, Step, step},
    task::{Ran, TaskRule},
    words::{Failure, Moment as When, Nature, TaskOutcome},
};

use crate::{
    oracle::Moment,
    world::{self, Quality, World},
};

/// Every moment, two tasks at one of them, and one that is not to run again on its commit.
pub fn rules() -> Vec<TaskRule> {
    let all = [
        ("collect", When::AfterBuild, true),
        ("migrate", When::BeforeStart, true),
        ("seed", When::BeforeStart, false),
        ("smoke", When::BeforeSwitch, true),
        ("purge", When::AfterLive, true),
        ("tell", When::AfterLive, true),
        ("clean", When::AfterWatch, true),
    ];
    all.map(|(name, when, again)| TaskRule { name: name.parse().unwrap(), when, again }).to_vec()
}

/// The tasks that ran in this world.
#[derive(Debug, Default)]
pub struct TaskRuns(BTreeMap<(ReleaseId, TaskName), Ran>, Vec<(ReleaseId, TaskName)>);

impl World {
    /// Begins the task, or takes up its run.
    pub fn run_task(&mut self, action: &Action) -> Result<Done, Failure> {
        let Action::RunTask { task, when, release, .. } = action else { return Ok(Done::Ensured) };
        let key = (release.id.clone(), task.clone());
        if self.task_runs.1.contains(&key) {
            self.crimes
                .push(format!("{task} of {} is asked for once more after its end was taken", release.id));
        }
        // What would fail anyway fails here too, and so may what decides nothing.
        let fails = match task.as_str() {
            "migrate" => self.quality(release) == Quality::NeverHealthy,
            "tell" => world::index_of(&release.commit) % 3 == 1,
            _ => false,
        };
        let failure = fails.then(|| world::failure(when.phase(), Nature::Deterministic, "the task failed"));
        let outcome = if fails { TaskOutcome::Failed } else { TaskOutcome::Done };
        let ran = Ran { outcome, exit: Some(i32::from(fails)), attempt: 1, tail: Vec::new(), failure };
        Ok(Done::Ran(self.task_runs.0.entry(key).or_insert(ran).clone()))
    }

    pub fn forget_task(&mut self, task: &TaskName, release: &ReleaseId) {
        self.task_runs.1.push((release.clone(), task.clone()));
    }

    fn worked(&self, task: &TaskName, release: &ReleaseId) -> bool {
        let ran = self.task_runs.0.get(&(release.clone(), task.clone()));
        ran.is_some_and(|ran| ran.outcome == TaskOutcome::Done)
    }
}

/// After each step.
pub fn judge(moment: &Moment<'_>) -> Result<(), String> {
    for noted in &moment.step.notes {
        let kind = noted.deploy.as_ref().map(|deploy| &deploy.kind);
        let own = matches!(kind, Some(Kind::Push | Kind::Manual { .. }));
        if matches!(noted.note, Note::TaskStarted { .. }) && !own {
            return Err(format!("{:?} in a deploy of the kind {kind:?}", noted.note));
        }
    }
    let recovers = matches!(moment.event, Event::Recovered(_));
    for effect in &moment.step.effects {
        let Action::RunTask { task, when, release, .. } = &effect.action else { continue };
        let live = moment.step.next.live().is_some_and(|live| live.release.id == release.id);
        if !when.is_before_pivot() && !live && !recovers {
            return Err(format!("{task} begins for {}, which is not live", release.id));
        }
    }
    match moment.step.next.pipeline.work() {
        Some(work) => judge_order(work, moment),
        None => Ok(()),
    }
}

/// What leads on from a moment waits for its tasks.
fn judge_order(work: &Work, moment: &Moment<'_>) -> Result<(), String> {
    if !matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. }) {
        return Ok(());
    }
    for effect in &moment.step.effects {
        let passed: &[When] = match &effect.action {
            Action::Start { release, .. } if release.id == work.release.id => {
                &[When::AfterBuild, When::BeforeStart]
            }
            Action::WarmUp { release, .. } if release.id == work.release.id => &[When::BeforeSwitch],
            Action::Route { to: Some(to), .. } if to.release == work.release.id => &[When::BeforeSwitch],
            _ => &[],
        };
        if let Some(missing) = missing(work, passed, (moment.world, moment.policy, &moment.step.next)) {
            return Err(format!("{:?}, and {missing} has not worked", effect.action));
        }
    }
    Ok(())
}

fn missing(work: &Work, passed: &[When], (world, policy, app): (&World, &Policy, &App)) -> Option<TaskName> {
    let remembered = |rule: &TaskRule| {
        app.worked_on.iter().any(|it| it.task == rule.name && it.commit == work.release.commit)
    };
    let due = policy.tasks.iter().filter(|rule| passed.contains(&rule.when));
    let mut open = due.filter(|rule| !world.worked(&rule.name, &work.release.id));
    open.find(|rule| rule.again || !remembered(rule)).map(|rule| rule.name.clone())
}

/// Once nothing is under way.
pub fn judge_quiet(app: &App, unrecorded: bool) -> Result<(), String> {
    // What can't be recorded is not begun.
    if !unrecorded && !app.errands.is_empty() && app.pipeline == Pipeline::Resting {
        return Err(format!("{:?} are left over", app.errands));
    }
    Ok(())
}

/// A restart begins the tasks of the deploy anew.
pub fn runs_twice(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if let Pipeline::Deploying(work) = &mut made.next.pipeline {
        work.deploy.progress.ran.clear();
    }
    made
}

/// The way back runs the tasks of the release that it goes back to.
pub fn runs_on_the_way_back(app: &App, event: &Event, context: &Context) -> Step {
    let mut disguised = app.clone();
    let deploy = match &mut disguised.pipeline {
        Pipeline::Deploying(work) => &mut work.deploy,
        _ => return step(app, event, context),
    };
    if deploy.kind != Kind::Rollback {
        return step(app, event, context);
    }
    deploy.kind = Kind::Push;
    let mut made = step(&disguised, event, context);
    if let Pipeline::Deploying(work) = &mut made.next.pipeline {
        work.deploy.kind = Kind::Rollback;
    }
    made
}

/// The traffic does not wait for the tasks before it.
pub fn does_not_wait(app: &App, event: &Event, context: &Context) -> Step {
    let mut policy = context.policy.clone();
    policy.tasks.retain(|rule| rule.when != When::BeforeSwitch);
    step(app, event, &Context { policy, ..context.clone() })
}

/// A restart forgets the task that runs beside the deploy.
pub fn forgets_what_runs_beside(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        made.effects.retain(|effect| match &effect.action {
            Action::RunTask { when, .. } => when.is_before_pivot(),
            _ => true,
        });
    }
    made
}
