//! Literal replacements in files of the release, for apps that keep their port in a file of the repository.
//! Called by `prepare`. Works on bytes, keeps mode and owner, follows no symlink (a linked shared file would
//! change for both colors).

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read, Seek, Write},
};

use crate::{
    config::{settings::Rewrite, template::Values},
    release::{
        BuildError,
        error::failed,
        tree::{Dir, split},
    },
};

/// Replaces every occurrence of `find`.
pub(super) fn apply(rewrite: &Rewrite, values: &Values, release: &Dir) -> Result<(), BuildError> {
    let (parent, name) = split(&rewrite.file)?;
    let missing = || failed("rewrite", &rewrite.file)(ErrorKind::NotFound.into());
    let dir = release.descend(&parent)?.ok_or_else(missing)?;
    let shown = dir.shown(&name);
    let mut file = dir.open_file(&name, OpenOptions::new().read(true).write(true))?;
    let mut old = Vec::new();
    file.read_to_end(&mut old).map_err(failed("read", &shown))?;
    let new = replaced(&old, rewrite.find.as_bytes(), values.expand(&rewrite.with).as_bytes()).ok_or_else(
        || BuildError::RewriteNotFound { file: rewrite.file.clone(), find: rewrite.find.clone() },
    )?;
    // In place, so that mode, owner and times of creation stay: nothing runs from this release yet.
    file.rewind().map_err(failed("write", &shown))?;
    file.write_all(&new).map_err(failed("write", &shown))?;
    file.set_len(new.len() as u64).map_err(failed("write", &shown))
}

/// The text with its replacements; `None` if there is nothing to replace.
fn replaced(text: &[u8], find: &[u8], with: &[u8]) -> Option<Vec<u8>> {
    let first = *find.first()?;
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with(find) {
            out.extend_from_slice(with);
            rest = &rest[find.len()..];
            found = true;
        } else {
            out.push(first);
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_is_replaced_and_other_bytes_stay() {
        assert_eq!(replaced(b"\xff9501 99501\0", b"9501", b"9502").unwrap(), b"\xff9502 99502\0");
        assert_eq!(replaced(b"aaaab", b"aab", b"x").unwrap(), b"aax");
        assert_eq!(replaced(b"aa", b"a", b"aa").unwrap(), b"aaaa");
        assert_eq!(replaced(b"abc", b"x", b"y"), None);
        assert_eq!(replaced(b"abc", b"", b"y"), None);
    }
}
