//! Whether the programs that the app's commands name are where the daemon looks for them. A program of the release, and
//! one that a build may bring, can't be seen before the first deploy.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{acting::Acting, finding::Finding};
use crate::config::{
    commands::{ProgramCall, calls},
    env_file,
    settings::{AppSettings, Start},
};

/// Keywords and built-in commands of shells.
const OF_THE_SHELL: [&str; 42] = [
    ".", ":", "[", "[[", "alias", "break", "case", "cd", "command", "continue", "do", "done", "echo", "esac",
    "eval", "exec", "exit", "export", "false", "fi", "for", "function", "hash", "kill", "local", "popd",
    "printf", "pushd", "pwd", "read", "return", "set", "shift", "shopt", "source", "test", "trap", "true",
    "type", "ulimit", "umask", "wait",
];

/// A finding for each missing program.
pub fn check(app: &AppSettings, acting: &Acting) -> Vec<Finding> {
    let path = path_of(app, acting);
    let brought = !app.build.is_empty();
    let start = match &app.start {
        Start::Shell(line) => calls(line),
        Start::Argv(argv) => vec![ProgramCall::of_argv(argv)],
    };
    let mut found: Vec<Finding> =
        missing(&start, &path).into_iter().map(|name| of_start(app, &name, (&path, brought))).collect();
    let hooks = [&app.hooks.before_start, &app.hooks.after_live, &app.hooks.after_failed];
    let others = app.build.iter().map(|line| ("build", line));
    let others = others.chain(hooks.into_iter().flatten().map(|line| ("hooks", line)));
    let others = others.chain(app.tasks.iter().map(|task| ("task", &task.run)));
    for (key, line) in others {
        found.extend(missing(&calls(line), &path).into_iter().map(|name| of_step(app, key, &name, &path)));
    }
    found.dedup();
    found
}

fn of_start(app: &AppSettings, name: &str, (path, brought): (&str, bool)) -> Finding {
    let what = format!("{}: start runs {name}, which is not in {path}", app.name);
    let hint = "install it for all users, name it by its whole path, or set PATH in `env`";
    if brought && !name.starts_with('/') {
        return Finding::warn(format!("{what}, unless the build brings it"), hint);
    }
    Finding::fail(what, hint)
}

fn of_step(app: &AppSettings, key: &str, name: &str, path: &str) -> Finding {
    Finding::warn(
        format!("{}: {key} runs {name}, which is not in {path}", app.name),
        "install it for all users, name it by its whole path, or set PATH in `env`",
    )
}

/// The `PATH` of the app's settings, else the daemon's.
fn path_of(app: &AppSettings, acting: &Acting) -> String {
    let of_file = || env_file::read(app.env_file.as_ref()?).ok()?.remove("PATH");
    app.env.get("PATH").cloned().or_else(of_file).unwrap_or_else(|| acting.path.clone())
}

/// The programs that are not found, as written. Shell functions defined in the line are named too, being rare.
fn missing(all: &[ProgramCall], path: &str) -> Vec<String> {
    let mut names: Vec<String> = all.iter().filter_map(|call| program(call, path)).collect();
    names.dedup();
    names
}

fn program(call: &ProgramCall, path: &str) -> Option<String> {
    let word = call.program_as_written()?;
    let strange = |c: char| "$`{}()<>*?[]\"'~=".contains(c) || c.is_whitespace();
    // A relative path is below the release.
    let is_known = OF_THE_SHELL.contains(&word)
        || word.contains(strange)
        || word.contains('/') && !word.starts_with('/');
    (!is_known && !is_there(word, path)).then(|| word.to_owned())
}

fn is_there(word: &str, path: &str) -> bool {
    let runs = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    match word.starts_with('/') {
        true => runs(Path::new(word)),
        false => path.split(':').any(|dir| runs(&Path::new(dir).join(word))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture};

    #[test]
    fn n8_a_program_that_is_nowhere_is_named_before_the_first_deploy() {
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let acting =
            Acting { pid: None, path: "/usr/bin:/bin".to_owned(), binds_any_port: false, is_root: false };
        let with = |start: &str, build: &[&str]| AppSettings {
            start: Start::Shell(start.to_owned()),
            build: build.iter().map(|line| (*line).to_owned()).collect(),
            ..(*app).clone()
        };
        for good in ["sh -c 'x'", "cd web && exec ./bin/x", "$NODE x", "exec /bin/sh x", "A=1 env B=2 sh"] {
            assert_eq!(check(&with(good, &[]), &acting), [], "{good}");
        }
        let found = check(&with("no-such-program-here --port $PORT", &[]), &acting);
        assert_eq!((found.len(), found[0].level), (1, Level::Fail), "{found:?}");
        assert!(found[0].what.contains("no-such-program-here, which is not in /usr/bin:/bin"), "{found:?}");
        let brought = check(&with("no-such-program-here", &["true"]), &acting);
        assert_eq!(brought[0].level, Level::Warn);
        let absolute = check(&with("/no/such/program", &["true"]), &acting);
        assert_eq!(absolute[0].level, Level::Fail);
        let step = check(&with("sh", &["no-such-step && sh"]), &acting);
        assert!(step[0].what.contains("build runs no-such-step"), "{step:?}");
    }
}
