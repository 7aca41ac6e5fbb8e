//! `bgd deploy` and, with the same answer, `bgd up`: shows the progress, then says how it went and what to do
//! about it. Leaving with Ctrl-C ends only the watching.

use crate::{
    api::{
        client::Client,
        wire::{Answer, DeployRecord, Exit, Request, Status},
    },
    cli::{
        CliContext,
        args::{AppArg, DeployArgs},
        installation::Installation,
        problem::CliProblem,
        progress,
        terminal::{self, StreamStyle, Tone, one_line},
        wording,
    },
    rules::words::Outcome,
};

/// How many lines of the app's own output a failure shows; `bgd show` has all that was kept.
const TAIL: usize = 20;

pub async fn run(context: &CliContext, args: DeployArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let DeployArgs { app, rev, detach, force } = args;
    if detach {
        let Answer::Deploy(deploy) = installation.ask(&Request::DeployDetached { app, rev, force }).await?
        else {
            return Err(CliProblem::unexpected());
        };
        terminal::chatter(&format!(
            "deploy of {} begun; `bgd show {}` tells how it goes",
            deploy.app, deploy.id
        ));
        terminal::data(&deploy.id.to_string())?;
        return Ok(Exit::Done);
    }
    watched(context, &installation, Request::Deploy { app, rev, force }).await
}

pub async fn up(context: &CliContext, args: AppArg) -> Result<Exit, CliProblem> {
    watched(context, &context.installation()?, Request::Up { app: args.app }).await
}

async fn watched(
    context: &CliContext,
    installation: &Installation,
    request: Request,
) -> Result<Exit, CliProblem> {
    let mut call = installation.open(&request).await?;
    let answer = tokio::select! {
        // Not polled again after the other arm: both ends of the call are dropped with it.
        answer = progress::follow(&mut call, context.stderr) => answer?,
        _ = tokio::signal::ctrl_c() => return Err(left()),
    };
    match answer {
        Answer::Deploy(deploy) => report(&installation.client(), &deploy, context).await,
        // There was nothing to do, such as `up` of an app that is in service.
        Answer::Said(text) => {
            terminal::data(&text)?;
            Ok(Exit::Done)
        }
        _ => Err(CliProblem::unexpected()),
    }
}

fn left() -> CliProblem {
    CliProblem::refused(
        Exit::TimedOut,
        "left; the deploy goes on without you",
        "`bgd status` shows it, `bgd flip` cancels it",
    )
}

async fn report(client: &Client, deploy: &DeployRecord, context: &CliContext) -> Result<Exit, CliProblem> {
    let mut exit = exit_of(deploy);
    if exit == Exit::Done {
        terminal::data(&success(deploy, context.stdout))?;
        return Ok(exit);
    }
    // Both only explain; the answer stands without them.
    let tail = match client.ask(&Request::Show { id: deploy.id }).await {
        Ok(Answer::Show(detail)) => detail.log_tail,
        _ => Vec::new(),
    };
    let serving = match client.ask(&Request::Status { app: Some(deploy.app.clone()) }).await {
        Ok(Answer::Status(status)) => {
            // "Failed" alone would claim that an old color still serves.
            if exit == Exit::Failed && status.apps.iter().all(|app| app.live.is_none()) {
                exit = Exit::NothingLive;
            }
            Some(serving(&status))
        }
        _ => None,
    };
    terminal::chatter(&failure(deploy, &tail, context.stderr));
    terminal::chatter(&serving.unwrap_or_default());
    Ok(exit)
}

/// The exit code of an ended deploy: 0 when live, 6 when rolled back, else 1 (as long as something is live).
pub fn exit_of(deploy: &DeployRecord) -> Exit {
    match deploy.outcome {
        Some(Outcome::Live) => Exit::Done,
        Some(Outcome::RolledBack) => Exit::RolledBack,
        Some(Outcome::Failed | Outcome::Superseded | Outcome::Cancelled) | None => Exit::Failed,
    }
}

