//! What daemon and shim say to each other: one order on the shim's stdin and one reply on its stdout when it
//! starts; afterwards one JSON line each way per connection. Pure: bytes in, values out, never a panic.
//! A newer daemon talks to older shims: add, never change.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{record::Record, spec::Spec};

/// Longest request line in bytes; the real ones are under 20.
pub(crate) const MAX_REQUEST: usize = 256;

/// Longest reply in bytes that is read: a tree of tens of thousands of processes.
pub(crate) const MAX_REPLY: u64 = 1 << 20;

/// Most pids of a tree that a reply names.
pub(crate) const MAX_TREE: usize = 10_000;

/// What a new shim is told on its stdin.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub id: String,
    pub record: PathBuf,
    pub socket: PathBuf,
    pub spec: Spec,
}

/// What a new shim answers on its stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Started {
    /// The command was exec'd.
    Running(Box<Record>),
    /// It was not, and nothing is left of the attempt.
    Failed(Fault),
}

/// Why a command was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub stage: Stage,
    /// As the kernel gave it; 0 when there is none.
    pub errno: i32,
}

/// Where a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
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
}

impl Stage {
    const ALL: [Self; 10] = [
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
    ];
}

impl Fault {
    /// As the forked child sends it before it gives up: stage, then errno.
    pub fn to_bytes(&self) -> [u8; 5] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.stage as u8, a, b, c, d]
    }

    /// The opposite of [`Fault::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&stage, errno) = bytes.split_first()?;
        let stage = Stage::ALL.into_iter().find(|one| *one as u8 == stage)?;
        Some(Self { stage, errno: i32::from_le_bytes(errno.try_into().ok()?) })
    }
}

/// What a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
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
    /// Let a shim go that has ended but can't save its record (full disk).
    Forget,
}

impl Request {
    /// Parses one line, without its line feed.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// The answer to every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// How things stand now.
    Report(Box<Report>),
    /// Not understood, for example by an older shim.
    Refused(String),
}

/// How things stand with a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub record: Record,
    /// Living descendants.
    pub tree: Vec<i32>,
    /// Bytes of output that could not be written.
    pub dropped: u64,
}

/// One line for the wire.
pub(crate) fn line<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_request_and_fault_comes_back_as_it_was_sent() {
        use Request::*;
        for request in [Status, WaitExit, WaitEnd, Stop, Kill, Forget] {
            let line = line(&request).unwrap();
            assert!(line.len() <= MAX_REQUEST);
            assert_eq!(Request::parse(line.trim_ascii_end()).unwrap(), request);
        }
        for stage in Stage::ALL {
            let fault = Fault { stage, errno: -2 };
            assert_eq!(Fault::from_bytes(&fault.to_bytes()), Some(fault));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes);
            let _ = Fault::from_bytes(&bytes);
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }
    }
}
