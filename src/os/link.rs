//! Symbolic links that lead elsewhere by one rename.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::own_file::forgive_missing;

/// A step on a link that failed.
#[derive(Debug, thiserror::Error)]
#[error("can't {step} {path}", path = .path.display())]
pub struct LinkError {
    /// A verb for the message.
    pub step: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl LinkError {
    /// The error of this step at this path.
    pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { step, path, source }
    }
}

/// Makes a link at `path` to `target`, in place of any former file.
///
/// # Errors
/// When the directory can't be written.
pub(crate) fn renew(path: &Path, target: &Path) -> Result<(), LinkError> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(());
    }
    forgive_missing(fs::remove_file(path)).map_err(LinkError::at("remove", path))?;
    symlink(target, path).map_err(LinkError::at("write", path))
}

/// Points the link at `path` to `target` by one rename of `new`, a path in the same directory, and syncs that.
///
/// # Errors
/// When the directory can't be written.
pub(crate) fn repoint(path: &Path, new: &Path, target: &Path) -> Result<(), LinkError> {
    renew(new, target)?;
    fs::rename(new, path).map_err(LinkError::at("set", path))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(directory).and_then(|open| open.sync_all()).map_err(LinkError::at("sync", directory))
}
