//! Which migrations a commit brings since another, by its files and by what its commits say, and whether it contains
//! the contract that set a barrier. Used inside the worker by `child`. Reads only the mirror, but for a live commit that
//! the mirror has lost.

use std::path::Path;

use git2::{Commit, Oid, Repository};

use super::{
    changes,
    error::{ErrorCause, GitError, GitStep},
    mirror::{FetchFailure, Mirror},
    text::one_line,
    transfer::TransferContext,
    wire::SchemaQuestion,
};
use crate::{
    config::{
        patterns::{Matcher, Patterns},
        settings::MigrationRules,
    },
    rules::{
        barrier::{Contract, ContractFile, Migration, SchemaNews},
        ids::CommitId,
    },
};

/// Files and commits of one contract that are kept, to recognise it in a rewritten history.
const MOST_KEPT: usize = 100;

/// Answers a question about a commit in the mirror.
pub fn news(
    context: &TransferContext,
    mirror: &Mirror,
    question: &SchemaQuestion,
) -> Result<SchemaNews, FetchFailure> {
    let repo = mirror.repo();
    let to = oid(&question.commit)?;
    let migration = match (&question.rules, &question.landmarks.live) {
        (Some(rules), Some(live)) => {
            let live = changes::known(context, mirror, live.as_str())?;
            migration(repo, (live, to), rules)?
        }
        (None, _) | (_, None) => None,
    };
    let barrier = question.landmarks.barrier.as_ref();
    let behind = barrier.map(|barrier| contains(repo, to, barrier)).transpose()?.unwrap_or(false);
    Ok(SchemaNews { migration, behind })
}

/// A `from` that is nowhere any more counts as empty: rather one contract too many than one that is missed.
fn migration(
    repo: &Repository,
    (from, to): (Option<Oid>, Oid),
    rules: &MigrationRules,
) -> Result<Option<Migration>, GitError> {
    let (paths, contract) = (matcher(rules.paths.as_ref())?, matcher(rules.contract.as_ref())?);
    let picks =
        |matcher: &Option<Matcher>, path: &Path| matcher.as_ref().is_some_and(|matcher| matcher.picks(path));
    let (mut migrating, mut contracting) = (Vec::new(), Vec::new());
    changes::differing(repo, (from, to), &mut |path, now| {
        // A release that no longer has a file does not run it.
        let Some(object) = now else { return };
        let name = || path.to_string_lossy().into_owned();
        if picks(&contract, path) {
            contracting.push(ContractFile { path: name(), object: object.to_string() });
        } else if picks(&paths, path) {
            migrating.push(name());
        }
    })?;
    let commits = saying_so(repo, (from, to))?;
    let contract = contract_of(repo, contracting, commits)?;
    let text = match &contract {
        Some(contract) => Some(contract.text.clone()),
        None => named(&migrating),
    };
    Ok(text.map(|text| Migration { text, contract }))
}

fn contract_of(
    repo: &Repository,
    mut files: Vec<ContractFile>,
    mut commits: Vec<Oid>,
) -> Result<Option<Contract>, GitError> {
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let by_commit = |oid: &Oid| -> Result<String, GitError> {
        let commit = repo.find_commit(*oid).map_err(|err| changes::unreadable(oid, &err))?;
        Ok(format!("commit {} \"{}\"", &oid.to_string()[..7], subject(&commit)))
    };
    let Some(cause) = named(&paths).map(Ok).or_else(|| commits.first().map(by_commit)).transpose()? else {
        return Ok(None);
    };
    files.truncate(MOST_KEPT);
    commits.truncate(MOST_KEPT);
    let commits = commits.into_iter().map(id).collect::<Result<_, _>>()?;
    Ok(Some(Contract { text: format!("contract: {cause}"), files, commits }))
}

/// `db/1.sql`, or `db/1.sql and 2 more`.
fn named(files: &[String]) -> Option<String> {
    let first = one_line(files.first()?.as_bytes());
    Some(match files.len() {
        1 => first,
        several => format!("{first} and {} more", several - 1),
    })
}

fn subject(commit: &Commit<'_>) -> String {
    let message = commit.message_bytes().trim_ascii_start();
    one_line(message.split(|c| *c == b'\n').next().unwrap_or_default())
}

