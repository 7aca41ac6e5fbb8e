//! The commands that need no daemon and no root: `init`, `check`, `completions`, `man`.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;

use crate::{
    api::wire::Exit,
    cli::{CliContext, args::Cli, problem::CliProblem, terminal},
    config,
};

/// Runs `bgd init`: an annotated `bgd.toml` in this directory, or where `--config` says, never over an existing one.
pub fn init(context: &CliContext) -> Result<Exit, CliProblem> {
    let path = context.config.as_deref().unwrap_or(Path::new("bgd.toml"));
    init_at(path)?;
    let shown = path.display();
    terminal::chatter(&format!("{shown} is written; set `remote` and `start` in it, then `bgd check`"));
    Ok(Exit::Done)
}

fn init_at(path: &Path) -> Result<(), CliProblem> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CliProblem::usage(
            format!("{} is there already and is not overwritten", path.display()),
            "`bgd check` validates it",
        ),
        _ => CliProblem::Host { attempt: "write", path: path.to_owned(), source },
    };
    let mut file = fs::File::create_new(path).map_err(failed)?;
    file.write_all(config::init::TEXT.as_bytes()).map_err(failed)
}

/// Runs `bgd check`: everything wrong with the files at once.
pub fn check(context: &CliContext) -> Result<Exit, CliProblem> {
    let file = config::find(context.config.as_deref())
        .map_err(|error| CliProblem::usage(error.to_string(), error.hint()))?;
    // The findings are the answer to the command, so they go to stdout, good or bad.
    match config::load(&file) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                terminal::data(&warning.to_string())?;
            }
            let count = loaded.settings.apps.len();
            let apps = if count == 1 { "1 app".to_owned() } else { format!("{count} apps") };
            terminal::data(&format!("ok: {}, {apps}{}", file.display(), noted(loaded.warnings.len())))?;
            Ok(Exit::Done)
        }
        Err(problems) => {
            terminal::data(&problems.to_string())?;
            Ok(Exit::Usage)
        }
    }
}

fn noted(warnings: usize) -> String {
    match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        many => format!(", {many} warnings"),
    }
}

/// Runs `bgd completions`.
pub fn completions(shell: clap_complete::Shell) -> Result<Exit, CliProblem> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bgd", &mut text);
    io::stdout().write_all(&text)?;
    Ok(Exit::Done)
}

/// Runs `bgd man`: the page of `bgd` to stdout, or a page for each command into a directory.
pub fn man(dir: Option<PathBuf>) -> Result<Exit, CliProblem> {
    let command = Cli::command();
    match dir {
        Some(dir) => {
            let failed =
                |source| CliProblem::Host { attempt: "write man pages into", path: dir.clone(), source };
            fs::create_dir_all(&dir).map_err(failed)?;
            clap_mangen::generate_to(command, &dir).map_err(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            io::stdout().write_all(&page)?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_writes_a_file_that_loads_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgd.toml");
        init_at(&path).unwrap();
        config::load(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(init_at(&path).unwrap_err().exit(), Exit::Usage);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn there_is_a_man_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        man(Some(dir.path().to_owned())).unwrap();
        for page in ["bgd.1", "bgd-flip.1", "bgd-status.1", "bgd-exec.1"] {
            assert!(dir.path().join(page).is_file(), "{page}");
        }
    }
}
