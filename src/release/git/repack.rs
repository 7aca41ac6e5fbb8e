//! Keeps the number of packs in the mirror small: every fetch adds one, and libgit2 opens all of them. Joins the small
//! packs once there are many. Called by the worker after a fetch, through its mirror.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};

/// From this many small packs on they are joined.
const MANY: usize = 50;
/// Bytes; a larger pack is not joined, because copying it costs more than it saves.
const SMALL: u64 = 4 << 20;
/// Byte offset of the ids in a version 2 index: magic and version, then 256 counts, then the sorted ids.
const IDS_AT: usize = 8 + 256 * 4;

/// Why packs could not be joined; the mirror stays as usable as before.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// A file of the mirror could not be read or removed.
    #[error("can't join packs at {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// libgit2 could not write the new pack.
    #[error("can't write a joined pack")]
    Pack(#[source] git2::Error),
    /// libgit2 could not open the mirror again.
    #[error("can't let go of packs that were joined")]
    Reopen(#[source] git2::Error),
}

/// Joins the small packs if there are many, and returns whether it did. An open repository keeps the old packs open
/// and mapped until it is closed.
pub fn join_small_packs(repo: &Repository) -> Result<bool, RepackError> {
    let dir = repo.path().join("objects/pack");
    let small = small_packs(&dir).map_err(|source| RepackError::Io { path: dir.clone(), source })?;
    if small.len() < MANY {
        return Ok(false);
    }
    let name = written(repo, &dir, &small)?;
    for idx in small.iter().filter(|idx| idx.file_stem() != Some(name.as_ref())) {
        // The index first: git ignores a pack without an index, but an index without its pack is damage.
        for path in [idx.clone(), idx.with_extension("pack")] {
            fs::remove_file(&path).map_err(|source| RepackError::Io { path, source })?;
        }
    }
    Ok(true)
}

fn written(repo: &Repository, dir: &Path, small: &[PathBuf]) -> Result<String, RepackError> {
    let mut pack = repo.packbuilder().map_err(RepackError::Pack)?;
    for idx in small {
        let bytes = fs::read(idx).map_err(|source| RepackError::Io { path: idx.clone(), source })?;
        for id in ids(&bytes) {
            pack.insert_object(id, None).map_err(RepackError::Pack)?;
        }
    }
    pack.write(dir, 0o444).map_err(RepackError::Pack)?;
    let name = pack.name().map_err(RepackError::Pack)?.unwrap_or_default();
    Ok(format!("pack-{name}"))
}

fn small_packs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "idx")
            && fs::metadata(path.with_extension("pack"))?.len() <= SMALL
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// The object ids in a pack's index; empty if it is not of version 2.
fn ids(index: &[u8]) -> Vec<Oid> {
    let Some(count) = index.get(IDS_AT - 4..IDS_AT).and_then(|bytes| bytes.try_into().ok()) else {
        return Vec::new();
    };
    let count = u32::from_be_bytes(count) as usize;
    let ids = index.get(IDS_AT..).unwrap_or_default().chunks_exact(20).take(count);
    ids.filter_map(|id| Oid::from_bytes(id).ok()).collect()
}
