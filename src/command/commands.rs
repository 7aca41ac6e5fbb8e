//! Describes the commands of an app: argv, directory, user, environment. The engine hands them to a shim or a probe;
//! nothing is run here.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    command::{CommandError, ReleaseContext, environment, environment::INSTANCE, shell},
    config::settings::{AppSettings, CronSettings, Probe, Start, StopHow, Task, WorkerSettings},
    os::privilege::NewPrivileges,
    rules::{
        address::Address,
        time::{Stamp, Time},
    },
    shim::DUE_AT,
};

/// A command with everything that is needed to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// The release directory.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The user to run as; `None` is bgd's own user.
    pub user: Option<String>,
    /// Whether it may gain rights by running a setuid program.
    pub new_privileges: NewPrivileges,
}

/// A point of a deploy at which the app may run a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookCommand<'a> {
    /// Before the instance starts, once per deploy.
    BeforeStart,
    /// After the traffic moved.
    AfterLive,
    /// After a deploy failed.
    AfterFailed {
        /// The phase that failed, in the words of `status`.
        phase: &'a str,
        /// The error, for people.
        error: &'a str,
    },
}

/// The longest `BGD_ERROR` in bytes. One variable may hold 128 KiB, all variables and arguments together not much
/// more, and people are to read the error.
const ERROR_LIMIT: usize = 8 * 1024;

/// Runs the commands given as arguments one after the other, each in its own shell that stops at the first failure,
/// also within pipes. Prints each command before it runs, and names the one that fails. Uses `sh` where bash is
/// missing, with pipefail if that `sh` knows it.
const RUN: &str = r#"if command -v bash >/dev/null 2>&1; then shell='bash -eo pipefail'
elif sh -eo pipefail -c : >/dev/null 2>&1; then shell='sh -eo pipefail'
else shell='sh -e'; fi
at=0
for command do
  at=$((at + 1))
  printf '+ %s\n' "$command"
  $shell -c "$command"
  code=$?
  if [ "$code" -ne 0 ]; then
    why="exit code $code"
    if [ "$code" -gt 128 ]; then
      signal=$(kill -l $((code - 128)) 2>/dev/null) && why="$why (signal $signal)"
    fi
    printf 'bgd: command %s of %s failed with %s: %s\n' "$at" "$#" "$why" "$command"
    exit "$code"
  fi
done"#;

/// All `build` commands as one run; `None` if there are none.
///
/// # Errors
/// Those of [`environment`].
pub fn build_command(app: &AppSettings, context: &ReleaseContext) -> Result<Option<Command>, CommandError> {
    if app.build.is_empty() {
        return Ok(None);
    }
    in_release(app, context, run(&app.build, context)).map(Some)
}

/// The command that starts an instance.
///
/// # Errors
/// Those of [`environment`].
pub fn start_command(app: &AppSettings, context: &ReleaseContext) -> Result<Command, CommandError> {
    let argv = match &app.start {
        Start::Shell(line) => shell::argv(&context.values.expand(line)),
        Start::Argv(argv) => argv.iter().map(|part| context.values.expand(part)).collect(),
    };
    of_instance(app, context, argv)
}

/// The command that asks an instance to stop; `None` if a signal does.
///
/// # Errors
/// Those of [`environment`].
pub fn stop_command(app: &AppSettings, context: &ReleaseContext) -> Result<Option<Command>, CommandError> {
    match &app.stop.how {
        StopHow::Signal(_) => Ok(None),
        StopHow::Command(line) => {
            of_instance(app, context, run(std::slice::from_ref(line), context)).map(Some)
        }
    }
}

/// The command that starts a worker. It has no port and no socket.
///
/// # Errors
/// Those of [`environment`].
pub fn worker_command(
    app: &AppSettings,
    (worker, context): (&WorkerSettings, &ReleaseContext),
) -> Result<Command, CommandError> {
    let argv = match &worker.start {
        Start::Shell(line) => shell::argv(&context.values.expand(line)),
        Start::Argv(argv) => argv.iter().map(|part| context.values.expand(part)).collect(),
    };
    of_worker(app, (worker, context), argv)
}

