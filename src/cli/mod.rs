//! The command line: one file per command, or per family of commands with the same answer. Each builds a
//! request, sends it through `api::client`, renders the reply, and returns the exit code of the contract.
//! Data goes to stdout, chatter to stderr.

mod args;
mod canary;
mod cron;
mod daemon;
pub mod demo;
mod deploy;
mod doctor;
mod down;
mod events;
mod exec;
mod files;
mod flip;
mod history;
mod hold;
mod installation;
mod logs;
mod offline;
mod problem;
mod progress;
mod sentence;
mod session;
mod status;
mod table;
mod terminal;
mod wait;
mod why;
mod wording;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser as _;

use self::{
    args::{Cli, CliCommand},
    installation::Installation,
    problem::CliProblem,
    terminal::StreamStyle,
};
use crate::api::{
    client::CallError,
    wire::{Exit, Request},
};

/// The context of every command.
#[derive(Debug)]
pub struct CliContext {
    config: Option<PathBuf>,
    stdout: StreamStyle,
    stderr: StreamStyle,
}

impl CliContext {
    fn installation(&self) -> Result<Installation, CliProblem> {
        Installation::find(self.config.as_deref())
    }

    /// Says that the data comes from the record and not from the daemon.
    fn say_record(&self, error: &CallError) {
        terminal::chatter(&self.stderr.paint(terminal::Tone::Notice, &record_note(error)));
    }
}

/// Why the data comes from the record.
fn record_note(error: &CallError) -> String {
    match error {
        CallError::Hung { .. } => format!("{error}; this is the record"),
        _ => "the daemon is not running; this is the record".to_owned(),
    }
}

/// The command line, when the process does not run in one of the re-executed roles.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context =
        CliContext { config: cli.config, stdout: StreamStyle::of_stdout(), stderr: StreamStyle::of_stderr() };
    match run(&context, cli.command) {
        Ok(exit) => ExitCode::from(exit as u8),
        // `bgd events | head`: the reader has what it wanted.
        Err(problem) if problem.reader_left() => ExitCode::SUCCESS,
        Err(problem) => {
            terminal::chatter(&problem.text());
            ExitCode::from(problem.exit() as u8)
        }
    }
}

fn run(context: &CliContext, command: CliCommand) -> Result<Exit, CliProblem> {
    match command {
        CliCommand::Demo => demo::run(context),
        CliCommand::Init => files::init(context),
        CliCommand::Check => files::check(context),
        CliCommand::Completions { shell } => files::completions(shell),
        CliCommand::Man { dir } => files::man(dir),
        CliCommand::Daemon => daemon::run(context),
        CliCommand::Exec(args) => {
            let prepared = waiting(exec::prepare(context, args))??;
            // The command's own exit code, not one of the contract.
            std::process::exit(i32::from(exec::run(prepared)))
        }
        other => waiting(talk(context, other))?,
    }
}

/// The commands that talk to the daemon.
async fn talk(context: &CliContext, command: CliCommand) -> Result<Exit, CliProblem> {
    match command {
        CliCommand::Status(args) => status::run(context, args).await,
        CliCommand::Deploy(args) => deploy::run(context, args).await,
        CliCommand::Up(args) => deploy::up(context, args).await,
        CliCommand::Flip(args) => flip::run(context, args).await,
        CliCommand::Hold(args) => hold::run(context, args).await,
        CliCommand::Resume(args) => hold::resume(context, args).await,
        CliCommand::Canary { command } => canary::run(context, command).await,
        CliCommand::Promote(args) => canary::promote(context, args).await,
        CliCommand::Down(args) => down::run(context, args).await,
        CliCommand::Reload => sentence::asked(context, Request::Reload).await,
        CliCommand::Cron(args) => cron::run(context, args).await,
        CliCommand::Why(args) => why::run(context, args).await,
        CliCommand::History(args) => history::run(context, args).await,
        CliCommand::Show(args) => history::show(context, args).await,
        CliCommand::Logs(args) => logs::run(context, args).await,
        CliCommand::Events(args) => events::run(context, args).await,
        CliCommand::Wait(args) => wait::run(context, args).await,
        CliCommand::Doctor(args) => doctor::run(context, args).await,
        other => unreachable!("handled without the daemon: {other:?}"),
    }
}

/// Runs a future to its end on this thread: a client has only this to do.
fn waiting<T>(work: impl Future<Output = T>) -> Result<T, CliProblem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
