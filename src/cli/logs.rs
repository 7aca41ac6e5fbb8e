//! `bgd logs`: output of instances or builds, passed on as it was written; on a terminal without what would act on it,
//! save colours.

use crate::{
    api::{
        client::Part,
        wire::{Exit, LogSource, Progress, Request},
    },
    cli::{CliContext, args::LogsArgs, offline, problem::CliProblem, terminal},
    rules::ids::DeployId,
};

pub async fn run(context: &CliContext, args: LogsArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let LogsArgs { app, lines, follow, instance, color, build, worker, cron, task, deploy } = args;
    let other = match (color, build, worker, cron) {
        (.., Some(name)) => LogSource::Cron(name),
        (_, _, Some(worker), None) => LogSource::Worker(worker),
        (_, true, None, None) => LogSource::Build,
        (Some(color), false, None, None) => LogSource::Color(color),
        (None, false, None, None) => LogSource::Live,
    };
    let source = match task {
        Some(name) => LogSource::Task { name, deploy: deploy.map(DeployId) },
        None => other,
    };
    let request = Request::Logs { app: app.clone(), lines, follow, source: source.clone(), instance };
    let mut call = match installation.client().begin(&request).await {
        Ok(call) => call,
        Err(error) if error.without_daemon() => {
            let settings = installation.settings_or(&error)?;
            let found =
                offline::logs(settings, &installation.app(app.as_ref())?, (&source, instance), lines)?;
            context.say_record(&error);
            found.iter().try_for_each(|line| terminal::output(context.stdout, line))?;
            if found.is_empty() && lines > 0 && !follow {
                terminal::chatter(&nothing(&source));
            }
            return if follow { Err(error.into()) } else { Ok(Exit::Done) };
        }
        Err(error) => return Err(error.into()),
    };
    let mut silent = lines > 0;
    loop {
        match call.next().await? {
            Part::Progress(Progress::Line(line)) => {
                silent = false;
                terminal::output(context.stdout, &line)?;
            }
            Part::Progress(Progress::Event(event)) => terminal::chatter(&terminal::one_line(&event.text)),
            Part::Done(_) if silent => {
                terminal::chatter(&nothing(&source));
                return Ok(Exit::Done);
            }
            Part::Done(_) => return Ok(Exit::Done),
        }
    }
}

/// The text for people when there is no output: an empty answer would look like a failure.
fn nothing(source: &LogSource) -> String {
    match source {
        LogSource::Live => "the app has written nothing so far".to_owned(),
        LogSource::Color(color) => format!("nothing was written on {color} so far"),
        LogSource::Build => "the newest build has written nothing".to_owned(),
        LogSource::Worker(name) => format!("worker {name} has written nothing so far"),
        LogSource::Cron(name) => format!("{name} has written nothing so far"),
        LogSource::Task { name, .. } => format!("{name} has written nothing"),
    }
}
