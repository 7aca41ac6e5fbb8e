//! Copies of trees, by reflink where the file system can. Called for the cache, and for shared paths on
//! another file system; follows no symlink and never overwrites.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, FileTimes, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    sys::{
        stat::{UtimensatFlags, utimensat},
        time::TimeSpec,
    },
    unistd::{Whence, lseek64},
};

use crate::{
    command::Owner,
    release::{BuildError, error::failed, moved::PathRewriter, tree::Dir, walk::Walk},
};

/// The unit of `st_blocks`, in bytes.
const BLOCK: u64 = 512;

/// Counts of the files and bytes copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CopyTally {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The result of copying one entry.
enum Copied {
    /// The entry is copied whole.
    Whole,
    /// The directory is made or was there; its entries are still to be copied.
    Directory { made: bool },
}

/// A directory that is being copied.
struct CopiedDir {
    left: Vec<OsString>,
    /// False if it was there before and is merged.
    made: bool,
}

/// Copies trees: modes, symlinks and modification times stay, the owner becomes `owner`. Entries at the destination
/// stay as they are; directories are merged. Sockets, FIFOs and devices are left out. Space is shared with the original
/// where the file system can (reflink).
pub(super) struct Copier<'a> {
    pub(super) owner: Option<Owner>,
    pub(super) cancel: &'a AtomicBool,
    pub(super) tally: CopyTally,
    /// Rewrites paths of the former release in a cache copied from it.
    pub(super) moved: Option<PathRewriter>,
}

/// Copies the data and leaves the holes between: a file of many gigabytes may have a few blocks.
fn copy_data(source: &mut File, made: &mut File, length: u64) -> io::Result<u64> {
    let (mut at, mut copied) = (0, 0);
    while let Some(begin) = next(source, at, Whence::SeekData)? {
        let end = next(source, begin, Whence::SeekHole)?.unwrap_or(length);
        source.seek(SeekFrom::Start(begin))?;
        made.seek(SeekFrom::Start(begin))?;
        copied += io::copy(&mut (&mut *source).take(end - begin), made)?;
        at = end;
    }
    made.set_len(length.max(at))?;
    Ok(copied)
}

/// The next data or hole at or after `at`; `None` at the end of the file.
fn next(file: &File, at: u64, what: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(at).map_err(io::Error::other)?;
    match lseek64(file, from, what) {
        Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Copier<'_> {
    /// Copies the entry `name` of `from` to the same name, or `as_name`, in `to`.
    pub(super) fn copy(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, as_name): (&Dir, &OsStr),
    ) -> Result<(), BuildError> {
        let (mut from_walk, mut to_walk) = (Walk::from(from)?, Walk::from(to)?);
        let mut levels: Vec<CopiedDir> = Vec::new();
        let mut copied = self.copy_entry((from, name), (to, as_name))?;
        let mut names = (name.to_owned(), as_name.to_owned());
        loop {
            if let Copied::Directory { made } = copied {
                from_walk.enter(&names.0)?;
                to_walk.enter(&names.1)?;
                levels.push(CopiedDir { left: from_walk.here().names()?, made });
            }
            let Some(level) = levels.last_mut() else { return Ok(()) };
            let (from, to) = (from_walk.here(), to_walk.here());
            if let Some(name) = level.left.pop() {
                copied = self.copy_entry((from, &name), (to, &name))?;
                names = (name.clone(), name);
                continue;
            }
            if level.made {
                // Last: a read-only directory could not be filled, and filling it changes its time.
                self.dress(to.file(), from.file(), to.path())?;
            }
            from_walk.leave()?;
            to_walk.leave()?;
            levels.pop();
            copied = Copied::Whole;
        }
    }

    /// Copies an entry, of a directory only itself.
    fn copy_entry(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, as_name): (&Dir, &OsStr),
    ) -> Result<Copied, BuildError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(BuildError::Cancelled);
        }
        // An app that still runs may remove its files while they are copied.
        let Some(meta) = from.stat(name)? else { return Ok(Copied::Whole) };
        let there = to.stat(as_name)?;
        if meta.is_dir() {
            return match there {
                Some(there) if there.is_dir() => Ok(Copied::Directory { made: false }),
                Some(_) => Ok(Copied::Whole),
                None => to.create(as_name, None).map(|_| Copied::Directory { made: true }),
            };
        }
        if there.is_none() && meta.is_symlink() {
            self.copy_link((from, name), (to, as_name))?;
        } else if there.is_none() && meta.is_file() {
            self.copy_file((from, name), (to, as_name))?;
        }
        Ok(Copied::Whole)
    }

    fn copy_link(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, as_name): (&Dir, &OsStr),
    ) -> Result<(), BuildError> {
        let shown = to.shown(as_name);
        let target = fs::read_link(from.at(name)).map_err(failed("read", &from.shown(name)))?;
        let meta = fs::symlink_metadata(from.at(name)).map_err(failed("inspect", &from.shown(name)))?;
        let target = self.moved.as_ref().and_then(|moved| moved.target(&target)).unwrap_or(target);
        to.link(as_name, &target, self.owner)?;
        let at = TimeSpec::new(meta.atime(), meta.atime_nsec());
        let mt = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
        utimensat(to.file(), as_name, &at, &mt, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| failed("set the time of", &shown)(errno.into()))?;
        self.tally.files += 1;
        Ok(())
    }

    fn copy_file(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, as_name): (&Dir, &OsStr),
    ) -> Result<(), BuildError> {
        let mut source = from.open_file(name, OpenOptions::new().read(true))?;
        let meta = source.metadata().map_err(failed("inspect", &from.shown(name)))?;
        if self.owner.is_some_and(|owner| meta.nlink() > 1 && meta.uid() != owner.uid) {
            return Err(BuildError::HardLink { path: from.shown(name) });
        }
        let shown = to.shown(as_name);
        let mut made = to.open_file(as_name, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        let bytes = match self.moved.as_ref().filter(|moved| moved.concerns(from, name, &meta)) {
            Some(moved) => moved.copy(&mut source, &mut made),
            None if meta.blocks() * BLOCK < meta.len() => copy_data(&mut source, &mut made, meta.len()),
            // Becomes copy_file_range, which the kernel turns into a reflink where it can.
            None => io::copy(&mut source, &mut made),
        };
        let bytes = bytes.map_err(failed("copy to", &shown))?;
        self.tally.files += 1;
        self.tally.bytes += bytes;
        self.dress(&made, &source, &shown)
    }

    /// Owner first: changing it clears special mode bits.
    fn dress(&self, made: &File, like: &File, shown: &Path) -> Result<(), BuildError> {
        let meta = like.metadata().map_err(failed("inspect", shown))?;
        if let Some(owner) = self.owner {
            fchown(made, Some(owner.uid), Some(owner.gid)).map_err(failed("change the owner of", shown))?;
        }
        made.set_permissions(Permissions::from_mode(meta.mode() & 0o7777))
            .map_err(failed("set the mode of", shown))?;
        let accessed = meta.accessed().map_err(failed("inspect", shown))?;
        let modified = meta.modified().map_err(failed("inspect", shown))?;
        made.set_times(FileTimes::new().set_accessed(accessed).set_modified(modified))
            .map_err(failed("set the time of", shown))
    }
}
