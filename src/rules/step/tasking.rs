//! Tasks, each once in a deploy and at its moment, in the order of the file. Before the pivot the deploy waits for each
//! and ends if one fails; afterwards they run beside it, behind the `after_live` hook, and a failure is only reported.
//! A way back, `bgd flip` and `bgd up` run none: what a task did to a database stays done.

use std::time::Duration;

use super::{Noted, Turn};
use crate::rules::{
    app::{Deploy, Kind, Stage, Work},
    effect::{Action, Note},
    event::{Done, Facts},
    ids::{CommitId, EffectId, TaskName},
    task::{self, Errand, Ran, Underway},
    words::{Failure, Moment, TaskOutcome},
};

impl Turn<'_> {
    /// Runs the tasks of a moment before the pivot, then goes on.
    pub(super) fn run_tasks(&mut self, work: Work, when: Moment) {
        let left = self.tasks_at(&work, when);
        self.next_task(work, when, left);
    }

    fn next_task(&mut self, mut work: Work, when: Moment, mut left: Vec<TaskName>) {
        if left.is_empty() {
            return self.moment_over(work, when);
        }
        let task = left.remove(0);
        // Any of them may migrate.
        self.raise_barrier(&work);
        work.deploy.progress.aside_since = Some(self.now());
        self.note(Note::TaskStarted { task: task.clone(), when });
        self.take_up_task(work, when, (task, left));
    }

    /// Waits for a task, which may have been started by the bgd before.
    fn take_up_task(&mut self, work: Work, when: Moment, (task, left): (TaskName, Vec<TaskName>)) {
        let (release, color) = (work.release.clone(), work.color);
        let effect = self.act(Action::RunTask { task: task.clone(), when, release, color });
        self.at(work, Stage::Tasking { effect, when, task, left });
    }

    pub(super) fn task_ran(&mut self, mut work: Work, result: &Result<Done, Failure>) {
        let Stage::Tasking { when, task, left, .. } = work.stage.clone() else { return };
        let ran = ran(result);
        let took = self.aside_over(&mut work.deploy);
        self.note(Note::TaskEnded { task: task.clone(), when, ran: ran.clone(), took });
        if let Some(failure) = &ran.failure {
            return self.fail(work, failure);
        }
        self.act(Action::ForgetTask { task: task.clone(), release: work.release.id.clone() });
        self.worked(&ran, &task, &work.release.commit);
        work.deploy.progress.ran.push(task);
        self.next_task(work, when, left);
    }

    /// Goes on with the deploy behind the last task of a moment.
    fn moment_over(&mut self, mut work: Work, when: Moment) {
        match when {
            Moment::AfterBuild => {
                self.begin_phase(&mut work.deploy);
                self.clear_then_start(work);
            }
            Moment::BeforeStart => self.start_instance(work),
            Moment::BeforeSwitch => {
                self.begin_phase(&mut work.deploy);
                self.warm_up_or_share(work);
            }
            Moment::AfterLive | Moment::AfterWatch => {}
        }
    }

    /// The tasks of a moment that this deploy has not run, save those that are not to run again on its commit.
    fn tasks_at(&self, work: &Work, when: Moment) -> Vec<TaskName> {
        if !matches!(work.deploy.kind, Kind::Push | Kind::Manual { .. }) {
            return Vec::new();
        }
        let worked = |name: &TaskName| {
            let mut all = self.app.worked_on.iter();
            all.any(|it| it.task == *name && it.commit == work.release.commit)
        };
        let rules = self.context.policy.tasks.iter().filter(|rule| rule.when == when);
        let due = rules.filter(|rule| {
            !work.deploy.progress.ran.contains(&rule.name) && (rule.again || !worked(&rule.name))
        });
        due.map(|rule| rule.name.clone()).collect()
    }

    /// Remembers the commit of a task that is not to run on it again.
    fn worked(&mut self, ran: &Ran, task: &TaskName, commit: &CommitId) {
        let once = self.context.policy.tasks.iter().any(|rule| rule.name == *task && !rule.again);
        if once && ran.outcome == TaskOutcome::Done {
            task::remember(&mut self.app.worked_on, task, commit);
        }
    }

    /// Ends the time of a hook or task, which does not count for the step that it interrupted.
    pub(super) fn aside_over(&mut self, deploy: &mut Deploy) -> Duration {
        let since = deploy.progress.aside_since.take();
        let took = since.map_or(Duration::ZERO, |since| self.now().since(since));
        deploy.progress.aside += took;
        took
    }

    /// The deploy is given up in the middle of a task, which is ended with the rest of it.
    pub(super) fn leave_task(&mut self) {
        let Some(work) = self.app.pipeline.work().cloned() else { return };
        let Stage::Tasking { when, task, .. } = work.stage else { return };
        let since = work.deploy.progress.aside_since;
        let took = since.map_or(Duration::ZERO, |since| self.now().since(since));
        self.note(Note::TaskEnded { task, when, ran: Ran::unknown(), took });
    }

    pub(super) fn recover_task(&mut self, work: Work, facts: &Facts) {
        let Stage::Tasking { when, task, left, .. } = work.stage.clone() else { return };
        let runs = facts.running.get(&work.color) == Some(&work.release.id);
        match when {
            // The task is taken up once the instance is healthy again.
            Moment::BeforeSwitch if !runs => self.start_instance(work),
            _ => self.take_up_task(work, when, (task, left)),
        }
    }

    /// Lines up the tasks of a moment after the pivot.
    pub(super) fn line_up(&mut self, work: &Work, when: Moment) {
        let errand = |task| Errand {
            task,
            when,
            deploy: work.deploy.clone(),
            release: work.release.clone(),
            color: work.color,
        };
        let due: Vec<Errand> = self.tasks_at(work, when).into_iter().map(errand).collect();
        self.app.errands.waiting.extend(due);
    }

    /// Starts the next task beside the deploy, unless its release is no longer live.
    pub(super) fn settle_errands(&mut self) {
        if self.context.unrecorded || self.app.announcing.is_some() || self.app.errands.running.is_some() {
            return;
        }
        let live = self.app.live().map(|live| live.release.id.clone());
        self.app.errands.waiting.retain(|errand| Some(&errand.release.id) == live.as_ref());
        if self.app.errands.waiting.is_empty() {
            return;
        }
        let errand = self.app.errands.waiting.remove(0);
        self.note_errand(&errand, Note::TaskStarted { task: errand.task.clone(), when: errand.when });
        let since = self.now();
        let effect = self.act(run_errand(&errand));
        self.app.errands.running = Some(Underway { errand, effect, since });
    }

    pub(super) fn errand_ran(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        let Some(underway) = self.app.errands.running.take_if(|it| it.effect == effect) else {
            return false;
        };
        let (errand, ran) = (underway.errand, ran(result));
        let (task, when, took) = (errand.task.clone(), errand.when, self.now().since(underway.since));
        self.note_errand(&errand, Note::TaskEnded { task, when, ran: ran.clone(), took });
        if let Some(failure) = &ran.failure {
            self.note_errand(&errand, Note::Trouble(failure.clone()));
        }
        self.worked(&ran, &errand.task, &errand.release.commit);
        self.act(Action::ForgetTask { task: errand.task, release: errand.release.id });
        true
    }

    /// Waits again for the task that ran beside the deploy when bgd ended.
    pub(super) fn recover_errands(&mut self) {
        let Some(underway) = self.app.errands.running.take() else { return };
        let effect = self.act(run_errand(&underway.errand));
        self.app.errands.running = Some(Underway { effect, ..underway });
    }

    /// A note about the deploy that lined the task up, which may have ended.
    fn note_errand(&mut self, errand: &Errand, note: Note) {
        let (deploy, release) = (Some(errand.deploy.clone()), Some(errand.release.clone()));
        self.notes.push(Noted { deploy, release, note });
    }
}

fn run_errand(errand: &Errand) -> Action {
    let Errand { task, when, release, color, .. } = errand.clone();
    Action::RunTask { task, when, release, color }
}

/// The end of a task, also where it could not be started or asked for.
fn ran(result: &Result<Done, Failure>) -> Ran {
    match result {
        Ok(Done::Ran(ran)) => ran.clone(),
        Ok(_) => Ran::unknown(),
        Err(failure) => Ran::refused(failure.clone()),
    }
}
