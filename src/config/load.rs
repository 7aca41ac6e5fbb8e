//! Files → settings: reads `bgd.toml` and `apps.d/*.toml`, and checks the files they name. Called by the
//! daemon at start and at each reload, and by every command; changes nothing on disk.

use std::{
    env, fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    auth_file::{self, FileFault},
    env_file, guarded,
    habits::looked_up,
    judge::{Holds, NamedFile},
    parse::{Loaded, SourceFile, Surroundings, parse_noting},
    problem::{Notes, Problem, Problems},
    tables::daemon::{ROOT_RUNTIME_DIR, ROOT_STATE_DIR},
};

use crate::rules::ids::AppName;

/// The directory of further apps, beside the main file.
const APPS_DIR: &str = "apps.d";
/// Bytes; a larger file can't be a configuration.
pub(super) const LARGEST: u64 = 4 << 20;

/// Reads, judges and completes the configuration at `file`.
///
/// # Errors
/// All problems at once.
pub fn load(file: &Path) -> Result<Loaded, Problems> {
    let fail = |problem| Problems(vec![problem]);
    let file = std::path::absolute(file).map_err(|error| {
        fail(Problem::of_file(file, error.to_string(), "name the file with an absolute path"))
    })?;
    let main = read(&file).map_err(fail)?;
    let mut notes = Notes::default();
    let apps = read_apps(&file, &mut notes);
    let surroundings = surroundings(&file);
    let (mut loaded, named) = parse_noting(&main, &apps, (&surroundings, notes))?;
    let mut notes = Notes { errors: Vec::new(), warnings: loaded.warnings };
    for file in &named {
        look_at(file, &mut notes);
    }
    super::parse::in_order(&mut notes.warnings, &loaded.settings.files);
    loaded.warnings = notes.warnings;
    Ok(loaded)
}

/// The text of the main file.
pub(super) fn text(file: &Path) -> Option<String> {
    read(file).ok().map(|source| source.text)
}

/// The directories to watch, not recursively, for changes of the configuration at `file`; [`concerns`] tells
/// which changes matter. Directories, because files are replaced by renaming.
pub fn sources(file: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir_of(file), apps_dir(file)];
    // The directory of a symlink's target too, because a change there sends no event elsewhere.
    all.extend(fs::canonicalize(file).ok().map(|real| dir_of(&real)));
    all.retain(|dir| dir.is_dir());
    all.sort();
    all.dedup();
    all
}

/// Whether a change of the path `changed` may change the configuration at `file`.
pub fn concerns(file: &Path, changed: &Path) -> bool {
    let apps = apps_dir(file);
    let is_app = changed.parent() == Some(&apps) && is_app_file(changed);
    changed == file || changed == apps || is_app || fs::canonicalize(file).is_ok_and(|real| real == changed)
}

fn dir_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).to_owned()
}

/// The path of an app's own file in `apps.d`.
pub(super) fn app_file(file: &Path, app: &AppName) -> PathBuf {
    apps_dir(file).join(format!("{app}.toml"))
}

fn apps_dir(file: &Path) -> PathBuf {
    dir_of(file).join(APPS_DIR)
}

/// Whether the path is an app's file. Hidden files are not: editors leave them behind.
fn is_app_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

fn read(file: &Path) -> Result<SourceFile, Problem> {
    let problem = |what: String, hint: &str| Problem::of_file(file, what, hint);
    let unreadable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "`bgd init` writes one",
            io::ErrorKind::PermissionDenied => "bgd's user needs to read it",
            _ => "it has to be a readable file",
        };
        problem(format!("can't be read: {error}"), hint)
    };
    let bytes = guarded::read(file, LARGEST).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            problem(format!("is not a configuration: {error}"), "name another file")
        }
        _ => unreadable(error),
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|c| **c == b'\n').count();
        let what = "is not UTF-8".to_owned();
        Problem { line: u32::try_from(line).ok(), ..problem(what, "save the file as UTF-8") }
    })?;
    Ok(SourceFile { file: file.to_owned(), text })
}

/// The files of `apps.d`, sorted by name; notes unreadable ones.
fn read_apps(file: &Path, notes: &mut Notes) -> Vec<SourceFile> {
    let dir = apps_dir(file);
    let listed = fs::read_dir(&dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let what = format!("can't be listed: {error}");
            notes.errors.push(Problem::of_file(
                &dir,
                what,
                "it has to be a directory that bgd's user can read",
            ));
            return Vec::new();
        }
    };
    paths.retain(|path| is_app_file(path));
    paths.sort();
    let read = paths.iter().map(|path| read(path));
    read.filter_map(|source| source.map_err(|problem| notes.errors.push(problem)).ok()).collect()
}

