//! A commit's files, written into a new directory: exact bytes, execute bits and symlinks, submodules included,
//! no `.git`. Used inside the worker. Directories and files are only ever created, never opened when they exist,
//! so that no symlink of the commit can lead a later file elsewhere. Nothing is flushed to the disk here: the caller
//! does that once, before it records the release as complete.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use git2::{Odb, Oid, Repository};

use super::{
    attributes::{self, AttributeFault, Attributes, Treatment},
    error::{ErrorCause, GitError, GitStep},
    lfs::{self, LfsStore, Pointer},
    mirror::Mirror,
    submodule,
    transfer::TransferContext,
    wire::{CheckedOut, GitProgress},
};
use crate::config::settings::CheckoutLimit;

/// More threads than this do not make one disk faster.
const MOST_THREADS: usize = 8;
/// Fewer files than this do not justify another thread.
const FILES_PER_THREAD: usize = 64;
/// `PATH_MAX` in bytes, the final NUL included.
const LONGEST_PATH: usize = 4_096;
/// Bytes of a too long path that the error shows.
const LONGEST_SHOWN: usize = 100;
/// Between two progress reports.
const REPORT: Duration = Duration::from_millis(100);

/// One commit to write.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub context: &'a TransferContext,
    /// The mirror that has the commit.
    pub mirror: &'a Mirror,
    /// URLs of the repositories this one is a submodule of, outermost first, its own last.
    pub urls: &'a [String],
    pub commit: Oid,
    /// An empty directory.
    pub dir: &'a Path,
    /// Files and bytes that it may still write, submodules included.
    pub budget: &'a Budget,
}

/// Files and bytes that one release may still write.
pub struct Budget {
    limit: CheckoutLimit,
    files: Cell<u64>,
    bytes: Cell<u64>,
}

impl Budget {
    /// The full limit.
    pub fn of(limit: CheckoutLimit) -> Self {
        Self { limit, files: Cell::new(limit.files), bytes: Cell::new(limit.bytes) }
    }

    /// Takes files and bytes off the budget. The error is the limit that was exceeded, as text.
    fn spend(&self, files: u64, bytes: u64) -> Result<(), String> {
        let left = |cell: &Cell<u64>, wanted: u64| cell.get().checked_sub(wanted).map(|left| cell.set(left));
        left(&self.files, files).ok_or_else(|| format!("{} files", self.limit.files))?;
        left(&self.bytes, bytes).ok_or_else(|| format!("{} MiB", self.limit.bytes >> 20))
    }
}

/// Writes one commit and its submodules.
pub fn write(job: &Job<'_>) -> Result<CheckedOut, GitError> {
    job.context.reporter.stage(GitStep::Writing);
    let mut plan = job.plan()?;
    for path in &plan.dirs {
        fs::create_dir(job.dir.join(path)).map_err(|err| job.failed(path, &err))?;
    }
    let first = job.write_attributes_files(&mut plan)?;
    let (mut written, pointers) = job.write_files(&plan)?;
    written.files += first.files;
    written.bytes += first.bytes;
    for (path, oid) in &plan.links {
        let target = job.blob(*oid)?;
        symlink(OsStr::from_bytes(&target), job.dir.join(path)).map_err(|err| job.failed(path, &err))?;
        written.files += 1;
    }
    written.bytes += job.fill_pointers(&pointers)?;
    if !plan.modules.is_empty() {
        let inner = submodule::check_out(job, &plan.modules, plan.gitmodules)?;
        written.files += inner.files;
        written.bytes += inner.bytes;
    }
    Ok(written)
}

/// The contents of a commit. Making the plan counts them, so that nothing is written if they exceed the limit.
#[derive(Default)]
struct CheckoutPlan {
    /// Parents before their children.
    dirs: Vec<PathBuf>,
    files: Vec<Planned>,
    links: Vec<(PathBuf, Oid)>,
    modules: Vec<(PathBuf, Oid)>,
    gitmodules: Option<Oid>,
    /// The attributes files and their content, written before all other files.
    attributes: Vec<(PathBuf, Vec<u8>)>,
    uses_lfs: bool,
}

struct Planned {
    path: PathBuf,
    oid: Oid,
    mode: u32,
    treatment: Treatment,
}

/// An LFS pointer that was written unchanged.
struct UnchangedPointer {
    path: PathBuf,
    content: Vec<u8>,
}

