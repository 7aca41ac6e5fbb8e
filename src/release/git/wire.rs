//! The protocol between daemon and worker: one JSON object per line. The daemon sends a request; the worker sends any
//! number of progress lines and then one answer. Both ends are the same binary, so the protocol has no version. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    error::{GitError, GitStep},
    text::redact,
    verify::Trust,
};
use crate::{
    config::{
        patterns::Patterns,
        settings::{CheckoutLimit, MigrationRules},
    },
    rules::{
        barrier::{Landmarks, SchemaNews},
        ids::CommitId,
    },
};

/// The first line to a worker: the app's settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The bare repository that bgd owns.
    pub mirror: PathBuf,
    /// The remote as configured, user info included.
    pub remote: String,
    /// The branch without `refs/heads/`.
    pub branch: String,
    /// Refuse a tip that does not descend from the last one; holds the name of the setting that requires it.
    pub fast_forward_only: Option<String>,
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// File of known hosts; `None` means the user's and the system's files.
    pub known_hosts: Option<PathBuf>,
    /// File with a token for https.
    pub token_file: Option<PathBuf>,
    /// Certificates of authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy for http and https, user info included.
    pub proxy: Option<String>,
    /// Environment variable of the daemon that names a proxy. bgd ignores it, but an error of the network names it.
    pub idle_proxy: Option<String>,
    /// Become this user before anything else is opened.
    pub user: Option<String>,
    /// The home directory of the worker's user, with its ssh keys and known hosts.
    pub home: PathBuf,
    /// Limit of one network read, in milliseconds, so that most stalls end without a kill.
    pub read_timeout_ms: i32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum WorkerRequest {
    /// The tip of the branch at the remote.
    Head,
    /// Fetch a revision into the mirror.
    Fetch {
        want: WantedRevision,
        /// The keys that may sign it; `None` means that no signature is required.
        trust: Option<Trust>,
        /// The branch's last accepted tip by the daemon's record; `None` means the one in the mirror.
        accepted: Option<CommitId>,
    },
    /// Write a commit's files.
    Checkout {
        commit: CommitId,
        /// An empty directory.
        dir: PathBuf,
        /// Refuse a commit that exceeds this.
        limit: CheckoutLimit,
    },
    /// Read subject, author and time of a commit in the mirror.
    Describe {
        /// The full id of a commit in the mirror.
        commit: CommitId,
    },
    /// Fetch two commits and tell what lies between them.
    Compare(Between),
    /// Tell what a commit in the mirror changes in the database.
    SchemaNews(SchemaQuestion),
}

/// A commit in the mirror, and what it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaQuestion {
    pub commit: CommitId,
    pub landmarks: Landmarks,
    /// `None`: nobody looks for migrations, only for the contract that set the barrier.
    pub rules: Option<MigrationRules>,
}

/// Two commits to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Between {
    /// The older one, usually what is live; `None`: an empty tree.
    pub from: Option<CommitId>,
    /// The newer one.
    pub to: CommitId,
    /// Lists of file patterns, each answered by itself.
    pub patterns: Vec<Patterns>,
}

/// Which revision to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedRevision {
    /// The tip of the app's branch.
    Branch,
    /// The full id of a commit that was the branch's tip a moment ago. The rules for tips apply to it.
    Seen(CommitId),
    /// A full or short commit id, a tag or a branch.
    Rev(String),
}

/// One line from a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerLine {
    /// The request made progress.
    Progress(GitProgress),
    /// The request is done.
    Done(WorkerAnswer),
    /// The request failed.
    Failed(GitError),
}

/// A worker's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitProgress {
    /// The current stage.
    pub stage: GitStep,
    /// Objects or files done in this stage.
    pub done: u64,
    /// Bytes done in this stage.
    pub bytes: u64,
}

