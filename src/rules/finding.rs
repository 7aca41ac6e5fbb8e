//! Findings of checks on this host, for people. Pure data; `bgd doctor` prints them.

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// Deploys or flips will fail.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// The subject of the check and its state.
    pub what: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding that all is well.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), hint: None }
    }

    /// A finding that somebody should look at.
    pub fn warn(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), hint: Some(hint.into()) }
    }

    /// A finding that makes deploys or flips fail.
    pub fn fail(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), hint: Some(hint.into()) }
    }
}
