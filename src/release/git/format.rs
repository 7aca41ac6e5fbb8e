//! Repositories on this machine that libgit2 can't open: detects the reason, and runs `git upload-pack` instead where
//! git can read them. Used inside the worker.

use std::{ffi::OsString, path::Path};

use git2::Config;
use serde::{Deserialize, Serialize};

use super::{local::git_dir, program::Invocation, ssh_config::on_path};

/// A repository format that libgit2 can't open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Format {
    /// Refs in a reftable, the default of git 3.
    #[error("its refs are kept as reftable")]
    Reftable,
    /// SHA-256 ids, of 64 digits.
    #[error("its objects have sha256 ids")]
    Sha256,
    /// A partial clone, made with `--filter`.
    #[error("it is a partial clone")]
    Partial,
    /// An extension that is newer than bgd.
    #[error("it has the extension {0}")]
    Extension(String),
}

impl Format {
    /// The special format of the repository at `path`; `None` if it has none or its configuration is unreadable.
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

    /// Advice for the operator.
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

    /// `git upload-pack` for the repository; `None` if git is not installed or can't serve the format.
    pub fn served(&self, path: &Path) -> Option<Invocation> {
        if matches!(self, Self::Sha256 | Self::Partial) {
            return None;
        }
        let env = [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_COUNT", "1"),
            // Accept any owner: git runs nothing from the repository.
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

/// The first extension that libgit2 does not support.
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
