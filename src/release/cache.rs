//! The `cache` of an app: copied, never shared, from the previous release before the build. Called by
//! `prepare`. What the checkout brings wins over the cache; a path that is missing is skipped.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use crate::{
    command::Owner,
    release::{
        BuildError, Skipped,
        copy::{Copier, CopyTally},
        moved::PathRewriter,
        tree::{Dir, split},
    },
};

/// The result of filling the cache.
#[derive(Debug, Default)]
pub(super) struct Cached {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) skipped: Vec<Skipped>,
}

/// Copies each path from the previous release into the new one.
pub(super) fn fill(
    paths: &[PathBuf],
    previous: &Dir,
    release: &Dir,
    (owner, moved, cancel): (Option<Owner>, PathRewriter, &AtomicBool),
) -> Result<Cached, BuildError> {
    let mut copier = Copier { owner, cancel, tally: CopyTally::default(), moved: Some(moved) };
    let mut skipped = Vec::new();
    for path in paths {
        if let Some(why) = fill_one(path, previous, release, &mut copier)? {
            skipped.push(Skipped { path: path.clone(), why });
        }
    }
    let CopyTally { files, bytes } = copier.tally;
    Ok(Cached { files, bytes, skipped })
}

/// Copies one path, or returns why it was skipped.
fn fill_one(
    path: &Path,
    previous: &Dir,
    release: &Dir,
    copier: &mut Copier<'_>,
) -> Result<Option<String>, BuildError> {
    let (parent, name) = split(path)?;
    let from = match previous.descend(&parent) {
        Ok(Some(from)) => from,
        Ok(None) => return Ok(Some("not in the previous release".to_owned())),
        // Below a shared path, for example: the previous release has no copy of its own.
        Err(error @ (BuildError::Symlink { .. } | BuildError::NotDirectory { .. })) => {
            return Ok(Some(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    match from.stat(&name)? {
        None => Ok(Some("not in the previous release".to_owned())),
        Some(_) => {
            let to = release.descend_or_create(&parent, copier.owner)?;
            copier.copy((&from, &name), (&to, &name))?;
            Ok(None)
        }
    }
}
