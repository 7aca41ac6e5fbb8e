//! The bare repository that bgd owns, one per app and one per submodule: opens it, removes the leftovers of a killed
//! worker, checks it, and recreates it if it is damaged. Used inside the worker, by one process at a time (a kernel
//! lock). Never touches anything outside its own directory.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use git2::{ErrorClass, ErrorCode, ObjectType, Oid, Repository, RepositoryInitOptions};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    error::{ErrorCause, GitError},
    repack::{self, RepackError},
};

/// The tip that was accepted last. One fixed name, so that no branch name can clash with another.
pub const TIP: &str = "refs/bgd/head";
/// The last revision that was fetched by name.
pub const WANTED: &str = "refs/bgd/wanted";
/// File with the accepted tip, and the remote and branch it belongs to.
const SOURCE: &str = "bgd-source";
/// Directory in the mirror: the private HOME of libgit2.
pub const HOME: &str = "bgd-home";
const MODULES: &str = "bgd-modules";
const LOCK: &str = "bgd-owner";
/// How long a worker waits for the end of an older worker of a killed daemon, which normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait between two attempts to take the lock.
const LOOK: Duration = Duration::from_millis(20);

/// The error of a fetch, and whether the mirror caused it.
#[derive(Debug)]
pub struct FetchFailure {
    /// The error for the daemon.
    pub error: GitError,
    /// The mirror's own data is bad.
    pub damage: bool,
}

impl From<GitError> for FetchFailure {
    fn from(error: GitError) -> Self {
        Self { error, damage: false }
    }
}

/// An open mirror.
pub struct Mirror {
    path: PathBuf,
    repo: Repository,
    // Held while the mirror is open: a worker of a daemon that was just killed may still be running.
    _owner: Flock<File>,
}

impl Mirror {
    /// Opens the mirror; creates it if it is missing, and recreates it if it is obviously damaged.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        let failed = |err: &dyn std::fmt::Display| mirror_error(path, err);
        fs::create_dir_all(path).map_err(|err| failed(&err))?;
        let owner = lock(path).map_err(|err| failed(&err))?;
        clear_leftovers(path).map_err(|err| failed(&err))?;
        let sound = packs_are_whole(path).map_err(|err| failed(&err))?;
        let opened = if sound { Repository::open_bare(path).ok().filter(refs_are_whole) } else { None };
        let repo = match opened {
            Some(repo) => repo,
            None => made_anew(path)?,
        };
        Ok(Self { path: path.to_owned(), repo, _owner: owner })
    }

    /// Recreates the mirror, empty.
    pub fn rebuild(&mut self) -> Result<(), GitError> {
        self.repo = made_anew(&self.path)?;
        Ok(())
    }

    /// Joins the small packs if there are many. Then opens the repository again, because libgit2 never closes a
    /// removed pack.
    pub fn tidy(&mut self) -> Result<(), RepackError> {
        if repack::join_small_packs(&self.repo)? {
            self.repo = Repository::open_bare(&self.path).map_err(RepackError::Reopen)?;
        }
        Ok(())
    }

    /// The repository.
    pub fn repo(&self) -> &Repository {
        &self.repo
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a submodule's mirror, below the app's.
    pub fn module_path(root: &Path, url: &str) -> Result<PathBuf, GitError> {
        let name = Oid::hash_object(ObjectType::Blob, url.as_bytes());
        let name = name.map_err(|err| mirror_error(root, &err.message()))?;
        Ok(root.join(MODULES).join(format!("{name}.git")))
    }

    /// The last accepted tip, if it belongs to `source` (a remote and branch). It survives a rebuild, so that the next
    /// fetch is still compared with it.
    pub fn tip(&self, source: &str) -> Option<Oid> {
        let text = fs::read_to_string(self.path.join(SOURCE)).ok()?;
        let (id, of) = text.split_once('\n')?;
        if of == source { Oid::from_str(id).ok() } else { None }
    }

    /// Accepts a tip. Later fetches start from its ref, and are compared with its file.
    pub fn accept(&self, source: &str, tip: Oid) -> Result<(), FetchFailure> {
        self.point(TIP, tip)?;
        let temp = self.path.join("bgd-source.new");
        fs::write(&temp, format!("{tip}\n{source}"))
            .and_then(|()| fs::rename(&temp, self.path.join(SOURCE)))
            .map_err(|err| mirror_error(&self.path, &err).into())
    }

    /// Points a private ref at an object.
    pub fn point(&self, name: &str, oid: Oid) -> Result<(), FetchFailure> {
        let made = self.repo.reference(name, oid, true, "bgd");
        made.map(drop).map_err(|err| FetchFailure {
            damage: means_damage(&err),
            error: mirror_error(&self.path, &err.message()),
        })
    }
}

fn mirror_error(path: &Path, cause: &dyn std::fmt::Display) -> GitError {
    GitError::Mirror { mirror: path.to_owned(), cause: ErrorCause::new(cause) }
}

fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
    let began = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if began.elapsed() > PATIENCE => {
                return Err(io::Error::other("another git worker uses it"));
            }
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno.into()),
        };
        std::thread::sleep(LOOK);
    }
}

