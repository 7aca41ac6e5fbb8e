//! Submodules: each is fetched into a mirror of its own and written at the commit that the parent recorded,
//! recursively. Used by `checkout` inside the worker. If a submodule can't be fetched the checkout fails.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use git2::{Config, Oid};

use super::{
    checkout::{Job, write},
    error::{ErrorCause, GitError, Reaction},
    fetch,
    mirror::{FetchFailure, Mirror},
    remote::submodule_url,
    wire::CheckedOut,
};

/// Limit of nesting; deeper submodules count as a loop.
const DEEPEST: usize = 8;

/// One submodule in `.gitmodules`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct SubmoduleEntry {
    path: Option<String>,
    url: Option<String>,
    update: Option<String>,
}

/// Writes the submodules of a commit whose other files are already written.
pub fn check_out(
    parent: &Job<'_>,
    modules: &[(PathBuf, Oid)],
    gitmodules: Option<Oid>,
) -> Result<CheckedOut, GitError> {
    let entries = match gitmodules {
        Some(oid) => read_entries(parent, oid)?,
        None => Vec::new(),
    };
    let mut written = CheckedOut::default();
    for (path, commit) in modules {
        let shown = path.display().to_string();
        let entry = entries.iter().find(|entry| entry.path.as_deref().map(Path::new) == Some(path.as_path()));
        let dir = parent.dir.join(path);
        fs::create_dir(&dir).map_err(|err| wrapped(&shown, Reaction::Transient, &err, None))?;
        if entry.is_some_and(|entry| entry.update.as_deref() == Some("none")) {
            continue;
        }
        let Some(url) = entry.and_then(|entry| entry.url.as_deref()) else {
            let hint = Some(no_url_hint(&shown, entry.is_some()));
            return Err(wrapped(&shown, Reaction::Refused, &".gitmodules names no url for it", hint));
        };
        let url = url_of(parent, url).map_err(|why| {
            let hint = "put its url in .gitmodules right, `git submodule sync`, commit and push".to_owned();
            wrapped(&shown, Reaction::Refused, &why, Some(hint))
        })?;
        let inner = one(parent, &url, *commit, &dir)
            .map_err(|err| wrapped(&shown, err.kind(), &chain(&err), err.hint()))?;
        written.files += inner.files;
        written.bytes += inner.bytes;
    }
    Ok(written)
}

fn wrapped(path: &str, kind: Reaction, cause: &dyn std::fmt::Display, hint: Option<String>) -> GitError {
    GitError::Submodule { path: path.to_owned(), kind, hint, cause: ErrorCause::new(cause) }
}

/// The hint for a submodule without a URL: git records a nested repository that was added as a directory like this.
fn no_url_hint(path: &str, named: bool) -> String {
    let out = format!(
        "if {path} was added by mistake: `git rm --cached {path}`, delete its .git, `git add {path}`"
    );
    let rest = if named { "add its url to .gitmodules" } else { "`git submodule add URL`" };
    format!("{out}; if it is meant as a submodule: {rest}; then push, or `bgd deploy`")
}

fn chain(err: &GitError) -> String {
    match std::error::Error::source(err) {
        Some(cause) => format!("{err}: {cause}"),
        None => err.to_string(),
    }
}

fn url_of(parent: &Job<'_>, url: &str) -> Result<String, String> {
    let parent_url = parent.urls.last().map_or("", String::as_str);
    let url = submodule_url(parent_url, url).map_err(|err| err.to_string())?;
    if parent.urls.contains(&url) {
        return Err("it contains itself".to_owned());
    }
    if parent.urls.len() > DEEPEST {
        return Err(format!("it is nested more than {DEEPEST} deep"));
    }
    Ok(url)
}

fn one(parent: &Job<'_>, url: &str, commit: Oid, dir: &Path) -> Result<CheckedOut, GitError> {
    let root = &parent.context.opening.mirror;
    let mut mirror = Mirror::open(&Mirror::module_path(root, url)?)?;
    let urls: Vec<String> = parent.urls.iter().cloned().chain([url.to_owned()]).collect();
    let rev = commit.to_string();
    match fetch::rev(parent.context, &mirror, url, &rev) {
        Err(FetchFailure { damage: true, .. }) => {
            mirror.rebuild()?;
            fetch::rev(parent.context, &mirror, url, &rev).map_err(|failed| failed.error)?;
        }
        other => drop(other.map_err(|failed| failed.error)?),
    }
    let Job { context, budget, .. } = *parent;
    write(&Job { context, mirror: &mirror, urls: &urls, commit, dir, budget })
}

/// libgit2 reads `.gitmodules` only from a file, so it gets one beside the mirror.
fn read_entries(parent: &Job<'_>, oid: Oid) -> Result<Vec<SubmoduleEntry>, GitError> {
    let odd = |err: &dyn std::fmt::Display| {
        let hint =
            "put .gitmodules right (`git config -f .gitmodules -l` reads it), commit and push".to_owned();
        wrapped(".gitmodules", Reaction::Refused, err, Some(hint))
    };
    let repo = parent.mirror.repo();
    let content = repo.find_blob(oid).map_err(|err| odd(&err.message()))?.content().to_owned();
    let file = parent.mirror.path().join("bgd-gitmodules");
    fs::write(&file, content).map_err(|err| wrapped(".gitmodules", Reaction::Transient, &err, None))?;
    let config = Config::open(&file).map_err(|err| odd(&err.message()))?;
    let mut found: BTreeMap<String, SubmoduleEntry> = BTreeMap::new();
    let entries = config.entries(Some("^submodule\\..*")).map_err(|err| odd(&err.message()))?;
    entries
        .for_each(|entry| {
            let (Ok(name), Ok(value)) = (entry.name(), entry.value()) else { return };
            let Some((module, key)) = name.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.'))
            else {
                return;
            };
            let module = found.entry(module.to_owned()).or_default();
            let value = Some(value.to_owned());
            match key {
                "path" => module.path = value.map(|path| path.trim_end_matches('/').to_owned()),
                "url" => module.url = value,
                "update" => module.update = value,
                _ => {}
            }
        })
        .map_err(|err| odd(&err.message()))?;
    Ok(found.into_values().collect())
}
