//! `bgd demo`: the main job on a fresh machine, with nothing but this binary. Sets the scene, tells the story
//! under load, and leaves nothing behind, also when it is interrupted. It uses the commands as anybody would,
//! and knows nothing of the daemon's inside.

mod app;
mod load;
mod remote;
mod scene;
mod story;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use self::{scene::Scene, story::Story};
use crate::{
    api::wire::Exit,
    cli::{CliContext, problem::CliProblem, terminal},
    rules::address::Address,
};

/// The hidden role of the sample app.
pub const APP_ROLE: &str = "demo-app";

/// Lines of the daemon's log that are shown when the story did not go as told.
const LOG_TAIL: usize = 25;

/// How it ended, when nothing went wrong.
enum DemoEnd {
    Told,
    Interrupted,
}

/// Runs the command. Success means: it went as told, and nothing was lost.
pub fn run(context: &CliContext) -> Result<Exit, CliProblem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(perform(context)) {
        Ok(DemoEnd::Told) => {
            terminal::data("  left      nothing: all processes are ended, the directory is removed")?;
            Ok(Exit::Done)
        }
        Ok(DemoEnd::Interrupted) => {
            terminal::chatter("interrupted; all processes are ended, the directory is removed");
            Ok(Exit::Failed)
        }
        Err(error) => Err(CliProblem::refused(
            Exit::Failed,
            format!("the demo did not go as told: {error:#}"),
            "this is a bug of bgd, or of this machine; please report it with the output above",
        )),
    }
}

async fn perform(context: &CliContext) -> anyhow::Result<DemoEnd> {
    let mut scene = Scene::set()?;
    let told = match Story::new(&mut scene, context.stdout) {
        Ok(story) => tokio::select! {
            // Whichever ends first, the other is dropped, and the scene is cleared below.
            told = story.tell() => told.map(|()| DemoEnd::Told),
            interrupted = interruption() => interrupted.map(|()| DemoEnd::Interrupted).map_err(Into::into),
        },
        Err(error) => Err(error),
    };
    if told.is_err() {
        for line in scene.log_tail(LOG_TAIL) {
            terminal::chatter(&format!("daemon: {}", terminal::one_line(&line)));
        }
    }
    let cleared = scene.clear().await;
    let ending = told?;
    cleared?;
    Ok(ending)
}

/// Ends with the first signal that asks to stop.
async fn interruption() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::select! {
        // Waiting for a signal is cancel-safe: nothing is lost when another comes first.
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

/// The role `bgd demo-app`: the sample app, in the directory of its release.
pub fn app() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::chatter(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> anyhow::Result<()> {
    use anyhow::Context as _;
    let address = match std::env::var_os("SOCKET") {
        Some(path) => Address::Socket(path.into()),
        None => Address::Port(std::env::var("PORT").context("PORT")?.parse().context("PORT")?),
    };
    let page = app::DemoPage::read(&std::env::current_dir()?).context("app.conf")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(app::serve(page, &address)).with_context(|| format!("serve on {}", address.named()))
}
