//! Reads the commit of a local repository's branch without git, from the loose or the packed ref.
//! Called by the engine at each poll and by the worker; a few system calls, never a scan of objects. Reads only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::remote::{Location, location};
use crate::rules::ids::CommitId;

/// Symbolic refs followed before giving up.
const LONGEST_CHAIN: usize = 5;

/// Why a local repository could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is no repository at the path.
    #[error("there is no git repository at {}", path.display())]
    NotARepository {
        /// The path as configured.
        path: PathBuf,
    },
    /// A ref exists and can't be read.
    #[error("can't read the ref {}", path.display())]
    Unreadable {
        /// The ref's file, or packed-refs.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A ref's content is not a commit id: half written, or in an unknown format.
    #[error("the ref {} holds no commit id", path.display())]
    Malformed {
        /// The ref's file, or packed-refs.
        path: PathBuf,
    },
}

/// The directory behind a remote that is a path or a `file://` URL.
pub fn local_path(remote: &str) -> Option<PathBuf> {
    match location(remote) {
        Location::Local(path) => Some(path),
        Location::Ssh { .. } | Location::Url { .. } => None,
    }
}

/// The commit of a local repository's branch; `None` if the branch does not exist.
pub fn local_head(path: &Path, branch: &str) -> Result<Option<CommitId>, LocalError> {
    let refs = RefStore::open(path)?;
    let mut name = format!("refs/heads/{branch}");
    for _ in 0..LONGEST_CHAIN {
        let Some(text) = refs.value(&name)? else { return Ok(None) };
        match text.strip_prefix("ref: ") {
            Some(target) => name = target.trim().to_owned(),
            None => return commit(&text, || refs.dir.join(&name)).map(Some),
        }
    }
    Err(LocalError::Malformed { path: refs.dir.join(name) })
}

/// The git directory of a local path: the path itself if bare, else its `.git` directory or the one that its `.git`
/// file names.
pub(super) fn git_dir(path: &Path) -> PathBuf {
    let dot = path.join(".git");
    if dot.is_dir() {
        return dot;
    }
    match fs::read_to_string(&dot).ok().as_deref().and_then(|text| text.trim_end().strip_prefix("gitdir: ")) {
        Some(target) => path.join(target),
        None => path.to_owned(),
    }
}

struct RefStore {
    dir: PathBuf,
}

impl RefStore {
    fn open(path: &Path) -> Result<Self, LocalError> {
        let dir = git_dir(path);
        if dir.join("HEAD").is_file() && dir.join("refs").is_dir() {
            Ok(Self { dir })
        } else {
            Err(LocalError::NotARepository { path: path.to_owned() })
        }
    }

    /// The loose ref, else the packed one. The order matters: git writes packed-refs before it unlinks the loose ref,
    /// so a ref that vanished between the two reads is in packed-refs.
    fn value(&self, name: &str) -> Result<Option<String>, LocalError> {
        let unsafe_part = |part: &str| part.is_empty() || part == "." || part == "..";
        if name.split('/').any(unsafe_part) || name.contains('\0') {
            return Ok(None);
        }
        match read_optional(&self.dir.join(name))? {
            Some(text) => Ok(Some(text)),
            None => self.packed(name),
        }
    }

    fn packed(&self, name: &str) -> Result<Option<String>, LocalError> {
        let Some(text) = read_optional(&self.dir.join("packed-refs"))? else { return Ok(None) };
        let found = text.lines().find_map(|line| line.split_once(' ').filter(|(_, packed)| *packed == name));
        Ok(found.map(|(id, _)| id.to_owned()))
    }
}

fn commit(text: &str, path: impl FnOnce() -> PathBuf) -> Result<CommitId, LocalError> {
    text.trim().parse().map_err(|_| LocalError::Malformed { path: path() })
}

/// A file's text; `None` if it does not exist or is a directory (`rel` if the branch is `rel/x`).
fn read_optional(path: &Path) -> Result<Option<String>, LocalError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(LocalError::Unreadable { path: path.to_owned(), source }),
    }
}
