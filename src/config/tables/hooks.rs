//! `[app.NAME.hooks]`: commands of the app at points of a deploy.

use std::time::Duration;

use crate::config::judge::Judge;

table! {
    /// `[app.NAME.hooks]`.
    RawHooks { before_start: String, after_live: String, after_failed: String, timeout: Duration }
}

/// Commands of the app at points of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Once per deploy, before the instance starts; failure ends the deploy.
    pub before_start: Option<String>,
    /// After the traffic moved; failure is reported only.
    pub after_live: Option<String>,
    /// After a failed deploy; failure is reported only.
    pub after_failed: Option<String>,
    /// Time limit of each hook.
    pub timeout: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(5 * 60);

impl Judge<'_> {
    pub(super) fn hooks(&mut self, raw: &RawHooks) -> Hooks {
        Hooks {
            before_start: self.command(&raw.before_start),
            after_live: self.command(&raw.after_live),
            after_failed: self.command(&raw.after_failed),
            timeout: self.positive(&raw.timeout, TIMEOUT),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("hooks.before_start = [\"a\"]", "4 app.shop.hooks.before_start", "expected a text, found a list"),
        ("hooks.after_live = \"\"", "4 app.shop.hooks.after_live", "is empty"),
        ("hooks.timeout = \"0s\"", "4 app.shop.hooks.timeout", "longer than zero"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
