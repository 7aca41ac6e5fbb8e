//! File patterns as in .gitignore, relative to the root of the repository: which changed files concern an app. Read by
//! the tables that have such a list, applied by the git worker to the files that differ between two commits.

use std::{fmt, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};

use super::{
    judge::Judge,
    read::{Given, Written},
};

/// A list of patterns. The last pattern that matches a file decides; one that begins with `!` takes the file out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patterns(Vec<String>);

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?}: {cause}")]
pub struct PatternError {
    pub pattern: String,
    pub cause: String,
}

impl Patterns {
    /// # Errors
    /// When a pattern is not valid.
    pub fn new(patterns: Vec<String>) -> Result<Self, PatternError> {
        let patterns = Self(patterns);
        patterns.matcher().map(|_| patterns)
    }

    /// # Errors
    /// When a pattern is not valid; never for a list that [`Self::new`] made.
    pub fn matcher(&self) -> Result<Matcher, PatternError> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in &self.0 {
            let failed =
                |err: ignore::Error| PatternError { pattern: pattern.clone(), cause: err.to_string() };
            builder.add_line(None, pattern).map_err(failed)?;
        }
        let failed = |err: ignore::Error| PatternError { pattern: self.to_string(), cause: err.to_string() };
        builder.build().map(Matcher).map_err(failed)
    }

    /// Each pattern, as written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Separated by commas, for people.
impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Patterns that are ready to be applied.
#[derive(Debug)]
pub struct Matcher(Gitignore);

impl Matcher {
    /// Whether the patterns pick a file, by its path from the root of the repository.
    pub fn picks(&self, file: &Path) -> bool {
        self.0.matched_path_or_any_parents(file, false).is_ignore()
    }
}

impl Judge<'_> {
    /// A list of patterns; `None` if it is absent or wrong.
    pub(in crate::config) fn patterns(&mut self, given: &Given<Vec<Written<String>>>) -> Option<Patterns> {
        let written = given.value()?;
        let sound: Vec<bool> = written.value.iter().map(|one| self.pattern(one)).collect();
        if !written.value.iter().any(|one| !one.value.trim_start().starts_with('!')) {
            let hint = "begin with a pattern that takes files in; `!` only takes some of them out again";
            self.notes.error(&written.at, "can't match any file", hint);
            return None;
        }
        let texts = written.value.iter().map(|one| one.value.clone()).collect();
        Patterns::new(texts).ok().filter(|_| sound.into_iter().all(|sound| sound))
    }

    fn pattern(&mut self, one: &Written<String>) -> bool {
        let text = one.value.as_str();
        let bare = text.trim().trim_start_matches('!');
        let refused = if bare.is_empty() {
            Some(("is empty".to_owned(), "write a pattern as in .gitignore: \"services/api/**\""))
        } else if bare.starts_with('#') {
            Some((
                format!("is a comment, as in .gitignore: {text:?}"),
                "write `\\#` for a file with this name",
            ))
        } else if bare.split('/').any(|part| part == "." || part == "..") {
            let hint = "patterns begin at the root of the repository, without `.` and `..`";
            Some((format!("can't match any file: {text:?}"), hint))
        } else {
            let invalid = Patterns::new(vec![text.to_owned()]).err();
            invalid.map(|err| (format!("is not a pattern: {err}"), "a pattern is one line of a .gitignore"))
        };
        if let Some((what, hint)) = &refused {
            self.notes.error(&one.at, what, *hint);
        }
        if has_comma(bare) {
            let what = format!("is one pattern with a comma in it: {text:?}");
            self.notes.warn(&one.at, what, "write several patterns as several texts: [\"a/**\", \"b/**\"]");
        }
        refused.is_none()
    }
}

/// Whether a comma stands outside of braces, where it is an ordinary letter.
fn has_comma(pattern: &str) -> bool {
    let mut depth = 0_u32;
    pattern.chars().any(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(patterns: &[&str], file: &str) -> bool {
        let patterns = Patterns::new(patterns.iter().map(|one| (*one).to_owned()).collect()).unwrap();
        patterns.matcher().unwrap().picks(Path::new(file))
    }

    #[test]
    fn patterns_pick_files_as_in_gitignore() {
        for (patterns, file, picked) in [
            (&["/a/**"][..], "a/x/y", true),
            (&["a/**"], "a/x", true),
            (&["a/**"], "b/a/x", false),
            (&["a"], "a/x/y", true),
            (&["a"], "b/a/x", true),
            (&["/a"], "b/a", false),
            (&["a/"], "a", false),
            (&["*.php"], "src/deep/x.php", true),
            (&["src/*.php"], "src/deep/x.php", false),
            (&["a/**", "!*.md"], "a/docs/x.md", false),
            (&["a/**", "!**/*.md"], "a/x.rs", true),
            (&["!*.md", "a/**"], "a/x.md", true),
            (&["a/**,b/**"], "a/x", false),
            (&["a/**,b/**"], "b/x", false),
            (&["**/*_contract_*"], "database/migrations/1_contract_drop.php", true),
        ] {
            assert_eq!(picks(patterns, file), picked, "{patterns:?} {file}");
        }
        assert!(Patterns::new(vec!["a{b".to_owned()]).is_err());
    }
}
