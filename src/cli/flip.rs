//! `bgd flip`: the one way back. It must work when nothing else does, so when the daemon is away or hangs, `offline`
//! does the work under the daemon's lock. A daemon that is only starved or flooded is waited for: it has the request,
//! and a second flip after its own would return to the release that is being left.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    api::{
        client::{Call, CallError, Client, PATIENCE},
        wire::{Answer, Exit, FlipReport, Request},
    },
    cli::{
        CliContext,
        args::FlipArgs,
        installation::Installation,
        offline::{self, DaemonTrouble},
        problem::CliProblem,
        progress, terminal,
    },
    os::vitals::{Delay, HangCause, Patient, ProcessCondition},
    rules::event::Ask,
};

/// Time between two tries while the daemon lives but its socket is missing.
const AGAIN: Duration = Duration::from_millis(50);
/// Limit of waiting for a daemon that lives but does not answer.
const WAIT: Duration = Duration::from_secs(60);

pub async fn run(context: &CliContext, args: FlipArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let request = Request::Flip { app: args.app.clone(), force: args.force };
    let mut wait = DaemonPatience::begin(&installation);
    let report = match begin(&installation.client(), &request, &mut wait).await {
        Ok(call) => watched(context, call, &mut wait).await?,
        Err(error) if error.without_daemon() => {
            without_daemon(&installation, &args, (error, wait.hangs)).await?
        }
        Err(error) => return Err(error.into()),
    };
    terminal::data(&terminal::one_line(&report.text))?;
    Ok(Exit::Done)
}

/// Sends the request once, and waits while the daemon is slow to begin its answer.
async fn begin(client: &Client, request: &Request, wait: &mut DaemonPatience<'_>) -> Result<Call, CallError> {
    let mut call = loop {
        match client.open(request).await {
            Ok(call) => break call,
            Err(error) => wait.on(error).await?,
        }
    };
    while let Err(error) = call.begun().await {
        wait.on(error).await?;
    }
    Ok(call)
}

/// Follows a flip that the daemon has begun. It is never repeated: a second flip would return to the release that is
/// being left.
async fn watched(
    context: &CliContext,
    mut call: Call,
    wait: &mut DaemonPatience<'_>,
) -> Result<FlipReport, CliProblem> {
    loop {
        match progress::follow(&mut call, context.stderr).await {
            Ok(Answer::Flip(report)) => return Ok(report),
            Ok(_) => return Err(CliProblem::unexpected()),
            Err(error) => wait.on(error).await?,
        }
    }
}

/// Judges a daemon that does not answer.
struct DaemonPatience<'a> {
    installation: &'a Installation,
    begun: Instant,
    patient: Option<Patient>,
    said: Option<Delay>,
    hangs: Option<HangCause>,
}

impl<'a> DaemonPatience<'a> {
    /// Called before the first request, so that the first silence counts for the judgement.
    fn begin(installation: &'a Installation) -> Self {
        let patient = alive(installation);
        Self { installation, begun: Instant::now(), patient, said: None, hangs: None }
    }

    /// Returns once it makes sense to try again.
    async fn on(&mut self, error: CallError) -> Result<(), CallError> {
        let unreachable = match &error {
            CallError::Absent { .. } => true,
            CallError::Hung { .. } => false,
            _ => return Err(error),
        };
        self.patient = self.patient.take().or_else(|| alive(self.installation));
        let Some(patient) = &self.patient else { return Err(error) };
        // It is starting, ending, or its runtime directory was wiped: allow it the time of a silent one.
        if unreachable && self.begun.elapsed() < PATIENCE {
            if alive(self.installation).is_none() {
                return Err(error);
            }
            sleep(AGAIN).await;
            return Ok(());
        }
        match patient.examine().await {
            ProcessCondition::Gone => {
                self.patient = None;
                // Another daemon may have taken its place.
                if unreachable { Err(error) } else { Ok(()) }
            }
            ProcessCondition::Hangs(cause) => {
                self.hangs = Some(cause);
                Err(self.hung())
            }
            // It is running, but has not made its socket again.
            ProcessCondition::Lives(Delay::Flooded) if unreachable => Err(self.hung()),
            ProcessCondition::Lives(delay) if self.begun.elapsed() < WAIT => {
                self.say(delay);
                Ok(())
            }
            ProcessCondition::Lives(delay) => Err(CallError::Slow {
                socket: self.installation.client().socket().to_owned(),
                limit: WAIT,
                why: delay.to_string(),
            }),
        }
    }

    fn hung(&self) -> CallError {
        CallError::Hung { socket: self.installation.client().socket().to_owned(), limit: PATIENCE }
    }

    fn say(&mut self, delay: Delay) {
        if self.said.replace(delay) != Some(delay) {
            terminal::chatter(&format!("the daemon lives and has not answered yet: {delay}; waiting for it"));
        }
    }
}

fn alive(installation: &Installation) -> Option<Patient> {
    Patient::watch(offline::daemon_alive(installation.usable().ok()?)?)
}

async fn without_daemon(
    installation: &Installation,
    args: &FlipArgs,
    (error, hangs): (CallError, Option<HangCause>),
) -> Result<FlipReport, CliProblem> {
    let settings = installation.settings_or(&error)?;
    let app = installation.app(args.app.as_ref())?;
    let daemon = match error {
        CallError::Hung { .. } => DaemonTrouble::Hung(hangs),
        _ => DaemonTrouble::Absent,
    };
    terminal::chatter(&format!("{error}; flipping {app} without it"));
    let ask = if args.force { Ask::ForceFlip } else { Ask::Flip };
    Ok(offline::flip(settings, (&app, ask), daemon).await?)
}
