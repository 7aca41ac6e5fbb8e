//! Walks down and up a directory tree with two descriptors, however deep the tree is. Used wherever an app made the
//! tree: a build may nest directories by the thousand, and neither bgd's stack nor its limit of descriptors may depend
//! on that. Does nothing with the directories on the way.

use std::{ffi::OsStr, os::unix::fs::MetadataExt};

use crate::release::{BuildError, error::failed, tree::Dir};

/// An open directory in a tree, and the way back to the top.
pub(super) struct Walk {
    here: Dir,
    above: Vec<WalkedDir>,
}

/// A directory that was passed on the way down.
struct WalkedDir {
    device: u64,
    inode: u64,
    /// The shown path is cut back to this length on the way up: one for each level would need the square of the depth.
    shown: usize,
}

impl Walk {
    /// Begins at `top`.
    pub(super) fn from(top: &Dir) -> Result<Self, BuildError> {
        Ok(Self { here: top.again()?, above: Vec::new() })
    }

    /// The directory that the walk is in.
    pub(super) fn here(&self) -> &Dir {
        &self.here
    }

    /// Goes to a directory right below.
    pub(super) fn enter(&mut self, name: &OsStr) -> Result<(), BuildError> {
        let meta = self.here.file().metadata().map_err(failed("inspect", self.here.path()))?;
        let below = self.here.child(name)?;
        let shown = self.here.path().as_os_str().len();
        self.above.push(WalkedDir { device: meta.dev(), inode: meta.ino(), shown });
        self.here = below;
        Ok(())
    }

    /// Goes one directory up; at the top it stays.
    ///
    /// # Errors
    /// [`BuildError::Moved`] when the directory was moved elsewhere meanwhile: the walk must not follow it there.
    pub(super) fn leave(&mut self) -> Result<(), BuildError> {
        let Some(level) = self.above.pop() else { return Ok(()) };
        let up = self.here.parent(level.shown)?;
        let meta = up.file().metadata().map_err(failed("inspect", up.path()))?;
        if (meta.dev(), meta.ino()) != (level.device, level.inode) {
            return Err(BuildError::Moved { path: self.here.path().to_owned() });
        }
        self.here = up;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    #[test]
    fn a_walk_comes_back_to_where_it_began_and_names_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let mut walk = Walk::from(&Dir::open(root.path()).unwrap()).unwrap();
        for name in ["a", "b"] {
            walk.enter(OsStr::new(name)).unwrap();
        }
        assert_eq!(walk.here().path(), root.path().join("a/b"));
        for _ in 0..3 {
            walk.leave().unwrap();
        }
        assert_eq!(walk.here().path(), root.path());
        assert_eq!(walk.here().names().unwrap(), ["a"]);
    }

    #[test]
    fn a_directory_that_is_moved_meanwhile_does_not_lead_the_walk_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| -> PathBuf { root.path().join(path) };
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir_all(at("elsewhere")).unwrap();
        let mut walk = Walk::from(&Dir::open(root.path()).unwrap()).unwrap();
        walk.enter(OsStr::new("a")).unwrap();
        walk.enter(OsStr::new("b")).unwrap();
        fs::rename(at("a/b"), at("elsewhere/b")).unwrap();
        assert!(matches!(walk.leave(), Err(BuildError::Moved { .. })));
    }
}
