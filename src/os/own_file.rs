//! A file that only bgd writes and only replaces as a whole: a reader, or bgd after a crash, finds the old content or
//! the new one. Used by the shim too; blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The path of such a file, with the temporary path and the mode for its replacement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnFile<'a> {
    pub path: &'a Path,
    /// The file written first and then renamed, in the same directory. bgd is its only writer: a leftover of a crash
    /// is removed, and a link that another user put there is never followed.
    pub temporary: &'a Path,
    /// Mode of the new file, before the umask.
    pub mode: u32,
}

impl OwnFile<'_> {
    /// Replaces the file durably: a power cut leaves the old content or the new one. After an error it is the old one,
    /// unless only the flush of the directory failed.
    pub fn replace(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        self.replace_unflushed(|file| {
            write(file)?;
            file.sync_all()
        })?;
        File::open(self.path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
    }

    /// Replaces the file without a flush: it survives the death of this process, not a power cut.
    pub fn replace_unflushed(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        forgive_missing(fs::remove_file(self.temporary))?;
        let mut new = OpenOptions::new();
        let new = new.write(true).create_new(true).mode(self.mode);
        let written = new.open(self.temporary).and_then(|mut file| write(&mut file));
        let replaced = written.and_then(|()| fs::rename(self.temporary, self.path));
        if replaced.is_err() {
            // Report the first failure; the next attempt clears a leftover.
            let _left = fs::remove_file(self.temporary);
        }
        replaced
    }
}

/// Makes an empty file durably, and fails if it is there already.
pub(crate) fn make_claim(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
}

/// Counts a file that is already gone as removed.
pub(crate) fn forgive_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder with this mode. Missing parents can be entered by all users, as releases need.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(above)?;
    }
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, temporary) = (dir.path().join("shop.state"), dir.path().join(".new"));
        let file = OwnFile { path: &path, temporary: &temporary, mode: 0o600 };
        fs::write(&temporary, "left by a crash").unwrap();
        for text in ["1\nold\n", "1\n"] {
            file.replace(|file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        file.replace(|_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
