//! `bgd events`: one line an event; `--since` with the first number of the last line seen takes up again where
//! a reader left off.

use crate::{
    api::{
        client::Part,
        wire::{EventRecord, Exit, Progress, Request},
    },
    cli::{
        CliContext,
        args::EventsArgs,
        offline,
        problem::CliProblem,
        terminal::{self, one_line},
    },
};

pub async fn run(context: &CliContext, args: EventsArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let request = Request::Events { app: args.app.clone(), since: args.since, follow: args.follow };
    let mut call = match installation.client().begin(&request).await {
        Ok(call) => call,
        Err(error) if error.without_daemon() => {
            let found = offline::events(installation.settings_or(&error)?, args.app.as_ref(), args.since)?;
            context.say_record(&error);
            found.iter().try_for_each(|event| terminal::data(&text(event, &args)))?;
            // The record can't be followed, which `-f` asked for.
            return if args.follow { Err(error.into()) } else { Ok(Exit::Done) };
        }
        Err(error) => return Err(error.into()),
    };
    let mut last = args.since;
    loop {
        match call.next().await {
            Ok(Part::Progress(Progress::Event(event))) => {
                last = Some(event.seq);
                terminal::data(&text(&event, &args))?;
            }
            Ok(Part::Progress(Progress::Line(line))) => terminal::chatter(&one_line(&line)),
            Ok(Part::Done(_)) => return Ok(Exit::Done),
            Err(error) => {
                if let Some(seq) = last {
                    terminal::chatter(&format!("`bgd events --since {seq}` goes on from here"));
                }
                return Err(error.into());
            }
        }
    }
}

fn text(event: &EventRecord, args: &EventsArgs) -> String {
    match args.json {
        true => serde_json::to_string(event).expect("an event is plain data"),
        false => line(event),
    }
}

/// `12 2026-11-21T07:51:12.034Z shop #7 phase_entered building (poller)`.
pub fn line(event: &EventRecord) -> String {
    let app = event.app.as_ref().map_or("-", |app| app.as_str());
    let deploy = event.deploy.map_or("-".to_owned(), |id| format!("#{id}"));
    let (text, mut by) = (one_line(&event.text), one_line(&event.by));
    if let Some(uid) = event.uid {
        by = format!("{by}, uid {uid}");
    }
    format!("{} {} {app} {deploy} {} {text} ({by})", event.seq, event.at, event.kind)
}
