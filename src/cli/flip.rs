//! `bgd flip`: the one way back. Must work when nothing else does, so a daemon that is away or hangs is no
//! reason to give up: `offline` does the work under the daemon's lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    api::{
        client::{Call, CallError, PATIENCE},
        wire::{Answer, Exit, FlipReport, Request},
    },
    cli::{
        Context,
        args::AppArg,
        installation::Installation,
        offline::{self, Daemon},
        problem::Problem,
        progress, terminal,
    },
    rules::ids::AppName,
};

/// Between two tries while the daemon's socket is gone and the daemon is not.
const AGAIN: Duration = Duration::from_millis(50);

/// Runs the command.
pub async fn run(context: &Context, args: AppArg) -> Result<Exit, Problem> {
    let installation = context.installation()?;
    let request = Request::Flip { app: args.app.clone() };
    let report = match begin(&installation, &request).await {
        Ok(call) => watched(context, call).await?,
        Err(error) if error.without_daemon() => {
            without_daemon(&installation, args.app.as_ref(), error).await?
        }
        Err(error) => return Err(error.into()),
    };
    terminal::data(&terminal::one_line(&report.text))?;
    Ok(Exit::Done)
}

/// A daemon that lives and can't be reached (it is starting, ending, or its runtime directory was wiped) is given
/// the time that a silent one has, and then counts as hung too.
async fn begin(installation: &Installation, request: &Request) -> Result<Call, CallError> {
    let client = installation.client();
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match client.begin(request).await {
            Err(error @ CallError::Absent { .. }) => error,
            other => return other,
        };
        let alive = installation.settings().is_ok_and(|settings| offline::daemon_alive(settings).is_some());
        match (alive, Instant::now() < until) {
            (true, true) => sleep(AGAIN).await,
            (true, false) => {
                return Err(CallError::Hung { socket: client.socket().to_owned(), limit: PATIENCE });
            }
            (false, _) => return Err(error),
        }
    }
}

/// Once the daemon has begun, nobody else does it again: a second flip would go back to what is being left.
async fn watched(context: &Context, mut call: Call) -> Result<FlipReport, Problem> {
    match progress::follow(&mut call, context.stderr).await? {
        Answer::Flip(report) => Ok(report),
        _ => Err(Problem::unexpected()),
    }
}

async fn without_daemon(
    installation: &Installation,
    app: Option<&AppName>,
    error: CallError,
) -> Result<FlipReport, Problem> {
    let settings = installation.settings_or(&error)?;
    let app = installation.app(app)?;
    let daemon = match error {
        CallError::Hung { .. } => Daemon::Hung,
        _ => Daemon::Absent,
    };
    terminal::chatter(&format!("{error}; flipping {app} without it"));
    Ok(offline::flip(settings, &app, daemon).await?)
}
