//! `bgd exec`: asks the daemon what the live release's directory, environment, user and rights are, takes those on,
//! and replaces itself with the command, whose exit code is then bgd's.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use nix::unistd::Uid;

use crate::{
    api::wire::{Answer, ExecPlan, Exit, Request},
    cli::{Context, args::ExecArgs, problem::Problem},
    privilege::{Account, Rights},
};

/// What shells return for a command that is not there, and for one that can't be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// Asks, and prepares the command; [`replace`] runs it after the runtime is gone.
pub async fn prepare(context: &Context, args: ExecArgs) -> Result<Command, Problem> {
    let request = Request::Exec { app: args.app };
    let Answer::Exec(plan) = context.installation()?.client().ask(&request).await? else {
        return Err(Problem::unexpected());
    };
    let account = plan.user.as_deref().map(account).transpose()?;
    let rights = Rights { account, new_privileges: plan.new_privileges };
    let mut command = command(&plan, args.command);
    // SAFETY: run by the one thread that is left when the command replaces this process.
    unsafe { command.pre_exec(move || rights.prepare_child()) };
    Ok(command)
}

fn command(plan: &ExecPlan, words: Vec<OsString>) -> Command {
    let mut words = words.into_iter();
    // clap requires at least one word.
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(&plan.cwd).env_clear().envs(&plan.env);
    // A terminal application needs to know its terminal; it is the caller's, not the app's.
    if let Some(term) = std::env::var_os("TERM").filter(|_| !plan.env.contains_key("TERM")) {
        command.env("TERM", term);
    }
    command
}

/// Replaces this process; returns only when that failed.
pub fn replace(mut command: Command) -> (u8, String) {
    let error = command.exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
    (code, format!("error: can't run {}: {error}", command.get_program().display()))
}

/// The account of the app; only root may take on another than its own.
fn account(name: &str) -> Result<Account, Problem> {
    let refused = |what: String, hint: &str| Problem::refused(Exit::NotPermitted, what, hint);
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
            new_privileges: crate::privilege::NewPrivileges::Refused,
        };
        let command = command(&plan, vec!["ls".into(), "-l".into()]);
        assert_eq!(command.get_current_dir(), Some(std::path::Path::new("/srv/shop")));
        let env: Vec<_> = command.get_envs().map(|(key, _)| key.to_owned()).collect();
        assert_eq!(env, ["PATH", "TERM"]);
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-l"]);
    }

    #[test]
    fn a_command_that_is_not_there_is_127_as_in_a_shell() {
        let (code, text) = replace(Command::new("/nonexistent/command"));
        assert_eq!(code, 127);
        assert!(text.contains("/nonexistent/command"), "{text}");
    }
}
