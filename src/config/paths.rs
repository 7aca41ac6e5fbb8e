//! Paths on this host (absolute, or relative to the main file's directory) and in a release (always inside it).

use std::path::{Component, Path, PathBuf};

use super::{
    judge::{Holds, Judge, NamedFile},
    read::{Given, Written},
    span::Span,
};

const NO_TILDE: &str = "`~` is not expanded";
const INSIDE: &str = "write a path relative to the release, without `..`";

impl Judge<'_> {
    /// A path on this host; `None` if it is absent or wrong.
    pub(super) fn host_path(&mut self, given: &Given<String>) -> Option<PathBuf> {
        let written = given.value()?;
        self.filled(written, "write a path, or leave the key out").then_some(())?;
        self.resolve(&written.value, &written.at)
    }

    /// A file on this host, which is recorded for a check on disk.
    pub(super) fn host_file(&mut self, given: &Given<String>, holds: Holds) -> Option<PathBuf> {
        let path = self.host_path(given)?;
        let at = given.span()?;
        if given.value().is_some_and(|written| written.value.ends_with('/')) {
            self.notes.error(at, "is a directory, not a file", "name the file itself");
            return None;
        }
        self.named_files.push(NamedFile { path: path.clone(), at: at.clone(), holds });
        Some(path)
    }

    /// A file that bgd writes.
    pub(super) fn written_file(&mut self, given: &Given<String>) -> Option<PathBuf> {
        let path = self.host_path(given)?;
        let written = given.value()?;
        if written.value.ends_with('/') || path.file_name().is_none() {
            self.notes.error(&written.at, "is a directory, not a file", "name the file that bgd shall write");
            return None;
        }
        Some(path)
    }

    /// Makes a path absolute. Keeps `..`, because its meaning depends on symlinks.
    pub(super) fn resolve(&mut self, text: &str, at: &Span) -> Option<PathBuf> {
        if text.starts_with('~') {
            self.notes.error(at, NO_TILDE, "write the path in full, such as /home/deploy/…");
            return None;
        }
        let joined = self.base.join(text);
        Some(joined.components().filter(|part| *part != Component::CurDir).collect())
    }

    /// A file in the release, without `./`.
    pub(super) fn release_file(&mut self, written: &Written<String>) -> Option<PathBuf> {
        let path = self.release_path(written)?;
        if written.value.ends_with('/') {
            self.notes.error(&written.at, "is a directory, not a file", "name the file itself");
            return None;
        }
        Some(path)
    }

    /// A directory in the release, without `./`; not the release itself.
    pub(super) fn release_dir(&mut self, written: &Written<String>) -> Option<PathBuf> {
        Some(self.release_path(written)?.components().collect())
    }

    /// A path in the release, without `./`; keeps a trailing `/`, which means a directory.
    fn release_path(&mut self, written: &Written<String>) -> Option<PathBuf> {
        let text = &written.value;
        self.filled(written, INSIDE).then_some(())?;
        let mut clean: Vec<&str> = Vec::new();
        let mut problem = None;
        for part in Path::new(text).components() {
            match part {
                Component::Normal(name) => clean.extend(name.to_str()),
                Component::CurDir => {}
                Component::ParentDir => problem = problem.or(Some("leaves the release")),
                Component::RootDir | Component::Prefix(_) => problem = problem.or(Some("is absolute")),
            }
        }
        if text.starts_with('~') {
            problem = Some(NO_TILDE);
        } else if problem.is_none() && clean.is_empty() {
            problem = Some("is the whole release");
        }
        if let Some(what) = problem {
            self.notes.error(&written.at, format!("{what}: {text:?}"), INSIDE);
            return None;
        }
        if text.contains('*') {
            let what = format!("is one path of that name, not a pattern: {text:?}");
            self.notes.warn(&written.at, what, "name each path; a directory stands for all that is in it");
        }
        let slash = if text.ends_with('/') { "/" } else { "" };
        Some(PathBuf::from(clean.join("/") + slash))
    }

    /// The paths in the release of one list.
    pub(super) fn release_paths(&mut self, given: &Given<Vec<Written<String>>>) -> Vec<Written<PathBuf>> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        all.iter()
            .filter_map(|one| self.release_path(one).map(|value| Written { value, at: one.at.clone() }))
            .collect()
    }

    /// Notes every path that equals, contains, or is inside an earlier one.
    pub(super) fn refuse_overlaps(&mut self, paths: &[Written<PathBuf>], what_then: &str) {
        for (index, later) in paths.iter().enumerate() {
            let overlaps = |earlier: &&Written<PathBuf>| {
                later.value.starts_with(&earlier.value) || earlier.value.starts_with(&later.value)
            };
            if let Some(earlier) = paths[..index].iter().find(overlaps) {
                let what = format!("{:?} overlaps {:?} of {}", later.value, earlier.value, earlier.at);
                self.notes.error(&later.at, what, what_then);
            }
        }
    }
}
