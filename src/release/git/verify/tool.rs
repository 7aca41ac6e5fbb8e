//! Runs `ssh-keygen` or `gpgv` with a bare environment and input from a sealed file, and captures its output. Used by
//! `ssh` and `gpg`. Has no time limit of its own: the daemon kills worker and tool when there is no progress.

use std::process::{Command, Stdio};

use super::{SignatureRefusal, sealed::Sealed};
use crate::release::git::{
    error::{ErrorCause, GitError, Reaction},
    text::one_line,
};

/// Variables that the tool inherits from the worker.
const INHERITED: [&str; 2] = ["PATH", "TZ"];

/// The result of a run.
pub struct Said {
    /// It exited with 0.
    pub good: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Its standard error in one line, with the file's real path `shown` in place of the sealed file's.
    pub fn complaint(&self, shown: &str, file: &Sealed) -> String {
        one_line(self.err.replace(&file.path(), shown).as_bytes())
    }
}

/// Runs `program` to its end.
pub fn run(program: &'static str, args: &[&str], input: &Sealed) -> Result<Said, SignatureRefusal> {
    let trouble = |kind, cause: &dyn std::fmt::Display| {
        SignatureRefusal::Trouble(GitError::Verifier {
            program: program.to_owned(),
            kind,
            cause: ErrorCause::new(cause),
        })
    };
    let stdin = input.reader().map_err(|err| trouble(Reaction::Transient, &err))?;
    let mut command = Command::new(program);
    command.args(args).env_clear().env("LC_ALL", "C").env("HOME", "/").current_dir("/");
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::from(stdin));
    let output = command.output().map_err(|err| {
        let missing = err.kind() == std::io::ErrorKind::NotFound;
        trouble(if missing { Reaction::Permanent } else { Reaction::Transient }, &err)
    })?;
    if output.status.code().is_none() {
        return Err(trouble(Reaction::Transient, &output.status));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { good: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// Makes the error of a memory file that can't be created or read.
pub fn no_memory(program: &'static str) -> impl Fn(std::io::Error) -> SignatureRefusal {
    move |err| {
        SignatureRefusal::Trouble(GitError::Verifier {
            program: program.to_owned(),
            kind: Reaction::Transient,
            cause: ErrorCause::new(err),
        })
    }
}
