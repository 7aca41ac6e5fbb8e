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
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink},
        },
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::AtFlags,
    unistd::{Gid, Uid, fchownat, geteuid},
};

use crate::{
    command::Owner,
    release::{BuildError, error::failed, walk::Walk},
};

/// Names read at once while a directory is emptied: a build may leave millions of entries in one.
const BATCH: usize = 4_096;
/// The limit of bytes for a path in an error; a longer one is cut, because people read it.
const LONGEST_SHOWN: usize = 512;

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

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its path, for people.
    pub(super) fn path(&self) -> &Path {
        &self.shown
    }

    /// The directory that this one lies in at present; `shown` is the length of its path for people.
    pub(super) fn parent(&self, shown: usize) -> Result<Self, BuildError> {
        let path = self.shown.as_os_str().as_bytes();
        let path = OsStr::from_bytes(path.get(..shown).unwrap_or(path));
        open_dir(&self.at(OsStr::new("..")), Path::new(path))
    }

    /// A path for system calls on an entry; valid while this is open.
    pub(super) fn at(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        path.push(name);
        path
    }

    /// The path of an entry, for people; of one that lies very deep only the beginning.
    pub(super) fn shown(&self, name: &OsStr) -> PathBuf {
        if self.shown.as_os_str().len() < LONGEST_SHOWN { self.shown.join(name) } else { self.shown.clone() }
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
        self.some_names(usize::MAX)
    }

    fn some_names(&self, most: usize) -> Result<Vec<OsString>, BuildError> {
        let read = || -> io::Result<Vec<_>> {
            let entries = fs::read_dir(self.at(OsStr::new(".")))?;
            entries.take(most).map(|entry| Ok(entry?.file_name())).collect()
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
    /// (package caches are often read-only); an entry that vanished meanwhile is fine. Nothing that is mounted
    /// below is touched. What can't be removed stays, with the directories it lies in, and the rest goes.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), BuildError> {
        match self.clear(name)? {
            Cleared::Gone => Ok(()),
            Cleared::NotEmpty => Sweep::of(self)?.remove(name),
        }
    }

    /// Removes an entry unless there is something below it; a directory is then made writable.
    fn clear(&self, name: &OsStr) -> Result<Cleared, BuildError> {
        let Some(meta) = self.stat(name)? else { return Ok(Cleared::Gone) };
        let at = self.at(name);
        let removed = if meta.is_dir() { fs::remove_dir(&at) } else { fs::remove_file(&at) };
        match gone(removed) {
            Ok(()) => Ok(Cleared::Gone),
            // The kernel says so of a mount point as well, but with another error.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                if meta.mode() & 0o700 != 0o700 {
                    self.unlock(name)?;
                }
                Ok(Cleared::NotEmpty)
            }
            Err(error) => Err(failed("remove", &self.shown(name))(error)),
        }
    }

    /// Keeps everybody but bgd out of a directory right below.
    pub(super) fn seal(&self, name: &OsStr) -> Result<(), BuildError> {
        let dir = self.child(name)?;
        if geteuid().is_root() {
            dir.give_to(Some(Owner { uid: 0, gid: 0 }))?;
        }
        dir.file.set_permissions(Permissions::from_mode(0o700)).map_err(failed("set the mode of", &dir.shown))
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
        let mut walk = Walk::from(self)?;
        let mut left = vec![self.names()?];
        while let Some(names) = left.last_mut() {
            let Some(name) = names.pop() else {
                // Last, so that its new owner can't change a directory that is still being walked.
                walk.here().give_to(Some(owner))?;
                walk.leave()?;
                left.pop();
                continue;
            };
            let Some(meta) = walk.here().stat(&name)? else { continue };
            if meta.is_dir() {
                walk.enter(&name)?;
                left.push(walk.here().names()?);
            } else if !owner.has(&meta) {
                walk.here().give_entry_to(&name, owner)?;
            }
        }
        Ok(())
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

    /// Another descriptor of the directory.
    pub(super) fn again(&self) -> Result<Self, BuildError> {
        let file = self.file.try_clone().map_err(failed("open", &self.shown))?;
        Ok(Self { file, shown: self.shown.clone() })
    }
}

/// The result of removing one entry.
enum Cleared {
    Gone,
    NotEmpty,
}

/// The removal of a tree.
struct Sweep {
    walk: Walk,
    /// One for each directory below the one that the walk began in.
    levels: Vec<Batch>,
    first: Option<BuildError>,
}

/// Entries of one directory that are still to go.
struct Batch {
    dir: OsString,
    left: Vec<OsString>,
    /// Something of this batch went, so that there may be more to read.
    progress: bool,
}

impl Sweep {
    fn of(parent: &Dir) -> Result<Self, BuildError> {
        Ok(Self { walk: Walk::from(parent)?, levels: Vec::new(), first: None })
    }

    /// Removes the directory `name`, which is not empty. Goes on after what can't be removed.
    fn remove(mut self, name: &OsStr) -> Result<(), BuildError> {
        self.enter(name.to_owned())?;
        while let Some(batch) = self.levels.last_mut() {
            match batch.left.pop() {
                Some(name) => match self.walk.here().clear(&name) {
                    Ok(Cleared::Gone) => batch.progress = true,
                    Ok(Cleared::NotEmpty) => self.enter_or_note(name),
                    Err(error) => self.note(error),
                },
                None => self.next_batch()?,
            }
        }
        self.first.map_or(Ok(()), Err)
    }

    fn enter(&mut self, dir: OsString) -> Result<(), BuildError> {
        self.walk.enter(&dir)?;
        self.levels.push(Batch { dir, left: Vec::new(), progress: true });
        Ok(())
    }

    fn enter_or_note(&mut self, dir: OsString) {
        if let Err(error) = self.enter(dir) {
            self.note(error);
        }
    }

    /// Reads on in the directory where the walk is, or leaves and removes it.
    fn next_batch(&mut self) -> Result<(), BuildError> {
        let Some(batch) = self.levels.last_mut() else { return Ok(()) };
        if std::mem::take(&mut batch.progress) {
            batch.left = self.walk.here().some_names(BATCH)?;
            if !batch.left.is_empty() {
                return Ok(());
            }
        }
        let Some(Batch { dir, .. }) = self.levels.pop() else { return Ok(()) };
        self.walk.leave()?;
        match self.walk.here().clear(&dir) {
            Ok(Cleared::Gone) => self.levels.last_mut().into_iter().for_each(|above| above.progress = true),
            // It holds what could not be removed; or somebody fills it again, and then it is left alone.
            Ok(Cleared::NotEmpty) => {
                let path = self.walk.here().shown(&dir);
                self.note(failed("remove", &path)(ErrorKind::DirectoryNotEmpty.into()));
            }
            Err(error) => self.note(error),
        }
        Ok(())
    }

    fn note(&mut self, error: BuildError) {
        self.first.get_or_insert(error);
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
