//! One line of `bgd doctor`.

use crate::cli::terminal::{Look, Tone, one_line};

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

    /// `warn  disk: 1.2 GiB left at /var/lib/bgd  → make room`.
    pub fn line(&self, look: Look) -> String {
        let (word, tone) = match self.level {
            Level::Ok => ("ok  ", Tone::Good),
            Level::Warn => ("warn", Tone::Notice),
            Level::Fail => ("fail", Tone::Bad),
        };
        let hint = self.hint.as_deref().map(|hint| format!("  → {}", one_line(hint))).unwrap_or_default();
        format!("{}  {}{hint}", look.paint(tone, word), one_line(&self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_what_to_do() {
        assert_eq!(Finding::ok("user: alice").line(Look::PLAIN), "ok    user: alice");
        let finding = Finding::fail("shop: port 9501 is held by pid 7 (nc)", "end it\nor take another port");
        assert_eq!(
            finding.line(Look::PLAIN),
            "fail  shop: port 9501 is held by pid 7 (nc)  → end it or take another port"
        );
    }
}
