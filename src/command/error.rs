//! Why a command of an app can't be described, or its directories not be made. Becomes the failure of a deploy; must not
//! carry values of the app's environment (they may be secrets).

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::config::env_file::EnvFileError;

/// Why a command or its directories could not be prepared, with the path or name concerned.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A system call on a path failed.
    #[error("can't {action} {}", path.display())]
    Io {
        /// The attempted action, as a verb.
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The app's `env_file` can't be read or understood.
    #[error(transparent)]
    EnvFile(#[from] EnvFileError),
    /// A name or value that an environment can't hold.
    #[error("not a possible environment variable: {name:?}")]
    EnvVariable {
        /// The variable's name; the value may be a secret and is left out.
        name: String,
    },
    /// A path that can't be given to the app in a variable.
    #[error("not UTF-8: {}", path.display())]
    NotUtf8 {
        /// The path, which may have any bytes.
        path: PathBuf,
    },
    /// The configured `user` does not exist on this host.
    #[error("no such user: {user}")]
    UnknownUser {
        /// The name in the configuration.
        user: String,
    },
    /// Only root can give files to another user.
    #[error("root is needed to prepare a release for user {user}")]
    NotRoot {
        /// The name in the configuration.
        user: String,
    },
    /// The user database could not be read.
    #[error("can't look up user {user}")]
    UserLookup {
        /// Name or number looked for.
        user: String,
        #[source]
        source: io::Error,
    },
}

impl CommandError {
    /// The operator's next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::EnvFile(_) | Self::EnvVariable { .. } => "correct the environment, then `bgd deploy`",
            Self::UnknownUser { .. } | Self::NotRoot { .. } => {
                "`user` needs bgd to run as root, and an account of that name; then `bgd deploy`"
            }
            Self::Io { .. } => "put that right (`bgd doctor` looks at this host), then `bgd deploy`",
            Self::NotUtf8 { .. } => {
                "correct that path in bgd.toml or give it another name, then `bgd deploy`"
            }
            Self::UserLookup { .. } => "`getent passwd` asks as bgd does; put that right, then `bgd deploy`",
        }
    }

    /// Whether the same commit may succeed later without any change to it: no space, no inodes, a
    /// quota, a failing disk, too many open files, too little memory.
    pub fn is_transient(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(
            source.raw_os_error(),
            Some(libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EMFILE | libc::ENFILE | libc::ENOMEM)
        )
    }
}

/// Turns an [`io::Error`] into a [`CommandError`] with the attempted action and its path.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CommandError {
    move |source| CommandError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j1_a_full_disk_is_transient_and_a_missing_file_is_not() {
        let error = |code| failed("write", Path::new("/x"))(io::Error::from_raw_os_error(code));
        assert!(error(libc::ENOSPC).is_transient() && error(libc::EDQUOT).is_transient());
        assert!(!error(libc::ENOENT).is_transient());
        assert_eq!(error(libc::ENOSPC).to_string(), "can't write /x");
    }
}
