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
    args::{Cli, Command},
    installation::Installation,
    problem::Problem,
    terminal::Look,
};
use crate::api::{
    client::CallError,
    wire::{Exit, Request},
};

/// The context of every command.
#[derive(Debug)]
pub struct Context {
    config: Option<PathBuf>,
    stdout: Look,
    stderr: Look,
}

impl Context {
    fn installation(&self) -> Result<Installation, Problem> {
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
    let context = Context { config: cli.config, stdout: Look::of_stdout(), stderr: Look::of_stderr() };
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

fn run(context: &Context, command: Command) -> Result<Exit, Problem> {
    match command {
        Command::Demo => demo::run(context),
        Command::Init => files::init(context),
        Command::Check => files::check(context),
        Command::Completions { shell } => files::completions(shell),
        Command::Man { dir } => files::man(dir),
        Command::Daemon => daemon::run(context),
        Command::Exec(args) => {
            let prepared = waiting(exec::prepare(context, args))??;
            // The command's own exit code, not one of the contract.
            std::process::exit(i32::from(exec::run(prepared)))
        }
        other => waiting(talk(context, other))?,
    }
}

/// The commands that talk to the daemon.
async fn talk(context: &Context, command: Command) -> Result<Exit, Problem> {
    match command {
        Command::Status(args) => status::run(context, args).await,
        Command::Deploy(args) => deploy::run(context, args).await,
        Command::Up(args) => deploy::up(context, args).await,
        Command::Flip(args) => flip::run(context, args).await,
        Command::Hold(args) => hold::run(context, args).await,
        Command::Resume(args) => hold::resume(context, args).await,
        Command::Canary { command } => canary::run(context, command).await,
        Command::Promote(args) => canary::promote(context, args).await,
        Command::Down(args) => down::run(context, args).await,
        Command::Reload => sentence::asked(context, Request::Reload).await,
        Command::Cron(args) => cron::run(context, args).await,
        Command::Why(args) => why::run(context, args).await,
        Command::History(args) => history::run(context, args).await,
        Command::Show(args) => history::show(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Events(args) => events::run(context, args).await,
        Command::Wait(args) => wait::run(context, args).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        other => unreachable!("handled without the daemon: {other:?}"),
    }
}

/// Runs a future to its end on this thread: a client has only this to do.
fn waiting<T>(work: impl Future<Output = T>) -> Result<T, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
