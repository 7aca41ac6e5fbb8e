//! Why an instance is not healthy, in words for people. Made by the probes; shown in errors, `status`
//! and `bgd show`, so that every text stays on one line.

use std::{error::Error, fmt, time::Duration};

use crate::rules::address::Address;

/// Why an instance is not healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The connection was refused.
    Refused {
        /// The address asked.
        address: Address,
    },
    /// No answer came in time.
    NoAnswer {
        /// Time limit of the probe.
        limit: Duration,
    },
    /// A status came in time, but not the whole body.
    Unfinished {
        /// The requested path.
        path: String,
        /// The status of the answer.
        status: u16,
        limit: Duration,
    },
    /// A status that is not accepted.
    Status {
        /// The requested path.
        path: String,
        /// The status of the answer.
        status: u16,
        /// The accepted statuses.
        expected: Vec<u16>,
    },
    /// A redirect, which says nothing about the app's health.
    Redirect {
        /// The requested path.
        path: String,
        /// The status of the answer.
        status: u16,
        /// The target of the redirect.
        to: String,
    },
    /// The body does not contain the configured text.
    Body {
        /// The requested path.
        path: String,
        /// The configured text.
        wanted: String,
    },
    /// The connection broke, or the answer was not in the app's protocol.
    Broken {
        /// The address asked.
        address: Address,
        /// The error and its causes.
        error: String,
    },
    /// The request can't be made, for example because of its Host header.
    Impossible {
        /// The error and its causes.
        error: String,
    },
    /// The command ended with an exit code other than 0, or by a signal.
    Command {
        /// `exit code 1` or `signal 9`.
        status: String,
        /// The end of its output, on one line; may be empty.
        output: String,
    },
    /// The command did not end in time and was killed.
    CommandTooSlow {
        /// The limit of one probe.
        limit: Duration,
        /// The end of its output, on one line; may be empty.
        output: String,
    },
    /// The command could not be run.
    NotRun {
        /// The program.
        program: String,
        /// The error and its causes.
        error: String,
    },
    /// The probe needs a command, and the target does not have one.
    NoCommand,
}

impl Reason {
    /// Whether nothing answered (refused, or no whole answer in time): the app hangs or has closed its port, and does
    /// not merely report itself unhealthy.
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::NoAnswer { .. }
                | Self::Unfinished { .. }
                | Self::CommandTooSlow { .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { address } => write!(f, "connection refused on {address}"),
            Self::NoAnswer { limit } => write!(f, "no answer within {limit:?}"),
            Self::Unfinished { path, status, limit } => {
                write!(f, "GET {path} answered {status}, but its body did not end within {limit:?}")
            }
            Self::Status { path, status, expected } => {
                let expected: Vec<String> = expected.iter().map(u16::to_string).collect();
                write!(f, "GET {path} answered {status} (expected {})", expected.join(" or "))
            }
            Self::Redirect { path, status, to } => {
                write!(f, "GET {path} redirects to {to} ({status}), which is not health")
            }
            Self::Body { path, wanted } => write!(f, "GET {path}: body lacks {wanted:?}"),
            Self::Broken { address, error } => write!(f, "no proper answer from {address}: {error}"),
            Self::Impossible { error } => write!(f, "the probe can't be made: {error}"),
            Self::Command { status, output } => {
                write!(f, "health command ended with {status}")?;
                quoted(f, output)
            }
            Self::CommandTooSlow { limit, output } => {
                write!(f, "health command did not end within {limit:?}")?;
                quoted(f, output)
            }
            Self::NotRun { program, error } => write!(f, "can't run health command {program}: {error}"),
            Self::NoCommand => f.write_str("no health command was prepared"),
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, output: &str) -> fmt::Result {
    if output.is_empty() { Ok(()) } else { write!(f, ": {output}") }
}

/// Characters kept of a body: enough to recognise an error page in one or two lines of a terminal.
const EXCERPT: usize = 200;

/// The beginning of an answer, on one line and without control characters.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    clean(&bytes[..bytes.len().min(EXCERPT * 8)]).chars().take(EXCERPT).collect()
}

/// The end of an output, on one line and without control characters.
pub(super) fn tail(bytes: &[u8]) -> String {
    let text = clean(bytes);
    let drop = text.chars().count().saturating_sub(EXCERPT);
    text.chars().skip(drop).collect()
}

fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    crate::os::printable::one_line(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    clean(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_without_control_characters() {
        let noisy = format!("\x1b[31m<h1>\r\n Oops\0</h1>\u{9b}{}", "ä".repeat(9000));
        let text = excerpt(noisy.as_bytes());
        assert!(text.starts_with("<h1> Oops </h1>ä"), "{text}");
        assert_eq!(text.chars().count(), EXCERPT);
        assert!(tail(format!("{noisy} the end\n").as_bytes()).ends_with("ä the end"));
    }
}
