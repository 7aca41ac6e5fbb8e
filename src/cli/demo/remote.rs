//! The remote of `bgd demo` and the working copy that pushes to it, made with libgit2: no git binary, no
//! identity, no network, and nothing of the user's git configuration is changed.

use std::{fs, path::Path};

use git2::{Repository, RepositoryInitOptions, Signature};

use crate::rules::ids::CommitId;

const BRANCH: &str = "refs/heads/main";

/// One version of the sample app.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// Counted from 1.
    pub number: u32,
    /// The commit message.
    pub subject: &'static str,
    /// The commit's author.
    pub author: &'static str,
    /// The text of its page.
    pub page: &'static str,
    /// Whether its health check passes.
    pub database: Database,
    /// How long its build takes, in seconds.
    pub build_seconds: u32,
}

/// The database of a version, which its health check needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// The check passes.
    Reachable,
    /// The check fails.
    Misspelled,
}

/// The working copy and, beside it, the bare remote.
pub struct DemoRemote {
    work: Repository,
}

impl DemoRemote {
    /// Makes both, empty.
    pub fn create(bare: &Path, work: &Path) -> Result<Self, git2::Error> {
        let options = || {
            let mut options = RepositoryInitOptions::new();
            options.external_template(false).no_reinit(true).initial_head("main");
            options
        };
        Repository::init_opts(bare, options().bare(true))?;
        let work = Repository::init_opts(work, &options())?;
        work.remote("origin", &bare.to_string_lossy())?;
        Ok(Self { work })
    }

    /// Commits a version and pushes it.
    pub fn push(&self, version: &Version) -> Result<CommitId, git2::Error> {
        let commit = self.commit(version)?;
        let mut origin = self.work.find_remote("origin")?;
        origin.push(&[format!("{BRANCH}:{BRANCH}")], None)?;
        commit.to_string().parse().map_err(|_| git2::Error::from_str("not a SHA-1 commit"))
    }

    fn commit(&self, version: &Version) -> Result<git2::Oid, git2::Error> {
        let dir = self.work.workdir().unwrap_or(self.work.path());
        let mut index = self.work.index()?;
        for (name, text) in files(version) {
            fs::write(dir.join(name), text).map_err(|error| git2::Error::from_str(&error.to_string()))?;
            index.add_path(Path::new(name))?;
        }
        index.write()?;
        let tree = self.work.find_tree(index.write_tree()?)?;
        let mail = format!("{}@example.com", version.author.to_lowercase());
        let who = Signature::now(version.author, &mail)?;
        let parent = match self.work.head() {
            Ok(head) => Some(head.peel_to_commit()?),
            Err(error) if error.code() == git2::ErrorCode::UnbornBranch => None,
            Err(error) => return Err(error),
        };
        let parents: Vec<_> = parent.iter().collect();
        self.work.commit(Some("HEAD"), &who, &who, version.subject, &tree, &parents)
    }
}

fn files(version: &Version) -> [(&'static str, String); 2] {
    let database = match version.database {
        Database::Reachable => "reachable",
        Database::Misspelled => "misspelled",
    };
    let conf = format!("version = {}\npage = {}\ndatabase = {database}\n", version.number, version.page);
    let build = format!(
        "echo \"building version {}\"\nsleep {}\necho built > built\n",
        version.number, version.build_seconds
    );
    [("app.conf", conf), ("build.sh", build)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_push_moves_the_branch_of_the_bare_remote() {
        let dir = tempfile::tempdir().unwrap();
        let (bare, work) = (dir.path().join("shop.git"), dir.path().join("work"));
        let remote = DemoRemote::create(&bare, &work).unwrap();
        let mut version = Version {
            number: 1,
            subject: "Open the shop",
            author: "Ann",
            page: "hello",
            database: Database::Reachable,
            build_seconds: 0,
        };
        let first = remote.push(&version).unwrap();
        version.number = 2;
        let second = remote.push(&version).unwrap();
        let seen = Repository::open_bare(&bare).unwrap();
        let tip = seen.find_reference(BRANCH).unwrap().peel_to_commit().unwrap();
        assert_eq!(tip.id().to_string(), second.as_str());
        assert_eq!(tip.parent_id(0).unwrap().to_string(), first.as_str());
        assert!(seen.is_bare());
    }
}
