//! A bare repository on this disk that an app is deployed from, and the moment of a push: objects are there
//! beforehand, then the branch moves.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use git2::{Oid, Repository, RepositoryInitOptions, Signature, build::TreeUpdateBuilder};

use super::Res;

/// The branch that is deployed.
const BRANCH: &str = "refs/heads/main";

/// A bare repository.
pub struct Remote {
    path: PathBuf,
    repo: Repository,
}

impl Remote {
    /// Makes it, without a commit.
    pub fn create(path: &Path) -> Res<Self> {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false).initial_head("main");
        Ok(Self { path: path.to_owned(), repo: Repository::init_opts(path, &options)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a commit of the sample app on top of the branch, which stays where it is.
    pub fn stage_version(&self, version: &str) -> Res<Oid> {
        let conf = format!("version = {version}\npage = hello\ndatabase = reachable\n");
        self.stage(&[("app.conf", conf.as_bytes()), ("build.sh", b"echo built > built\n")])
    }

    /// Writes a commit with these files on top of the branch, which stays where it is.
    pub fn stage(&self, files: &[(&str, &[u8])]) -> Res<Oid> {
        let parent = self.repo.find_reference(BRANCH).ok().and_then(|found| found.peel_to_commit().ok());
        let base = match &parent {
            Some(parent) => parent.tree()?,
            None => self.repo.find_tree(self.repo.treebuilder(None)?.write()?)?,
        };
        let mut update = TreeUpdateBuilder::new();
        for (name, content) in files {
            update.upsert(*name, self.repo.blob(content)?, git2::FileMode::Blob);
        }
        let tree = self.repo.find_tree(update.create_updated(&self.repo, &base)?)?;
        let who = Signature::now("Ann", "ann@example.com")?;
        let parents: Vec<_> = parent.iter().collect();
        Ok(self.repo.commit(None, &who, &who, "a change", &tree, &parents)?)
    }

    /// Moves the branch, and says when: this is the push.
    pub fn push(&self, commit: Oid) -> Res<Instant> {
        let at = Instant::now();
        self.repo.reference(BRANCH, commit, true, "push")?;
        Ok(at)
    }

    /// A commit of many files, pushed: 100 a directory, 0 to 8 KiB each.
    pub fn fill(&self, files: usize) -> Res<Oid> {
        let names: Vec<String> = (0..files).map(|at| format!("d{}/f{at}.txt", at / 100)).collect();
        let contents: Vec<Vec<u8>> = (0..files).map(content).collect();
        let all: Vec<(&str, &[u8])> =
            names.iter().zip(&contents).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let commit = self.stage(&all)?;
        self.push(commit)?;
        Ok(commit)
    }

    /// Total size of what is below a directory, for a check that both ways wrote the same.
    pub fn size_of(dir: &Path) -> Res<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        let mut left = vec![dir.to_owned()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                } else if entry.file_name() != ".git" {
                    files += 1;
                    bytes += entry.metadata()?.len();
                }
            }
        }
        Ok((files, bytes))
    }
}

/// Different for each file, so that none is stored twice.
fn content(at: usize) -> Vec<u8> {
    let line =
        format!("{at}: the quick brown fox jumps over the lazy dog {}\n", at.wrapping_mul(2_654_435_761));
    line.repeat(at % 100 + 1).into_bytes()
}
