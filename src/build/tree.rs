//! Directory trees without following symlinks: open, list, create, give away, remove.
//!
//! Releases and shared directories belong to the app's user while bgd may be root, so that every step goes
//! through an open directory and never through a path that the app could bend meanwhile. An open directory
//! is addressed as `/proc/self/fd/<n>`, which makes the standard library's calls behave like the `…at` ones.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::AtFlags,
    unistd::{Gid, Uid, fchownat},
};

use crate::build::{BuildError, error::failed, owner::Owner};

/// An open directory.
pub(super) struct Dir {
    file: File,
    shown: PathBuf,
}

impl Dir {
    /// Opens a directory whose own name must not be a symlink; `path` itself is trusted up to there.
    pub(super) fn open(path: &Path) -> Result<Self, BuildError> {
        open_dir(path, path)
    }

    /// Opens a directory right below.
    pub(super) fn child(&self, name: &OsStr) -> Result<Self, BuildError> {
        open_dir(&self.at(name), &self.shown(name))
    }

    /// The descriptor itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// A path for system calls on an entry; valid while this is open.
    pub(super) fn at(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        path.push(name);
        path
    }

    /// The path of an entry, for people.
    pub(super) fn shown(&self, name: &OsStr) -> PathBuf {
        self.shown.join(name)
    }

