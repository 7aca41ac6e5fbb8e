//! What lies between two commits: which files differ under the patterns of an app, and which commits came in between.
//! Compares trees by object ids, so force-pushes and squashed histories make no difference. Used inside the worker by
//! `child`, for gates and for migrations. Changes nothing but the objects that it fetches.

use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository, Sort, Tree, TreeEntry};

use super::{
    error::{ErrorCause, GitError, GitStep},
    fetch,
    mirror::{FetchFailure, Mirror},
    transfer::TransferContext,
    wire::{Between, Compared, Passed, Touched},
};
use crate::config::patterns::{Matcher, Patterns};

/// Files that are named of those that differ.
const NAMED_FILES: usize = 20;
/// Commits that are looked at between the two, newest first.
const MOST_COMMITS: usize = 1000;
/// Bytes of a commit's message that are passed on.
const MESSAGE_BYTES: usize = 4 << 10;

/// Fetches both commits and compares them. A `from` that neither the mirror nor the remote has compares as an empty
/// tree.
pub fn compare(
    context: &TransferContext,
    mirror: &Mirror,
    between: &Between,
) -> Result<Compared, FetchFailure> {
    let url = &context.opening.remote;
    let to = fetch::rev(context, mirror, url, between.to.as_str())?;
    let from = match &between.from {
        Some(from) => known(context, mirror, from.as_str())?,
        None => None,
    };
    let repo = mirror.repo();
    let touched = touched(repo, (from, to), &between.patterns)?;
    let (commits, all) = since(repo, from, to)?;
    Ok(Compared { from_known: from.is_some(), touched, commits, all })
}

/// The commit, if the mirror has it or can get it.
pub(super) fn known(
    context: &TransferContext,
    mirror: &Mirror,
    commit: &str,
) -> Result<Option<Oid>, FetchFailure> {
    let repo = mirror.repo();
    let oid = Oid::from_str(commit).map_err(|err| unreadable(commit, &err))?;
    if repo.find_commit(oid).is_ok() {
        return Ok(Some(oid));
    }
    match fetch::rev(context, mirror, &context.opening.remote, commit) {
        Ok(oid) => Ok(Some(oid)),
        Err(failed) if failed.damage => Err(failed),
        // A commit that a force-push removed may be nowhere any more.
        Err(_) => Ok(None),
    }
}

/// One answer for each list of patterns, in their order.
fn touched(
    repo: &Repository,
    (from, to): (Option<Oid>, Oid),
    lists: &[Patterns],
) -> Result<Vec<Touched>, GitError> {
    let matchers: Result<Vec<Matcher>, _> = lists.iter().map(Patterns::matcher).collect();
    let matchers =
        matchers.map_err(|err| GitError::Worker { stage: GitStep::Opening, cause: ErrorCause::new(err) })?;
    let mut found = vec![Touched::default(); matchers.len()];
    if !matchers.is_empty() {
        differing(repo, (from, to), &mut |path, _| note(path, &matchers, &mut found))?;
    }
    Ok(found)
}

fn note(path: &Path, matchers: &[Matcher], found: &mut [Touched]) {
    for (matcher, touched) in matchers.iter().zip(found) {
        if matcher.picks(path) {
            touched.count += 1;
            if touched.files.len() < NAMED_FILES {
                touched.files.push(path.to_string_lossy().into_owned());
            }
        }
    }
}

/// Calls `visit` with each file that differs, and its object in the newer commit if that has the file. Without `from`
/// all files differ.
pub(super) fn differing(
    repo: &Repository,
    (from, to): (Option<Oid>, Oid),
    visit: &mut dyn FnMut(&Path, Option<Oid>),
) -> Result<(), GitError> {
    let from = from.map(|from| tree_of(repo, from)).transpose()?;
    let tree = tree_of(repo, to)?;
    let mut walk = Walk { repo, visit };
    walk.trees((from.as_ref(), Some(&tree)), Path::new("")).map_err(|err| unreadable(to, &err))
}

pub(super) fn tree_of(repo: &Repository, commit: Oid) -> Result<Tree<'_>, GitError> {
    repo.find_commit(commit).and_then(|commit| commit.tree()).map_err(|err| unreadable(commit, &err))
}

pub(super) fn unreadable(commit: impl std::fmt::Display, err: &git2::Error) -> GitError {
    GitError::Commit { commit: commit.to_string(), cause: ErrorCause::new(err.message()) }
}

struct Walk<'a> {
    repo: &'a Repository,
    visit: &'a mut dyn FnMut(&Path, Option<Oid>),
}

impl Walk<'_> {
    fn trees(
        &mut self,
        (old, new): (Option<&Tree<'_>>, Option<&Tree<'_>>),
        dir: &Path,
    ) -> Result<(), git2::Error> {
        for entry in old.into_iter().flatten() {
            let other = new.and_then(|tree| find(tree, entry.name_bytes()));
            self.entries((Some(&entry), other.as_ref()), dir)?;
        }
        for entry in new.into_iter().flatten() {
            if old.is_none_or(|tree| find(tree, entry.name_bytes()).is_none()) {
                self.entries((None, Some(&entry)), dir)?;
            }
        }
        Ok(())
    }

    fn entries(
        &mut self,
        (old, new): (Option<&TreeEntry<'_>>, Option<&TreeEntry<'_>>),
        dir: &Path,
    ) -> Result<(), git2::Error> {
        let what = |entry: &TreeEntry<'_>| (entry.id(), entry.filemode_raw());
        if old.map(what) == new.map(what) {
            return Ok(());
        }
        let Some(entry) = old.or(new) else { return Ok(()) };
        let path = dir.join(name(entry.name_bytes()));
        let repo = self.repo;
        let (below_old, below_new) = (subtree(repo, old)?, subtree(repo, new)?);
        if below_old.is_some() || below_new.is_some() {
            self.trees((below_old.as_ref(), below_new.as_ref()), &path)?;
        }
        let is_file = |entry: &TreeEntry<'_>| entry.kind() != Some(ObjectType::Tree);
        let now = new.filter(|entry| is_file(entry));
        if old.is_some_and(is_file) || now.is_some() {
            (self.visit)(&path, now.map(TreeEntry::id));
        }
        Ok(())
    }
}

