//! Bringing a commit from a repository on this machine into the mirror. libgit2's own local transport packs every
//! branch it finds, so only what is missing of the one commit is packed here; the first time whole packs are
//! copied, as `git clone --local` does. Used inside the worker; reads the remote and never writes to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use git2::{ErrorCode, Oid, Repository, RepositoryOpenFlags};

use super::{
    error::{ErrorCause, GitError, GitStep},
    format::Format,
    mirror::{FetchFailure, TIP, WANTED, malformed, means_damage},
    report::Reporter,
    text::redact,
    wire::GitProgress,
};

/// How often the list of packs is read again after a concurrent repack has removed one.
const COPY_ATTEMPTS: usize = 5;

/// A repository on this machine that serves as a remote.
pub struct LocalRemote {
    path: PathBuf,
    name: String,
    repo: Repository,
}

impl LocalRemote {
    /// Opens the repository at exactly this path, not in a parent directory.
    pub fn open(path: &Path, remote: &str) -> Result<Self, GitError> {
        let name = redact(remote);
        if let Some(format) = Format::of(path) {
            return Err(GitError::Format { remote: name, format });
        }
        let opened = Repository::open_ext(
            path,
            RepositoryOpenFlags::NO_SEARCH,
            std::iter::empty::<&std::ffi::OsStr>(),
        );
        match opened {
            Ok(repo) => Ok(Self { path: path.to_owned(), name, repo }),
            Err(err) if err.code() == ErrorCode::NotFound => {
                Err(GitError::NoRepository { remote: name, cause: ErrorCause::new(err.message()) })
            }
            Err(err) => Err(GitError::Unreachable { remote: name, cause: ErrorCause::new(err.message()) }),
        }
    }

    /// The commit of a branch. A repository without any branch and a missing branch are different errors.
    pub fn branch(&self, branch: &str) -> Result<Oid, GitError> {
        match self.repo.find_reference(&format!("refs/heads/{branch}")) {
            Ok(found) => {
                if let Some(error) = found.target().and_then(|oid| malformed(&self.repo, oid)) {
                    return Err(error);
                }
                found.peel_to_commit().map(|commit| commit.id()).map_err(|err| self.unreadable(&err))
            }
            Err(err) if matches!(err.code(), ErrorCode::NotFound | ErrorCode::InvalidSpec) => {
                Err(self.no_branch(branch))
            }
            Err(err) => Err(self.unreadable(&err)),
        }
    }

    fn no_branch(&self, branch: &str) -> GitError {
        let any =
            self.repo.references_glob("refs/heads/*").is_ok_and(|mut names| names.names().next().is_some());
        if any {
            GitError::BranchMissing { remote: self.name.clone(), branch: branch.to_owned() }
        } else {
            GitError::Empty { remote: self.name.clone() }
        }
    }

    /// The commit of a revision: branch, tag, full or short id.
    pub fn rev(&self, rev: &str) -> Result<Oid, GitError> {
        let plain = rev.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-/+".contains(&c));
        let missing = || GitError::RevMissing { rev: rev.to_owned(), remote: self.name.clone() };
        if !plain {
            return Err(missing());
        }
        for name in [format!("refs/heads/{rev}"), format!("refs/tags/{rev}"), rev.to_owned()] {
            match self.repo.revparse_single(&name).and_then(|object| object.peel_to_commit()) {
                Ok(commit) => return Ok(commit.id()),
                Err(err) if err.code() == ErrorCode::Ambiguous => {
                    return Err(GitError::RevAmbiguous { rev: rev.to_owned() });
                }
                Err(_) => {}
            }
        }
        Err(missing())
    }

    /// Copies a commit and all objects it needs into `mirror`.
    pub fn bring(&self, mirror: &Repository, wanted: Oid, reporter: &Reporter) -> Result<(), FetchFailure> {
        let first = mirror.refname_to_id(TIP).is_err() && mirror.refname_to_id(WANTED).is_err();
        let copied = first && !self.git_dir().join("objects/info/alternates").exists();
        reporter.stage(GitStep::Preparing);
        if copied {
            self.copy_objects(mirror, reporter).map_err(|err| self.failed(&err))?;
            mirror.odb().and_then(|odb| odb.refresh()).map_err(|err| self.broken(&err))?;
        }
        if mirror.find_commit(wanted).is_err() || !(copied || self.reaches(mirror, wanted)) {
            self.pack(mirror, wanted, reporter).map_err(|err| self.broken(&err))?;
        }
        Ok(())
    }

    /// Whether the commit is in the history of one of the mirror's refs, so that its objects are there as well.
    fn reaches(&self, mirror: &Repository, wanted: Oid) -> bool {
        let tips = [TIP, WANTED].into_iter().filter_map(|name| mirror.refname_to_id(name).ok());
        tips.into_iter().any(|tip| tip == wanted || mirror.graph_descendant_of(tip, wanted).unwrap_or(false))
    }

