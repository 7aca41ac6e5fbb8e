//! Repositories of this machine that libgit2 does not open: what is special about them, and `git upload-pack` in its
//! place where git itself can read them. Used inside the worker.

use std::{ffi::OsString, path::Path};

use git2::Config;
use serde::{Deserialize, Serialize};

use super::{local::git_dir, program::Invocation, ssh_config::on_path};

/// What is special about a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Format {
    /// The default of git 3.
    #[error("its refs are kept as reftable")]
    Reftable,
    /// Ids of 64 digits.
    #[error("its objects have sha256 ids")]
    Sha256,
    /// Made with `--filter`.
    #[error("it is a partial clone")]
    Partial,
    /// Something that came later than bgd.
    #[error("it has the extension {0}")]
    Extension(String),
}

impl Format {
    /// What is special about the repository at `path`, if anything is.
    pub fn of(path: &Path) -> Option<Self> {
        let dir = git_dir(path);
        let config = Config::open(&dir.join("config")).ok()?;
        let text = |name: &str| config.get_string(name).ok();
        if text("extensions.objectformat").is_some_and(|format| format != "sha1") {
            return Some(Self::Sha256);
        }
        if text("extensions.partialclone").is_some() || promisor(&config) {
            return Some(Self::Partial);
        }
        if text("extensions.refstorage").is_some_and(|storage| storage != "files") {
            return Some(Self::Reftable);
        }
        unknown_extension(&config).map(Self::Extension)
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Reftable | Self::Extension(_) => {
                "install a git that knows it where bgd runs (`git --version`), or convert it: `git refs migrate --ref-format=files`; `bgd doctor` tries it"
            }
            Self::Sha256 => {
                "bgd deploys from repositories with sha1 ids only: make one with `git init --bare --object-format=sha1` and push there; `bgd doctor` tries it"
            }
            Self::Partial => {
                "it lacks objects: `git fetch --refetch --no-filter` in it gets them all, or name the repository that it was cloned from; `bgd doctor` tries it"
            }
        }
    }

    /// `git upload-pack` over the repository, where git is there and its format does not stand in the way.
    pub fn served(&self, path: &Path) -> Option<Invocation> {
        if matches!(self, Self::Sha256 | Self::Partial) {
            return None;
        }
        let env = [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_COUNT", "1"),
            // Whoever owns it: nothing of it is run.
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ];
        let args = ["upload-pack", "--strict", "--"].map(OsString::from).into_iter();
        Some(Invocation {
            program: on_path("git")?,
            args: args.chain([git_dir(path).into_os_string()]).collect(),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
        })
    }
}

fn promisor(config: &Config) -> bool {
    let Ok(mut entries) = config.entries(Some("^remote\\..*\\.promisor$")) else { return false };
    entries.next().is_some()
}

/// The first one that libgit2 does not know.
fn unknown_extension(config: &Config) -> Option<String> {
    const KNOWN: [&str; 5] = ["noop", "objectformat", "worktreeconfig", "preciousobjects", "refstorage"];
    let mut found = None;
    let entries = config.entries(Some("^extensions\\..*")).ok()?;
    let walked = entries.for_each(|entry| {
        let name = entry.name().ok().and_then(|name| name.strip_prefix("extensions."));
        found = found.take().or(name.filter(|name| !KNOWN.contains(name)).map(str::to_owned));
    });
    walked.ok().and(found)
}
