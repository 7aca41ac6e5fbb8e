//! Finds the configuration file. Called by every command before [`load`](super::load()).

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Environment variable with the path of the file.
pub const VARIABLE: &str = "BGD_CONFIG";
/// File in the current directory.
const HERE: &str = "bgd.toml";
/// File for the whole system.
const SYSTEM: &str = "/etc/bgd/bgd.toml";

/// Why no configuration was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is no file in any of the usual places.
    #[error("no configuration found; looked at {}", list(.looked))]
    Nowhere {
        /// The places, in the order they were checked.
        looked: Vec<PathBuf>,
    },
    /// The requested file does not exist.
    #[error("there is no configuration at {} ({asked_by})", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `--config` or `$BGD_CONFIG`.
        asked_by: &'static str,
    },
    /// The current directory, which a relative path needs, was removed or is not accessible.
    #[error("can't make the path absolute: {}", path.display())]
    NoDirectory {
        /// The relative path.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
}

impl FindError {
    /// Advice for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Nowhere { .. } => "`bgd init` writes one; --config FILE or $BGD_CONFIG names another place",
            Self::Missing { .. } => "`bgd init` writes one",
            Self::NoDirectory { .. } => "name the file with an absolute path",
        }
    }
}

/// The configuration's file, absolute: `explicit` (`--config`), else `$BGD_CONFIG`, else `./bgd.toml`, else
/// `/etc/bgd/bgd.toml`. The first two must exist when given; no other place is tried then.
///
/// # Errors
/// The error lists the places.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, FindError> {
    let variable = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    find_among(explicit, variable.as_deref(), &[Path::new(HERE), Path::new(SYSTEM)])
}

fn find_among(
    explicit: Option<&Path>,
    variable: Option<&Path>,
    usual: &[&Path],
) -> Result<PathBuf, FindError> {
    let asked = explicit.map(|path| (path, "--config")).or(variable.map(|path| (path, "$BGD_CONFIG")));
    if let Some((path, asked_by)) = asked {
        let path = absolute(path)?;
        // A directory is accepted here; `load` refuses it.
        return if path.exists() { Ok(path) } else { Err(FindError::Missing { path, asked_by }) };
    }
    let looked = usual.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    match looked.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(FindError::Nowhere { looked }),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, FindError> {
    std::path::absolute(path).map_err(|source| FindError::NoDirectory { path: path.to_owned(), source })
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_option_wins_over_the_variable_over_the_usual_places() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            path
        };
        let (option, variable, usual) = (file("a.toml"), file("b.toml"), file("c.toml"));
        let absent = dir.path().join("absent.toml");
        let usual = [absent.as_path(), usual.as_path()];
        assert_eq!(find_among(Some(&option), Some(&variable), &usual).unwrap(), option);
        assert_eq!(find_among(None, Some(&variable), &usual).unwrap(), variable);
        assert_eq!(find_among(None, None, &usual).unwrap(), usual[1]);
    }

    #[test]
    fn what_was_asked_for_is_not_replaced_by_another_and_every_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.toml");
        let other = dir.path().join("other.toml");
        fs::write(&other, "").unwrap();
        let error = find_among(None, Some(&absent), &[&other]).unwrap_err().to_string();
        assert_eq!(error, format!("there is no configuration at {} ($BGD_CONFIG)", absent.display()));
        let error = find_among(None, None, &[&absent, Path::new("/nowhere/bgd.toml")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("no configuration found; looked at {}, /nowhere/bgd.toml", absent.display())
        );
        assert!(error.hint().contains("bgd init"));
    }
}