/// The commits of `to` that `from` does not have and that say that they are a contract, newest first.
fn saying_so(repo: &Repository, (from, to): (Option<Oid>, Oid)) -> Result<Vec<Oid>, GitError> {
    let mut found = Vec::new();
    each_commit(repo, (from, to), |commit| {
        if says_contract(commit.message_bytes()) {
            found.push(commit.id());
        }
        true
    })?;
    Ok(found)
}

/// Visits the commits of `to` that `from` does not have, newest first, until `visit` answers false.
fn each_commit(
    repo: &Repository,
    (from, to): (Option<Oid>, Oid),
    mut visit: impl FnMut(&Commit<'_>) -> bool,
) -> Result<(), GitError> {
    let failed = |err: git2::Error| changes::unreadable(to, &err);
    let mut walk = repo.revwalk().map_err(failed)?;
    walk.push(to).map_err(failed)?;
    if let Some(from) = from {
        walk.hide(from).map_err(failed)?;
    }
    for oid in walk {
        if !visit(&repo.find_commit(oid.map_err(failed)?).map_err(failed)?) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a line below the subject is `Migration: contract`. Not only in the last paragraph, where git looks for
/// trailers: forges that squash a branch join whole messages.
fn says_contract(message: &[u8]) -> bool {
    let mut lines = message.trim_ascii_start().split(|c| *c == b'\n').skip(1);
    lines.any(|line| {
        let mut parts = line.splitn(2, |c| *c == b':').map(<[u8]>::trim_ascii);
        let is = |part: Option<&[u8]>, word: &str| {
            part.is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()))
        };
        is(parts.next(), "Migration") && is(parts.next(), "contract")
    })
}

/// Whether the commit contains the contract: it descends from the commit that set the barrier, or it has the contract's
/// files, or descends from the commits that say so; a rebase may have rewritten these.
fn contains(repo: &Repository, to: Oid, (commit, contract): &(CommitId, Contract)) -> Result<bool, GitError> {
    let by = oid(commit)?;
    if to == by || repo.graph_descendant_of(to, by).unwrap_or(false) {
        return Ok(true);
    }
    if !contract.files.is_empty() {
        let tree = changes::tree_of(repo, to)?;
        let has = |file: &ContractFile| {
            tree.get_path(Path::new(&file.path)).is_ok_and(|entry| entry.id().to_string() == file.object)
        };
        return Ok(contract.files.iter().all(has));
    }
    let mut rewritten = Vec::new();
    for commit in &contract.commits {
        let says_so = oid(commit)?;
        if to == says_so || repo.graph_descendant_of(to, says_so).unwrap_or(false) {
            continue;
        }
        match repo.find_commit(says_so) {
            Ok(commit) => rewritten.push(mark(&commit)),
            // The mirror has lost it, so it can't be recognised.
            Err(_) => return Ok(false),
        }
    }
    let former = repo.find_commit(by).ok().map(|commit| commit.id());
    if !rewritten.is_empty() {
        each_commit(repo, (former, to), |commit| {
            let mark = mark(commit);
            rewritten.retain(|missing| *missing != mark);
            !rewritten.is_empty()
        })?;
    }
    Ok(rewritten.is_empty() && !contract.commits.is_empty())
}

/// What a rebase keeps of a commit: its message and when it was written.
fn mark(commit: &Commit<'_>) -> (Vec<u8>, i64) {
    (commit.message_bytes().trim_ascii().to_vec(), commit.author().when().seconds())
}

fn matcher(patterns: Option<&Patterns>) -> Result<Option<Matcher>, GitError> {
    patterns.map(Patterns::matcher).transpose().map_err(|err| broken(&err))
}

fn oid(commit: &CommitId) -> Result<Oid, GitError> {
    Oid::from_str(commit.as_str()).map_err(|err| broken(&err.message()))
}

fn id(oid: Oid) -> Result<CommitId, GitError> {
    oid.to_string().parse().map_err(|err| broken(&err))
}

fn broken(cause: &dyn std::fmt::Display) -> GitError {
    GitError::Worker { stage: GitStep::Opening, cause: ErrorCause::new(cause) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{release::git::fixture::Place, rules::barrier::OnFailure};

    fn rules() -> MigrationRules {
        let patterns = |one: &str| Some(Patterns::new(vec![one.to_owned()]).unwrap());
        MigrationRules {
            paths: patterns("db/**"),
            contract: patterns("**/*_contract_*"),
            on_failure: OnFailure::Stay,
        }
    }

    fn found(place: &Place, from: Oid, to: Oid) -> Option<Migration> {
        migration(&place.repo, (Some(from), to), &rules()).unwrap()
    }

    fn barrier(place: &Place, from: Oid, to: Oid) -> (CommitId, Contract) {
        (id(to).unwrap(), found(place, from, to).and_then(|it| it.contract).expect("a contract"))
    }

    #[test]
    fn what_a_release_adds_or_changes_migrates_and_what_it_no_longer_has_does_not() {
        let place = Place::new();
        let one = place.commit(&[("a", "1"), ("db/1_add.sql", "1")], ("one", &[]));
        let two = place.commit(&[("a", "2"), ("db/1_add.sql", "1"), ("db/2_add.sql", "1")], ("two", &[one]));
        let three = place.commit(
            &[("a", "2"), ("db/1_contract_x.sql", "1"), ("db/2_contract_x.sql", "1")],
            ("three", &[two]),
        );
        let expand = found(&place, one, two).expect("a migration");
        assert_eq!((expand.text.as_str(), expand.contract), ("db/2_add.sql", None));
        let contract = found(&place, two, three).expect("a migration");
        assert_eq!(contract.text, "contract: db/1_contract_x.sql and 1 more");
        assert_eq!(contract.contract.map(|it| it.files.len()), Some(2));
        assert_eq!(found(&place, two, two), None);
        // On the way back the contract's files are gone, and others come back.
        assert!(found(&place, three, two).is_some_and(|it| it.contract.is_none()));
        let other = place.commit(&[("a", "3"), ("db/1_add.sql", "1")], ("other", &[one]));
        assert_eq!(found(&place, one, other), None);
        // A commit that is nowhere any more: rather one contract too many.
        let lost = migration(&place.repo, (None, three), &rules()).unwrap();
        assert!(lost.is_some_and(|it| it.contract.is_some()));
    }

    #[test]
    fn a_line_below_the_subject_of_any_commit_since_says_so() {
        for (message, says) in [
            ("x\n\nMigration: contract\n", true),
            ("x\n\nmigration :Contract \r\n\nReviewed-by: me", true),
            ("x\n\n* one\n\nMigration: contract\n\n* two\n", true),
            ("Migration: contract", false),
            ("x\n\nMigration: contracts", false),
            ("x\n\nWrite Migration: contract below", false),
            ("x\n\nMigration: expand", false),
        ] {
            assert_eq!(says_contract(message.as_bytes()), says, "{message:?}");
        }
        let place = Place::new();
        let one = place.commit(&[("a", "1")], ("one", &[]));
        let two = place.commit(&[("a", "1")], ("Drop it\n\nMigration: contract", &[one]));
        let three = place.commit(&[("a", "2")], ("three", &[two]));
        let (_, contract) = barrier(&place, one, three);
        assert_eq!(contract.text, format!("contract: commit {} \"Drop it\"", &two.to_string()[..7]));
        assert_eq!(found(&place, two, three), None);
    }

    #[test]
    fn a_commit_contains_the_contract_also_after_its_history_was_rewritten() {
        let place = Place::new();
        let (add, drop) = (("a", "1"), ("db/2_contract_x.sql", "1"));
        let one = place.commit(&[add], ("one", &[]));
        let two = place.commit(&[add, drop], ("two", &[one]));
        let by_file = barrier(&place, one, two);
        let reverted = place.commit(&[add], ("revert", &[two]));
        let squashed = place.commit(&[add, drop, ("b", "1")], ("squashed", &[]));
        let edited = place.commit(&[add, ("db/2_contract_x.sql", "0")], ("edited", &[one]));
        for (to, is) in [(two, true), (reverted, true), (squashed, true), (one, false), (edited, false)] {
            assert_eq!(contains(&place.repo, to, &by_file).unwrap(), is, "{to}");
        }
        let said = "Drop it\n\nMigration: contract";
        let saying = place.commit(&[add], (said, &[one]));
        let next = place.commit(&[("a", "3")], ("next", &[saying]));
        let by_line = barrier(&place, one, next);
        let base = place.commit(&[("a", "9")], ("base", &[one]));
        let rebased = place.commit(&[("a", "9"), ("b", "1")], (said, &[base]));
        for (to, is) in [(next, true), (saying, true), (rebased, true), (base, false), (one, false)] {
            assert_eq!(contains(&place.repo, to, &by_line).unwrap(), is, "{to}");
        }
    }
}
