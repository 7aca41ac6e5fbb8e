//! `[app.NAME.preview]`: how a request selects the release of a canary.

use std::path::PathBuf;

use super::canary::{CanarySettings, RawCanary, shorten};
use crate::{
    config::{
        judge::{Holds, Judge},
        read::{Given, Written},
    },
    rules::{canary::Share, sticky::Sticky},
};

table! {
    /// `[app.NAME.preview]`.
    RawPreview { header: String, cookie: String, secret_file: String }
}

/// How a request selects the color that is not live: by header or cookie; either is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewSettings {
    /// A header with this name: letters, digits and `-`.
    pub header: String,
    /// A cookie with this name: letters, digits and `_`; not the name of [`Sticky::Cookie`].
    pub cookie: String,
    /// A file whose first line is the required value of header or cookie.
    pub secret_file: PathBuf,
}

const HEADER: &str = "X-Bgd-Preview";
const COOKIE: &str = "bgd_preview";

/// Headers that HTTP or a proxy on the way uses.
const TAKEN: [&str; 14] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
];

impl Judge<'_> {
    /// Checks the preview, which needs a canary.
    pub(super) fn preview(
        &mut self,
        given: Given<RawPreview>,
        canary: &Given<RawCanary>,
        judged: &CanarySettings,
    ) -> Option<PreviewSettings> {
        let none = Given::Absent;
        let steps = canary.value().map_or(&none, |written| &written.value.steps);
        if given.span().is_none() {
            self.nobody_can_look(steps, judged);
        }
        let raw = given.into_value()?.value;
        if canary.span().is_none() {
            let hint = "add canary = { steps = [\"0%\"] }: the release waits for `bgd promote`, and a preview shows it";
            self.notes.error(&raw.at, "has no effect without a step of a canary", hint);
        }
        if raw.secret_file.span().is_none() {
            let hint = "name a file whose first line is 16 to 200 letters, digits, `-` and `_`";
            self.notes.error(&raw.at.absent("secret_file"), "is required", hint);
        }
        let header = self.header(&raw.header).unwrap_or_else(|| HEADER.to_owned());
        let cookie = self.cookie(&raw.cookie).unwrap_or_else(|| COOKIE.to_owned());
        if let Sticky::Cookie(sticky) = &judged.sticky
            && sticky.eq_ignore_ascii_case(&cookie)
        {
            let at = raw.cookie.span().cloned().unwrap_or_else(|| raw.at.absent("cookie"));
            let what = format!("is the cookie of canary.sticky as well: {cookie}");
            self.notes.error(&at, what, "give one of them another name");
        }
        let secret_file = self.host_file(&raw.secret_file, Holds::Secret)?;
        Some(PreviewSettings { header, cookie, secret_file })
    }

    fn nobody_can_look(&mut self, steps: &Given<Vec<Written<String>>>, judged: &CanarySettings) {
        let first = steps.value().and_then(|list| list.value.first());
        if let Some(first) = first
            && judged.steps.first().is_some_and(|step| step.share == Share::NONE)
        {
            let what =
                "nobody can look at the release in this step: it has no traffic, and there is no preview";
            self.notes.warn(&first.at, what, "add the table `preview`, or begin with a share such as \"1%\"");
        }
    }

    fn header(&mut self, given: &Given<String>) -> Option<String> {
        let Written { value, at } = given.value()?;
        // Not `_`: nginx drops such headers.
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        let hint = "1 to 64 letters, digits and `-`, such as \"X-Bgd-Preview\"";
        if value.is_empty() || value.len() > 64 || !value.bytes().all(fits) {
            self.notes.error(at, format!("is not a header name here: {:?}", shorten(value)), hint);
            return None;
        }
        if TAKEN.iter().any(|taken| value.eq_ignore_ascii_case(taken)) {
            self.notes.error(at, format!("is a header with another use: {value}"), hint);
            return None;
        }
        Some(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("preview.secret_file = \"s\"", "4 app.shop.preview", "has no effect without a step of a canary"),
        ("canary.steps = [\"0%\"]\npreview = {}", "5 app.shop.preview.secret_file", "is required"),
        (
            "canary.steps = [\"0%\"]\npreview.secret_file = \"~/s\"",
            "5 app.shop.preview.secret_file",
            "`~` is not expanded",
        ),
        (
            "canary.steps = [\"0%\"]\npreview = { secret_file = \"s\", header = \"X_Look\" }",
            "5 app.shop.preview.header",
            "is not a header name here: \"X_Look\"",
        ),
        (
            "canary.steps = [\"0%\"]\npreview = { secret_file = \"s\", header = \"Host\" }",
            "5 app.shop.preview.header",
            "is a header with another use: Host",
        ),
        (
            "canary.steps = [\"0%\"]\npreview = { secret_file = \"s\", cookie = \"\" }",
            "5 app.shop.preview.cookie",
            "is not a cookie name here",
        ),
        (
            "canary = { steps = [\"5%\"], sticky = \"cookie\", cookie = \"BGD_preview\" }\npreview.secret_file = \"s\"",
            "5 app.shop.preview.cookie",
            "is the cookie of canary.sticky as well: bgd_preview",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
