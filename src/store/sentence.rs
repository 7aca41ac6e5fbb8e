//! Notes as events: the fixed word, who caused it, and one line for people.

use std::time::Duration;

use super::record::EventRecord;
use crate::rules::{
    app::{Hold, Placing, Until},
    barrier::Barrier,
    effect::Note,
    ids::{AppName, CommitId, TaskName},
    step::Noted,
    task::Ran,
    time::Time,
    words::{EventKind, Failure, Outcome, TaskOutcome},
};

/// The event of a note; `None` for notes that are rows only. `asked` names the operator behind the step, who need not
/// be behind its deploy: an operator's flip may end a deploy of the poller.
pub(super) fn event(app: &AppName, at: Time, (noted, asked): (&Noted, Option<&str>)) -> Option<EventRecord> {
    let (kind, text) = sentence(noted)?;
    let mut event = EventRecord::new(kind, at, &text);
    event.app = Some(app.clone());
    event.deploy = noted.deploy.as_ref().map(|deploy| deploy.id);
    if let Some(by) = asked.map(str::to_owned).or_else(|| caused_by(noted)) {
        event.by = by;
    }
    Some(event)
}

fn caused_by(noted: &Noted) -> Option<String> {
    match &noted.note {
        Note::HoldPlaced(hold) => Some(hold.by.clone()),
        Note::Queued(queued) => Some(queued.by.clone()),
        Note::GateClosed(_) | Note::GateOpened(_) => None,
        _ => noted.deploy.as_ref().map(|deploy| deploy.by.clone()),
    }
}

fn sentence(noted: &Noted) -> Option<(EventKind, String)> {
    let commit = || noted.release.as_ref().map_or("the deploy", |release| release.commit.short()).to_owned();
    Some(match &noted.note {
        Note::DeployStarted => {
            let kind = noted.deploy.as_ref().map_or("", |deploy| deploy.kind.word().as_str());
            (EventKind::DeployStarted, format!("deploy started ({kind})"))
        }
        Note::ReleaseNamed => {
            let release = noted.release.as_ref()?;
            let migration = noted.deploy.as_ref().and_then(|deploy| deploy.migration.as_ref());
            let migrates =
                migration.map(|migration| format!("; migrates ({})", migration.text)).unwrap_or_default();
            let text = format!("{} \"{}\" by {}", release.commit.short(), release.subject, release.author);
            (EventKind::ReleaseNamed, text + &migrates)
        }
        Note::PhaseEntered(phase) => (EventKind::PhaseEntered, phase.to_string()),
        Note::StepEnded(..) => return None,
        Note::TaskStarted { task, when } => (EventKind::TaskStarted, format!("task {task} ({when})")),
        Note::TaskEnded { task, ran, took, .. } => (EventKind::TaskEnded, task_ended(task, ran, *took)),
        Note::DeployEnded(end) => {
            (EventKind::DeployEnded, ended(&commit(), end.outcome, end.failure.as_ref()))
        }
        Note::ShareChanged(share) => {
            (EventKind::ShareChanged, format!("{} receives {share} of the traffic", commit()))
        }
        Note::Inconclusive(seen) => (EventKind::Inconclusive, format!("{}: {seen}", commit())),
        Note::WentLive { color, release } => {
            (EventKind::WentLive, format!("{} is live on {color}", release.commit.short()))
        }
        Note::Replaced { color, by: Placing::PassedOn } => {
            let (from, to) = (color, color.other());
            (
                EventKind::Trouble,
                format!("the front can't be moved: what comes to {from} is passed on to {to}"),
            )
        }
        Note::Replaced { color, by: Placing::Started } => (
            EventKind::Trouble,
            format!("the front can't be moved: the release was started in the place of {color}"),
        ),
        Note::StandInEnded { color } => {
            (EventKind::Retired, format!("nothing stands in on {color} any more: the front was told"))
        }
        Note::Retired { color, release } => {
            (EventKind::Retired, format!("{release} no longer runs on {color}"))
        }
        Note::Queued(queued) => {
            (EventKind::DeployQueued, format!("deploy #{} waits for its turn", queued.id))
        }
        Note::QueueReplaced(queued) => {
            (EventKind::DeploySuperseded, format!("deploy #{} gave way to a newer request", queued.id))
        }
        Note::InstanceDied { how, restart_in: Some(wait) } => {
            (EventKind::InstanceDied, format!("the live instance died ({how}); {}", again(*wait)))
        }
        Note::InstanceDied { how, restart_in: None } => (
            EventKind::InstanceDied,
            format!("the live instance died ({how}); it stays down: watch.restart is off"),
        ),
        Note::InstanceRestarted { which: (which, of), .. } => {
            (EventKind::InstanceRestarted, runs_again(which, *of))
        }
        Note::RestartFailed(failure) => {
            (EventKind::RestartFailed, format!("the live instance could not be started: {}", failure.cause))
        }
        Note::HealthChanged { healthy: true, .. } => {
            (EventKind::HealthChanged, "the live instance is healthy again".to_owned())
        }
        Note::HealthChanged { healthy: false, answer } => {
            (EventKind::HealthChanged, format!("the live instance is not healthy: {answer}"))
        }
        Note::HoldPlaced(hold) => (EventKind::HoldPlaced, held(hold)),
        Note::HoldReleased { why } => (EventKind::HoldReleased, format!("automatic deploys are on: {why}")),
        Note::GateClosed(gate) => (EventKind::GateClosed, gate.text.clone()),
        Note::GateOpened(gate) => {
            (EventKind::GateOpened, format!("the {} gate of {} is open", gate.kind, gate.commit.short()))
        }
        Note::GatesPassed(_) => return None,
        Note::MarkedBad(commit) => {
            (EventKind::MarkedBad, format!("{} is not deployed again by itself", commit.short()))
        }
        Note::BarrierSet(barrier) => (EventKind::BarrierSet, barrier_set(barrier)),
        Note::BarrierPassed { to, barrier } => (EventKind::Trouble, barrier_passed(to, barrier)),
        Note::TakenDown => (EventKind::TakenDown, "the app is out of service".to_owned()),
        Note::Contradiction(saw) => (EventKind::Contradiction, saw.clone()),
        Note::Trouble(failure) => (EventKind::Trouble, failure.cause.clone()),
        Note::Ignored(_) => return None,
    })
}

