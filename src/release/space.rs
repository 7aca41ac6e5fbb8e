//! Space and durability of the file system that releases lie on. Called by the engine before a deploy
//! (room is made first) and before a release counts as complete.

use std::{fs::File, path::Path};

use nix::{sys::statvfs::statvfs, unistd::syncfs};

use crate::{
    command::Places,
    release::{BuildError, error::failed},
};

/// Free space for bgd's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes.
    pub bytes: u64,
    /// Free inodes; `None` on file systems without a fixed number of them.
    pub inodes: Option<u64>,
}

/// The free space where the releases of an app lie.
///
/// # Errors
/// [`BuildError::Io`] if the directory is missing or the file system does not answer.
pub fn free_space(places: &Places) -> Result<Space, BuildError> {
    let dir = places.releases();
    let stat = statvfs(&dir).map_err(|errno| failed("measure free space at", &dir)(errno.into()))?;
    let inodes = (stat.files() > 0).then(|| stat.files_available());
    Ok(Space { bytes: stat.blocks_available().saturating_mul(stat.fragment_size()), inodes })
}

/// Writes all dirty data of the file system at `path` to disk: one call instead of an fsync for each file.
///
/// # Errors
/// [`BuildError::Io`], also for an earlier write of this file system that failed.
pub fn sync_filesystem(path: &Path) -> Result<(), BuildError> {
    let file = File::open(path).map_err(failed("open", path))?;
    syncfs(&file).map_err(|errno| failed("sync the file system of", path)(errno.into()))
}
