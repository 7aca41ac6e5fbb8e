//! `assets = { dir, url, keep }`: files of former releases that browsers still ask for.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use toml::de::DeValue;

use crate::config::{
    duration,
    judge::Judge,
    read::{FromToml, Given, Item, Reader, Written},
    span::Span,
};

table! {
    /// `[app.NAME.assets]`.
    RawAssets { dir: String, url: String, keep: RawKept }
}

/// `keep` as written.
#[derive(Debug, Clone)]
pub(in crate::config) enum RawKept {
    Number(i64),
    Age(Duration),
}

impl FromToml for RawKept {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Integer(_) => FromToml::from_toml(item, at, reader).map(Self::Number),
            DeValue::String(_) => FromToml::from_toml(item, at, reader).map(Self::Age),
            _ => reader.wrong_type(at, "a number of releases, or an age such as \"7d\"", item),
        }
    }
}

/// The files of former releases that a front still serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// Their directory, relative to the release.
    pub dir: PathBuf,
    /// The path under which visitors ask for that directory; begins and ends with `/`.
    pub url: String,
    /// How long a release's files stay after it was live.
    pub keep: AssetsKept,
}

/// How long the files of a former release stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssetsKept {
    /// Until so many releases were live after it and are not any more.
    Releases(NonZeroUsize),
    /// So long after it was live.
    For(Duration),
}

const URL: &str = "/assets/";
const KEEP: AssetsKept = AssetsKept::Releases(NonZeroUsize::new(3).unwrap());

impl Judge<'_> {
    /// Checks `assets`.
    pub(super) fn assets(&mut self, given: &Given<RawAssets>) -> Option<Assets> {
        let raw = &given.value()?.value;
        let dir = match &raw.dir {
            Given::Value(dir) => self.release_dir(dir),
            Given::Unreadable(_) => None,
            Given::Absent => {
                let hint = "the directory of the release with files whose names change with their content";
                self.notes.error(&raw.at.absent("dir"), "is required", hint);
                None
            }
        };
        let what = "is no path of URLs";
        let hint = "begin and end with `/`, such as \"/assets/\"; letters, digits, `-`, `_`, `.` and `/`";
        let url = self.text(&raw.url, |text| is_prefix(text).then(|| text.to_owned()), what, hint);
        Some(Assets {
            dir: dir.unwrap_or_default(),
            url: url.unwrap_or_else(|| URL.to_owned()),
            keep: self.kept(&raw.keep).unwrap_or(KEEP),
        })
    }

    fn kept(&mut self, given: &Given<RawKept>) -> Option<AssetsKept> {
        let Written { value, at } = given.value()?;
        let kept = match value {
            RawKept::Number(number) => {
                let number = usize::try_from(*number).ok().and_then(NonZeroUsize::new);
                number.map(AssetsKept::Releases)
            }
            RawKept::Age(age) => (!age.is_zero()).then_some(AssetsKept::For(*age)),
        };
        if kept.is_none() {
            let shown = match value {
                RawKept::Number(number) => number.to_string(),
                RawKept::Age(age) => duration::exact(*age),
            };
            let hint = "a number of former releases such as 3, or an age such as \"7d\"; without any, leave `assets` out";
            self.notes.error(at, format!("must be 1 or more, or longer than zero: {shown}"), hint);
        }
        kept
    }
}

/// Whether every front can compare the text with the beginning of a request's path as it is.
fn is_prefix(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let parts = || text.split('/').skip(1);
    let odd = |part: &str| part.is_empty() || part.starts_with('.');
    text.len() > 1
        && text.starts_with('/')
        && text.ends_with('/')
        && text.chars().all(plain)
        && !parts().take(parts().count() - 1).any(odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("assets = {}", "4 app.shop.assets.dir", "is required"),
        ("assets.dir = \".\"", "4 app.shop.assets.dir", "is the whole release"),
        (
            "assets = { dir = \"a\", url = \"assets\" }",
            "4 app.shop.assets.url",
            "is no path of URLs: \"assets\"",
        ),
        ("assets = { dir = \"a\", url = \"/\" }", "4 app.shop.assets.url", "is no path of URLs"),
        ("assets = { dir = \"a\", url = \"/a/../b/\" }", "4 app.shop.assets.url", "is no path of URLs"),
        ("assets = { dir = \"a\", url = \"/a b/\" }", "4 app.shop.assets.url", "is no path of URLs"),
        ("assets = { dir = \"a\", keep = 0 }", "4 app.shop.assets.keep", "1 or more, or longer than zero: 0"),
        ("assets = { dir = \"a\", keep = \"0s\" }", "4 app.shop.assets.keep", "longer than zero: 0s"),
        ("assets = { dir = \"a\", keep = true }", "4 app.shop.assets.keep", "a number of releases"),
        ("assets = { dir = \"a\", keep = \"often\" }", "4 app.shop.assets.keep", "is not a duration"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn assets_are_kept_by_number_or_by_age() {
        let kept =
            |keep: &str| shop(&with(&format!("assets = {{ dir = \"dist/assets/\"{keep} }}"))).assets.unwrap();
        let usual = kept("");
        assert_eq!((usual.dir, usual.url.as_str()), (PathBuf::from("dist/assets"), "/assets/"));
        assert_eq!(usual.keep, AssetsKept::Releases(NonZeroUsize::new(3).unwrap()));
        assert_eq!(kept(", keep = \"7d\"").keep, AssetsKept::For(Duration::from_secs(7 * 86_400)));
    }
}
