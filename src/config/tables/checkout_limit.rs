//! `checkout_limit = { … }`: the limit of files and bytes of one commit.

use super::Table as _;
use crate::{
    config::{amount, judge::Judge, read::Given, span::Span},
    rules::limits::CheckoutLimit,
};

table! {
    /// `[app.NAME.checkout_limit]`.
    RawCheckoutLimit { files: i64, size: String }
}

const DEFAULT: CheckoutLimit = CheckoutLimit { files: 1_000_000, bytes: 20 << 30 };

impl Judge<'_> {
    /// Checks the limit of files and bytes of a commit of the app at `app`.
    pub(super) fn checkout_limit(&mut self, given: Given<RawCheckoutLimit>, app: &Span) -> CheckoutLimit {
        let raw = RawCheckoutLimit::or_empty(given, app.absent("checkout_limit"));
        let some = |number: i64| u64::try_from(number).ok().filter(|files| *files > 0);
        let hint = "files, directories and symlinks of one commit, such as 1_000_000";
        let files = self.number(&raw.files, some, "must be 1 or more", hint);
        let some = |text: &str| amount::bytes(text).filter(|bytes| *bytes > 0);
        let hint = "a whole number and K, M, G or T, such as \"20G\"";
        let bytes = self.text(&raw.size, some, "not an amount of bytes", hint);
        CheckoutLimit { files: files.unwrap_or(DEFAULT.files), bytes: bytes.unwrap_or(DEFAULT.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("checkout_limit.files = 0", "4 app.shop.checkout_limit.files", "must be 1 or more: 0"),
        ("checkout_limit.size = \"20\"", "4 app.shop.checkout_limit.size", "not an amount of bytes: \"20\""),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
