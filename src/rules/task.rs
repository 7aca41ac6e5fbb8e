//! Tasks: commands that run once in a deploy, each at its moment. The rules of their order are in `step::tasking`.

use serde::{Deserialize, Serialize};

use super::{
    deploy::{Deploy, Release},
    ids::{Color, CommitId, EffectId, TaskName},
    time::Time,
    words::{Failure, Moment, TaskOutcome},
};

/// Commits remembered for each task that is not to run again on the commit; the oldest goes first.
const REMEMBERED: usize = 100;

/// The part of a task's configuration that the machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRule {
    pub name: TaskName,
    pub when: Moment,
    /// Whether it runs again when a commit on which it worked is deployed once more.
    pub again: bool,
}

/// How one run of a task or hook ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    pub outcome: TaskOutcome,
    /// Its exit code; `None` after a signal, and where nothing is known.
    pub exit: Option<i32>,
    /// The number of this run in its deploy, from 1: more than one only where a power cut ended an earlier one.
    pub attempt: u32,
    /// Its last lines of output.
    pub tail: Vec<String>,
    /// Why it did not work.
    pub failure: Option<Failure>,
}

impl Ran {
    /// A run that did not come to an end that is known.
    pub fn unknown() -> Self {
        Self { outcome: TaskOutcome::Unknown, exit: None, attempt: 1, tail: Vec::new(), failure: None }
    }

    /// A run that could not be started.
    pub fn refused(failure: Failure) -> Self {
        let tail = failure.log_tail.clone();
        Self { outcome: TaskOutcome::Failed, exit: None, attempt: 1, tail, failure: Some(failure) }
    }
}

/// Tasks of a release that is live, in their order. They run beside its deploy and outlive it, one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Errands {
    /// The task under way.
    pub running: Option<Underway>,
    pub waiting: Vec<Errand>,
}

/// A task that runs beside the deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underway {
    pub errand: Errand,
    pub effect: EffectId,
    pub since: Time,
}

/// A task to be run for a release that went live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    pub task: TaskName,
    pub when: Moment,
    /// The deploy that made the release live; it may have ended.
    pub deploy: Deploy,
    pub release: Release,
    pub color: Color,
}

impl Errands {
    /// Nothing runs and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// The releases whose directories they need.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        let running = self.running.iter().map(|it| &it.errand.release);
        running.chain(self.waiting.iter().map(|errand| &errand.release))
    }
}

/// A task that worked on a commit, for tasks that are not to run again on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkedOn {
    pub task: TaskName,
    pub commit: CommitId,
}

/// Remembers that a task worked on a commit.
pub(super) fn remember(all: &mut Vec<WorkedOn>, task: &TaskName, commit: &CommitId) {
    all.retain(|it| it.task != *task || it.commit != *commit);
    all.push(WorkedOn { task: task.clone(), commit: commit.clone() });
    while all.iter().filter(|it| it.task == *task).count() > REMEMBERED {
        if let Some(oldest) = all.iter().position(|it| it.task == *task) {
            all.remove(oldest);
        }
    }
}