/// Root uses the system's directories, other users their own. A user without a home directory is a system service
/// and uses the system's state directory, so that `bgd check` does not depend on the user that runs it.
pub(super) fn surroundings(file: &Path) -> Surroundings {
    let base = dir_of(file);
    if nix::unistd::geteuid().is_root() {
        let (state_dir, runtime_dir) = (ROOT_STATE_DIR.into(), ROOT_RUNTIME_DIR.into());
        return Surroundings { base, state_dir, runtime_dir: Some(runtime_dir) };
    }
    // The XDG rules: a relative value counts as unset.
    let dir = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        dir("XDG_STATE_HOME").or_else(|| dir("HOME").or_else(home).map(|home| home.join(".local/state")));
    Surroundings {
        base,
        state_dir: state.map_or_else(|| ROOT_STATE_DIR.into(), |dir| dir.join("bgd")),
        runtime_dir: dir("XDG_RUNTIME_DIR").map(|dir| dir.join("bgd")),
    }
}

/// The home directory of the user database; a service may run without `$HOME`.
fn home() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?;
    Some(user.dir).filter(|dir| dir.is_absolute() && dir.is_dir())
}

/// Warns of a named file that is missing or accessible to others. Skips files that this user can't see.
fn look_at(file: &NamedFile, notes: &mut Notes) {
    let found = match fs::metadata(&file.path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The message omits the path: people write the token itself here.
            let (what, hint) = match file.holds {
                Holds::Repository { like_a_host: true } => {
                    ("is a path of this host, and nothing is there", "a URL begins with https:// or ssh://")
                }
                Holds::Repository { .. } => {
                    (NO_REPOSITORY, "`git init --bare` makes one; or correct the path")
                }
                _ => (
                    "there is no such file",
                    "create it before the next deploy; a relative path starts at the directory of bgd.toml",
                ),
            };
            notes.warn(&file.at, what, hint);
            return;
        }
        Err(_) => return,
    };
    let mode = found.permissions().mode() & 0o777;
    let (open, hint) = match file.holds {
        Holds::Secret | Holds::Token | Holds::Variables => (mode & 0o007 != 0, "chmod o= it"),
        Holds::PrivateKey => (mode & 0o077 != 0, "chmod 600 it; ssh refuses such a key"),
        Holds::Plain | Holds::Authorities => (false, ""),
        Holds::Repository { .. } => return look_at_repository(file, notes),
    };
    if !found.is_file() {
        notes.warn(&file.at, "is not a file", "correct the path");
    } else if open {
        let what = format!("is open to others: mode {mode:03o}, owner uid {}", found.uid());
        notes.warn(&file.at, what, hint);
    }
    if found.is_file() && file.holds == Holds::Variables {
        look_into(file, notes);
    }
    if found.is_file()
        && let Some(fault) = fault_of(file)
    {
        notes.warn(&file.at, fault.to_string(), fault.hint());
    }
}

/// Warns of lines that can't be parsed, and of values that a shell would read differently.
fn look_into(file: &NamedFile, notes: &mut Notes) {
    let hint = "correct that line; a value stands bare or in quotes";
    let all = match env_file::read(&file.path) {
        Ok(all) => all,
        Err(env_file::EnvFileError::Line { source, .. }) => {
            return notes.warn(&file.at, source.to_string(), hint);
        }
        // Skip a file that this user may not read; the daemon may have the right to.
        Err(env_file::EnvFileError::Read { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            return;
        }
        Err(env_file::EnvFileError::Read { source, .. }) => {
            return notes.warn(&file.at, source.to_string(), hint);
        }
    };
    for (name, value) in &all {
        if let Some(variable) = looked_up(value) {
            let what = format!("{name} in it has ${variable}, and values are given as they are");
            notes.warn(&file.at, what, "write it in full");
        }
    }
}

/// The fault of a file's content; `None` if this user can't read it.
fn fault_of(file: &NamedFile) -> Option<FileFault> {
    let read = || auth_file::read(&file.path).ok();
    match file.holds {
        Holds::PrivateKey => auth_file::private_key(&read()?).err(),
        Holds::Token => auth_file::token(&read()?).err(),
        Holds::Authorities => auth_file::certificates(&read()?).err(),
        Holds::Secret | Holds::Variables | Holds::Plain | Holds::Repository { .. } => None,
    }
}

const NO_REPOSITORY: &str = "there is no git repository";

/// Warns if there is no repository at the path, bare or with `.git` in it.
fn look_at_repository(file: &NamedFile, notes: &mut Notes) {
    let repository = file.path.join(".git").exists() || file.path.join("HEAD").exists();
    if !file.path.is_dir() {
        notes.warn(
            &file.at,
            "is a file, not a git repository",
            "name the directory of a repository, or a URL",
        );
    } else if !repository && fs::read_dir(&file.path).is_ok() {
        notes.warn(&file.at, NO_REPOSITORY, "`git init --bare` makes one; or correct the path");
    }
}
