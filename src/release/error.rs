//! Why a release could not be prepared or removed. Read by the engine, which turns it into the
//! failure of a deploy; must not carry values of the app's environment (they may be secrets).

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    command::CommandError,
    release::{in_use::Occupant, shared::Closed},
    rules::ids::ReleaseId,
};

/// The error, with the path or name that it concerns.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A directory or a file, the environment, or the user.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A configured path is absolute, empty or contains `..`.
    #[error("not a path inside the release: {}", path.display())]
    Outside {
        /// The path as configured.
        path: PathBuf,
    },
    /// A directory on the way is a symlink.
    #[error("{} is a symlink, which bgd does not follow", path.display())]
    Symlink {
        /// The path of the symlink.
        path: PathBuf,
    },
    /// Something else is where a directory has to be.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The path of the other file.
        path: PathBuf,
    },
    /// A directory was moved elsewhere while bgd was in it.
    #[error("{} was moved while bgd worked in it", path.display())]
    Moved {
        /// Its former path.
        path: PathBuf,
    },
    /// A file with several names that is not the app user's own: copying or giving it away could give away
    /// a file from outside of the release.
    #[error("{} is a hard link to a file of another user", path.display())]
    HardLink {
        /// The path of the hard link.
        path: PathBuf,
    },
    /// Shared files (or the targets of symlinks in their place) do not exist.
    #[error("shared {} missing: {}", if missing.len() == 1 { "file is" } else { "files are" }, list(missing))]
    SharedMissing {
        /// The expected paths.
        missing: Vec<PathBuf>,
    },
    /// A directory above the release is closed to the app's user.
    #[error("user {user} may not pass {} to its release", dir.display())]
    ClosedWay {
        /// The configured user.
        user: String,
        /// The first closed directory.
        dir: PathBuf,
    },
    /// Shared files that the app's user may not read.
    #[error("user {} may not read {}", closed.first().map_or("", |first| &first.user), closed_list(closed))]
    SharedClosed {
        /// The files, with their owners.
        closed: Vec<Closed>,
    },
    /// The text of a rewrite is not in its file.
    #[error("nothing to rewrite in {}: {find:?} not found", file.display())]
    RewriteNotFound {
        /// The path relative to the release.
        file: PathBuf,
        find: String,
    },
    /// A release that processes or mounts still use is not deleted.
    #[error("release {release} is in use by {}", occupants.iter().map(Occupant::to_string).collect::<Vec<_>>().join(", "))]
    InUse {
        release: ReleaseId,
        /// Its users; never empty.
        occupants: Vec<Occupant>,
    },
    /// `dir` is not a directory of the commit.
    #[error("there is no directory {} in the commit", dir.display())]
    DirMissing {
        /// `dir` as configured.
        dir: PathBuf,
    },
    /// `dir` is, or lies behind, a link that leads out of the release.
    #[error("{} leads out of the repository, to {}", dir.display(), to.display())]
    DirOutside {
        /// `dir` as configured.
        dir: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// The caller cancelled the work.
    #[error("cancelled")]
    Cancelled,
}

impl BuildError {
    /// The next action for the operator, if the error does not name it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::SharedMissing { .. } => {
                "put it there, then `bgd deploy`; a directory is written with a `/` at its end in `shared`"
            }
            Self::SharedClosed { closed } => return own_hint(closed),
            Self::ClosedWay { dir, .. } => {
                let dir = dir.display();
                return Some(format!("`chmod o+x {dir}`, or another `state_dir`; then `bgd deploy`"));
            }
            Self::RewriteNotFound { .. } => {
                "`find` is literal text of that file in the repository; correct `rewrite`, then `bgd deploy`"
            }
            Self::Command(err) => err.hint(),
            Self::InUse { .. } => "end what uses it",
            Self::Outside { .. } => {
                "correct that path in bgd.toml or give it another name, then `bgd deploy`"
            }
            Self::Symlink { .. } | Self::NotDirectory { .. } | Self::HardLink { .. } => {
                "put a plain file or directory there, in the repository or in `shared`; then `bgd deploy`"
            }
            Self::DirMissing { .. } | Self::DirOutside { .. } => {
                "`dir` names a directory of the repository; correct it in bgd.toml or there, then `bgd deploy`"
            }
            Self::Moved { .. } | Self::Cancelled => return None,
        };
        Some(text.to_owned())
    }

    /// Whether the same commit may succeed later without any change to it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Command(err) => err.is_transient(),
            Self::Moved { .. } => true,
            _ => false,
        }
    }
}

/// The command that gives shared files to the app's user; `None` where there are none.
pub fn own_hint(closed: &[Closed]) -> Option<String> {
    let Closed { path, owner, user, .. } = closed.first()?;
    let more = if closed.len() > 1 { format!(" and {} more", closed.len() - 1) } else { String::new() };
    let path = path.display();
    Some(format!("{path}{more} belongs to {owner}: `chown -R {user}: {path}`, then `bgd deploy`"))
}

fn closed_list(closed: &[Closed]) -> String {
    let unreadable = closed.iter().filter(|closed| closed.unreadable);
    unreadable
        .map(|closed| format!("{} of {}", closed.path.display(), closed.owner))
        .collect::<Vec<_>>()
        .join(", ")
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Adds the action and the path to an [`io::Error`].
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    move |source| CommandError::Io { action, path: path.to_owned(), source }.into()
}
