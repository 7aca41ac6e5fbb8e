//! The loader as its users see it.

pub(in crate::config) mod canary;
mod contract;
mod errors;
mod files;
mod init;
mod keys;

use std::{path::PathBuf, time::Duration};

use super::{
    parse::{Loaded, SourceFile, Surroundings, parse},
    problem::Problems,
    settings::AppSettings,
};

pub(in crate::config) const SECS: fn(u64) -> Duration = Duration::from_secs;

/// What a test's host contributes.
pub(in crate::config) fn surroundings() -> Surroundings {
    Surroundings {
        base: PathBuf::from("/etc/bgd"),
        state_dir: PathBuf::from("/var/lib/bgd"),
        runtime_dir: Some(PathBuf::from("/run/bgd")),
    }
}

pub(in crate::config) fn source(file: &str, text: &str) -> SourceFile {
    SourceFile { file: PathBuf::from(file), text: text.to_owned() }
}

pub(in crate::config) fn load(text: &str) -> Result<Loaded, Problems> {
    parse(&source("bgd.toml", text), &[], &surroundings())
}

/// The errors of a text, each as `line key: what`.
pub(in crate::config) fn errors(text: &str) -> Vec<String> {
    let problems = load(text).expect_err("there should be a problem").0;
    assert!(problems.iter().all(|problem| problem.hint.as_deref().is_some_and(|hint| !hint.is_empty())));
    problems
        .iter()
        .map(|p| format!("{} {}: {}", p.line.unwrap_or(0), p.key.as_deref().unwrap_or("-"), p.what))
        .collect()
}

/// Lines after the three of [`with`], the one error they make as `line key`, and a part of its text.
pub(in crate::config) type Wrong = (&'static str, &'static str, &'static str);

pub(in crate::config) fn each_is_one_error_at_its_place(all: &[Wrong]) {
    for (lines, place, what) in all {
        let found = errors(&with(lines));
        assert_eq!(found.len(), 1, "{lines}\n{found:#?}");
        assert!(found[0].starts_with(&format!("{place}: ")), "{lines}\n{found:#?}");
        assert!(found[0].contains(what), "{lines}\n{found:#?}");
    }
}

/// What is said of a text that loads, each as `key: what`.
pub(in crate::config) fn warnings(text: &str) -> Vec<String> {
    let loaded = load(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let shown = loaded.warnings.into_iter().map(|w| format!("{}: {}", w.key.unwrap_or_default(), w.what));
    shown.collect()
}

/// The app `shop` of a text that loads.
pub(in crate::config) fn shop(text: &str) -> AppSettings {
    let loaded = load(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    loaded.settings.apps.values().find(|app| app.name.as_str() == "shop").expect("shop").as_ref().clone()
}

/// An app with what is required, in three lines, and `more` after it.
pub(in crate::config) fn with(more: &str) -> String {
    format!("[app.shop]\nremote = \"https://git.example.com/shop.git\"\nstart = \"run\"\n{more}")
}
