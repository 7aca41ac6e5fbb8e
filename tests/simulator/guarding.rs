//! Contract migrations, seen from outside: which commits the schema has left behind, and that no way back leads to one
//! of them but by force. And machines with a defect each that shows only there.

use std::collections::{BTreeMap, BTreeSet};

use bgd::rules::{
    app::{App, Idle, Kind, Pipeline, Release, Stage},
    barrier::{Contract, ContractFile, Landmarks, Migration, OnFailure, SchemaNews},
    effect::Note,
    event::{Ask, Event, Want},
    ids::CommitId,
    step::{AskReply, Context, DenialKind, Policy, Step, step},
    words::Outcome,
};

use crate::{
    oracle::Moment,
    world::{World, index_of},
};

/// The database of the made-up world. A commit has the contracts of all that were pushed before it.
#[derive(Debug, Default, Clone)]
pub struct Schema {
    /// Commits that older ones can't live with.
    pub contracts: BTreeSet<usize>,
    /// Commits that were found to bring a contract since what was live, and the newest contract of each.
    found: BTreeMap<usize, usize>,
    /// The newest contract that changed the database.
    pub migrated: Option<usize>,
}

impl Schema {
    /// What git would say of a commit.
    pub fn news(&mut self, commit: &CommitId, landmarks: &Landmarks) -> SchemaNews {
        let to = index_of(commit);
        let live = landmarks.live.as_ref().map(index_of);
        let newest =
            live.filter(|live| *live < to).and_then(|live| self.contracts.range(live + 1..=to).next_back());
        let newest = newest.copied();
        match newest {
            Some(newest) => drop(self.found.insert(to, newest)),
            None => drop(self.found.remove(&to)),
        }
        let contained = |(_, contract): &(CommitId, Contract)| {
            contract.files.iter().all(|file| file.path.parse::<usize>().is_ok_and(|path| path <= to))
        };
        let behind = landmarks.barrier.as_ref().is_some_and(contained);
        let migration = newest.map(|newest| {
            let file = ContractFile { path: newest.to_string(), object: String::new() };
            let text = format!("contract: {newest}");
            Migration {
                text: text.clone(),
                contract: Some(Contract { text, files: vec![file], commits: Vec::new() }),
            }
        });
        SchemaNews { migration, behind }
    }

    /// The release's commands run.
    pub fn migrate(&mut self, release: &Release) {
        self.migrated = self.migrated.max(self.found.get(&index_of(&release.commit)).copied());
    }

    /// Whether the commit can't live with the schema.
    fn has_left(&self, commit: &CommitId) -> bool {
        self.migrated.is_some_and(|migrated| index_of(commit) < migrated)
    }

    /// Whether a contract that the commit does not have was on its way at some time.
    fn may_leave(&self, commit: &CommitId) -> bool {
        self.found.values().any(|contract| index_of(commit) < *contract)
    }
}

/// After each step.
pub fn judge(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event, step, world, policy } = *moment;
    let by_force = matches!(event, Event::Asked { ask: Ask::ForceFlip, .. });
    let asked = matches!(event, Event::Asked { .. });
    let licensed = by_force || !asked && policy.on_failure == OnFailure::Flip;
    let goes_back = |commit: &CommitId| world.schema.has_left(commit) && !licensed;
    let rolled_back = step.notes.iter().find_map(|noted| {
        let deploy = noted.deploy.as_ref().filter(|_| noted.note == Note::DeployStarted)?;
        noted.release.as_ref().filter(|_| deploy.kind == Kind::Rollback)
    });
    let reverted = reverts(before, &step.next).filter(|_| !matches!(event, Event::Recovered(_)));
    if let Some(to) = rolled_back.or(reverted).filter(|to| goes_back(&to.commit)) {
        return Err(format!("{} comes back on a schema that has left it", to.commit.short()));
    }
    if let (Pipeline::Fetching { deploy, .. }, Pipeline::Deploying(work)) =
        (&before.pipeline, &step.next.pipeline)
    {
        let named = matches!(deploy.kind, Kind::Manual { want: Want::Rev(_), .. });
        let steps_back =
            named || before.live().is_some_and(|live| !world.schema.has_left(&live.release.commit));
        if deploy.id == work.deploy.id
            && steps_back
            && !deploy.forced
            && world.schema.has_left(&work.release.commit)
        {
            return Err(format!("{} is deployed on a schema that has left it", work.release.commit.short()));
        }
    }
    judge_denial(before, step, world)
}

