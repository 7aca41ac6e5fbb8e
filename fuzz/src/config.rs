//! The configuration: any text is settings, or a list of problems with places inside the file; settings that are
//! written out again mean the same; and what `bgd init` writes is valid.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bgd::{
    config::{Problem, Problems, Severity, SourceFile, Surroundings, init, parse, settings::AppSettings},
    rules::ids::AppName,
};

use super::written;

/// Between `bgd.toml` and a file of `apps.d`.
const APPS_D: &str = "\n# apps.d\n";
/// In front of a text that is added to what `bgd init` writes.
const INIT: &str = "# init\n";

/// The text of `bgd.toml`, and after the line `# apps.d` that of a file there.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (main, app) = text.split_once(APPS_D).map_or((text, None), |(main, app)| (main, Some(app)));
    let added = main.strip_prefix(INIT);
    let main = added.map_or_else(|| main.to_owned(), |added| format!("{}{added}", init::TEXT));
    let main = source("bgd.toml", main);
    let apps: Vec<SourceFile> =
        app.map(|app| source("apps.d/extra.toml", app.to_owned())).into_iter().collect();
    let surroundings = surroundings();
    let files: Vec<&SourceFile> = std::iter::once(&main).chain(&apps).collect();
    match parse(&main, &apps, &surroundings) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                is_told(warning, &files, Severity::Warning);
            }
            let text = written::settings(&loaded.settings);
            let again = parse(&source("bgd.toml", text.clone()), &[], &surroundings);
            let again = again.unwrap_or_else(|problems| panic!("{problems}\n{text}"));
            assert_eq!(again.settings.daemon, loaded.settings.daemon, "{text}");
            assert_eq!(by_name(again.settings.apps), by_name(loaded.settings.apps), "{text}");
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            let blank = |added: &str| added.bytes().all(|c| b" \t\n".contains(&c));
            assert!(app.is_some() || !added.is_some_and(blank), "{problems}");
            for problem in &problems.0 {
                is_told(problem, &files, Severity::Error);
            }
            let json = serde_json::to_string(&problems).expect("problems are plain data");
            assert_eq!(serde_json::from_str::<Problems>(&json).expect("written just now"), problems);
        }
    }
}

/// Tables that are named by people stand in the order of the file, and a written table is sorted.
fn by_name(apps: BTreeMap<AppName, Arc<AppSettings>>) -> Vec<AppSettings> {
    let sorted = |app: Arc<AppSettings>| {
        let mut app = AppSettings::clone(&app);
        app.workers.sort_by(|a, b| a.plan.name.cmp(&b.plan.name));
        app.crons.sort_by(|a, b| a.rule.name.cmp(&b.rule.name));
        app
    };
    apps.into_values().map(sorted).collect()
}

fn source(file: &str, text: String) -> SourceFile {
    SourceFile { file: PathBuf::from(file), text }
}

fn surroundings() -> Surroundings {
    Surroundings {
        base: "/etc/bgd".into(),
        state_dir: "/var/lib/bgd".into(),
        runtime_dir: Some("/run/bgd".into()),
    }
}

fn is_told(problem: &Problem, files: &[&SourceFile], severity: Severity) {
    assert_eq!(problem.severity, severity, "{problem}");
    let source = files.iter().find(|source| source.file == Path::new(&problem.file));
    let source = source.unwrap_or_else(|| panic!("no such file: {problem}"));
    let line = problem.line.unwrap_or_else(|| panic!("no line: {problem}"));
    let lines: Vec<&str> = source.text.split('\n').collect();
    assert!((1..=lines.len()).contains(&(line as usize)), "{} lines: {problem}", lines.len());
    if let Some(column) = problem.column {
        let length = lines[line as usize - 1].chars().count();
        assert!((1..=length + 1).contains(&(column as usize)), "{length} characters: {problem}");
    }
    assert!(!problem.what.trim().is_empty(), "{problem:?}");
    assert!(problem.hint.as_deref().is_some_and(|hint| !hint.trim().is_empty()), "{problem:?}");
    let block = problem.to_string();
    let told: Vec<&str> = block.split('\n').collect();
    assert!(told.len() == 2 && !told.iter().any(|line| line.contains(char::is_control)), "{block:?}");
}
