//! The `shared` paths of an app: kept in `<app>/shared`, linked into every release. Called by `prepare`.
//!
//! A path is a directory if the configuration ends it with `/`, or if it is one in `shared` or in the
//! checkout; it is a file if it is one there. Where it exists in neither, a last name with a dot in it
//! (`.env`, `app.sqlite`) means a file and any other a directory. A missing directory is created, a missing
//! file is an error. What the checkout brings moves into `shared` if that lacks the path (the first deploy),
//! and else gives way to the link. No symlink is followed, except that an entry of `shared` may itself be one.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use nix::unistd::{Uid, User};

use crate::{
    command::{Owner, lookup},
    os::privilege::Account,
    release::{
        BuildError,
        copy::{Copier, CopyTally},
        error::failed,
        tree::{Dir, split},
    },
};

/// The most entries looked at in a shared directory: uploads may be millions.
const MOST_ENTRIES: usize = 1_000;

/// Reports all shared files that are missing, before anything is changed.
pub(super) fn check(paths: &[PathBuf], release: &Dir, store: &Dir) -> Result<(), BuildError> {
    let mut missing = Vec::new();
    for path in paths {
        missing.extend(missing_file(path, release, store)?);
    }
    if missing.is_empty() { Ok(()) } else { Err(BuildError::SharedMissing { missing }) }
}

/// A shared path that the app's user may not read or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Its full path, below `shared`.
    pub path: PathBuf,
    /// Its owner.
    pub owner: String,
    /// The app's user.
    pub user: String,
    /// The user may not even read it.
    pub unreadable: bool,
}

/// Shared paths that the app's user may not read or not write: directories, and the entries directly in them. Root may
/// use all.
///
/// # Errors
/// A user that can't be looked up.
pub fn closed_to(user: Option<&str>, paths: &[PathBuf], store: &Path) -> Result<Vec<Closed>, BuildError> {
    let Some(name) = user else { return Ok(Vec::new()) };
    let Some(account) = Account::find(name).map_err(lookup(name))? else { return Ok(Vec::new()) };
    let closed = |path: PathBuf| {
        // Missing paths are reported elsewhere.
        let meta = fs::metadata(&path).ok()?;
        let (read, all) = if meta.is_dir() { (0o5, 0o7) } else { (0o4, 0o6) };
        let unreadable = !account.may(&meta, read);
        let owner = owner_of(&meta);
        (!account.may(&meta, all)).then(|| Closed { owner, user: name.to_owned(), path, unreadable })
    };
    let mut found = Vec::new();
    for path in paths.iter().map(|path| store.join(path)) {
        if !path.is_dir() {
            // A file of settings is often root's and read-only for the app.
            found.extend(closed(path).filter(|closed| closed.unreadable));
            continue;
        }
        let entries = fs::read_dir(&path).into_iter().flatten().flatten().take(MOST_ENTRIES);
        let inside = entries.map(|entry| entry.path()).filter(|path| !path.is_symlink());
        // One closed entry of many does not refuse the release.
        let inside = inside.filter_map(closed).map(|closed| Closed { unreadable: false, ..closed });
        let inside: Vec<Closed> = inside.collect();
        found.extend(closed(path));
        found.extend(inside);
    }
    Ok(found)
}

fn owner_of(meta: &fs::Metadata) -> String {
    match User::from_uid(Uid::from_raw(meta.uid())) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {}", meta.uid()),
    }
}

/// The expected path of a shared file that is neither in `shared` nor in the checkout.
fn missing_file(path: &Path, release: &Dir, store: &Dir) -> Result<Option<PathBuf>, BuildError> {
    let (parent, name) = split(path)?;
    let expected = store.shown(parent.join(&name).as_os_str());
    let stored = store.stat_below(&parent, &name)?;
    let brought = release.stat_below(&parent, &name)?.filter(|meta| !meta.is_symlink());
    let there = match stored.or(brought) {
        // Followed only to see whether its target exists.
        Some(meta) if meta.is_symlink() => expected.exists(),
        Some(meta) if !meta.is_dir() && ends_with_slash(path) => {
            return Err(BuildError::NotDirectory { path: path.to_owned() });
        }
        Some(_) => true,
        None => !is_file_by_name(path),
    };
    Ok((!there).then_some(expected))
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

fn is_file_by_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    !ends_with_slash(path) && name.as_bytes().contains(&b'.')
}

/// Links the shared paths of one release.
pub(super) struct Linking<'a> {
    pub(super) release: &'a Dir,
    pub(super) store: &'a Dir,
    pub(super) owner: Option<Owner>,
    pub(super) cancel: &'a AtomicBool,
}

impl Linking<'_> {
    /// Links every path; `target` is the path of the store as the links shall name it.
    pub(super) fn all(&self, paths: &[PathBuf], target: &Path) -> Result<(), BuildError> {
        paths.iter().try_for_each(|path| self.one(path, target))
    }

    fn one(&self, path: &Path, target: &Path) -> Result<(), BuildError> {
        let (parent, name) = split(path)?;
        let stored = self.store.descend_or_create(&parent, self.owner)?;
        let inside = self.release.descend_or_create(&parent, self.owner)?;
        if stored.stat(&name)?.is_none() {
            match inside.stat(&name)? {
                Some(meta) if meta.is_dir() || meta.is_file() => self.keep((&inside, &name), &stored)?,
                _ => drop(stored.create(&name, self.owner)?),
            }
        }
        inside.remove(&name)?;
        inside.link(&name, &target.join(&parent).join(&name), self.owner)
    }

    /// Moves what the checkout brought into the store: by rename, or where the store is another file
    /// system, by a copy that gets its name only when it is whole.
    fn keep(&self, (inside, name): (&Dir, &OsStr), stored: &Dir) -> Result<(), BuildError> {
        let moved = fs::rename(inside.at(name), stored.at(name));
        match moved {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
            other => return other.map_err(failed("move to", &stored.shown(name))),
        }
        let mut growing = OsString::from(".bgd-new-");
        growing.push(name);
        stored.remove(&growing)?;
        let mut copier =
            Copier { owner: self.owner, cancel: self.cancel, tally: CopyTally::default(), moved: None };
        copier.copy((inside, name), (stored, &growing))?;
        fs::rename(stored.at(&growing), stored.at(name)).map_err(failed("move to", &stored.shown(name)))
    }
}
