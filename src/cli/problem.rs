//! Why a command failed, with the exit code of the contract and a hint. Every command returns it and `cli::main`
//! prints it, so that one place decides how an error looks.

use std::{io, path::PathBuf};

use crate::{
    api::{
        client::CallError,
        wire::{Exit, Refusal},
    },
    config::Problems,
    os::errors::chain,
};

impl From<Refusal> for CliProblem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CliProblem {
    /// The daemon is away, hangs, or refused the request.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The configuration files are faulty.
    #[error("{0}")]
    Config(Problems),
    /// The command line is wrong.
    #[error("{message}")]
    Usage {
        /// The error in it.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A file operation failed on this host.
    #[error("can't {attempt} {}", path.display())]
    Host {
        /// A verb, such as `write`.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Any other failure found by the command line, with its exit code.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The output can't be written.
    #[error("can't write the output")]
    Output(#[from] io::Error),
}

impl CliProblem {
    /// A wrong request.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// Something found on this side.
    pub fn refused(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused(Refusal { exit, message: message.into(), hint: Some(hint.into()) })
    }

    /// The daemon's answer is not one to this request.
    pub fn unexpected() -> Self {
        let hint = "daemon and command line differ in version: restart the daemon";
        Self::refused(Exit::Unreachable, "the daemon answered another question", hint)
    }

    /// The exit code of the contract.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Call(error) => error.exit(),
            Self::Config(_) | Self::Usage { .. } => Exit::Usage,
            Self::Refused(refusal) => refusal.exit,
            Self::Host { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Host { .. } | Self::Output(_) => Exit::Failed,
        }
    }

    /// The next thing to do.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Call(error) => error.hint(),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Config(_) | Self::Host { .. } | Self::Output(_) => None,
        }
    }

    /// Whether the reader of our output has left, which is not an error to report.
    pub fn reader_left(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The text for stderr: the whole chain of errors on one line, then the hint.
    pub fn text(&self) -> String {
        if let Self::Config(problems) = self {
            return problems.to_string();
        }
        let mut text = format!("error: {}", chain(self));
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_and_the_hint_another() {
        let error = CliProblem::from(CallError::Absent {
            socket: "/run/bgd/bgd.sock".into(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        });
        let text = error.text();
        assert!(
            text.starts_with("error: the daemon can't be reached at /run/bgd/bgd.sock: No such file"),
            "{text}"
        );
        assert!(text.contains("\nhint: "), "{text}");
        assert_eq!(error.exit(), Exit::Unreachable);
    }

    #[test]
    fn each_problem_has_the_exit_code_of_the_contract() {
        let socket = || std::path::PathBuf::from("s");
        let io = |code| io::Error::from_raw_os_error(code);
        let limit = std::time::Duration::from_secs(2);
        let refusal = |exit| Refusal { exit, message: "no".to_owned(), hint: None };
        for (problem, exit) in [
            (CliProblem::from(CallError::Hung { socket: socket(), limit }), 4),
            (CliProblem::from(CallError::Gone { socket: socket(), source: None }), 4),
            (CliProblem::from(CallError::NotPermitted { socket: socket(), source: io(libc::EACCES) }), 7),
            (CliProblem::from(CallError::Refused(refusal(Exit::Held))), 5),
            (CliProblem::from(CallError::Refused(refusal(Exit::NothingLive))), 3),
            (CliProblem::Refused(refusal(Exit::TimedOut)), 8),
            (CliProblem::usage("a", "b"), 2),
            (CliProblem::Config(Problems(Vec::new())), 2),
            (CliProblem::Host { attempt: "write", path: socket(), source: io(libc::EACCES) }, 7),
            (CliProblem::Host { attempt: "write", path: socket(), source: io(libc::EIO) }, 1),
        ] {
            assert_eq!(problem.exit() as u8, exit, "{problem}");
        }
    }
}
