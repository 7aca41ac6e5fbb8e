//! What daemon and worker say to each other: one JSON object a line, requests down, any number of progress
//! lines and then one answer up. Both ends are the same binary, so there is no version. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    error::{GitError, Stage},
    text::redact,
    verify::Trust,
};
use crate::{config::settings::CheckoutLimit, rules::ids::CommitId};

/// The first line to a worker: for whom it works.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The bare repository that bgd owns.
    pub mirror: PathBuf,
    /// As configured, user info included.
    pub remote: String,
    /// Without `refs/heads/`.
    pub branch: String,
    /// Refuse a tip that does not descend from the last one; the setting that says so.
    pub fast_forward_only: Option<String>,
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// Known hosts; `None` is the user's and the system's.
    pub known_hosts: Option<PathBuf>,
    /// File with a token for https.
    pub token_file: Option<PathBuf>,
    /// Authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy for http and https, user info included.
    pub proxy: Option<String>,
    /// A variable of the daemon's environment that names a proxy, and is not obeyed.
    pub idle_proxy: Option<String>,
    /// Become this user before anything else is opened.
    pub user: Option<String>,
    /// The home directory of whom the worker runs as: keys and known hosts are looked for below it.
    pub home: PathBuf,
    /// Limit of one network read, in milliseconds, so that most stalls end without a kill.
    pub read_timeout_ms: i32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// The tip of the branch at the remote.
    Head,
    /// Bring a revision into the mirror.
    Fetch {
        /// Which.
        want: Want,
        /// Whose signature it has to bear; `None` is anybody's or none.
        trust: Option<Trust>,
        /// The branch's tip that the daemon knows to be accepted last; `None` is what the mirror knows.
        accepted: Option<CommitId>,
    },
    /// Write a commit's files.
    Checkout {
        /// Which.
        commit: CommitId,
        /// An empty directory.
        dir: PathBuf,
        /// Refuse the commit when it brings more.
        limit: CheckoutLimit,
    },
    /// Who and what a commit in the mirror is.
    Describe {
        /// Which.
        commit: CommitId,
    },
}

/// Which revision to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// The tip of the app's branch.
    Branch,
    /// A commit that was the branch's tip a moment ago, by its full id. What holds for a tip holds for it.
    Seen(CommitId),
    /// A full or short commit id, a tag or a branch.
    Rev(String),
}

/// One line from a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Something moved.
    Progress(Progress),
    /// The request is done.
    Done(Answer),
    /// The request failed.
    Failed(GitError),
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it does.
    pub stage: Stage,
    /// Objects or files done in this stage.
    pub done: u64,
    /// Bytes done in this stage.
    pub bytes: u64,
}

impl Progress {
    /// The begin of a stage.
    pub fn at(stage: Stage) -> Self {
        Self { stage, done: 0, bytes: 0 }
    }
}

/// What a request gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To the opening.
    Ready,
    /// To `Head`.
    Head(Head),
    /// To `Fetch`.
    Fetched(Fetched),
    /// To `Checkout`.
    CheckedOut(CheckedOut),
    /// To `Describe`.
    Described(Described),
}

/// The tip of the branch at the remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its commit.
    pub commit: CommitId,
    /// How many refs the remote had to list for it; `None` where one file was read.
    pub refs: Option<u64>,
}

/// A revision that is now in the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Its commit.
    pub commit: CommitId,
    /// First line of the message, fit to show.
    pub subject: String,
    /// The author's name, fit to show.
    pub author: String,
    /// Commit time in seconds since 1970, as the committer's clock had it.
    pub committed_at: i64,
    /// The tip does not descend from the one fetched before: a force-push or an unrelated history.
    pub rewound: bool,
    /// Who signed it, fit to show; `None` where that does not matter.
    pub signer: Option<String>,
    /// It was accepted as the branch's tip, which later ones are compared with.
    pub accepted: bool,
}

/// Who and what a commit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// First line of the message, fit to show.
    pub subject: String,
    /// The author's name, fit to show.
    pub author: String,
    /// Commit time in seconds since 1970, as the committer's clock had it.
    pub committed_at: i64,
}

/// What a checkout wrote, submodules included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckedOut {
    /// Files and symlinks.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Names what an accepted tip belongs to: that of another branch or remote is nothing to compare with.
pub fn line_of(branch: &str, remote: &str) -> String {
    format!("{branch}\n{}", redact(remote))
}

/// One message as a line, newline included.
pub fn print<T: Serialize>(message: &T) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    Ok(line)
}

/// One message from a line.
pub fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_on_one_line() {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let requests = [
            Request::Head,
            Request::Fetch { want: Want::Branch, trust: None, accepted: Some(commit.clone()) },
            Request::Fetch { want: Want::Seen(commit.clone()), trust: None, accepted: None },
            Request::Fetch { want: Want::Rev("v1\n2".into()), trust: None, accepted: None },
            Request::Checkout {
                commit: commit.clone(),
                dir: "/x y/\"z\"\n".into(),
                limit: CheckoutLimit { files: 1, bytes: 2 },
            },
        ];
        for request in requests {
            let line = print(&request).unwrap();
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{line}");
            assert_eq!(parse::<Request>(&line).unwrap(), request);
        }
        let failed = Line::Failed(GitError::Empty { remote: "x".into() });
        assert_eq!(parse::<Line>(&print(&failed).unwrap()).unwrap(), failed);
        let done = Line::Done(Answer::Head(Head { commit, refs: Some(3) }));
        assert_eq!(parse::<Line>(&print(&done).unwrap()).unwrap(), done);
    }

    #[test]
    fn a_strange_line_is_an_error_and_not_a_panic() {
        for line in ["", "{}", "null", "{\"done\":{\"head\":{\"commit\":\"../x\"}}}", "\u{0}"] {
            assert!(parse::<Line>(line).is_err(), "{line}");
        }
    }
}
