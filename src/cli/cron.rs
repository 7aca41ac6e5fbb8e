//! `bgd cron`: the schedules of an app, from the daemon or, without it, from the record; and one run now.

use crate::{
    api::{
        client::Part,
        wire::{Answer, CronReport, Exit, LogSource, Progress, Request, Status},
    },
    cli::{
        CliContext,
        args::{CronArgs, CronCommand, CronListArgs},
        installation::Installation,
        offline,
        problem::CliProblem,
        table,
        terminal::{self, StreamStyle, one_line},
        wording,
    },
    rules::{
        ids::{AppName, CronName},
        time::{Stamp, Time},
        words::CronOutcome,
    },
    shim::logs::BEGINS,
};

/// Lines of output shown of a run that failed; `bgd logs --cron` has all.
const TAIL: u32 = 5;
/// Read to find the beginning of the last run.
const SEARCHED: u32 = 200;

pub(super) async fn run(context: &CliContext, args: CronArgs) -> Result<Exit, CliProblem> {
    match args.command {
        None => list(context, args.list).await,
        Some(CronCommand::List(args)) => list(context, args).await,
        Some(CronCommand::Run { name, app }) => run_now(context, name, app).await,
    }
}

async fn list(context: &CliContext, args: CronListArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let app = installation.app(args.app.as_ref())?;
    let (status, daemon) = match installation.client().ask(&Request::Status { app: Some(app.clone()) }).await
    {
        Ok(Answer::Status(status)) => (status, true),
        Ok(_) => return Err(CliProblem::unexpected()),
        Err(error) if error.without_daemon() => {
            let status = offline::status(installation.settings_or(&error)?).await?;
            context.say_record(&error);
            (status, false)
        }
        Err(error) => return Err(error.into()),
    };
    let crons = of_app(status, &app);
    if args.json {
        terminal::data(&serde_json::to_string_pretty(&crons).expect("plain data"))?;
    } else if crons.is_empty() {
        terminal::chatter(&format!("{app} has no schedules; [app.{app}.cron.NAME] adds one"));
    } else {
        terminal::data(&render(&crons, wording::now(), context.stdout))?;
        for cron in crons.iter().filter(|cron| daemon && has_failed(cron)) {
            show_tail(context, &installation, (&app, cron)).await?;
        }
    }
    Ok(Exit::Done)
}

fn of_app(status: Status, app: &AppName) -> Vec<CronReport> {
    status.apps.into_iter().find(|one| one.name == *app).map(|one| one.cron).unwrap_or_default()
}

fn has_failed(cron: &CronReport) -> bool {
    matches!(&cron.last, Some(last) if matches!(last.outcome, CronOutcome::Failed | CronOutcome::TimedOut))
}

/// Shows the last lines of a run that failed, to those who may read them.
async fn show_tail(
    context: &CliContext,
    installation: &Installation,
    (app, cron): (&AppName, &CronReport),
) -> Result<(), CliProblem> {
    let source = LogSource::Cron(cron.name.clone());
    let request =
        Request::Logs { app: Some(app.clone()), lines: SEARCHED, follow: false, source, instance: None };
    let Ok(mut call) = installation.client().begin(&request).await else { return Ok(()) };
    let mut lines = Vec::new();
    loop {
        match call.next().await {
            Ok(Part::Progress(Progress::Line(line))) if line.starts_with(BEGINS) => lines.clear(),
            Ok(Part::Progress(Progress::Line(line))) => lines.push(line),
            Ok(Part::Progress(Progress::Event(_))) => {}
            Ok(Part::Done(_)) => break,
            // A reader may not see what an app prints.
            Err(_) => return Ok(()),
        }
    }
    let skipped = lines.len().saturating_sub(usize::try_from(TAIL).unwrap_or(0));
    terminal::data(&format!("\n{}: its last output (all of it: bgd logs --cron {})", cron.name, cron.name))?;
    lines.iter().skip(skipped).try_for_each(|line| terminal::output(context.stdout, &format!("  {line}")))?;
    Ok(())
}

fn render(crons: &[CronReport], now: Time, look: StreamStyle) -> String {
    let row = |cron: &CronReport| {
        vec![
            cron.name.to_string(),
            cron.schedule.clone(),
            cron.next_at.map_or("-".to_owned(), |at| coming(at, now, look)),
            cron.last.as_ref().map_or("-".to_owned(), |last| past(last.due_at, now, look)),
            outcome(cron, now),
        ]
    };
    table::render(&["NAME", "SCHEDULE", "NEXT", "LAST", "OUTCOME"], crons.iter().map(row).collect(), look)
}

/// Scripts get a timestamp, people a wait.
fn coming(at: Stamp, now: Time, look: StreamStyle) -> String {
    match look.width {
        Some(_) => format!("in {}", wording::whole(at.0.since(now))),
        None => at.to_string(),
    }
}

fn past(at: Stamp, now: Time, look: StreamStyle) -> String {
    match look.width {
        Some(_) => wording::ago(at, now),
        None => at.to_string(),
    }
}

/// `failed (exit 3)`; a run under way comes before what came of the last.
fn outcome(cron: &CronReport, now: Time) -> String {
    let running = cron.running.as_ref().map(|running| match running.started_at {
        Some(since) => format!("running for {}", wording::age(since, now)),
        None => "starting".to_owned(),
    });
    let last = cron.last.as_ref().map(|last| {
        let word = wording::plain_word(last.outcome.as_str());
        match last.exit.filter(|_| last.outcome != CronOutcome::Done) {
            Some(code) => format!("{word} (exit {code})"),
            None => word,
        }
    });
    match (running, last) {
        (Some(running), Some(last)) => format!("{running}; {last}"),
        (running, last) => running.or(last).unwrap_or_else(|| "-".to_owned()),
    }
}

async fn run_now(context: &CliContext, name: CronName, app: Option<AppName>) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let mut call = installation.open(&Request::RunCron { app, name: name.clone() }).await?;
    loop {
        let part = tokio::select! {
            // Not polled again after the other arm: both ends of the call are dropped with it.
            part = call.next() => part?,
            _ = tokio::signal::ctrl_c() => return Err(left(&name)),
        };
        match part {
            Part::Progress(Progress::Line(line)) => terminal::output(context.stdout, &line)?,
            Part::Progress(Progress::Event(event)) => terminal::chatter(&one_line(&event.text)),
            Part::Done(Answer::Said(text)) => {
                terminal::chatter(&one_line(&text));
                return Ok(Exit::Done);
            }
            Part::Done(_) => return Err(CliProblem::unexpected()),
        }
    }
}

fn left(name: &CronName) -> CliProblem {
    CliProblem::refused(
        Exit::TimedOut,
        format!("left; {name} runs on without you"),
        format!("`bgd logs --cron {name} -f` shows it, `bgd cron` how it ends"),
    )
}
