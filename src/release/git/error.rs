//! Errors of git operations, as the engine sees them: each variant names the failed operation, [`Reaction`] tells the
//! engine how to react. The worker sends them to the daemon as JSON. Texts are one line, without user info.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{attributes::AttributeFault, certificate::CertificateFault, format::Format, text::one_line};

/// The cause of an error that came from another process or library, as one clean line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct ErrorCause(String);

impl ErrorCause {
    /// The cause's text, cleaned for display.
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self(one_line(super::text::redact(&text.to_string()).as_bytes()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How the caller should react to an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reaction {
    /// Network, disk or the worker itself: worth another try, with backoff.
    Transient,
    /// A retry fails until the repository or the configuration changes.
    Permanent,
    /// The credentials were refused, or there are none.
    Auth,
    /// The server's host key is unknown or has changed.
    HostKey,
    /// The remote has no such branch.
    BranchMissing,
    /// The remote has no branch at all.
    Empty,
    /// A time limit was exceeded and the worker was killed.
    Stalled,
    /// The settings or a rule of bgd forbid it.
    Refused,
}

/// The worker's current work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitStep {
    /// Starting, and opening the mirror.
    Opening,
    /// Connecting, and listing the remote's refs.
    Asking,
    /// The remote prepares the pack.
    Preparing,
    /// The pack is received.
    Receiving,
    /// The received pack is resolved.
    Indexing,
    /// Signatures are checked.
    Verifying,
    /// Files are written.
    Writing,
}

impl std::fmt::Display for GitStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening the mirror",
            Self::Asking => "asking the remote",
            Self::Preparing => "waiting for the remote's data",
            Self::Receiving => "receiving",
            Self::Indexing => "indexing what was received",
            Self::Verifying => "checking signatures",
            Self::Writing => "writing files",
        })
    }
}

/// Advice for refused credentials; never advises a setting that is already made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthAdvice {
    /// No token is set for https.
    SetToken,
    /// The token was refused.
    OtherToken,
    /// The user info in the URL was refused.
    OtherUserInfo,
    /// No accepted key was found for ssh.
    SetKey,
    /// The key in `auth.ssh_key` was refused.
    OtherKey,
    /// The keys in ~/.ssh/config were refused.
    OtherConfig,
}

impl AuthAdvice {
    fn text(self) -> &'static str {
        match self {
            Self::SetToken => {
                "set `auth.token_file`, `bgd doctor` tries it; git's credential helpers are not asked"
            }
            Self::OtherToken => {
                "is the token valid, and may it read this repository? a deploy token belongs to a user name, which goes into the URL: https://USER@host/path.git; `bgd doctor` tries it"
            }
            Self::OtherUserInfo => {
                "put the right user name into `remote` and the token into `auth.token_file`; `bgd doctor` tries it"
            }
            Self::SetKey => {
                "set `auth.ssh_key` to a deploy key, `bgd doctor` tries it; git's credential helpers are not asked"
            }
            Self::OtherKey => {
                "is its public half (`ssh-keygen -y -f FILE`) a deploy key of this repository, and the user of the URL the right one (mostly git@)? `bgd doctor` tries it"
            }
            Self::OtherConfig => {
                "try it as bgd's user: `ssh -o BatchMode=yes -T HOST`; or set `auth.ssh_key`, which `bgd doctor` tries"
            }
        }
    }
}