impl Job<'_> {
    fn failed(&self, path: &Path, err: &io::Error) -> GitError {
        let cause = ErrorCause::new(format!("{}: {err}", path.display()));
        GitError::Checkout { dir: self.dir.to_owned(), cause }
    }

    fn unreadable(&self, err: &git2::Error) -> GitError {
        GitError::Commit { commit: self.commit.to_string(), cause: ErrorCause::new(err.message()) }
    }

    /// Refuses a path that no program could open. It also bounds memory, which would grow with the square of the depth.
    fn refuse_if_long(&self, path: &Path) -> Result<(), GitError> {
        if self.dir.as_os_str().len() + 1 + path.as_os_str().len() < LONGEST_PATH {
            return Ok(());
        }
        let shown = path.as_os_str().as_bytes();
        let begin = String::from_utf8_lossy(shown.get(..LONGEST_SHOWN).unwrap_or(shown));
        Err(GitError::UnsafePath { path: format!("{begin}…") })
    }

    fn spend(&self, files: u64, bytes: u64) -> Result<(), GitError> {
        let more = |what| GitError::TooLarge { commit: self.commit.to_string(), what };
        self.budget.spend(files, bytes).map_err(more)
    }

    fn blob(&self, oid: Oid) -> Result<Vec<u8>, GitError> {
        let blob = self.mirror.repo().find_blob(oid).map_err(|err| self.unreadable(&err))?;
        Ok(blob.content().to_owned())
    }

    fn plan(&self) -> Result<CheckoutPlan, GitError> {
        let repo = self.mirror.repo();
        let odb = repo.odb().map_err(|err| self.unreadable(&err))?;
        let commit = repo.find_commit(self.commit).map_err(|err| self.unreadable(&err))?;
        let mut plan = CheckoutPlan::default();
        let mut left = vec![(commit.tree_id(), PathBuf::new())];
        while let Some((tree, at)) = left.pop() {
            let tree = repo.find_tree(tree).map_err(|err| self.unreadable(&err))?;
            for entry in &tree {
                let path = at.join(safe_name(&at, entry.name_bytes())?);
                self.spend(1, 0)?;
                self.refuse_if_long(&path)?;
                match entry.filemode_raw() & 0o170_000 {
                    0o040_000 => {
                        plan.dirs.push(path.clone());
                        left.push((entry.id(), path));
                    }
                    0o120_000 => plan.links.push((path, entry.id())),
                    0o160_000 => plan.modules.push((path, entry.id())),
                    _ => {
                        let (size, _) = odb.read_header(entry.id()).map_err(|err| self.unreadable(&err))?;
                        self.spend(0, size as u64)?;
                        self.plan_file(&mut plan, path, &entry)?;
                    }
                }
            }
        }
        Ok(plan)
    }

    fn plan_file(
        &self,
        plan: &mut CheckoutPlan,
        path: PathBuf,
        entry: &git2::TreeEntry<'_>,
    ) -> Result<(), GitError> {
        match path.file_name().map(OsStr::as_bytes) {
            Some(b".gitattributes") => {
                let content = self.blob(entry.id())?;
                plan.uses_lfs |= lfs::hands_to_lfs(&content);
                plan.attributes.push((path, content));
                return Ok(());
            }
            Some(b".gitmodules") if path.as_os_str() == ".gitmodules" => plan.gitmodules = Some(entry.id()),
            _ => {}
        }
        let mode = if entry.filemode_raw() & 0o100 == 0 { 0o666 } else { 0o777 };
        plan.files.push(Planned { path, oid: entry.id(), mode, treatment: Treatment::default() });
        Ok(())
    }

    /// Writes the attributes files, and looks up the treatment of all other files in them.
    fn write_attributes_files(&self, plan: &mut CheckoutPlan) -> Result<CheckedOut, GitError> {
        let mut written = CheckedOut::default();
        for (path, content) in &plan.attributes {
            new_file(&self.dir.join(path), 0o666, content).map_err(|err| self.failed(path, &err))?;
            written.files += 1;
            written.bytes += content.len() as u64;
        }
        if plan.attributes.iter().any(|(_, content)| attributes::asks_for_something(content)) {
            let attributes = Attributes::below(self.dir, self.mirror.path());
            let attributes = attributes.map_err(|err| self.unreadable(&err))?;
            for file in &mut plan.files {
                let looked_up = attributes.of(&file.path).map_err(|err| self.unreadable(&err))?;
                file.treatment = looked_up.map_err(|fault| refused(&file.path, fault))?;
            }
        }
        Ok(written)
    }

    /// Writes all files on a few threads while this one reports.
    fn write_files(&self, plan: &CheckoutPlan) -> Result<(CheckedOut, Vec<UnchangedPointer>), GitError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(MOST_THREADS).min(plan.files.len() / FILES_PER_THREAD + 1);
        let shared = Writing::new(self.dir, plan);
        let (ends, ended) = mpsc::channel();
        let mut found = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (ends, shared, mirror) = (ends.clone(), &shared, self.mirror.path());
                scope.spawn(move || {
                    let end = shared.work(mirror);
                    shared.stop.fetch_or(end.is_err(), Ordering::Relaxed);
                    // The receiver lives until all threads have ended.
                    ends.send(end).is_ok()
                });
            }
            drop(ends);
            self.watch(&ended, &shared, &mut found)
        })?;
        let written = CheckedOut { files: plan.files.len() as u64, bytes: shared.bytes.into_inner() };
        Ok((written, found))
    }

    fn watch(
        &self,
        ended: &mpsc::Receiver<Result<Vec<UnchangedPointer>, CheckoutStop>>,
        shared: &Writing<'_>,
        found: &mut Vec<UnchangedPointer>,
    ) -> Result<(), GitError> {
        loop {
            match ended.recv_timeout(REPORT) {
                Ok(Ok(pointers)) => found.extend(pointers),
                Ok(Err(CheckoutStop::Object(err))) => return Err(self.unreadable(&err)),
                Ok(Err(CheckoutStop::File(path, err))) => return Err(self.failed(&path, &err)),
                Ok(Err(CheckoutStop::Attribute(path, fault))) => return Err(refused(&path, fault)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            self.context.reporter.progress(GitProgress {
                stage: GitStep::Writing,
                done: shared.done.load(Ordering::Relaxed),
                bytes: shared.bytes.load(Ordering::Relaxed),
            });
        }
    }

    /// Replaces pointers by their content; returns the bytes added.
    fn fill_pointers(&self, pointers: &[UnchangedPointer]) -> Result<u64, GitError> {
        let Some(remote) = self.urls.last() else { return Ok(0) };
        let store = LfsStore { context: self.context, mirror: self.mirror.path(), remote };
        let mut more = 0;
        for found in pointers {
            self.spend(0, lfs::pointed_size(&found.content).unwrap_or_default())?;
            let (name, file) = (found.path.to_string_lossy(), self.dir.join(&found.path));
            let pointer = Pointer { name: &name, file: &file, content: &found.content };
            more += store.fill(&pointer)?.saturating_sub(found.content.len() as u64);
        }
        Ok(more)
    }
}

/// Why a thread stopped.
enum CheckoutStop {
    Object(git2::Error),
    File(PathBuf, io::Error),
    Attribute(PathBuf, AttributeFault),
}

fn refused(path: &Path, fault: AttributeFault) -> GitError {
    GitError::Attribute { path: path.to_string_lossy().into_owned(), fault }
}

fn new_file(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    File::options().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}

/// State shared by the writing threads.
struct Writing<'a> {
    job_dir: &'a Path,
    plan: &'a CheckoutPlan,
    next: AtomicUsize,
    done: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl<'a> Writing<'a> {
    fn new(job_dir: &'a Path, plan: &'a CheckoutPlan) -> Self {
        let (done, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { job_dir, plan, next: AtomicUsize::new(0), done, bytes, stop: AtomicBool::new(false) }
    }

    /// Body of one thread: opens the mirror by itself, and writes files until none is left.
    fn work(&self, mirror: &Path) -> Result<Vec<UnchangedPointer>, CheckoutStop> {
        let repo = Repository::open_bare(mirror).map_err(CheckoutStop::Object)?;
        let odb = repo.odb().map_err(CheckoutStop::Object)?;
        let mut pointers = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(file) = self.plan.files.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            pointers.extend(self.write(&odb, file)?);
        }
        Ok(pointers)
    }

    fn write(&self, odb: &Odb<'_>, file: &Planned) -> Result<Option<UnchangedPointer>, CheckoutStop> {
        let object = odb.read(file.oid).map_err(CheckoutStop::Object)?;
        let changed = file.treatment.applied(object.data(), file.oid);
        let changed = changed.map_err(|fault| CheckoutStop::Attribute(file.path.clone(), fault))?;
        let content = changed.as_deref().unwrap_or_else(|| object.data());
        new_file(&self.job_dir.join(&file.path), file.mode, content)
            .map_err(|err| CheckoutStop::File(file.path.clone(), err))?;
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        let pointer = self.plan.uses_lfs && lfs::pointed_size(content).is_some();
        Ok(pointer.then(|| UnchangedPointer { path: file.path.clone(), content: content.to_owned() }))
    }
}

/// A name from a tree, if it is a plain entry of its directory and not `.git`.
fn safe_name<'a>(at: &Path, name: &'a [u8]) -> Result<&'a OsStr, GitError> {
    let git = |name: &[u8]| name.eq_ignore_ascii_case(b".git") || name.eq_ignore_ascii_case(b"git~1");
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || git(name) {
        let path = at.join(OsStr::from_bytes(name)).to_string_lossy().into_owned();
        return Err(GitError::UnsafePath { path });
    }
    Ok(OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_names_that_lead_elsewhere_or_into_git_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b".git", b".GiT", b"GIT~1"] {
            assert!(safe_name(Path::new("x"), bad).is_err(), "{bad:?}");
        }
        for good in [&b".gitignore"[..], b"...", b"git", b"\xff\xfe", b"a b\n"] {
            assert!(safe_name(Path::new("x"), good).is_ok(), "{good:?}");
        }
    }
}
