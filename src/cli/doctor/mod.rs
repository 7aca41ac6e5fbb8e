//! `bgd doctor`: would a deploy work on this host? One line a check, nothing changed. Best run as the daemon's
//! user, because it asks what this user may do.

mod acting;
mod confinement;
mod files;
mod finding;
mod host;
mod ports;
mod preview;
mod programs;
mod remote;
mod signing;

use self::{
    acting::Acting,
    finding::{Finding, Level},
};
use crate::{
    api::{
        client::CallError,
        wire::{Answer, Exit, Request, UnconfiguredReport},
    },
    cli::{
        CliContext,
        args::AppArg,
        installation::Installation,
        problem::CliProblem,
        terminal::{self, StreamStyle},
    },
    command::Places,
    config::settings::{AppSettings, Settings},
    front,
    os::confinement::Confinement,
};

pub async fn run(context: &CliContext, args: AppArg) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let settings = installation.settings()?;
    if let Some(app) = &args.app {
        installation.app(Some(app))?;
    }
    let mut report = FindingPrinter { look: context.stdout, worst: Level::Ok };
    let (daemon, pid) = daemon(&installation).await;
    let acting = Acting::of(pid);
    report.add(vec![daemon])?;
    report.add(unconfigured(&installation).await)?;
    report.add(host::check(settings))?;
    let kernel = Confinement::here();
    report.add(confinement::check(&kernel, &acting))?;
    let wanted = |app: &&AppSettings| args.app.as_ref().is_none_or(|name| *name == app.name);
    for app in settings.apps.values().map(AsRef::as_ref).filter(wanted) {
        let front = front::of(app, ground(settings, app));
        report.add(host::check_app(settings, app, &*front))?;
        report.add(ports::check(settings, app, &acting))?;
        report.add(programs::check(app, &acting))?;
        report.add(files::check(settings, app))?;
        let remote = remote::check(app).await;
        let answers = remote.level == Level::Ok;
        report.add(vec![remote])?;
        if answers {
            report.add(remote::wake(&installation.client(), app).await.into_iter().collect())?;
        }
        report.add(signing::check(app))?;
        report.add(preview::check(app).into_iter().collect())?;
        report.add(front.advice(app).await)?;
        report.add(confinement::check_app(app, &*front, &kernel).into_iter().collect())?;
    }
    Ok(if report.worst == Level::Fail { Exit::Failed } else { Exit::Done })
}

/// Prints findings as they come: some checks take seconds.
struct FindingPrinter {
    look: StreamStyle,
    worst: Level,
}

impl FindingPrinter {
    fn add(&mut self, findings: Vec<Finding>) -> Result<(), CliProblem> {
        for finding in findings {
            terminal::data(&finding::line(&finding, self.look))?;
            self.worst = self.worst.max(finding.level);
        }
        Ok(())
    }
}

/// The ground of a front that is only inspected: nothing listens to its reports of traffic.
fn ground(settings: &Settings, app: &AppSettings) -> front::Ground {
    front::Ground {
        exe: std::env::current_exe().unwrap_or_default(),
        runtime_dir: settings.daemon.runtime_dir.clone(),
        logs: Places::new(&settings.daemon.state_dir, &app.name).logs(),
        live: Places::new(&settings.daemon.state_dir, &app.name).live(),
        traffic: None,
    }
}

/// Running instances of apps that no configuration file names.
async fn unconfigured(installation: &Installation) -> Vec<Finding> {
    let Ok(Answer::Status(status)) = installation.client().ask(&Request::Status { app: None }).await else {
        return Vec::new();
    };
    let finding = |one: &UnconfiguredReport| {
        let place = one.port.map(|port| format!(", on port {port}")).unwrap_or_default();
        let what = format!("{}: runs on {}{place}, and is in no file any more", one.name, one.color);
        Finding::warn(what, format!("`bgd down {} --yes` ends it, or put its file back", one.name))
    };
    status.unconfigured.iter().map(finding).collect()
}

/// Whether the daemon answers, and its pid if it does.
async fn daemon(installation: &Installation) -> (Finding, Option<u32>) {
    let client = installation.client();
    match client.ask(&Request::Status { app: None }).await {
        Ok(Answer::Status(status)) => {
            let pid = status.daemon.pid;
            let shown = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            (Finding::ok(format!("daemon: answers at {}{shown}", client.socket().display())), pid)
        }
        Ok(_) => (Finding::warn("daemon: answers in another version", "restart it"), None),
        Err(error @ CallError::Absent { .. }) => {
            (Finding::warn("daemon: is not running", error.hint().unwrap_or_default()), None)
        }
        Err(error) => (Finding::fail(format!("daemon: {error}"), error.hint().unwrap_or_default()), None),
    }
}
