//! The command probe: a command of the app, run as its user in a process group of its own; exit code 0 is healthy. The
//! group is killed at the time limit, after the command's end, and when the caller drops the future.

use std::{
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    os::{
        group::ProcessGroup,
        privilege::{Account, Rights},
    },
    probe::{Outcome, ProbeCommand, Reason, reason::tail},
};

/// Bytes kept of the end of the output.
const KEPT: usize = 4096;
/// The most bytes left in a pipe after its writer has ended: the default capacity of a pipe.
const PIPE: usize = 64 * 1024;

/// The end of a command.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it ran into its limit and was killed.
    pub status: Option<ExitStatus>,
    /// The end of what it printed, at most 4 KiB.
    pub output: Vec<u8>,
}

/// Runs the command once.
pub(super) async fn ask(command: &ProbeCommand, limit: Duration) -> Outcome {
    let program = command.argv.first().cloned().unwrap_or_default();
    let ended = run(command, limit)
        .await
        .map_err(|error: io::Error| (Reason::NotRun { program, error: error.to_string() }, String::new()))?;
    let output = tail(&ended.output);
    match ended.status {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err((Reason::Command { status: exit_words(status), output: output.clone() }, output)),
        None => Err((Reason::CommandTooSlow { limit, output: output.clone() }, output)),
    }
}

/// Runs a command to its end, or to its limit.
///
/// # Errors
/// When it can't be started or waited for.
pub async fn run(command: &ProbeCommand, limit: Duration) -> io::Result<Ended> {
    let mut running = start(command)?;
    let ended = timeout(limit, running.ended()).await;
    // Kills processes that the command left behind, so that none of them keeps the pipe open or accumulates.
    running.group.kill();
    if ended.is_err() {
        // A process stuck in the kernel is reaped later, by the runtime; a probe does not wait for it.
        let _ = timeout(REAP, running.child.wait()).await;
    }
    running.drain();
    let output = running.output;
    match ended {
        Ok(status) => Ok(Ended { status: Some(status?), output }),
        Err(_) => Ok(Ended { status: None, output }),
    }
}

/// Time for a killed command to end.
const REAP: Duration = Duration::from_secs(1);

/// A running command.
struct RunningCommand {
    child: Child,
    group: ProcessGroup,
    pipe: pipe::Receiver,
    output: Vec<u8>,
}

impl RunningCommand {
    /// Waits for the end of the command (not of its output, which a child left behind may hold open).
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let mut open = true;
        let mut chunk = [0; 4096];
        loop {
            tokio::select! {
                // Cancel-safe: waiting again gives the same status.
                status = self.child.wait() => return status,
                // Cancel-safe: either bytes were read or none were taken.
                read = self.pipe.read(&mut chunk), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(count) => keep(&mut self.output, &chunk[..count]),
                },
            }
        }
    }

    /// Takes the bytes that the ended command left in the pipe, without waiting for more.
    fn drain(&mut self) {
        let mut chunk = [0; 4096];
        for _ in 0..PIPE / chunk.len() {
            match self.pipe.try_read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(count) => keep(&mut self.output, &chunk[..count]),
            }
        }
    }
}

fn keep(output: &mut Vec<u8>, more: &[u8]) {
    output.extend_from_slice(more);
    output.drain(..output.len().saturating_sub(KEPT));
}

fn start(command: &ProbeCommand) -> io::Result<RunningCommand> {
    let (program, arguments) =
        command.argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (sender, pipe) = pipe::pipe()?;
    let stdout = sender.into_blocking_fd()?;
    let stderr: OwnedFd = stdout.try_clone()?;
    let mut run = Command::new(program);
    run.args(arguments)
        .current_dir(&command.cwd)
        .env_clear()
        .envs(&command.env)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .kill_on_drop(true);
    give_up_rights(&mut run, command)?;
    let child = run.spawn()?;
    let group = ProcessGroup::of(&child);
    Ok(RunningCommand { child, group, pipe, output: Vec::new() })
}

/// Makes the child take on the user, groups and rights of the app, or fail to start.
fn give_up_rights(run: &mut Command, command: &ProbeCommand) -> io::Result<()> {
    let account = match &command.user {
        Some(name) => {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no such user: {name}"));
            Some(Account::find(name)?.ok_or_else(unknown)?)
        }
        None => None,
    };
    let rights = Rights { account, new_privileges: command.new_privileges };
    // SAFETY: between fork and exec the closure only makes system calls, on values made before.
    unsafe { run.pre_exec(move || rights.prepare_child()) };
    Ok(())
}

/// `exit code 1`, `signal 9`.
pub fn exit_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}
