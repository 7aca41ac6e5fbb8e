//! Every key that a table has stands in what `bgd init` writes and in what fuzzing begins with.

use std::{collections::BTreeSet, fs, path::Path};

use toml::de::{DeTable, DeValue};

use crate::config::{
    init::TEXT,
    tables::{Table as _, daemon::RawDaemon, of_an_app},
    tests::load,
};

/// The keys of all tables: `health.path`; those of the daemon with their table: `daemon.state_dir`.
pub(super) fn all() -> BTreeSet<String> {
    let of = |(table, keys): (&str, Vec<&'static str>)| {
        let table = if table.is_empty() { String::new() } else { format!("{table}.") };
        keys.into_iter().map(move |key| format!("{table}{key}"))
    };
    of_an_app().into_iter().chain([("daemon", RawDaemon::keys())]).flat_map(of).collect()
}

/// The keys that a text writes, even a wrong one.
fn written(text: &str) -> BTreeSet<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut found = BTreeSet::new();
    for (name, item) in root.get_ref() {
        match (&**name.get_ref(), item.get_ref()) {
            ("app", DeValue::Table(apps)) => {
                apps.values().for_each(|app| walk("", app.get_ref(), &mut found))
            }
            ("daemon", daemon) => walk("daemon.", daemon, &mut found),
            _ => {}
        }
    }
    found
}

fn walk(above: &str, item: &DeValue<'_>, found: &mut BTreeSet<String>) {
    match item {
        DeValue::Table(table) => {
            for (key, item) in table {
                let path = format!("{above}{}", key.get_ref());
                match item.get_ref() {
                    // Each has a name of the operator's.
                    DeValue::Table(named) if path == "worker" || path == "cron" => {
                        named.values().for_each(|one| walk(&format!("{path}."), one.get_ref(), found));
                    }
                    item => walk(&format!("{path}."), item, found),
                }
                found.insert(path);
            }
        }
        DeValue::Array(all) => all.iter().for_each(|one| walk(above, one.get_ref(), found)),
        _ => {}
    }
}

fn missing(found: &BTreeSet<String>) -> Vec<String> {
    all().difference(found).cloned().collect()
}

#[test]
fn every_key_is_in_what_init_writes_under_its_header() {
    let set = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => setting,
        _ => line,
    };
    let text = TEXT.lines().map(set).collect::<Vec<_>>().join("\n");
    // Each of the three fronts has its own `[app.shop.front]`.
    let sections = text.split("\n[").map(|section| format!("[{}", section.trim_start_matches('[')));
    let mut found: BTreeSet<String> = sections.flat_map(|section| written(&section)).collect();
    // What excludes another key stands beside it in a comment.
    assert!(text.contains("# or { command = ") && text.contains("or command = "));
    found.extend(["stop.command", "health.command"].map(str::to_owned));
    assert_eq!(missing(&found), [""; 0]);
}

#[test]
fn every_key_is_in_a_file_that_loads_of_those_with_which_fuzzing_begins() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let texts = fs::read_dir(corpus).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let texts = texts.filter_map(|bytes| String::from_utf8(bytes).ok());
    let found = texts.filter(|text| load(text).is_ok()).flat_map(|text| written(&text)).collect();
    assert_eq!(missing(&found), [""; 0]);
}