/// The command that asks a worker to leave.
///
/// # Errors
/// Those of [`environment`].
pub fn worker_stop_command(
    app: &AppSettings,
    of: (&WorkerSettings, &ReleaseContext),
    line: &str,
) -> Result<Command, CommandError> {
    of_worker(app, of, run(&[line.to_owned()], of.1))
}

/// A command of the operator (`bgd exec --worker`) in a worker's directory, environment and user.
///
/// # Errors
/// Those of [`environment`].
pub fn worker_exec_command(
    app: &AppSettings,
    of: (&WorkerSettings, &ReleaseContext),
    argv: &[String],
) -> Result<Command, CommandError> {
    of_worker(app, of, argv.to_vec())
}

fn of_worker(
    app: &AppSettings,
    (worker, context): (&WorkerSettings, &ReleaseContext),
    argv: Vec<String>,
) -> Result<Command, CommandError> {
    let mut command = of_instance(app, context, argv)?;
    for address in ["PORT", "SOCKET"] {
        command.env.remove(address);
    }
    command.env.insert("BGD_WORKER".to_owned(), worker.plan.name.to_string());
    Ok(command)
}

/// The app's command for a point of a deploy; `None` if it has none.
///
/// # Errors
/// Those of [`environment`].
pub fn hook_command(
    app: &AppSettings,
    context: &ReleaseContext,
    hook: HookCommand<'_>,
) -> Result<Option<Command>, CommandError> {
    let (line, event) = match hook {
        HookCommand::BeforeStart => (&app.hooks.before_start, "before_start"),
        HookCommand::AfterLive => (&app.hooks.after_live, "after_live"),
        HookCommand::AfterFailed { .. } => (&app.hooks.after_failed, "after_failed"),
    };
    let Some(line) = line else { return Ok(None) };
    let mut command = in_release(app, context, run(std::slice::from_ref(line), context))?;
    command.env.insert("BGD_EVENT".to_owned(), event.to_owned());
    if let HookCommand::AfterFailed { phase, error } = hook {
        command.env.insert("BGD_PHASE".to_owned(), phase.to_owned());
        command.env.insert("BGD_ERROR".to_owned(), presentable(error));
    }
    Ok(Some(command))
}

/// A run of a schedule for a due time. It has no port and no socket.
///
/// # Errors
/// Those of [`environment`].
pub fn cron_command(
    app: &AppSettings,
    context: &ReleaseContext,
    (cron, due): (&CronSettings, Time),
) -> Result<Command, CommandError> {
    let mut command = in_release(app, context, run(std::slice::from_ref(&cron.run), context))?;
    command.env.remove(match context.values.address {
        Address::Port(_) => "PORT",
        Address::Socket(_) => "SOCKET",
    });
    command.env.insert("BGD_CRON".to_owned(), cron.rule.name.to_string());
    command.env.insert(DUE_AT.to_owned(), Stamp(due).to_string());
    Ok(command)
}

/// The command of a task.
///
/// # Errors
/// Those of [`environment`].
pub fn task_command(
    app: &AppSettings,
    context: &ReleaseContext,
    task: &Task,
) -> Result<Command, CommandError> {
    let mut command = in_release(app, context, run(std::slice::from_ref(&task.run), context))?;
    command.env.insert("BGD_EVENT".to_owned(), task.when.as_str().to_owned());
    command.env.insert("BGD_TASK".to_owned(), task.name.as_str().to_owned());
    Ok(command)
}

