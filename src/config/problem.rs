//! A problem of the configuration as data: place, key, finding and hint. Recorded by the reading and checking files of
//! this folder, printed by `bgd check`, stored by a failed reload. Texts must never contain a secret: no value of
//! `env`, no token, no password of a URL.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use super::span::Span;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// The configuration can be used; the operator should check it.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One problem of the configuration. `Display` prints one or two lines, without a trailing newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file, as the caller named it.
    pub file: String,
    /// Line, counted from 1; `None` for a problem of the whole file.
    pub line: Option<u32>,
    /// Column in characters, counted from 1; only for syntax errors.
    pub column: Option<u32>,
    /// The dotted path of the key, such as `app.shop.health.timeout`.
    pub key: Option<String>,
    /// The finding.
    pub what: String,
    /// Advice for the operator.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of a whole file.
    pub fn of_file(file: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.display().to_string(),
            line: None,
            column: None,
            key: None,
            what: what.into(),
            hint: Some(hint.into()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// All errors of a configuration at once, in the order of files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The first error on one line, and the number of further ones.
    pub fn brief(&self) -> String {
        let first = self.0.first().map(ToString::to_string).unwrap_or_default();
        let first = first.lines().next().unwrap_or_default().trim_start_matches("error: ");
        match self.0.len() {
            0 | 1 => first.to_owned(),
            all => format!("{first}, and {} more", all - 1),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Notes {
    /// Records an error.
    pub fn error(&mut self, at: &Span, what: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(problem(at, Severity::Error, what.into(), hint.into()));
    }

    /// Records a warning.
    pub fn warn(&mut self, at: &Span, what: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(problem(at, Severity::Warning, what.into(), hint.into()));
    }
}

fn problem(at: &Span, severity: Severity, what: String, hint: String) -> Problem {
    Problem {
        severity,
        file: at.file.to_string(),
        line: Some(at.line),
        column: None,
        key: (!at.key.is_empty()).then(|| at.key.clone()),
        what,
        hint: Some(hint),
    }
}