/// A git operation that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum GitError {
    #[error("the remote has no branch {branch:?}: {remote}")]
    BranchMissing { remote: String, branch: String },
    #[error("the remote is empty, nothing was pushed yet: {remote}")]
    Empty { remote: String },
    #[error("the remote can't be reached: {remote}")]
    Unreachable {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the remote can't be reached, and the proxy of {variable} is not used: {remote}")]
    NoProxy {
        remote: String,
        variable: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the remote can't be reached through the proxy: {remote}")]
    Proxy {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the certificate of the remote is not trusted: {remote}")]
    Certificate {
        remote: String,
        ca_file: Option<PathBuf>,
        #[source]
        fault: Box<CertificateFault>,
    },
    #[error("what answers at the remote is not git: {remote}")]
    NotGit {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the remote has moved: {remote}")]
    Moved {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("there is no repository at the remote: {remote}")]
    NoRepository {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the repository has a format that can't be read here: {remote}")]
    Format {
        remote: String,
        #[source]
        format: Format,
    },
    #[error("the remote refused the credentials ({tried}): {remote}")]
    Auth {
        remote: String,
        tried: String,
        advice: AuthAdvice,
        #[source]
        cause: ErrorCause,
    },
    #[error("the file of `auth` can't be used: {}", path.display())]
    Credentials {
        path: PathBuf,
        hint: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the ssh host key of {host} is unknown: {fingerprint} is not in {files}")]
    HostKeyUnknown { host: String, fingerprint: String, files: String },
    #[error("the ssh host key of {host} has changed: {fingerprint} is not the one in {file}")]
    HostKeyChanged { host: String, fingerprint: String, file: String },
    #[error("no progress for {} s while {stage}, the git worker was ended: {remote}", after.as_secs_f32())]
    Stalled { remote: String, stage: GitStep, after: Duration },
    #[error("not done within {} s, the git worker was ended while {stage}: {remote}", after.as_secs_f32())]
    TooSlow { remote: String, stage: GitStep, after: Duration },
    #[error("the branch {branch:?} was rewound from {from} to {to}, which {rule} does not allow")]
    Rewound { branch: String, from: String, to: String, rule: String },
    #[error("the commit {commit} is not trusted")]
    Unverified {
        commit: String,
        lists: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the keys to trust can't be read: {}", path.display())]
    Signers {
        path: PathBuf,
        #[source]
        cause: ErrorCause,
    },
    #[error("{program:?} can't check signatures")]
    Verifier {
        program: String,
        kind: Reaction,
        #[source]
        cause: ErrorCause,
    },
    #[error("the remote has no revision {rev:?}: {remote}")]
    RevMissing { rev: String, remote: String },
    #[error("more than one commit begins with {rev:?}")]
    RevAmbiguous { rev: String },
    #[error("fetching failed: {remote}")]
    Fetch {
        remote: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the mirror can't be used: {}", mirror.display())]
    Mirror {
        mirror: PathBuf,
        #[source]
        cause: ErrorCause,
    },
    #[error("the commit {commit} can't be read from the mirror")]
    Commit {
        commit: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the commit {commit} is malformed")]
    BadCommit {
        commit: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the checkout into {} is incomplete and has to be deleted", dir.display())]
    Checkout {
        dir: PathBuf,
        #[source]
        cause: ErrorCause,
    },
    #[error("the commit {} brings more than {what}, which checkout_limit does not allow", commit.get(..7).unwrap_or(commit))]
    TooLarge { commit: String, what: String },
    #[error("a file name in the commit is refused: {path:?}")]
    UnsafePath { path: String },
    #[error("{path:?} is kept in Git LFS and its content can't be had")]
    Lfs {
        path: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("{path:?} can't be written as .gitattributes asks")]
    Attribute {
        path: String,
        #[source]
        fault: AttributeFault,
    },
    #[error("the submodule {path:?} can't be checked out")]
    Submodule {
        path: String,
        kind: Reaction,
        hint: Option<String>,
        #[source]
        cause: ErrorCause,
    },
    #[error("the git worker can't run as user {user:?}")]
    User {
        user: String,
        #[source]
        cause: ErrorCause,
    },
    #[error("the git worker failed while {stage}")]
    Worker {
        stage: GitStep,
        #[source]
        cause: ErrorCause,
    },
}

impl GitError {
    /// How the caller should react to the error.
    pub fn kind(&self) -> Reaction {
        match self {
            Self::BranchMissing { .. } => Reaction::BranchMissing,
            Self::Empty { .. } => Reaction::Empty,
            Self::Auth { .. } | Self::Credentials { .. } => Reaction::Auth,
            Self::HostKeyUnknown { .. } | Self::HostKeyChanged { .. } | Self::Certificate { .. } => {
                Reaction::HostKey
            }
            Self::Stalled { .. } | Self::TooSlow { .. } => Reaction::Stalled,
            Self::Rewound { .. }
            | Self::Unverified { .. }
            | Self::UnsafePath { .. }
            | Self::TooLarge { .. }
            | Self::BadCommit { .. }
            | Self::Attribute { .. }
            | Self::Lfs { .. } => Reaction::Refused,
            Self::NoRepository { .. }
            | Self::Format { .. }
            | Self::RevMissing { .. }
            | Self::RevAmbiguous { .. }
            | Self::Signers { .. }
            | Self::User { .. } => Reaction::Permanent,
            Self::Submodule { kind, .. } | Self::Verifier { kind, .. } => *kind,
            Self::Unreachable { .. }
            | Self::NoProxy { .. }
            | Self::Proxy { .. }
            | Self::NotGit { .. }
            | Self::Moved { .. }
            | Self::Fetch { .. }
            | Self::Mirror { .. }
            | Self::Commit { .. }
            | Self::Checkout { .. }
            | Self::Worker { .. } => Reaction::Transient,
        }
    }

    /// Advice for the operator.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::BranchMissing { branch, .. } => {
                return Some(format!(
                    "push {branch:?}, or set `branch` and `bgd reload`; what is live serves on"
                ));
            }
            Self::Empty { .. } => "push a first commit; it is deployed by itself, `bgd status -w` shows it",
            Self::NoRepository { .. } => {
                "check `remote` (`bgd doctor` tries it); a private repository also looks like this without credentials"
            }
            Self::NoProxy { .. } => {
                "if the way out is a proxy, set `auth.proxy`: bgd takes none from its environment; `bgd doctor` tries it"
            }
            Self::Proxy { .. } => {
                "check `auth.proxy`, and whether it lets this host through; bgd tries again by itself, `bgd doctor` at once"
            }
            Self::Certificate { fault, ca_file, .. } => return Some(fault.hint(ca_file.as_deref())),
            Self::NotGit { .. } => {
                "a page for browsers, such as a login, means a wrong path, or a server that wants `auth.token_file`; `bgd doctor` tries it"
            }
            Self::Moved { .. } => "set `remote` to the new address; `bgd doctor` tries it",
            Self::Format { format, .. } => format.hint(),
            Self::Auth { advice, .. } => advice.text(),
            Self::Credentials { hint, .. } => return Some(format!("{hint}; `bgd doctor` tries it")),
            Self::HostKeyUnknown { host, .. } => {
                return Some(format!(
                    "compare the fingerprint with the server's, then add the output of {} to the file",
                    keyscan(host)
                ));
            }
            Self::HostKeyChanged { .. } => {
                "someone may be in between: find out why the key changed before `ssh-keygen -R` and a new entry"
            }
            Self::Rewound { to, rule, .. } => {
                let to = to.get(..7).unwrap_or(to);
                return Some(if rule == "verify" {
                    format!("put the branch right; or, if it is meant to go there: `bgd deploy --rev {to}`")
                } else {
                    format!(
                        "`bgd deploy --rev {to}` deploys it once; else put the branch right, or set fast_forward_only = false"
                    )
                });
            }
            Self::Unverified { lists, .. } => {
                return Some(format!(
                    "sign it (`git commit --amend -S`) and push again; or add the key to {lists}, then `bgd deploy`"
                ));
            }
            Self::Signers { .. } => {
                "the file has to exist and be readable by bgd; put it right, then `bgd deploy`"
            }
            Self::Verifier { program, .. } => {
                let package = if program == "gpgv" { "gpgv" } else { "openssh-client" };
                return Some(format!("install the package {package} where bgd runs, then `bgd deploy`"));
            }
            Self::RevMissing { .. } => {
                "`bgd deploy --rev REV` takes a commit id (full or short), a tag or a branch of the remote"
            }
            Self::RevAmbiguous { .. } => "give more digits: `bgd deploy --rev REV`",
            Self::TooLarge { .. } => {
                "raise `checkout_limit` if all of it is meant to be there, then `bgd deploy`; else push a commit without it"
            }
            Self::Attribute { fault, .. } => fault.hint(),
            Self::BadCommit { .. } => {
                "`git fsck` says what is wrong with it; push another one, or `bgd deploy --rev REV`"
            }
            Self::Submodule { hint, .. } => return hint.clone(),
            Self::Lfs { .. } => {
                "install git-lfs where bgd runs, check the access to the LFS store, then `bgd deploy`"
            }
            Self::User { .. } => {
                "`user` needs bgd to run as root, and an account of that name; then `bgd deploy`"
            }
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::TooSlow { .. } => {
                "bgd tries again by itself; `bgd doctor` tries the remote at once"
            }
            Self::Fetch { .. }
            | Self::Mirror { .. }
            | Self::Commit { .. }
            | Self::Checkout { .. }
            | Self::UnsafePath { .. }
            | Self::Worker { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// The command that prints a host's keys; `host` is `name` or `[name]:port`.
fn keyscan(host: &str) -> String {
    match host.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((name, port)) => format!("`ssh-keyscan -p {port} {name}`"),
        None => format!("`ssh-keyscan {host}`"),
    }
}