    /// An entry's own metadata (a symlink's, not its target's); `None` if there is none.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<Metadata>, BuildError> {
        match fs::symlink_metadata(self.at(name)) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("inspect", &self.shown(name))(error)),
        }
    }

    /// The metadata of an entry of the directory at `parent`; `None` if there is none.
    pub(super) fn stat_below(&self, parent: &Path, name: &OsStr) -> Result<Option<Metadata>, BuildError> {
        match self.descend(parent)? {
            Some(dir) => dir.stat(name),
            None => Ok(None),
        }
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> Result<Vec<OsString>, BuildError> {
        let read = || -> io::Result<Vec<_>> {
            fs::read_dir(self.at(OsStr::new(".")))?.map(|entry| Ok(entry?.file_name())).collect()
        };
        read().map_err(failed("list", &self.shown))
    }

    /// The directory at a relative path below; `None` where it or a parent is missing.
    pub(super) fn descend(&self, relative: &Path) -> Result<Option<Self>, BuildError> {
        let mut here = self.again()?;
        for name in names(relative)? {
            if here.stat(name)?.is_none() {
                return Ok(None);
            }
            here = here.child(name)?;
        }
        Ok(Some(here))
    }

    /// The directory at a relative path below; missing ones are made and given to `owner`.
    pub(super) fn descend_or_create(
        &self,
        relative: &Path,
        owner: Option<Owner>,
    ) -> Result<Self, BuildError> {
        let mut here = self.again()?;
        for name in names(relative)? {
            here = match here.stat(name)? {
                Some(_) => here.child(name)?,
                None => here.create(name, owner)?,
            };
        }
        Ok(here)
    }

    /// Makes a directory right below and gives it to `owner`.
    pub(super) fn create(&self, name: &OsStr, owner: Option<Owner>) -> Result<Self, BuildError> {
        fs::create_dir(self.at(name)).map_err(failed("create directory", &self.shown(name)))?;
        let made = self.child(name)?;
        made.give_to(owner)?;
        Ok(made)
    }

    /// Makes a symlink right below and gives it to `owner`.
    pub(super) fn link(&self, name: &OsStr, target: &Path, owner: Option<Owner>) -> Result<(), BuildError> {
        let at = self.at(name);
        symlink(target, &at).map_err(failed("create symlink", &self.shown(name)))?;
        match owner {
            Some(owner) => lchown(&at, Some(owner.uid), Some(owner.gid))
                .map_err(failed("change the owner of", &self.shown(name))),
            None => Ok(()),
        }
    }

    /// Opens a regular file right below; never follows a symlink, never waits at a FIFO.
    pub(super) fn open_file(&self, name: &OsStr, options: &mut OpenOptions) -> Result<File, BuildError> {
        let shown = self.shown(name);
        let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.at(name));
        match opened {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                Err(BuildError::Symlink { path: shown })
            }
            other => other.map_err(failed("open", &shown)),
        }
    }

    /// Removes an entry with everything below it. Makes unwritable directories writable on the way
    /// (package caches are often read-only); an entry that vanished meanwhile is fine.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), BuildError> {
        let Some(meta) = self.stat(name)? else { return Ok(()) };
        let at = self.at(name);
        if !meta.is_dir() {
            return gone(fs::remove_file(&at)).map_err(failed("remove", &self.shown(name)));
        }
        if meta.mode() & 0o700 != 0o700 {
            self.unlock(name)?;
        }
        let inner = self.child(name)?;
        for entry in inner.names()? {
            inner.remove(&entry)?;
        }
        gone(fs::remove_dir(&at)).map_err(failed("remove", &self.shown(name)))
    }

    fn unlock(&self, name: &OsStr) -> Result<(), BuildError> {
        let shown = self.shown(name);
        // A descriptor of the directory itself: `chmod` by name would follow a symlink put in its place.
        let own = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY)
            .open(self.at(name))
            .map_err(failed("open", &shown))?;
        fs::set_permissions(format!("/proc/self/fd/{}", own.as_raw_fd()), Permissions::from_mode(0o700))
            .map_err(failed("make writable", &shown))
    }

    /// Gives this directory itself to `owner`.
    pub(super) fn give_to(&self, owner: Option<Owner>) -> Result<(), BuildError> {
        match owner {
            Some(owner) => fchown(&self.file, Some(owner.uid), Some(owner.gid))
                .map_err(failed("change the owner of", &self.shown)),
            None => Ok(()),
        }
    }

    /// Gives everything below, and then this directory, to `owner`.
    pub(super) fn give_all_to(&self, owner: Owner) -> Result<(), BuildError> {
        for name in self.names()? {
            let Some(meta) = self.stat(&name)? else { continue };
            if meta.is_dir() {
                self.child(&name)?.give_all_to(owner)?;
            } else if !owner.has(&meta) {
                self.give_entry_to(&name, owner)?;
            }
        }
        // Last, so that its new owner can't change a directory that is still being walked.
        self.give_to(Some(owner))
    }

    fn give_entry_to(&self, name: &OsStr, owner: Owner) -> Result<(), BuildError> {
        let shown = self.shown(name);
        let entry = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(self.at(name))
            .map_err(failed("open", &shown))?;
        let meta = entry.metadata().map_err(failed("inspect", &shown))?;
        if meta.nlink() > 1 {
            return Err(BuildError::HardLink { path: shown });
        }
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchownat(&entry, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
            .map_err(|errno| failed("change the owner of", &shown)(errno.into()))
    }

    fn again(&self) -> Result<Self, BuildError> {
        let file = self.file.try_clone().map_err(failed("open", &self.shown))?;
        Ok(Self { file, shown: self.shown.clone() })
    }
}

/// The parts of a relative path.
///
/// # Errors
/// [`BuildError::Outside`] for an absolute path or one with `..`.
pub(super) fn names(relative: &Path) -> Result<Vec<&OsStr>, BuildError> {
    relative
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(BuildError::Outside { path: relative.to_owned() }),
        })
        .collect()
}

/// Splits a relative path into its parent (possibly empty) and its last name.
pub(super) fn split(relative: &Path) -> Result<(PathBuf, OsString), BuildError> {
    let mut names = names(relative)?;
    let last = names.pop().ok_or_else(|| BuildError::Outside { path: relative.to_owned() })?;
    Ok((names.iter().collect(), last.to_owned()))
}

fn open_dir(path: &Path, shown: &Path) -> Result<Dir, BuildError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
    match opened {
        Ok(file) => Ok(Dir { file, shown: shown.to_owned() }),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => {
            let link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
            let path = shown.to_owned();
            Err(if link { BuildError::Symlink { path } } else { BuildError::NotDirectory { path } })
        }
        Err(error) => Err(failed("open directory", shown)(error)),
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
