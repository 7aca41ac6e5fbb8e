//! `bgd wait`: polls the status until the goal is reached. Survives a restart of the daemon; ends early only when the
//! deploy of the wanted commit has failed, since waiting would change nothing.

use std::time::{Duration, Instant};

use crate::{
    api::{
        client::CallError,
        wire::{Answer, AppReport, Exit, Request},
    },
    cli::{
        CliContext,
        args::{Goal, WaitArgs},
        problem::CliProblem,
        terminal::{self, one_line},
        wording,
    },
    config::duration,
    rules::{
        ids::DeployId,
        words::{AppState, Outcome, Phase, WhyCode},
    },
};

/// Time between two polls: a status costs the daemon well under a millisecond.
const LOOK: Duration = Duration::from_millis(300);

pub async fn run(context: &CliContext, args: WaitArgs) -> Result<Exit, CliProblem> {
    let client = context.installation()?.client();
    let until = Instant::now() + args.timeout;
    loop {
        let found = match client.ask(&Request::Status { app: args.app.clone() }).await {
            Ok(Answer::Status(status)) => Ok(all(&status.apps, &args.goal)?),
            Ok(_) => return Err(CliProblem::unexpected()),
            Err(CallError::Refused(refusal)) => return Err(refusal.into()),
            Err(error @ CallError::NotPermitted { .. }) => return Err(error.into()),
            Err(error) => Err(error),
        };
        match found {
            Ok(PollResult::Reached(text)) => {
                terminal::data(&text)?;
                return Ok(Exit::Done);
            }
            Ok(PollResult::Hopeless(exit, text, id)) => {
                let hint = format!("`bgd show {id}` has the whole story");
                return Err(CliProblem::refused(exit, text, hint));
            }
            Ok(PollResult::NotYet(_)) | Err(_) if Instant::now() + LOOK < until => {}
            Ok(PollResult::NotYet(text)) => {
                let waited = duration::exact(args.timeout);
                let message = format!("not so within {waited}: {text}");
                return Err(CliProblem::refused(
                    Exit::TimedOut,
                    message,
                    "`bgd status` shows what is under way",
                ));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The result of one poll.
#[derive(Debug, PartialEq)]
enum PollResult {
    Reached(String),
    NotYet(String),
    Hopeless(Exit, String, DeployId),
}

/// Judges all the apps together. A goal with a commit needs exactly one app.
fn all(apps: &[AppReport], goal: &Goal) -> Result<PollResult, CliProblem> {
    if let (Goal::Rev(_), [_, _, ..]) = (goal, apps) {
        return Err(CliProblem::usage("which app?", "`bgd wait APP --for rev=SHA`"));
    }
    let mut reached = Vec::new();
    for app in apps {
        match judge(app, goal) {
            PollResult::Reached(text) => reached.push(text),
            other => return Ok(other),
        }
    }
    Ok(PollResult::Reached(reached.join("\n")))
}

fn judge(app: &AppReport, goal: &Goal) -> PollResult {
    match goal {
        Goal::Live => judge_live(app),
        Goal::Rev(_) => judge_rev(app, goal),
    }
}

fn judge_live(app: &AppReport) -> PollResult {
    let serves = !matches!(app.state, AppState::Empty | AppState::Down | AppState::Stopped);
    match &app.live {
        Some(live) if serves && live.healthy != Some(false) => {
            PollResult::Reached(format!("{}: {} is live on {}", app.name, live.commit.short(), live.color))
        }
        _ => judge_bad(app).unwrap_or_else(|| PollResult::NotYet(format!("{} is {}", app.name, app.state))),
    }
}

/// A final failure when nothing is live and the tip is marked bad, so that bgd does not try again.
fn judge_bad(app: &AppReport) -> Option<PollResult> {
    let why = app.why.as_ref().filter(|why| why.code == WhyCode::BadCommit)?;
    let last = app.last.as_ref().filter(|_| app.live.is_none() && app.deploy.is_none())?;
    let text = format!("{}: nothing is live, and {}", app.name, one_line(&why.text));
    Some(PollResult::Hopeless(Exit::NothingLive, text, last.id))
}

fn judge_rev(app: &AppReport, goal: &Goal) -> PollResult {
    let under_way =
        app.deploy.as_ref().filter(|deploy| deploy.commit.as_ref().is_some_and(|c| goal.names(c)));
    if let Some(deploy) = under_way.filter(|deploy| deploy.phase <= Phase::Watching) {
        let phase = wording::doing(deploy.phase);
        return PollResult::NotYet(format!("{}: deploy #{} is {phase}", app.name, deploy.id));
    }
    if let Some(live) = app.live.as_ref().filter(|live| goal.names(&live.commit)) {
        return PollResult::Reached(format!(
            "{}: {} is live on {}",
            app.name,
            live.commit.short(),
            live.color
        ));
    }
    let last = app.last.as_ref().filter(|last| last.commit.as_ref().is_some_and(|c| goal.names(c)));
    match last.map(|last| (last, last.outcome)) {
        Some((
            last,
            outcome @ (Outcome::Failed | Outcome::RolledBack | Outcome::Cancelled | Outcome::Superseded),
        )) => {
            let exit = if outcome == Outcome::RolledBack { Exit::RolledBack } else { Exit::Failed };
            let error =
                last.error.as_deref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
            let how = wording::ended(outcome);
            let (name, id, serving) = (&app.name, last.id, wording::serving(app));
            PollResult::Hopeless(
                exit,
                format!("{name}: deploy #{id} of that commit {how}{error}; {serving}"),
                id,
            )
        }
        Some((_, Outcome::Live)) | None => {
            let live = app.live.as_ref().map_or("nothing", |live| live.commit.short());
            PollResult::NotYet(format!("{}: {live} is live", app.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::fixture;

    fn rev(pair: &str) -> Goal {
        Goal::Rev(pair.repeat(4))
    }

    #[test]
    fn live_is_reached_by_anything_that_serves() {
        assert!(matches!(judge(&fixture::live(), &Goal::Live), PollResult::Reached(_)));
        assert!(matches!(judge(&fixture::deploying(), &Goal::Live), PollResult::Reached(_)));
        assert!(matches!(judge(&fixture::empty(), &Goal::Live), PollResult::NotYet(_)));
        let mut sick = fixture::live();
        sick.live.as_mut().unwrap().healthy = Some(false);
        assert!(matches!(judge(&sick, &Goal::Live), PollResult::NotYet(_)));
    }

    #[test]
    fn a_commit_is_reached_when_it_is_live_and_its_watch_is_over() {
        assert!(matches!(judge(&fixture::live(), &rev("a1")), PollResult::Reached(_)));
        assert!(matches!(judge(&fixture::deploying(), &rev("c3")), PollResult::NotYet(_)));
        let mut watched = fixture::deploying();
        watched.deploy.as_mut().unwrap().phase = Phase::Watching;
        watched.live.as_mut().unwrap().commit = fixture::commit("c3");
        assert!(matches!(judge(&watched, &rev("c3")), PollResult::NotYet(_)));
        watched.deploy.as_mut().unwrap().phase = Phase::Draining;
        assert!(matches!(judge(&watched, &rev("c3")), PollResult::Reached(_)));
    }

    #[test]
    fn a_commit_that_failed_ends_the_wait_at_once_unless_it_is_tried_again() {
        let failed = fixture::failed();
        let PollResult::Hopeless(exit, text, _) = judge(&failed, &rev("c3")) else { panic!("hopeless") };
        assert_eq!(exit, Exit::Failed);
        assert_eq!(
            text,
            "shop: deploy #7 of that commit failed: GET http://127.0.0.1:9502/up answered 500; a1a1a1a serves on blue"
        );
        assert!(matches!(judge(&failed, &rev("d4")), PollResult::NotYet(_)));
        let again = AppReport { deploy: fixture::deploying().deploy, ..failed };
        assert!(matches!(judge(&again, &rev("c3")), PollResult::NotYet(_)));
    }

    #[test]
    fn live_is_hopeless_when_nothing_is_and_the_only_commit_is_marked_bad() {
        let failed = AppReport { live: None, state: AppState::Empty, ..fixture::failed() };
        let PollResult::Hopeless(exit, text, _) = judge(&failed, &Goal::Live) else { panic!("hopeless") };
        assert_eq!(exit, Exit::NothingLive);
        assert_eq!(text, "shop: nothing is live, and c3c3c3c is marked bad: GET /up answered 500");
        let again = AppReport { deploy: fixture::deploying().deploy, ..failed };
        assert!(matches!(judge(&again, &Goal::Live), PollResult::NotYet(_)), "it is tried once more");
    }

    #[test]
    fn a_commit_needs_one_app() {
        let two = [fixture::live(), fixture::live()];
        assert_eq!(all(&two, &rev("a1")).unwrap_err().exit(), Exit::Usage);
        assert!(matches!(all(&two, &Goal::Live), Ok(PollResult::Reached(_))));
    }
}
