//! Notes as events: the fixed word, who caused it, and one line for people.

use super::record::EventRecord;
use crate::rules::{
    effect::Note,
    ids::AppName,
    step::Noted,
    time::Time,
    words::{Failure, Outcome},
};

/// The event of a note; `None` for notes that are rows only.
pub(super) fn event(app: &AppName, at: Time, noted: &Noted) -> Option<EventRecord> {
    let (kind, text) = sentence(noted)?;
    let mut event = EventRecord::new(kind, at, &text);
    event.app = Some(app.clone());
    event.deploy = noted.deploy.as_ref().map(|deploy| deploy.id);
    if let Some(by) = caused_by(noted) {
        event.by = by;
    }
    Some(event)
}

fn caused_by(noted: &Noted) -> Option<String> {
    match &noted.note {
        Note::HoldPlaced(hold) => Some(hold.by.clone()),
        Note::Queued(queued) => Some(queued.by.clone()),
        _ => noted.deploy.as_ref().map(|deploy| deploy.by.clone()),
    }
}

fn sentence(noted: &Noted) -> Option<(&'static str, String)> {
    let commit = || noted.release.as_ref().map_or("the deploy", |release| release.commit.short()).to_owned();
    Some(match &noted.note {
        Note::DeployStarted => {
            let kind = noted.deploy.as_ref().map_or("", |deploy| deploy.kind.as_str());
            ("deploy_started", format!("deploy started ({kind})"))
        }
        Note::ReleaseNamed => {
            let release = noted.release.as_ref()?;
            let text = format!("{} \"{}\" by {}", release.commit.short(), release.subject, release.author);
            ("release_named", text)
        }
        Note::PhaseEntered(phase) => ("phase_entered", phase.to_string()),
        Note::StepEnded(..) => return None,
        Note::DeployEnded(end) => ("deploy_ended", ended(&commit(), end.outcome, end.failure.as_ref())),
        Note::ShareChanged(share) => {
            ("share_changed", format!("{} receives {share} of the traffic", commit()))
        }
        Note::Inconclusive(seen) => ("inconclusive", format!("{}: {seen}", commit())),
        Note::WentLive { color, release } => {
            ("went_live", format!("{} is live on {color}", release.commit.short()))
        }
        Note::Retired { color, release } => ("retired", format!("{release} no longer runs on {color}")),
        Note::Queued(queued) => ("deploy_queued", format!("deploy {} waits for its turn", queued.id)),
        Note::QueueReplaced(queued) => {
            ("deploy_superseded", format!("deploy {} gave way to a newer request", queued.id))
        }
        Note::InstanceDied { how, restart_in: Some(wait) } => (
            "instance_died",
            format!("the live instance died ({how}); starting it again in {} s", wait.as_secs()),
        ),
        Note::InstanceDied { how, restart_in: None } => {
            ("instance_died", format!("the live instance died ({how}); watch.restart is off"))
        }
        Note::InstanceRestarted { .. } => ("instance_restarted", "the live instance runs again".to_owned()),
        Note::RestartFailed(failure) => {
            ("restart_failed", format!("the live instance could not be started: {}", failure.cause))
        }
        Note::HealthChanged { healthy: true, .. } => {
            ("health_changed", "the live instance is healthy again".to_owned())
        }
        Note::HealthChanged { healthy: false, answer } => {
            ("health_changed", format!("the live instance is not healthy: {answer}"))
        }
        Note::HoldPlaced(hold) => ("hold_placed", format!("automatic deploys are off: {}", hold.reason)),
        Note::HoldReleased { why } => ("hold_released", format!("automatic deploys are on: {why}")),
        Note::MarkedBad(commit) => {
            ("marked_bad", format!("{} is not deployed again by itself", commit.short()))
        }
        Note::TakenDown => ("taken_down", "the app is out of service".to_owned()),
        Note::Contradiction(saw) => ("contradiction", saw.clone()),
        Note::Trouble(failure) => ("trouble", failure.cause.clone()),
        Note::Ignored(_) => return None,
    })
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