/// The former release, if this step takes the traffic back from a watched one.
fn reverts<'a>(before: &App, next: &'a App) -> Option<&'a Release> {
    let watched = matches!(before.pipeline.stage(), Some(Stage::Watching { .. }));
    let reverting = matches!(next.pipeline.stage(), Some(Stage::Reverting { .. }));
    match &next.idle {
        Idle::Warm { release, .. } if watched && reverting => Some(release),
        _ => None,
    }
}

fn judge_denial(before: &App, step: &Step, world: &World) -> Result<(), String> {
    let barred = matches!(&step.answer, Some(AskReply::Denied(denial)) if denial.kind == DenialKind::Barred);
    match before.flips_to().filter(|_| barred) {
        Some(to) if !world.schema.may_leave(&to.commit) => {
            Err(format!("a flip to {} is refused, and no contract is in its way", to.commit.short()))
        }
        None if barred => Err("a flip that moves no traffic is refused".to_owned()),
        Some(_) | None => Ok(()),
    }
}

/// Once nothing is under way: status says that the schema is ahead of what is live.
pub fn judge_quiet(app: &App, world: &World) -> Result<(), String> {
    match app.live().filter(|live| world.schema.has_left(&live.release.commit)) {
        Some(live) if app.schema_ahead().is_none() => Err(format!(
            "the schema has left {}, which is live, and nobody says so",
            live.release.commit.short()
        )),
        Some(_) | None => Ok(()),
    }
}

/// Whether a barrier keeps bgd from going back to the release by itself.
pub fn keeps_from(app: &App, to: &Release, policy: &Policy) -> bool {
    policy.on_failure == OnFailure::Stay && app.barrier_after(&to.commit).is_some()
}

pub fn forgets_it_in_a_crash(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(event, Event::Recovered(_)) {
        return step(app, event, context);
    }
    step(&App { barrier: None, ..app.clone() }, event, context)
}

pub fn takes_it_down_with_its_deploy(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let failed = made.notes.iter().find_map(|noted| match &noted.note {
        Note::DeployEnded(end) if end.outcome != Outcome::Live => {
            noted.deploy.as_ref().map(|deploy| deploy.id)
        }
        _ => None,
    });
    let its_own = made.next.barrier.as_ref().is_some_and(|barrier| Some(barrier.deploy) == failed);
    if its_own {
        made.next.barrier = None;
    }
    made
}

/// It is set when the hook has ended, and not before it begins.
pub fn sets_it_afterwards(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(made.next.pipeline.stage(), Some(Stage::Hooking(_))) {
        made.next.barrier.clone_from(&app.barrier);
    }
    made
}

pub fn flips_over_it(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::Asked { by, ask: Ask::Flip } => {
            let by_force = Event::Asked { by: by.clone(), ask: Ask::ForceFlip };
            step(app, &by_force, context)
        }
        _ => step(app, event, context),
    }
}

pub fn goes_back_over_it(app: &App, event: &Event, context: &Context) -> Step {
    let policy = Policy { on_failure: OnFailure::Flip, ..context.policy.clone() };
    step(app, event, &Context { policy, ..context.clone() })
}

pub fn deploys_over_it(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(app.pipeline, Pipeline::Fetching { .. }) {
        return step(app, event, context);
    }
    let mut made = step(&App { barrier: None, ..app.clone() }, event, context);
    if made.next.barrier.is_none() {
        made.next.barrier.clone_from(&app.barrier);
    }
    made
}