/// `shop: a1b2c3d "Fix the cart total" is live on green after 4.2 s (fetch 41 ms, build 2.1 s)`.
fn success(deploy: &DeployRecord, look: StreamStyle) -> String {
    let subject = deploy.subject.as_deref().map(|subject| format!(" {:?}", one_line(subject)));
    let color = deploy.color.map(|color| format!(" on {color}")).unwrap_or_default();
    let took =
        wording::took(deploy).map(|took| format!(" after {}", wording::span(took))).unwrap_or_default();
    let steps = match deploy.steps.is_empty() {
        true => String::new(),
        false => format!(" ({})", wording::steps(&deploy.steps)),
    };
    let live = look.paint(Tone::Good, "is live");
    let commit = wording::short(deploy.commit.as_ref());
    format!("{}: {commit}{} {live}{color}{took}{steps}", deploy.app, subject.unwrap_or_default())
}

fn failure(deploy: &DeployRecord, tail: &[String], look: StreamStyle) -> String {
    let mut text =
        format!("{} {}: {}", look.paint(Tone::Bad, "error:"), deploy.app, wording::failure(deploy));
    if !tail.is_empty() {
        text.push_str("\nlast output:");
    }
    for line in &tail[tail.len().saturating_sub(TAIL)..] {
        text.push_str(&format!("\n  | {}", one_line(line)));
    }
    let hint = deploy.hint.clone().unwrap_or_else(|| format!("`bgd show {}` has the whole story", deploy.id));
    text.push_str(&format!("\nhint: {}", one_line(&hint)));
    text
}

fn serving(status: &Status) -> String {
    status.apps.first().map_or_else(|| "nothing is live".to_owned(), wording::serving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::wire::StepRecord,
        cli::status::fixture,
        rules::{
            ids::{Color, DeployId},
            words::{DeployKind, Phase},
        },
    };

    fn record(outcome: Option<Outcome>) -> DeployRecord {
        DeployRecord {
            id: DeployId(7),
            app: "shop".parse().unwrap(),
            kind: DeployKind::Manual,
            by: "ann".to_owned(),
            uid: None,
            commit: Some(fixture::commit("c3")),
            subject: Some("Add a banner".to_owned()),
            author: Some("Ann".to_owned()),
            release: None,
            color: Some(Color::Green),
            outcome,
            phase: None,
            error: None,
            hint: None,
            started_at: fixture::before(20),
            finished_at: Some(fixture::before(16)),
            steps: vec![StepRecord { name: "build".to_owned(), ms: 2_100 }],
            meter: None,
            replaced: false,
            passed_gates: Vec::new(),
        }
    }

    #[test]
    fn the_exit_code_of_a_deploy_is_its_outcome() {
        for (outcome, exit) in [
            (Some(Outcome::Live), 0),
            (Some(Outcome::Failed), 1),
            (Some(Outcome::Superseded), 1),
            (Some(Outcome::Cancelled), 1),
            (Some(Outcome::RolledBack), 6),
            (None, 1),
        ] {
            assert_eq!(exit_of(&record(outcome)) as u8, exit, "{outcome:?}");
        }
    }

    #[test]
    fn success_is_one_line_with_the_steps() {
        assert_eq!(
            success(&record(Some(Outcome::Live)), StreamStyle::PLAIN),
            "shop: c3c3c3c \"Add a banner\" is live on green after 4.0 s (build 2.1 s)"
        );
    }

    #[test]
    fn d3_a_failure_shows_the_reason_the_last_output_and_a_hint() {
        let failed = DeployRecord {
            phase: Some(Phase::Probing),
            error: Some("GET /up answered 500".to_owned()),
            ..record(Some(Outcome::Failed))
        };
        let tail = ["booting".to_owned(), "panic: no\x1b[2J database".to_owned()];
        assert_eq!(
            failure(&failed, &tail, StreamStyle::PLAIN),
            "error: shop: deploy #7 of c3c3c3c failed at its health check: GET /up answered 500\n\
             last output:\n  | booting\n  | panic: no database\n\
             hint: `bgd show 7` has the whole story"
        );
    }
}
