//! `bgd daemon`: loads the configuration, says what is wrong with it, and hands over to the supervisor.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::{
    api::wire::Exit,
    cli::{CliContext, problem::CliProblem, terminal},
    config,
    daemon::{self, DaemonError},
    os::errors::chain,
};

/// Runs the command; returns when the daemon has ended.
pub fn run(context: &CliContext) -> Result<Exit, CliProblem> {
    let file = config::find(context.config.as_deref())
        .map_err(|error| CliProblem::usage(error.to_string(), error.hint()))?;
    let loaded = config::load(&file).map_err(CliProblem::Config)?;
    for warning in &loaded.warnings {
        terminal::chatter(&warning.to_string());
    }
    log_to_stderr("info");
    match daemon::run(&file, loaded.settings) {
        Ok(()) => Ok(Exit::Done),
        Err(error @ DaemonError::Running { .. }) => {
            Err(CliProblem::refused(Exit::Held, chain(&error), "bgd status; or stop that daemon first"))
        }
        Err(error) => Err(CliProblem::refused(Exit::Failed, chain(&error), "bgd doctor")),
    }
}

/// Level by `BGD_LOG` (as `info,bgd::engine=debug`); plain lines, colour on a terminal only.
pub(super) fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_env("BGD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