fn barrier_set(barrier: &Barrier) -> String {
    let (commit, text) = (barrier.commit.short(), &barrier.contract.text);
    format!(
        "{commit} is about to change the database ({text}); from now on only --force goes back to before it"
    )
}

fn barrier_passed(to: &CommitId, barrier: &Barrier) -> String {
    let (to, commit, text) = (to.short(), barrier.commit.short(), &barrier.contract.text);
    format!(
        "by force to {to}, which is from before the contract migration of {commit} ({text}): the schema is ahead of it"
    )
}

/// `task migrate: done in 1.2 s`.
fn task_ended(task: &TaskName, ran: &Ran, took: Duration) -> String {
    match (&ran.failure, ran.outcome) {
        (Some(failure), _) => failure.cause.clone(),
        (None, TaskOutcome::Done) => format!("task {task}: done in {:.1} s", took.as_secs_f64()),
        (None, TaskOutcome::Unknown) => format!("task {task} was given up with its deploy"),
        (None, outcome) => format!("task {task}: {outcome}"),
    }
}

fn held(hold: &Hold) -> String {
    match hold.until {
        Until::Resumed => format!("automatic deploys are off: {}", hold.reason),
        Until::NewerThan(_) => format!("automatic deploys wait for a newer commit: {}", hold.reason),
    }
}

/// `starting it again in 4 s`.
fn again(wait: Duration) -> String {
    match wait.as_secs() {
        0 => "starting it again at once".to_owned(),
        s => format!("starting it again in {s} s"),
    }
}

/// `instance 2 of 3 runs again`.
fn runs_again(which: &[u16], of: u16) -> String {
    let numbers = || which.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match which {
        [] => "the live instance runs again".to_owned(),
        [one] => format!("instance {one} of {of} runs again"),
        _ => format!("instances {} of {of} run again", numbers()),
    }
}

fn ended(commit: &str, outcome: Outcome, failure: Option<&Failure>) -> String {
    let why = failure.map(|failure| format!(": {} ({})", failure.cause, failure.phase)).unwrap_or_default();
    match outcome {
        Outcome::Live => format!("{commit} is deployed"),
        Outcome::Failed => format!("{commit} failed{why}"),
        Outcome::Superseded => format!("{commit} gave way to a newer commit"),
        Outcome::Cancelled => format!("{commit} was cancelled"),
        Outcome::RolledBack => format!("{commit} was rolled back{why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_comes_up_again_is_numbered_as_its_death_was() {
        assert_eq!(runs_again(&[], 1), "the live instance runs again");
        assert_eq!(runs_again(&[2], 3), "instance 2 of 3 runs again");
        assert_eq!(runs_again(&[1, 3], 3), "instances 1, 3 of 3 run again");
        // Nothing was missing by then.
        assert_eq!(runs_again(&[], 3), "the live instance runs again");
    }
}