impl GitProgress {
    /// The beginning of a stage.
    pub fn at(stage: GitStep) -> Self {
        Self { stage, done: 0, bytes: 0 }
    }
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerAnswer {
    /// To the opening.
    Ready,
    /// To `Head`.
    Head(RemoteHead),
    /// To `Fetch`.
    Fetched(Fetched),
    /// To `Checkout`.
    CheckedOut(CheckedOut),
    /// To `Describe`.
    Described(Described),
    /// To `Compare`.
    Compared(Compared),
    /// To `SchemaNews`.
    SchemaNews(SchemaNews),
}

/// The tip of the branch at the remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteHead {
    /// Its commit.
    pub commit: CommitId,
    /// How many refs the remote listed; `None` if bgd read the ref's file instead.
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
    /// The tip does not descend from the tip accepted before: a force-push or an unrelated history.
    pub rewound: bool,
    /// The signer, cleaned for display; `None` if no signature is required.
    pub signer: Option<String>,
    /// Accepted as the branch's tip, which later tips are compared with.
    pub accepted: bool,
}

/// Subject, author and time of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// First line of the message, fit to show.
    pub subject: String,
    /// The author's name, fit to show.
    pub author: String,
    /// Commit time in seconds since 1970, as the committer's clock had it.
    pub committed_at: i64,
}

/// What lies between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// False: the older commit was not given or is nowhere any more, so that every file counts as changed.
    pub from_known: bool,
    /// One for each list of patterns.
    pub touched: Vec<Touched>,
    /// The commits that only the newer one has, newest first, itself among them.
    pub commits: Vec<Passed>,
    /// False: there are more such commits.
    pub all: bool,
}

/// Files that differ under a list of patterns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Touched {
    pub count: u64,
    /// The first 20 of them, from the root of the repository.
    pub files: Vec<String>,
}

/// A commit between two others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub commit: CommitId,
    /// Its message, cut at 4 KiB.
    pub message: String,
    /// Reached by first parents alone: it once was the tip of the branch, or could have been.
    pub on_main_line: bool,
}

/// Amounts that a checkout wrote, submodules included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckedOut {
    /// Number of files and symlinks.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Key of a branch and its remote. Accepted tips are compared only under the same key.
pub fn line_of(branch: &str, remote: &str) -> String {
    format!("{branch}\n{}", redact(remote))
}

/// Prints a message as one line, newline included.
pub fn print<T: Serialize>(message: &T) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    Ok(line)
}

/// Parses a message from a line.
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
            WorkerRequest::Head,
            WorkerRequest::Fetch {
                want: WantedRevision::Branch,
                trust: None,
                accepted: Some(commit.clone()),
            },
            WorkerRequest::Fetch { want: WantedRevision::Seen(commit.clone()), trust: None, accepted: None },
            WorkerRequest::Fetch { want: WantedRevision::Rev("v1\n2".into()), trust: None, accepted: None },
            WorkerRequest::Checkout {
                commit: commit.clone(),
                dir: "/x y/\"z\"\n".into(),
                limit: CheckoutLimit { files: 1, bytes: 2 },
            },
        ];
        for request in requests {
            let line = print(&request).unwrap();
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{line}");
            assert_eq!(parse::<WorkerRequest>(&line).unwrap(), request);
        }
        let failed = WorkerLine::Failed(GitError::Empty { remote: "x".into() });
        assert_eq!(parse::<WorkerLine>(&print(&failed).unwrap()).unwrap(), failed);
        let done = WorkerLine::Done(WorkerAnswer::Head(RemoteHead { commit, refs: Some(3) }));
        assert_eq!(parse::<WorkerLine>(&print(&done).unwrap()).unwrap(), done);
    }

    #[test]
    fn a_strange_line_is_an_error_and_not_a_panic() {
        for line in ["", "{}", "null", "{\"done\":{\"head\":{\"commit\":\"../x\"}}}", "\u{0}"] {
            assert!(parse::<WorkerLine>(line).is_err(), "{line}");
        }
    }
}
