//! The owner of an app's files. Used wherever files of an app are created; does not drop privileges, which the starter
//! of a process does.

use std::{io, os::unix::fs::MetadataExt};

use nix::{
    errno::Errno,
    unistd::{Uid, User, geteuid},
};

use crate::command::CommandError;

/// The user and primary group that release and shared files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// The owner for an app's `user`; `None` where files stay bgd's own.
    ///
    /// # Errors
    /// An unknown user, or another user than bgd's own without root.
    pub(crate) fn of(user: Option<&str>) -> Result<Option<Self>, CommandError> {
        let Some(name) = user else { return Ok(None) };
        let user = named(name)?;
        if user.uid == geteuid() && !user.uid.is_root() {
            return Ok(None);
        }
        if !geteuid().is_root() {
            return Err(CommandError::NotRoot { user: name.to_owned() });
        }
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Whether a file already belongs to this owner.
    pub(crate) fn has(self, meta: &std::fs::Metadata) -> bool {
        meta.uid() == self.uid && meta.gid() == self.gid
    }
}

/// The entry of a user by name.
pub(super) fn named(name: &str) -> Result<User, CommandError> {
    User::from_name(name)
        .map_err(lookup(name))?
        .ok_or_else(|| CommandError::UnknownUser { user: name.to_owned() })
}

/// The entry of bgd's own user; `None` in a container without one.
pub(super) fn own() -> Result<Option<User>, CommandError> {
    let uid: Uid = geteuid();
    User::from_uid(uid).map_err(lookup(&uid.to_string()))
}

pub(crate) fn lookup(user: &str) -> impl FnOnce(Errno) -> CommandError {
    move |errno| CommandError::UserLookup { user: user.to_owned(), source: io::Error::from(errno) }
}