fn subtree<'a>(repo: &'a Repository, entry: Option<&TreeEntry<'_>>) -> Result<Option<Tree<'a>>, git2::Error> {
    let entry = entry.filter(|entry| entry.kind() == Some(ObjectType::Tree));
    entry.map(|entry| repo.find_tree(entry.id())).transpose()
}

/// Looks an entry up by its bytes: `get_name` takes text alone.
fn find<'a>(tree: &'a Tree<'_>, name: &[u8]) -> Option<TreeEntry<'a>> {
    match std::str::from_utf8(name) {
        Ok(name) => tree.get_name(name),
        Err(_) => tree.iter().find(|entry| entry.name_bytes() == name),
    }
}

fn name(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The commits of `to` that `from` does not have, newest first, and whether these are all.
fn since(repo: &Repository, from: Option<Oid>, to: Oid) -> Result<(Vec<Passed>, bool), GitError> {
    let failed = |err: git2::Error| unreadable(to, &err);
    let mut walk = repo.revwalk().map_err(failed)?;
    walk.set_sorting(Sort::TOPOLOGICAL | Sort::TIME).map_err(failed)?;
    walk.push(to).map_err(failed)?;
    if let Some(from) = from {
        walk.hide(from).map_err(failed)?;
    }
    let mut main_line = Some(to);
    let mut commits = Vec::new();
    for oid in walk {
        let oid = oid.map_err(failed)?;
        if commits.len() == MOST_COMMITS {
            return Ok((commits, false));
        }
        let commit = repo.find_commit(oid).map_err(failed)?;
        let message = commit.message_bytes();
        let message = String::from_utf8_lossy(&message[..message.len().min(MESSAGE_BYTES)]).into_owned();
        let on_main_line = main_line == Some(oid);
        if on_main_line {
            main_line = commit.parent_id(0).ok();
        }
        commits.push(Passed {
            commit: oid
                .to_string()
                .parse()
                .map_err(|err| GitError::Worker { stage: GitStep::Opening, cause: ErrorCause::new(err) })?,
            message,
            on_main_line,
        });
    }
    Ok((commits, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::git::fixture::Place;

    impl Place {
        fn files(&self, from: Option<Oid>, to: Oid, patterns: &[&str]) -> Vec<String> {
            let list = Patterns::new(patterns.iter().map(|one| (*one).to_owned()).collect()).unwrap();
            touched(&self.repo, (from, to), &[list]).unwrap().remove(0).files
        }
    }

    #[test]
    fn trees_are_compared_under_patterns_whatever_the_history() {
        let place = Place::new();
        let base = [("a/x.rs", "1"), ("a/docs/r.md", "1"), ("b/y", "1"), ("shared/z", "1")];
        let one = place.commit(&base, ("one", &[]));
        let two = place.commit(
            &[("a/x.rs", "1"), ("a/docs/r.md", "2"), ("b/y", "2"), ("shared/z", "1")],
            ("two", &[one]),
        );
        assert_eq!(place.files(Some(one), two, &["b/**"]), ["b/y"]);
        assert_eq!(place.files(Some(one), two, &["a/**", "!**/*.md"]), [""; 0]);
        assert_eq!(place.files(Some(one), two, &["a/**"]), ["a/docs/r.md"]);
        // An unrelated history with equal trees differs in nothing; without a former commit all files count.
        let forced = place.commit(&base, ("forced", &[]));
        assert_eq!(place.files(Some(one), forced, &["**"]), [""; 0]);
        assert_eq!(place.files(None, one, &["a/**"]).len(), 2);
        // A directory that became a file, and a removed file.
        let three = place.commit(&[("a", "now a file"), ("b/y", "1")], ("three", &[]));
        assert_eq!(place.files(Some(one), three, &["/a"]).len(), 3);
        assert_eq!(place.files(Some(one), three, &["shared/**"]), ["shared/z"]);
    }

    #[test]
    fn the_commits_between_are_told_with_their_messages_and_the_main_line() {
        let place = Place::new();
        let one = place.commit(&[("x", "1")], ("one", &[]));
        let side = place.commit(&[("x", "2")], ("side [skip cd]", &[one]));
        let two = place.commit(&[("x", "3")], ("two", &[one]));
        let merge = place.commit(&[("x", "4")], ("merge\n\nMigration: contract\n", &[two, side]));
        let (commits, all) = since(&place.repo, Some(one), merge).unwrap();
        let line: Vec<_> = commits
            .iter()
            .filter(|passed| passed.on_main_line)
            .map(|passed| passed.message.as_str())
            .collect();
        assert_eq!(line, ["merge\n\nMigration: contract\n", "two"]);
        assert!(all && commits.len() == 3, "{commits:?}");
        assert!(since(&place.repo, Some(merge), merge).unwrap().0.is_empty());
    }
}
