//! An opening and a repository for tests.

use git2::{Oid, Repository, Signature, Time};

use super::wire::Opening;

/// For a remote without any credentials.
pub fn opening(remote: &str) -> Opening {
    Opening {
        mirror: "/m".into(),
        remote: remote.into(),
        branch: "main".into(),
        fast_forward_only: None,
        ssh_key: None,
        known_hosts: None,
        token_file: None,
        ca_file: None,
        proxy: None,
        idle_proxy: None,
        user: None,
        home: "/nonexistent".into(),
        read_timeout_ms: 1000,
    }
}

/// A bare repository with commits of exactly the files that a test names.
pub struct Place {
    _dir: tempfile::TempDir,
    pub repo: Repository,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(dir.path()).unwrap();
        Self { _dir: dir, repo }
    }

    /// A commit with exactly these files.
    pub fn commit(&self, files: &[(&str, &str)], (message, parents): (&str, &[Oid])) -> Oid {
        let mut index = git2::Index::new().unwrap();
        for (path, text) in files {
            let entry = git2::IndexEntry {
                ctime: git2::IndexTime::new(0, 0),
                mtime: git2::IndexTime::new(0, 0),
                dev: 0,
                ino: 0,
                mode: 0o100_644,
                uid: 0,
                gid: 0,
                file_size: 0,
                id: self.repo.blob(text.as_bytes()).unwrap(),
                flags: 0,
                flags_extended: 0,
                path: path.as_bytes().to_vec(),
            };
            index.add(&entry).unwrap();
        }
        let tree = self.repo.find_tree(index.write_tree_to(&self.repo).unwrap()).unwrap();
        let parents: Vec<_> = parents.iter().map(|oid| self.repo.find_commit(*oid).unwrap()).collect();
        let parents: Vec<_> = parents.iter().collect();
        let me = Signature::new("a", "b", &Time::new(parents.len() as i64, 0)).unwrap();
        self.repo.commit(None, &me, &me, message, &tree, &parents).unwrap()
    }
}
