//! Texts → settings, as a pure function: no files, no system calls. Called by `load.rs` with the texts of the files,
//! and by tests and fuzzers with arbitrary texts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    judge::{Judge, NamedFile},
    problem::{Notes, Problem, Problems},
    read::{Given, Reader},
    settings::{AppSettings, Settings},
    span::Span,
    tables::{
        RawFile, Table as _,
        app::{self, RawApp},
        daemon::{self, RawDaemon},
    },
};
use crate::rules::ids::AppName;

/// One file of the configuration: its name for messages, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path; for a file in `apps.d` its stem is the app's name.
    pub file: PathBuf,
    pub text: String,
}

/// The values that depend on the host and the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Base of relative paths: the main file's directory, absolute.
    pub base: PathBuf,
    /// Default of `daemon.state_dir`.
    pub state_dir: PathBuf,
    /// Default of `daemon.runtime_dir`; `None` means `run` below the state directory.
    pub runtime_dir: Option<PathBuf>,
}

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub settings: Settings,
    /// The warnings, in the order of files and lines.
    pub warnings: Vec<Problem>,
}

/// Reads and judges `main` and the files of `apps.d`.
///
/// # Errors
/// All problems at once.
pub fn parse(
    main: &SourceFile,
    apps: &[SourceFile],
    surroundings: &Surroundings,
) -> Result<Loaded, Problems> {
    parse_noting(main, apps, (surroundings, Notes::default())).map(|(loaded, _)| loaded)
}

/// Parses, and adds to the problems found before; also returns the files named in the configuration.
pub(super) fn parse_noting(
    main: &SourceFile,
    apps: &[SourceFile],
    (surroundings, mut notes): (&Surroundings, Notes),
) -> Result<(Loaded, Vec<NamedFile>), Problems> {
    let unread = notes.errors.len();
    let (raw_daemon, raw_apps) = raw(main, apps, &mut notes);
    let syntax_ok = notes.errors.len() == unread && unread == 0;
    if raw_apps.is_empty() && syntax_ok {
        let hint = "add [app.NAME] with remote and start; `bgd init` writes a file to begin with";
        notes.error(&root(&main.file, "app"), "no app is configured", hint);
    }
    let mut judge = Judge::new(&surroundings.base, &mut notes);
    let daemon = daemon::daemon(&mut judge, &raw_daemon, surroundings);
    judge.runtime_dir.clone_from(&daemon.runtime_dir);
    let mut settings: BTreeMap<AppName, Arc<AppSettings>> = BTreeMap::new();
    for (name, raw) in raw_apps {
        daemon::has_own_directory(&mut judge, (&name, &raw.at), &daemon);
        let app = app::app(&mut judge, name.clone(), raw);
        settings.insert(name, Arc::new(app));
    }
    judge.conflicts();
    let named = std::mem::take(&mut judge.named_files);
    let files: Vec<PathBuf> = std::iter::once(main).chain(apps).map(|source| source.file.clone()).collect();
    if notes.errors.is_empty() {
        in_order(&mut notes.warnings, &files);
        let settings = Settings { daemon, apps: settings, files };
        return Ok((Loaded { settings, warnings: notes.warnings }, named));
    }
    in_order(&mut notes.errors, &files);
    Err(Problems(notes.errors))
}

/// The tables of all files as written: `[daemon]`, and the apps with valid names, each once.
fn raw(main: &SourceFile, apps: &[SourceFile], notes: &mut Notes) -> (RawDaemon, Vec<(AppName, RawApp)>) {
    let mut all: Vec<(AppName, RawApp)> = Vec::new();
    let mut daemon = Given::Absent;
    if let Some(file) = raw_main(main, notes) {
        daemon = file.daemon;
        for app in file.app.into_value().map_or_else(Vec::new, |apps| apps.value.0) {
            take(&mut all, app, notes);
        }
    }
    for source in apps {
        let name = stem(&source.file);
        if let Some(raw) = raw_app(source, &name, notes) {
            take(&mut all, (name, raw), notes);
        }
    }
    (RawDaemon::or_empty(daemon, root(&main.file, "daemon")), all)
}

fn raw_main(source: &SourceFile, notes: &mut Notes) -> Option<RawFile> {
    let mut reader = Reader::new(name(&source.file), &source.text, notes);
    let table = reader.parse(&source.text)?;
    let root = reader.root("");
    Some(RawFile::read(&table, &root, &mut reader))
}

fn raw_app(source: &SourceFile, name: &str, notes: &mut Notes) -> Option<RawApp> {
    let mut reader = Reader::new(self::name(&source.file), &source.text, notes);
    let table = reader.parse(&source.text)?;
    let at = reader.root("app").key(name, 1);
    Some(RawApp::read(&table, &at, &mut reader))
}

/// Adds an app, unless its name is invalid or already taken.
fn take(all: &mut Vec<(AppName, RawApp)>, (name, raw): (String, RawApp), notes: &mut Notes) {
    match name.parse::<AppName>() {
        Err(bad) => {
            let hint = "1 to 32 of a-z 0-9 - _, beginning with a letter or digit, such as \"shop\" (of a file of \
                        apps.d: its name)";
            let taken = bad.to_string().contains("files of bgd");
            let hint = if taken { "choose another name" } else { hint };
            notes.error(&raw.at, bad.to_string(), hint);
        }
        Ok(name) => match all.iter().find(|(earlier, _)| *earlier == name) {
            Some((_, earlier)) => {
                let what = format!("is defined twice, first at {}:{}", earlier.at.file, earlier.at.line);
                notes.error(&raw.at, what, "an app stands in bgd.toml or in a file of apps.d; remove one");
            }
            None => all.push((name, raw)),
        },
    }
}

fn root(file: &Path, key: &str) -> Span {
    Span { file: name(file), line: 1, key: key.to_owned() }
}

fn name(file: &Path) -> Arc<str> {
    file.display().to_string().into()
}

fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Sorts by file, in the order they were read, then by line.
pub(super) fn in_order(problems: &mut [Problem], files: &[PathBuf]) {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let rank = |problem: &Problem| names.iter().position(|name| *name == problem.file).unwrap_or(names.len());
    problems.sort_by_cached_key(|problem| (rank(problem), problem.line, problem.column, problem.key.clone()));
}
