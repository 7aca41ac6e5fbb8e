//! Failures of a deploy that a command of the app or this host caused. Used by the rooms: distinguishes a script that
//! could not be run from one that failed, and gives each failure a next step.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use nix::unistd::geteuid;

use super::{Attempt, CommandError, Unrunnable, why_unrunnable};
use crate::{
    os::{
        confinement::{Confinement, ModuleRefusal},
        errors::chain,
        printable::one_line,
    },
    rules::words::{Failure, Nature, Phase},
    shim::{CommandExit, ExitKind, Spec, StartError, logs::tail_of_run},
};

/// Lines of output kept with a failure.
const TAIL: usize = 40;
/// Exit codes of a shell whose program was not found, and whose program could not be run.
const NOT_FOUND: i32 = 127;
const CAN_NOT_RUN: i32 = 126;

/// A command that was run: argv, directory, environment.
pub(crate) type Ran<'a> = (&'a [String], &'a Path, &'a BTreeMap<String, String>);

/// A failure without a log tail; the hint depends on the phase alone.
pub(crate) fn failure(phase: Phase, nature: Nature, cause: impl Into<String>) -> Failure {
    Failure {
        phase,
        nature,
        cause: cause.into(),
        hint: Some(where_to_look(phase).to_owned()),
        log_tail: Vec::new(),
    }
}

/// A failure of the host (disk, processes, permissions): transient, so a retry may succeed.
pub(crate) fn trouble(phase: Phase, err: &dyn std::error::Error) -> Failure {
    failure(phase, Nature::Transient, chain(err))
}

/// The hint for a failure of which only the phase is known.
fn where_to_look(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetching => "`bgd doctor` tries the remote; then `bgd deploy`",
        Phase::CheckingOut => "`bgd doctor` looks at disk, user and front; then `bgd deploy`",
        Phase::Building => "`bgd logs --build` shows all of its output; then push a fix, or `bgd deploy`",
        Phase::Starting | Phase::Probing | Phase::Warming => {
            "`bgd doctor` looks at ports, user and programs; then `bgd deploy`"
        }
        Phase::Canary | Phase::Switching | Phase::Watching => {
            "`bgd doctor` looks at the front; then `bgd deploy`"
        }
        Phase::Draining | Phase::Stopping => {
            "`bgd status` shows what still runs; `bgd doctor` looks at this host"
        }
    }
}

/// The last lines that the newest run wrote to a log, for people; empty without a log.
pub(crate) fn tail(path: &Path) -> Vec<String> {
    match tail_of_run(path, TAIL) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).lines().map(one_line).collect(),
        Err(err) => vec![format!("(the log can't be read: {err})")],
    }
}

/// The failure of a command that can't be described or whose directories can't be made.
pub(crate) fn command_failure(phase: Phase, err: &CommandError) -> Failure {
    let nature = if err.is_transient() { Nature::Transient } else { Nature::Deterministic };
    let failure = Failure { hint: Some(err.hint().to_owned()), ..failure(phase, nature, chain(err)) };
    let CommandError::Io { path, source, .. } = err else { return failure };
    if source.kind() != ErrorKind::PermissionDenied || !geteuid().is_root() {
        return failure;
    }
    let Some(ModuleRefusal { why, hint }) = Confinement::here().refusal(path) else { return failure };
    Failure {
        cause: format!("{}: {why}", failure.cause),
        hint: Some(format!("{hint}; then `bgd deploy`")),
        ..failure
    }
}

/// The failure of a start. A missing program, user or directory is a fault of the commit or the configuration: a retry
/// does not help. Other errors are transient.
pub(crate) fn start_failure(phase: Phase, err: &StartError) -> Failure {
    let (nature, hint) = match err {
        StartError::UnknownUser { .. } | StartError::User { .. } => (
            Nature::Deterministic,
            "`user` needs bgd to run as root, and an account of that name; then `bgd deploy`",
        ),
        StartError::Directory { .. } | StartError::Program { .. } | StartError::Interpreter { .. } => (
            Nature::Deterministic,
            "the program must be in the release or in PATH, and executable; correct that, then `bgd deploy`",
        ),
        _ => (Nature::Transient, "`bgd doctor` looks at disk, user and ports; then `bgd deploy`"),
    };
    Failure { hint: Some(hint.to_owned()), ..failure(phase, nature, chain(err)) }
}

/// Adds to the failure of a command why its program could not be run, if its exit code and files say so; `then`
/// follows the hint.
pub(crate) fn explained(failure: Failure, ran: Ran<'_>, exit: CommandExit, then: &str) -> Failure {
    let ExitKind::Code(code) = exit.how else { return failure };
    because(unrunnable(ran, &failure.log_tail, code), failure, then)
}

/// The failure of a command that the kernel did not start.
pub(crate) fn not_started(phase: Phase, err: &StartError, spec: &Spec) -> Failure {
    let failure = start_failure(phase, err);
    let code = match err {
        StartError::Program { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            CAN_NOT_RUN
        }
        StartError::Program { .. } | StartError::Interpreter { .. } => NOT_FOUND,
        _ => return failure,
    };
    match unrunnable((&spec.argv, &spec.cwd, &spec.env), &[], code) {
        // The explanation replaces the kernel's error text, which would add nothing.
        Some(Unrunnable { why, hint }) => {
            Failure { cause: why, hint: Some(format!("{hint}; then `bgd deploy`")), ..failure }
        }
        None => failure,
    }
}

fn because(found: Option<Unrunnable>, failure: Failure, then: &str) -> Failure {
    let Some(Unrunnable { why, hint }) = found else { return failure };
    Failure { cause: format!("{}: {why}", failure.cause), hint: Some(format!("{hint}; {then}")), ..failure }
}

fn unrunnable((argv, cwd, env): Ran<'_>, said: &[String], code: i32) -> Option<Unrunnable> {
    let path = env.get("PATH").map_or("", String::as_str);
    why_unrunnable(Attempt { argv, cwd, path, said }, code)
}