/// Empties the directory, except for bgd's own files, and creates a repository in it.
fn made_anew(path: &Path) -> Result<Repository, GitError> {
    for entry in fs::read_dir(path).map_err(|err| mirror_error(path, &err))? {
        let entry = entry.map_err(|err| mirror_error(path, &err))?;
        if ![LOCK, HOME, SOURCE].iter().any(|kept| entry.file_name() == *kept) {
            remove(&entry.path()).map_err(|err| mirror_error(path, &err))?;
        }
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("bgd");
    Repository::init_opts(path, &options).map_err(|err| mirror_error(path, &err.message()))
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Removes lock files and half-written packs. bgd owns the mirror and holds its kernel lock, so the process that
/// created them has ended.
fn clear_leftovers(path: &Path) -> io::Result<()> {
    clear(path, &|name| name.ends_with(".lock"))?;
    clear(&path.join("refs"), &|name| name.ends_with(".lock"))?;
    let half_written = |name: &str| name.starts_with("pack_git2_") || name.starts_with("tmp_");
    clear(&path.join("objects"), &half_written)
}

fn clear(dir: &Path, stale: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let top = dir.join("HEAD").exists();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if !top {
                clear(&entry.path(), stale)?;
            }
        } else if stale(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether the private refs, if they exist, can be read.
fn refs_are_whole(repo: &Repository) -> bool {
    let missing = |err: git2::Error| err.code() == ErrorCode::NotFound;
    [TIP, WANTED].iter().all(|name| repo.refname_to_id(name).map_or_else(missing, |_| true))
}

/// The error of an object that matches its id but is not a valid commit: fetching it again does not help.
pub fn malformed(repo: &Repository, oid: Oid) -> Option<GitError> {
    let object = repo.odb().and_then(|odb| odb.read(oid).map(|object| object.kind())).ok()?;
    let err = repo.find_commit(oid).err().filter(|_| object == ObjectType::Commit)?;
    Some(GitError::BadCommit { commit: oid.to_string(), cause: ErrorCause::new(err.message()) })
}

/// Whether each pack ends with the checksum in its index. Finds truncated and half-flushed packs.
fn packs_are_whole(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path.join("objects/pack")) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let idx = entry?.path();
        if idx.extension().is_some_and(|extension| extension == "idx") {
            let named = last_bytes::<40>(&idx)?.map(|tail| tail[..20].to_vec());
            let ends_with = match last_bytes::<20>(&idx.with_extension("pack")) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => None,
                other => other?,
            };
            if named.is_none() || named != ends_with.map(|tail| tail.to_vec()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn last_bytes<const N: usize>(path: &Path) -> io::Result<Option<[u8; N]>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() < N as u64 {
        return Ok(None);
    }
    file.seek(SeekFrom::End(-(N as i64)))?;
    let mut tail = [0; N];
    file.read_exact(&mut tail)?;
    Ok(Some(tail))
}

/// Whether an error means that the mirror's own data is bad, and not the network, the disk or the remote.
pub fn means_damage(err: &git2::Error) -> bool {
    !means_no_room(err.message())
        && matches!(
            err.class(),
            ErrorClass::Odb
                | ErrorClass::Zlib
                | ErrorClass::Object
                | ErrorClass::Tree
                | ErrorClass::Reference
                | ErrorClass::Repository
                | ErrorClass::Config
                | ErrorClass::Indexer
        )
}

/// Whether a message means that the disk refuses writes; recreating the mirror does not help then.
pub fn means_no_room(text: &str) -> bool {
    ["No space left", "quota exceeded", "File too large", "Read-only file system", "Input/output error"]
        .iter()
        .any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_locks_of_a_killed_worker_are_cleared_and_objects_named_lock_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mirror.git");
        drop(Mirror::open(&path).unwrap());
        fs::create_dir_all(path.join("refs/bgd")).unwrap();
        let stale = ["config.lock", "HEAD.lock", "refs/bgd/head.lock", "objects/pack/pack_git2_x"];
        for name in stale {
            fs::write(path.join(name), "").unwrap();
        }
        drop(Mirror::open(&path).unwrap());
        for name in stale {
            assert!(!path.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn b3_garbage_in_place_of_a_mirror_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mirror.git");
        fs::create_dir_all(path.join("objects")).unwrap();
        fs::write(path.join("HEAD"), [0xff; 30]).unwrap();
        fs::write(path.join("config"), "[[[").unwrap();
        assert!(Mirror::open(&path).unwrap().repo().is_bare());
    }

    #[test]
    fn a_tip_of_another_branch_is_not_compared_with() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(&dir.path().join("mirror.git")).unwrap();
        let repo = mirror.repo();
        let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let me = git2::Signature::new("a", "b", &git2::Time::new(0, 0)).unwrap();
        let oid = repo.commit(None, &me, &me, "x", &tree, &[]).unwrap();
        mirror.accept("main\nr", oid).unwrap();
        assert_eq!((mirror.tip("main\nr"), mirror.tip("dev\nr")), (Some(oid), None));
    }
}
