//! One line of `bgd doctor`.

use crate::cli::terminal::{StreamStyle, Tone, one_line};
pub use crate::rules::finding::{Finding, Level};

/// `warn  disk: 1.2 GiB left at /var/lib/bgd  → make room`.
pub fn line(finding: &Finding, look: StreamStyle) -> String {
    let (word, tone) = match finding.level {
        Level::Ok => ("ok  ", Tone::Good),
        Level::Warn => ("warn", Tone::Notice),
        Level::Fail => ("fail", Tone::Bad),
    };
    let hint = finding.hint.as_deref().map(|hint| format!("  → {}", one_line(hint))).unwrap_or_default();
    format!("{}  {}{hint}", look.paint(tone, word), one_line(&finding.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_what_to_do() {
        assert_eq!(line(&Finding::ok("user: alice"), StreamStyle::PLAIN), "ok    user: alice");
        let finding = Finding::fail("shop: port 9501 is held by pid 7 (nc)", "end it\nor take another port");
        assert_eq!(
            line(&finding, StreamStyle::PLAIN),
            "fail  shop: port 9501 is held by pid 7 (nc)  → end it or take another port"
        );
    }
}
