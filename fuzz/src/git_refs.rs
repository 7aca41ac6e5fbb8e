//! The tip of a branch read from a repository's files, without git: the same commit that libgit2 reads there, or
//! no commit.

use std::{collections::BTreeSet, fs, path::Path};

use bgd::release::git::local_head;

/// Between the parts of the input.
const CUT: &[u8] = b"\n--\n";

/// What stands in `refs/heads/main`, in `packed-refs` and in `refs/heads/other`; an empty part makes no file.
pub fn git_refs(data: &[u8]) {
    let parts = cut(data);
    if parts.get(1).is_some_and(|packed| names_twice(packed)) {
        return;
    }
    let mut parts = parts.into_iter();
    let repository = tempfile::tempdir().expect("a directory for temporary files");
    let dir = repository.path();
    for made in ["refs/heads", "objects"] {
        fs::create_dir_all(dir.join(made)).expect("a directory can be made");
    }
    fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").expect("a file can be written");
    for file in ["refs/heads/main", "packed-refs", "refs/heads/other"] {
        match parts.next() {
            Some(text) if !text.is_empty() => fs::write(dir.join(file), text).expect("a file can be written"),
            _ => {}
        }
    }
    if let (Ok(Some(ours)), Some(git)) = (local_head(dir, "main"), as_git_reads(dir)) {
        assert_eq!(ours.as_str(), git);
    }
}

fn cut(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(CUT.len()).position(|window| window == CUT) {
        parts.push(&rest[..at]);
        rest = &rest[at + CUT.len()..];
    }
    parts.push(rest);
    parts
}

/// git writes each ref once; which of two counts is nobody's promise.
fn names_twice(packed: &[u8]) -> bool {
    let mut seen = BTreeSet::new();
    let mut names = packed.split(|c| *c == b'\n').filter_map(|line| line.splitn(2, |c| *c == b' ').nth(1));
    !names.all(|name| seen.insert(name.trim_ascii()))
}

fn as_git_reads(dir: &Path) -> Option<String> {
    let repository = git2::Repository::open_bare(dir).ok()?;
    let branch = repository.find_reference("refs/heads/main").ok()?.resolve().ok()?;
    Some(branch.target()?.to_string())
}
