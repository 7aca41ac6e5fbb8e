//! Messages between daemon and shim: one order on the shim's stdin and one reply on its stdout when it starts;
//! afterwards one JSON line each way per connection. Pure: bytes in, values out, never a panic. A newer daemon talks
//! to older shims: add, never change.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{record::Record, spec::Spec};

/// Longest request line in bytes, without its line feed; the real ones are under 20.
pub const MAX_REQUEST: usize = 256;

/// Bytes of the longest reply: room for a tree of tens of thousands of processes.
pub const MAX_REPLY: u64 = 1 << 20;

/// Most pids of a tree in a reply.
pub const MAX_TREE: usize = 10_000;

/// The order to a new shim, on its stdin.
#[derive(Serialize, Deserialize)]
pub struct StartOrder {
    /// The id in the names of the record and the socket.
    pub id: String,
    /// The state file to write.
    pub record: PathBuf,
    /// The socket to answer on.
    pub socket: PathBuf,
    /// The command to run.
    pub spec: Spec,
}

/// The reply of a new shim, on its stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// The command was exec'd.
    Running(Box<Record>),
    /// The command was not exec'd, and nothing is left of the attempt.
    Failed(StartFault),
}

/// Why a command was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFault {
    /// The step that failed.
    pub stage: StartStep,
    /// The kernel's error number; 0 without one.
    pub errno: i32,
}

/// The step of a start that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say what was attempted")]
pub enum StartStep {
    Socket,
    Record,
    Fork,
    Session,
    Priority,
    UnknownUser,
    User,
    Directory,
    Program,
    Interpreter,
    Rights,
    Claim,
}

impl StartStep {
    const ALL: [Self; 12] = [
        Self::Socket,
        Self::Record,
        Self::Fork,
        Self::Session,
        Self::Priority,
        Self::UnknownUser,
        Self::User,
        Self::Directory,
        Self::Program,
        Self::Interpreter,
        Self::Rights,
        Self::Claim,
    ];
}

impl StartFault {
    /// Encodes the fault for the pipe from the forked child: stage, then errno.
    pub fn to_bytes(&self) -> [u8; 5] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.stage as u8, a, b, c, d]
    }

    /// Decodes [`StartFault::to_bytes`]; `None` for any other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&stage, errno) = bytes.split_first()?;
        let stage = StartStep::ALL.into_iter().find(|one| *one as u8 == stage)?;
        Some(Self { stage, errno: i32::from_le_bytes(errno.try_into().ok()?) })
    }
}

/// The request of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimRequest {
    /// Answered at once.
    Status,
    /// Answered when the main command has exited.
    WaitExit,
    /// Answered when no descendant is left.
    WaitEnd,
    /// Polite end; answered when no descendant is left, or when KILL did not help.
    Stop,
    /// KILL of the tree; answered as `Stop`.
    Kill,
    /// Tells a worker to take no new work; answered at once.
    Quiet,
    /// Lets a shim exit that has ended but can't save its record (full disk).
    Forget,
}

impl ShimRequest {
    /// Parses one line, without its line feed.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// The bytes that one connection has sent so far, in pieces of any size, until they are one request.
#[derive(Debug, Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    /// Takes the next bytes. `None` while the line has no end. Drops everything after the first line, since a
    /// connection sends one request. The sizes of the pieces make no difference.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Result<ShimRequest, BadRequest>> {
        self.0.extend_from_slice(bytes);
        match self.0.iter().position(|c| *c == b'\n') {
            Some(end) if end <= MAX_REQUEST => {
                let line = self.0.get(..end).unwrap_or_default();
                Some(ShimRequest::parse(line).map_err(BadRequest::Malformed))
            }
            None if self.0.len() <= MAX_REQUEST => None,
            Some(_) | None => Some(Err(BadRequest::TooLong)),
        }
    }
}

/// Why a line is not a request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("the request is too long")]
    TooLong,
    /// A line that can't be parsed, for example a new request to an older shim.
    #[error(transparent)]
    Malformed(serde_json::Error),
}

/// The answer to every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimReply {
    /// The present state.
    Report(Box<ShimReport>),
    /// The request was not understood, for example by an older shim.
    Refused(String),
}

/// The state of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimReport {
    /// The record, as in its state file.
    pub record: Record,
    /// Living descendants.
    pub tree: Vec<i32>,
    /// Bytes of output that could not be written to the log.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::lines::line;

    #[test]
    fn every_request_and_fault_comes_back_as_it_was_sent() {
        use ShimRequest::*;
        for request in [Status, WaitExit, WaitEnd, Stop, Kill, Quiet, Forget] {
            let line = line(&request).unwrap();
            assert!(line.len() <= MAX_REQUEST);
            assert_eq!(ShimRequest::parse(line.trim_ascii_end()).unwrap(), request);
        }
        for stage in StartStep::ALL {
            let fault = StartFault { stage, errno: -2 };
            assert_eq!(StartFault::from_bytes(&fault.to_bytes()), Some(fault));
        }
    }

    #[test]
    fn a_request_is_the_same_in_one_piece_and_in_many() {
        for (sent, want) in [
            (&b"\"status\"\n"[..], Some(ShimRequest::Status)),
            (b"\"stop\"\nwhat follows", Some(ShimRequest::Stop)),
            (b"\"stop\"", None),
        ] {
            assert_eq!(Inbox::default().take(sent).map(Result::unwrap), want);
            let mut inbox = Inbox::default();
            assert_eq!(sent.chunks(1).find_map(|one| inbox.take(one)).map(Result::unwrap), want);
        }
        let long = [b"\"status\"".as_slice(), &[b' '; MAX_REQUEST], b"\n"].concat();
        assert!(matches!(Inbox::default().take(&long), Some(Err(BadRequest::TooLong))));
        let mut inbox = Inbox::default();
        let refused = long.chunks(7).find_map(|piece| inbox.take(piece));
        assert!(matches!(refused, Some(Err(BadRequest::TooLong))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ShimRequest::parse(&bytes);
            let _ = StartFault::from_bytes(&bytes);
            let _ = serde_json::from_slice::<ShimReply>(&bytes);
        }
    }
}
