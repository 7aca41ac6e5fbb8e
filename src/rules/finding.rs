//! What a look at one thing on this host found, for people. Pure data; printed by `bgd doctor`.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and somebody should look.
    Warn,
    /// Deploys or flips will fail.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at, and what is the case.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), hint: None }
    }

    /// Works, and somebody should look.
    pub fn warn(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), hint: Some(hint.into()) }
    }

    /// Deploys or flips will fail.
    pub fn fail(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), hint: Some(hint.into()) }
    }
}