/// The command of a command probe; `None` for other probes. Run by `/bin/sh -c`, as `start` is.
///
/// # Errors
/// Those of [`environment`].
pub fn probe_command(app: &AppSettings, context: &ReleaseContext) -> Result<Option<Command>, CommandError> {
    match &app.health.probe {
        Probe::Tcp | Probe::Http(_) | Probe::FastCgi(_) | Probe::Uwsgi(_) => Ok(None),
        Probe::Command(line) => {
            of_instance(app, context, shell::argv(&context.values.expand(line))).map(Some)
        }
    }
}

/// A command of the operator (`bgd exec`) in the release's directory, environment and user.
///
/// # Errors
/// Those of [`environment`].
pub fn exec_command(
    app: &AppSettings,
    context: &ReleaseContext,
    argv: &[String],
) -> Result<Command, CommandError> {
    in_release(app, context, argv.to_vec())
}

/// A command of one instance: its environment also has the number of the instance.
fn of_instance(
    app: &AppSettings,
    context: &ReleaseContext,
    argv: Vec<String>,
) -> Result<Command, CommandError> {
    let mut command = in_release(app, context, argv)?;
    command.env.insert(INSTANCE.to_owned(), context.values.instance.to_string());
    Ok(command)
}

fn in_release(
    app: &AppSettings,
    context: &ReleaseContext,
    argv: Vec<String>,
) -> Result<Command, CommandError> {
    let env = environment(app, context)?;
    let (cwd, user) = (work_dir(app, context), app.user.clone());
    Ok(Command { argv, cwd, env, user, new_privileges: app.new_privileges })
}

/// The directory in which the app's commands run: `dir` of the release, or its root.
pub fn work_dir(app: &AppSettings, context: &ReleaseContext) -> PathBuf {
    let release = context.release_dir();
    app.dir.as_ref().map_or_else(|| release.clone(), |dir| release.join(dir))
}

fn run(lines: &[String], context: &ReleaseContext) -> Vec<String> {
    let mut argv = ["/bin/sh", "-c", RUN, "bgd"].map(str::to_owned).to_vec();
    argv.extend(lines.iter().map(|line| context.values.expand(line)));
    argv
}

