//! `bgd status`: asks the daemon, or reads the record when the daemon is away or hangs, and prints the status. The
//! exit code answers for scripts; rendering is in the files below `status/`.

#[cfg(test)]
pub(crate) mod fixture;
mod next;
mod oneline;
mod pick;
mod summary;
mod workers;

use std::{io::Write as _, time::Duration};

use crate::{
    api::{
        client::CallError,
        wire::{Answer, AppReport, Exit, Request, Status},
    },
    cli::{
        CliContext,
        args::StatusArgs,
        installation::Installation,
        offline,
        problem::CliProblem,
        record_note,
        terminal::{self, StreamStyle},
        wording,
    },
};

/// Time between two refreshes of `-w` (contract: every second).
const REFRESH: Duration = Duration::from_secs(1);

pub async fn run(context: &CliContext, args: StatusArgs) -> Result<Exit, CliProblem> {
    if let Some(key) = &args.output {
        pick::check(key)?;
    }
    let installation = context.installation()?;
    if args.watch {
        return watch(context, &installation, &args).await;
    }
    let seen = look(&installation, &args).await?;
    if let Some(error) = &seen.unreachable {
        context.say_record(error);
    }
    terminal::data(&text(&seen.status, &args, context.stdout)?)?;
    Ok(seen.exit())
}

/// A status and, when it was read from the record, why.
struct ShownStatus {
    status: Status,
    unreachable: Option<CallError>,
}

impl ShownStatus {
    fn exit(&self) -> Exit {
        match self.unreachable {
            Some(_) => Exit::Unreachable,
            None => verdict(&self.status),
        }
    }
}

async fn look(installation: &Installation, args: &StatusArgs) -> Result<ShownStatus, CliProblem> {
    match installation.client().ask(&Request::Status { app: args.app.clone() }).await {
        Ok(Answer::Status(status)) => Ok(ShownStatus { status, unreachable: None }),
        Ok(_) => Err(CliProblem::unexpected()),
        Err(error) if error.without_daemon() => {
            let mut status = offline::status(installation.settings_or(&error)?).await?;
            status.daemon.config_refused = installation.is_refused().then(|| "bgd check".to_owned());
            if let Some(app) = &args.app {
                status.apps.retain(|report| report.name == *app);
            }
            Ok(ShownStatus { status, unreachable: Some(error) })
        }
        Err(error) => Err(error.into()),
    }
}

/// The exit code of the worst app: nothing live, then degraded.
fn verdict(status: &Status) -> Exit {
    let exits: Vec<_> = status.apps.iter().map(exit_of).collect();
    [Exit::NothingLive, Exit::Degraded].into_iter().find(|bad| exits.contains(bad)).unwrap_or(Exit::Done)
}

fn exit_of(app: &AppReport) -> Exit {
    use crate::rules::words::AppState as S;
    match app.state {
        S::Empty | S::Down | S::Stopped => Exit::NothingLive,
        S::Live | S::Deploying | S::Watching | S::Held | S::Degraded if app.live.is_none() => {
            Exit::NothingLive
        }
        S::Degraded => Exit::Degraded,
        S::Live | S::Deploying | S::Watching | S::Held => Exit::Done,
    }
}

fn text(status: &Status, args: &StatusArgs, look: StreamStyle) -> Result<String, CliProblem> {
    if let Some(key) = &args.output {
        return pick::value(status, key);
    }
    if args.json {
        return Ok(serde_json::to_string_pretty(status).expect("a status is plain data"));
    }
    if args.oneline {
        return Ok(lines(status, look));
    }
    Ok(summary::render(status, wording::now(), look))
}

fn lines(status: &Status, look: StreamStyle) -> String {
    status.apps.iter().map(|app| oneline::line(app, look)).collect::<Vec<_>>().join("\n")
}

async fn watch(
    context: &CliContext,
    installation: &Installation,
    args: &StatusArgs,
) -> Result<Exit, CliProblem> {
    let mut every = tokio::time::interval(REFRESH);
    let mut before = Vec::new();
    loop {
        every.tick().await;
        let seen = look(installation, args).await?;
        if context.stdout.ansi {
            redraw(&seen, args, context.stdout)?;
        } else {
            append(&seen.status, args, &mut before)?;
        }
    }
}

fn redraw(seen: &ShownStatus, args: &StatusArgs, look: StreamStyle) -> Result<(), CliProblem> {
    let mut text = text(&seen.status, args, look)?;
    if let Some(error) = &seen.unreachable {
        text.push_str(&format!("\n\n{}", record_note(error)));
    }
    let mut out = std::io::stdout().lock();
    // Cursor home, clear each line to its end, then everything below: no flicker, no leftovers.
    write!(out, "\x1b[H{}\x1b[K\n\x1b[J", text.replace('\n', "\x1b[K\n"))?;
    out.flush()?;
    Ok(())
}

/// Prints the lines that differ from the last refresh, which is `before`.
fn append(status: &Status, args: &StatusArgs, before: &mut Vec<String>) -> Result<(), CliProblem> {
    let now: Vec<String> = match &args.output {
        Some(key) => vec![pick::value(status, key)?],
        None if args.json => vec![settled(status)],
        None => status.apps.iter().map(|app| oneline::line(app, StreamStyle::PLAIN)).collect(),
    };
    for line in now.iter().filter(|line| !before.contains(line)) {
        terminal::data(line)?;
    }
    *before = now;
    Ok(())
}

/// The JSON on one line, without the time of the last look at the remote, which changes with every poll.
fn settled(status: &Status) -> String {
    let mut status = status.clone();
    for app in &mut status.apps {
        app.remote.checked_at = None;
    }
    serde_json::to_string(&status).expect("a status is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::words::AppState;

    #[test]
    fn the_exit_code_is_that_of_the_worst_app() {
        let with = |state| AppReport { state, ..fixture::live() };
        let exit = |apps| verdict(&fixture::status(apps)) as u8;
        assert_eq!(exit(vec![]), 0);
        for state in [AppState::Live, AppState::Deploying, AppState::Watching, AppState::Held] {
            assert_eq!(exit(vec![with(state)]), 0, "{state}");
        }
        for state in [AppState::Empty, AppState::Down, AppState::Stopped] {
            assert_eq!(exit(vec![with(state)]), 3, "{state}");
        }
        assert_eq!(exit(vec![with(AppState::Degraded), with(AppState::Live)]), 20);
        assert_eq!(exit(vec![with(AppState::Degraded), with(AppState::Down)]), 3);
        assert_eq!(exit(vec![AppReport { state: AppState::Deploying, ..fixture::empty() }]), 3);
    }

    #[test]
    fn watching_in_a_pipe_prints_only_what_changed() {
        let args = StatusArgs { app: None, json: true, oneline: false, watch: true, output: None };
        let mut status = fixture::status(vec![fixture::live()]);
        let first = settled(&status);
        status.apps[0].remote.checked_at = Some(fixture::before(0));
        assert_eq!(settled(&status), first);
        status.apps[0].remote.head = None;
        assert_ne!(settled(&status), first);
        assert!(text(&status, &args, StreamStyle::PLAIN).unwrap().contains("\"checked_at\""));
    }
}
