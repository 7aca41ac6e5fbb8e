//! `bgd cron run`: begins a run of a schedule, and passes its output on until it has ended. A client that leaves ends
//! nothing.

use std::io;

use super::{
    connection::Connection,
    output::{self, LogStream},
    reading::no_such_cron,
    refusal::{closing, refusal},
    services::{Services, handle_of},
    wire::{Answer, EventRecord, Exit, Progress, Refusal, Reply},
};
use crate::{
    engine::{Begun, CronEnd, NotBegun, apps::AppHandle},
    os::errors::chain,
    rules::{
        ids::{AppName, CronName},
        time::Stamp,
        words::{CronOutcome, EventKind},
    },
};

pub(super) async fn run(
    client: &mut Connection,
    services: &Services,
    (app, name): (Option<AppName>, CronName),
) -> io::Result<()> {
    let reply = match handle_of(services, app.as_ref()) {
        Ok(handle) => {
            let asked = client.peer.event(EventKind::Asked, &format!("cron run {name}"));
            services.apps.note_act(EventRecord { app: Some(handle.settings().name.clone()), ..asked });
            followed(client, &handle, &name).await
        }
        Err(refused) => Err(refused),
    };
    client.send(&closing(reply)).await
}

async fn followed(client: &mut Connection, handle: &AppHandle, name: &CronName) -> Result<Answer, Refusal> {
    let log = output::of_cron(&handle.interpreter().places().logs(), name);
    let unreadable = |err: io::Error| {
        refusal(Exit::Failed, format!("the output can't be read: {}", chain(&err)), Some("bgd doctor"))
    };
    // From the end of what was written before.
    let mut output = LogStream::new(&[log], 0).map_err(unreadable)?;
    let begun = handle.run_cron(name.clone()).await;
    let begun = begun.map_err(|gone| refusal(Exit::Unreachable, gone.to_string(), Some("bgd status")))?;
    let Begun { mut ended, .. } = begun.map_err(|why| not_begun(name, why))?;
    loop {
        // Both arms are cancel-safe: lines that were read are returned at once, and a channel keeps its value.
        tokio::select! {
            lines = output.next() => pass_on(client, lines.map_err(unreadable)?).await,
            end = &mut ended => {
                pass_on(client, output.ready().map_err(unreadable)?).await;
                return end.map_or_else(|_| Err(goes_on(name)), |end| judged(name, end));
            }
        }
    }
}

/// Sends lines to the client, which may have left.
async fn pass_on(client: &mut Connection, lines: Vec<String>) {
    for line in lines {
        if let Err(err) = client.send(&Reply::Progress(Progress::Line(line))).await {
            tracing::debug!(%err, "the client that asked went away");
        }
    }
}

fn judged(name: &CronName, end: CronEnd) -> Result<Answer, Refusal> {
    match end.outcome {
        CronOutcome::Done => Ok(Answer::Said(end.text)),
        _ => Err(refusal(Exit::Failed, end.text, Some(&format!("bgd logs --cron {name}")))),
    }
}

fn goes_on(name: &CronName) -> Refusal {
    let message = format!("the daemon ends or has read its files again; {name} runs on");
    refusal(Exit::TimedOut, message, Some("bgd cron"))
}

fn not_begun(name: &CronName, why: NotBegun) -> Refusal {
    match why {
        NotBegun::NothingLive => refusal(
            Exit::NothingLive,
            format!("{name} has no release to run in: nothing is live"),
            Some("bgd status"),
        ),
        NotBegun::Unknown(known) => no_such_cron(name, known.iter()),
        NotBegun::Running { since } => {
            let message = format!("{name} runs already, since {}, and overlap is \"skip\"", Stamp(since));
            refusal(Exit::Held, message, Some(&format!("bgd logs --cron {name} -f")))
        }
        NotBegun::Unrecorded(why) => {
            let message = format!("{name} was not started, because the record can't be written: {why}");
            refusal(Exit::Failed, message, Some("bgd doctor"))
        }
    }
}
