//! Runs the configured `test` and `reload` commands: empty stdin, output kept up to a cap, a time limit, and a
//! process group of its own that is killed whole at the limit or when the future is dropped. Also parses what
//! nginx says when it refuses a configuration. Knows nothing of routes.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

use super::error::{ConfigFault, NginxError};
use crate::os::{group::ProcessGroup, privilege};

/// Bytes kept of each output, enough for any error message; the rest is read and dropped.
const OUTPUT_CAP: usize = 64 * 1024;
/// After the command has ended, how long a child it left behind may hold its output open.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// A command's exit status and output.
#[derive(Debug)]
pub(super) struct CommandOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl CommandOutput {
    /// The last line of stderr that is not blank, or else of stdout.
    pub(super) fn last_words(&self) -> String {
        let said = |text: &str| text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
        said(&self.stderr).or_else(|| said(&self.stdout)).unwrap_or_default()
    }
}

/// Runs a command to its end or its limit. Dropping the future ends the command.
pub(super) async fn run(argv: &[String], limit: Duration) -> Result<CommandOutput, NginxError> {
    run_keeping(argv, limit, OUTPUT_CAP).await
}

/// Runs a command like [`run`], and keeps up to `cap` bytes of each output.
pub(super) async fn run_keeping(
    argv: &[String],
    limit: Duration,
    cap: usize,
) -> Result<CommandOutput, NginxError> {
    let command = argv.join(" ");
    let spawned = |source| NginxError::Spawn { command: command.clone(), source };
    let [program, arguments @ ..] = argv else {
        return Err(spawned(std::io::ErrorKind::InvalidInput.into()));
    };
    let mut started = Command::new(program);
    started
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    // SAFETY: between fork and exec; system calls only.
    unsafe { started.pre_exec(privilege::restore_descriptor_limit) };
    let mut child = started.spawn().map_err(spawned)?;
    let group = ProcessGroup::of(&child);
    let stdout = Capture::start(child.stdout.take(), cap);
    let stderr = Capture::start(child.stderr.take(), cap);
    let Ok(status) = timeout(limit, child.wait()).await else {
        drop(group);
        // Reaps the process; it was killed, so this is short.
        let _ = timeout(OUTPUT_GRACE, child.wait()).await;
        return Err(NginxError::CommandTimeout { command, limit });
    };
    let status = status.map_err(|source| NginxError::Spawn { command, source })?;
    // A process that the command started to stay (an nginx from a wrapper) lives on.
    group.release();
    Ok(CommandOutput { status, stdout: stdout.text().await, stderr: stderr.text().await })
}

/// Reads one output to its end, even after the command's exit, and keeps it up to a cap.
struct Capture {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Capture {
    fn start(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, cap: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(drain(pipe, kept.clone(), cap));
        Self { kept, reader }
    }

    /// The output until its end, or until now if another process still holds it open.
    async fn text(mut self) -> String {
        if timeout(OUTPUT_GRACE, &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>, cap: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut piece = vec![0; 8 * 1024];
    // A read error counts as the end: the output so far is still useful.
    while let Ok(len @ 1..) = pipe.read(&mut piece).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = cap.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..len.min(room)]);
    }
}

/// Finds the file, line and message that nginx blames, in the output of `nginx -t`.
pub(super) fn fault(ended: &CommandOutput) -> ConfigFault {
    let levels = ["[emerg]", "[alert]", "[crit]"];
    let line = levels.iter().find_map(|level| ended.stderr.lines().find(|line| line.contains(level)));
    let quote = match (line, ended.last_words()) {
        (Some(line), _) => line.trim().to_owned(),
        (None, words) if words.is_empty() => silent(ended.status),
        (None, words) => words,
    };
    let (file, number) = blamed(&quote).unzip();
    ConfigFault { file, line: number, quote }
}

fn silent(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("the test command was ended by signal {signal}, without a word"),
        None => format!("the test command ended without a word ({status})"),
    }
}

/// Parses the end of nginx's message, ` in <file>:<line>`.
fn blamed(quote: &str) -> Option<(PathBuf, u32)> {
    let (_, place) = quote.rsplit_once(" in ")?;
    let (file, line) = place.trim().rsplit_once(':')?;
    Some((PathBuf::from(file), line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn ended(stderr: &str) -> CommandOutput {
        CommandOutput { status: ExitStatus::from_raw(256), stdout: String::new(), stderr: stderr.into() }
    }

    #[test]
    fn the_file_and_line_that_nginx_blames_are_read() {
        let said = "nginx: [warn] conflicting server name in /etc/a:1\n\
                    2026/11/21 08:05:35 [emerg] 7#7: unknown directive \"bogus in x\" in /etc/nginx/b c.conf:12\n\
                    nginx: configuration file /etc/nginx/nginx.conf test failed\n";
        let fault = fault(&ended(said));
        assert_eq!((fault.file, fault.line), (Some("/etc/nginx/b c.conf".into()), Some(12)));
        assert!(fault.quote.contains("[emerg] 7#7: unknown directive"), "{}", fault.quote);
    }

    #[test]
    fn a_complaint_without_a_place_is_quoted_all_the_same() {
        let fault = fault(&ended("nginx: [emerg] cannot load certificate \"/etc/x.pem\": no such file\n"));
        assert_eq!(fault.file, None);
        assert!(fault.quote.contains("cannot load certificate"));
    }

    #[tokio::test]
    async fn a_hanging_command_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 300 & echo $! $$ > {}; wait", pids.display());
        let limit = Duration::from_millis(400);
        let err = run(&shell(&script), limit).await.unwrap_err();
        assert!(matches!(err, NginxError::CommandTimeout { .. }), "{err}");
        for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
            let gone = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.is_empty() || stat.contains(") Z ")
            };
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while !gone() && std::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(gone(), "process {pid} lives on");
        }
    }

    #[tokio::test]
    async fn a_child_left_with_the_output_does_not_hold_the_answer_up() {
        let ended = run(&shell("sleep 3 & echo done >&2; exit 3"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.last_words(), "done");
    }

    #[tokio::test]
    async fn endless_output_is_capped() {
        let ended = run(&shell("yes | head -c 1000000"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(ended.stdout.len(), OUTPUT_CAP);
    }
}
