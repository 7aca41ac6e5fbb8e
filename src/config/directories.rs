//! Guesses bgd's directories from a configuration that does not load: from the readable part of `[daemon]`, and the
//! defaults. Used by commands that must work nevertheless; the daemon never starts from it.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{
    guarded,
    judge::Judge,
    load::{LARGEST, surroundings},
    parse::Surroundings,
    problem::Notes,
    read::Reader,
    settings::DaemonSettings,
    span::Span,
    tables::{
        Table as _,
        daemon::{self, RawDaemon},
    },
};

/// Possible readings of the file's `[daemon]`, the likeliest first and the defaults last. Errors are skipped.
pub fn directories(file: &Path) -> Vec<DaemonSettings> {
    let text = guarded::read(file, LARGEST).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let surroundings = surroundings(file);
    let default = written("", &surroundings);
    let misspelt =
        misspelt(&text).into_iter().map(|dir| surroundings.base.join(dir)).filter(|dir| dir.is_dir());
    let misspelt = misspelt.map(|state_dir| DaemonSettings { state_dir, ..default.clone() });
    let readings = [&*text, &readable_lines(&text)].map(|text| written(text, &surroundings));
    let mut found: Vec<_> = readings.into_iter().chain(misspelt).filter(|one| *one != default).collect();
    found.dedup();
    found.push(default);
    found
}

/// Every text value outside the apps: the state directory may be under a misspelt key or table.
fn misspelt(text: &str) -> Vec<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    for (key, value) in root.get_ref() {
        match value.get_ref() {
            DeValue::String(text) => found.push(text.to_string()),
            DeValue::Table(table) if key.get_ref() != "app" => {
                found.extend(table.values().filter_map(|value| value.get_ref().as_str().map(str::to_owned)));
            }
            _ => {}
        }
    }
    found
}

fn written(text: &str, surroundings: &Surroundings) -> DaemonSettings {
    let mut notes = Notes::default();
    let (table, _) = DeTable::parse_recoverable(text);
    let at = Span { file: "".into(), line: 1, key: "daemon".to_owned() };
    let raw = match table.get_ref().get("daemon").map(|item| item.get_ref()) {
        Some(DeValue::Table(table)) => {
            RawDaemon::read(table, &at, &mut Reader::new("".into(), text, &mut notes))
        }
        _ => RawDaemon::empty(&at),
    };
    daemon::daemon(&mut Judge::new(&surroundings.base, &mut notes), &raw, surroundings)
}

/// The lines that are TOML by themselves. Finds keys after an unclosed bracket or quotation mark.
fn readable_lines(text: &str) -> String {
    text.lines().filter(|line| DeTable::parse(line).is_ok()).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bgd.toml");
        std::fs::write(&file, text).unwrap();
        let below = |path: &Path| path.strip_prefix(dir.path()).unwrap_or(path).display().to_string();
        directories(&file).iter().map(|one| (below(&one.state_dir), below(&one.runtime_dir))).collect()
    }

    #[test]
    fn the_directories_are_found_in_a_file_with_any_error() {
        let daemon = "[daemon]\nstate_dir = \"s\"\nruntime_dir = \"r\"\n";
        let app = "[app.shop]\nremote = \"/srv/a.git\"\nstart = \"true\"\n";
        for broken in [
            format!("{daemon}{app}nonsense = 1\n"),
            format!("{daemon}nonsense = 1\nstate_dri = 3\n{app}"),
            format!("{daemon}operators = 7\n{app}keep = \"many\"\n"),
            format!("{daemon}{app}branch = \"main\n"),
            format!("{app}env = {{ A = \"b\"\n{daemon}"),
            format!("[app.shop\nbuild = [\"a\",\n{daemon}"),
            format!("{app}build = \"\"\"make\n{daemon}"),
            format!("]] what is this\n{daemon}{app}"),
            format!("{daemon}{daemon}{app}"),
            format!("<<<<<<< HEAD\n{daemon}=======\n{app}>>>>>>> theirs\n"),
        ] {
            assert!(
                first(&broken).contains(&("s".to_owned(), "r".to_owned())),
                "{broken}: {:?}",
                first(&broken)
            );
        }
    }

    #[test]
    fn a_state_directory_under_a_misspelt_key_is_one_of_them() {
        for broken in
            ["[daemon]\nstate_dri = \".\"\n", "[deamon]\nstate_dir = \".\"\n", "state_dir = \".\"\n"]
        {
            assert!(first(broken).iter().any(|(state, _)| state.is_empty()), "{broken}: {:?}", first(broken));
        }
    }

    #[test]
    fn the_defaults_are_last_and_stand_alone_where_nothing_is_written() {
        let plain = first("[app.shop]\nstrat = \"true\"\n");
        assert_eq!(plain.len(), 1);
        assert_eq!(first("[daemon]\nstate_dir = \"s\"\nnonsense").last(), plain.last());
    }
}