    fn pack(&self, mirror: &Repository, wanted: Oid, reporter: &Reporter) -> Result<(), git2::Error> {
        let mut walk = self.repo.revwalk()?;
        walk.push(wanted)?;
        for name in [TIP, WANTED] {
            // After a force-push the remote may lack the tip; then there is nothing to hide from the walk.
            if let Some(tip) =
                mirror.refname_to_id(name).ok().filter(|tip| self.repo.find_commit(*tip).is_ok())
            {
                walk.hide(tip)?;
            }
        }
        let mut pack = self.repo.packbuilder()?;
        pack.set_threads(0);
        pack.insert_walk(&mut walk)?;
        if pack.object_count() == 0 {
            return Ok(());
        }
        let odb = mirror.odb()?;
        let mut writer = odb.packwriter()?;
        let mut bytes = 0;
        let mut failure = None;
        pack.foreach(|chunk| {
            bytes += chunk.len() as u64;
            reporter.progress(GitProgress { stage: GitStep::Receiving, done: 0, bytes });
            failure = io::Write::write_all(&mut writer, chunk).err();
            failure.is_none()
        })?;
        if let Some(err) = failure {
            return Err(git2::Error::from_str(&err.to_string()));
        }
        writer.commit().map(drop)
    }

    fn git_dir(&self) -> PathBuf {
        self.repo.commondir().to_owned()
    }

    /// Loose objects first: one that is packed meanwhile is in a pack by the time packs are listed.
    fn copy_objects(&self, mirror: &Repository, reporter: &Reporter) -> io::Result<()> {
        let mut copy = Copy { reporter, done: 0, bytes: 0 };
        let (from, to) = (self.git_dir().join("objects"), mirror.path().join("objects"));
        for fanout in 0..=255u8 {
            let name = format!("{fanout:02x}");
            copy.files(&from.join(&name), &to.join(&name), &|name| name.len() == 38)?;
        }
        let (from, to) = (from.join("pack"), to.join("pack"));
        for _ in 0..COPY_ATTEMPTS {
            // Indexes last: git ignores a pack without an index, but an index without its pack is damage.
            let packs =
                copy.files(&from, &to, &|name| name.starts_with("pack-") && name.ends_with(".pack"))?;
            let indexes = copy.files(&from, &to, &|name| {
                name.ends_with(".idx") && to.join(name).with_extension("pack").exists()
            })?;
            if packs && indexes {
                return Ok(());
            }
        }
        Err(io::Error::other("the remote's packs keep changing"))
    }

    fn unreadable(&self, err: &git2::Error) -> GitError {
        GitError::Fetch { remote: self.name.clone(), cause: ErrorCause::new(err.message()) }
    }

    fn broken(&self, err: &git2::Error) -> FetchFailure {
        FetchFailure { error: self.unreadable(err), damage: means_damage(err) }
    }

    fn failed(&self, err: &io::Error) -> FetchFailure {
        let cause = ErrorCause::new(format!("{}: {err}", self.path.display()));
        GitError::Fetch { remote: self.name.clone(), cause }.into()
    }
}

/// Copies object files and keeps count.
struct Copy<'a> {
    reporter: &'a Reporter,
    done: u64,
    bytes: u64,
}

impl Copy<'_> {
    /// Copies the files that `wanted` picks and `to` lacks, each whole or not at all; false when one vanished.
    fn files(&mut self, from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<bool> {
        let entries = match fs::read_dir(from) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(err) => return Err(err),
        };
        let mut complete = true;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(wanted) || to.join(&name).exists() {
                continue;
            }
            fs::create_dir_all(to)?;
            let temp = to.join("tmp_copy");
            match copy_reporting(&entry.path(), &temp, self) {
                Ok(()) => fs::rename(&temp, to.join(&name))?,
                Err(err) if err.kind() == io::ErrorKind::NotFound => complete = false,
                Err(err) => return Err(err),
            }
        }
        Ok(complete)
    }
}

/// Copies in pieces, so that a pack of gigabytes reports progress. The kernel copies, and shares blocks where the file
/// system can.
fn copy_reporting(from: &Path, to: &Path, copy: &mut Copy<'_>) -> io::Result<()> {
    const PIECE: u64 = 64 << 20;
    let source = fs::File::open(from)?;
    let mut target = fs::File::create(to)?;
    loop {
        let copied = io::copy(&mut io::Read::take(&source, PIECE), &mut target)?;
        copy.bytes += copied;
        copy.reporter.progress(GitProgress { stage: GitStep::Receiving, done: copy.done, bytes: copy.bytes });
        if copied < PIECE {
            copy.done += 1;
            return Ok(());
        }
    }
}
