//! `bgd exec`: asks the daemon, or the record where there is none, what the live release's directory, environment, user
//! and rights are, and runs the command with those; its exit code is then bgd's.

use std::{ffi::OsString, io, process::Command};

use nix::unistd::Uid;

use crate::{
    api::wire::{Answer, ExecPlan, Exit, Request},
    cli::{CliContext, args::ExecArgs, offline, problem::CliProblem, session, terminal},
    os::privilege::{Account, Rights},
};

/// Exit codes of shells for a command that does not exist, and for one that can't be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// A command that is ready to run.
#[derive(Debug)]
pub struct ReadyCommand {
    command: Command,
    rights: Rights,
}

/// Asks for the plan and prepares the command; [`run`] runs it after the async runtime has ended.
pub async fn prepare(context: &CliContext, args: ExecArgs) -> Result<ReadyCommand, CliProblem> {
    let installation = context.installation()?;
    let request = Request::Exec { app: args.app.clone(), worker: args.worker.clone() };
    let plan = match installation.client().ask(&request).await {
        Ok(Answer::Exec(plan)) => plan,
        Ok(_) => return Err(CliProblem::unexpected()),
        Err(error) if error.without_daemon() => {
            let settings = installation.settings_or(&error)?;
            let plan = offline::exec(settings, &installation.app(args.app.as_ref())?, args.worker.as_ref())?;
            context.say_record(&error);
            plan
        }
        Err(error) => return Err(error.into()),
    };
    let account = plan.user.as_deref().map(account).transpose()?;
    let rights = Rights { account, new_privileges: plan.new_privileges };
    Ok(ReadyCommand { command: command(&plan, args.command), rights })
}

fn command(plan: &ExecPlan, words: Vec<OsString>) -> Command {
    let mut words = words.into_iter();
    // clap requires at least one word.
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(&plan.cwd).env_clear().envs(&plan.env);
    // A terminal application needs `TERM`: the caller's, whose terminal shows the output, since the app has none.
    if let Some(term) = std::env::var_os("TERM").filter(|_| !plan.env.contains_key("TERM")) {
        command.env("TERM", term);
    }
    command
}

/// Runs the command to its end; returns its exit code.
pub fn run(ReadyCommand { command, rights }: ReadyCommand) -> u8 {
    let program = command.get_program().to_owned();
    session::run(command, rights).unwrap_or_else(|error| {
        terminal::chatter(&format!("error: can't run {}: {error}", program.display()));
        if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE }
    })
}

/// The account of the app's user; only root may change to another account.
fn account(name: &str) -> Result<Account, CliProblem> {
    let refused = |what: String, hint: &str| CliProblem::refused(Exit::NotPermitted, what, hint);
    let account = match Account::find(name) {
        Ok(Some(account)) => account,
        Ok(None) => {
            return Err(refused(format!("no such user: {name}"), "the app's `user` must exist on this host"));
        }
        Err(errno) => {
            return Err(refused(format!("can't look up the user {name}: {errno}"), "check nsswitch.conf"));
        }
    };
    if account.is_own() || Uid::effective().is_root() {
        return Ok(account);
    }
    let hint = format!("run it as root or as {name}");
    Err(refused(format!("the live release runs as {name}, and this is another user"), &hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_exactly_the_environment_and_directory_of_the_plan() {
        let plan = ExecPlan {
            cwd: "/srv/shop".to_owned(),
            env: [("PATH".to_owned(), "/bin".to_owned()), ("TERM".to_owned(), "x".to_owned())].into(),
            user: None,
            new_privileges: crate::os::privilege::NewPrivileges::Refused,
        };
        let command = command(&plan, vec!["ls".into(), "-l".into()]);
        assert_eq!(command.get_current_dir(), Some(std::path::Path::new("/srv/shop")));
        let env: Vec<_> = command.get_envs().map(|(key, _)| key.to_owned()).collect();
        assert_eq!(env, ["PATH", "TERM"]);
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-l"]);
    }

    #[test]
    fn a_command_that_is_not_there_is_127_as_in_a_shell() {
        let account = None;
        let rights = Rights { account, new_privileges: crate::os::privilege::NewPrivileges::Refused };
        assert_eq!(run(ReadyCommand { command: Command::new("/nonexistent/command"), rights }), 127);
    }
}