/// Removes NUL, which a variable can't hold, and cuts the text to [`ERROR_LIMIT`] bytes.
fn presentable(error: &str) -> String {
    let mut text = error.replace('\0', " ");
    text.truncate(text.floor_char_boundary(ERROR_LIMIT));
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Output};

    use super::*;
    use crate::command::fixture::Fixture;

    fn execute(command: &Command) -> Output {
        std::process::Command::new(&command.argv[0])
            .args(&command.argv[1..])
            .current_dir(&command.cwd)
            .env_clear()
            .envs(&command.env)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    fn build(lines: &[&str]) -> (Option<i32>, String) {
        let mut fixture = Fixture::new();
        fixture.app.build = lines.iter().map(|line| (*line).to_owned()).collect();
        let output = execute(&build_command(&fixture.app, &fixture.context).unwrap().unwrap());
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    }

    #[test]
    fn c2_a_failure_within_a_pipe_fails_the_build() {
        let (code, text) = build(&["false | tee log", "echo never"]);
        assert_eq!(code, Some(1));
        let said = "bgd: command 1 of 2 failed with exit code 1: false | tee log";
        assert_eq!(text, format!("+ false | tee log\n{said}\n"));
    }

    #[test]
    fn c2_a_failure_within_a_pipe_fails_the_build_without_bash_too() {
        let mut fixture = Fixture::new();
        let bin = fixture.root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink("/bin/sh", bin.join("sh")).unwrap();
        fixture.app.env.insert("PATH".to_owned(), bin.display().to_string());
        fixture.app.build = vec!["echo ${BASH_VERSION:-none}".to_owned(), "false; echo never".to_owned()];
        let output = execute(&build_command(&fixture.app, &fixture.context).unwrap().unwrap());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!text.contains("\nnever"), "{text}");
        let knows = std::process::Command::new("/bin/sh").args(["-o", "pipefail", "-c", ":"]).output();
        if !knows.unwrap().status.success() {
            eprintln!("skipped: this sh does not know pipefail");
            return;
        }
        fixture.app.build = vec!["false | :".to_owned()];
        let output = execute(&build_command(&fixture.app, &fixture.context).unwrap().unwrap());
        assert_eq!(output.status.code(), Some(1));
    }

    #[test]
    fn each_build_command_is_printed_and_runs_by_itself_in_the_release_directory() {
        let (code, text) =
            build(&["mkdir sub; cd sub; x=1", "echo \"$(basename \"$PWD\") [$x]\"\ntrue", "exit 0"]);
        assert_eq!(code, Some(0), "{text}");
        let release = "20261121T101112Z-2-0123456";
        assert!(text.contains(&format!("\ntrue\n{release} []\n+ exit 0\n")), "{text}");
    }

    #[test]
    fn a_failing_build_command_names_its_exit_code_or_signal() {
        let (code, text) = build(&["true", "echo 100% \\n; exit 42", "echo never"]);
        assert_eq!(code, Some(42));
        assert!(
            text.ends_with("command 2 of 3 failed with exit code 42: echo 100% \\n; exit 42\n"),
            "{text}"
        );
        let (code, text) = build(&["kill -KILL $$"]);
        assert_eq!(code, Some(137));
        assert!(text.contains("failed with exit code 137 (signal KILL): kill"), "{text}");
        assert_eq!(build(&["unset NOPE; nosuchcommand"]).0, Some(127));
    }

    #[test]
    fn an_app_without_build_hooks_and_stop_command_has_none() {
        let Fixture { app, context, .. } = &Fixture::new();
        assert_eq!(build_command(app, context).unwrap(), None);
        assert_eq!(stop_command(app, context).unwrap(), None);
        assert_eq!(probe_command(app, context).unwrap(), None);
        assert_eq!(hook_command(app, context, HookCommand::AfterLive).unwrap(), None);
    }

    #[test]
    fn placeholders_are_replaced_in_start_stop_and_health_commands() {
        let mut fixture = Fixture::new();
        fixture.app.start = Start::Argv(["app", "--port={port}", "{json}"].map(str::to_owned).to_vec());
        fixture.app.stop.how = StopHow::Command("echo stop {color}".to_owned());
        fixture.app.health.probe = Probe::Command("echo {port} $PORT".to_owned());
        let Fixture { app, context, .. } = &fixture;
        let start = start_command(app, context).unwrap();
        assert_eq!(
            (start.argv.as_slice(), start.env["BGD_INSTANCE"].as_str()),
            (&["app", "--port=9502", "{json}"].map(str::to_owned)[..], "1")
        );
        let stop = execute(&stop_command(app, context).unwrap().unwrap());
        assert_eq!(stop.stdout, b"+ echo stop green\nstop green\n");
        let probe = execute(&probe_command(app, context).unwrap().unwrap());
        assert_eq!(probe.stdout, b"9502 9502\n");
        let argv = ["a b".to_owned(), "{port}".to_owned()];
        assert_eq!(exec_command(app, context, &argv).unwrap().argv, argv);
    }

    #[test]
    fn hooks_see_what_happened() {
        let mut fixture = Fixture::new();
        let show = "echo $BGD_EVENT/$BGD_PHASE/$BGD_ERROR";
        fixture.app.hooks.before_start = Some(show.to_owned());
        fixture.app.hooks.after_failed = Some(show.to_owned());
        let shown = |hook: HookCommand<'_>| {
            let output = execute(&hook_command(&fixture.app, &fixture.context, hook).unwrap().unwrap());
            String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned()
        };
        assert_eq!(shown(HookCommand::BeforeStart), "before_start//");
        let error = format!("no\0space {}", "ä".repeat(ERROR_LIMIT));
        let text = shown(HookCommand::AfterFailed { phase: "building", error: &error });
        assert!(text.starts_with("after_failed/building/no space ää") && text.len() < ERROR_LIMIT + 40);
    }
}
