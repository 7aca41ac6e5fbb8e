//! Hints for unknown keys: another tool's name of a key, a typing error, or a key in the wrong table.

use super::{RawFile, Table, daemon::RawDaemon, of_an_app};
use crate::config::{
    nearest::{nearest, related},
    span::Span,
};

/// Other tools' names of bgd's keys.
const SYNONYMS: [(&str, &str); 59] = [
    ("repo", "remote"),
    ("repository", "remote"),
    ("url", "remote"),
    ("git", "remote"),
    ("ref", "branch"),
    ("port", "ports"),
    ("command", "start"),
    ("cmd", "start"),
    ("run", "start"),
    ("script", "start"),
    ("entrypoint", "start"),
    ("execstart", "start"),
    ("exec_start", "start"),
    ("repo_url", "remote"),
    ("numprocs", "instances"),
    ("processes", "instances"),
    ("replicas", "instances"),
    ("scale", "instances"),
    ("workers", "instances"),
    ("stopsignal", "stop"),
    ("stop_signal", "stop"),
    ("stop_grace_period", "stop"),
    ("stopwaitsecs", "stop"),
    ("kill_timeout", "stop"),
    ("environmentfile", "env_file"),
    ("environment_file", "env_file"),
    ("autorestart", "restart"),
    ("volumes", "shared"),
    ("uid", "user"),
    ("run_as", "user"),
    ("mem_limit", "limits"),
    ("max_memory_restart", "limits"),
    ("environment", "env"),
    ("keep_releases", "keep"),
    ("linked_dirs", "shared"),
    ("linked_files", "shared"),
    ("healthcheck", "health"),
    ("health_check", "health"),
    ("retries", "successes"),
    ("bind", "listen"),
    ("address", "listen"),
    ("apps", "app"),
    ("token", "token_file"),
    ("rollout", "canary"),
    ("weight", "steps"),
    ("weights", "steps"),
    ("percent", "steps"),
    ("percentage", "steps"),
    ("percentages", "steps"),
    ("shares", "steps"),
    ("stickiness", "sticky"),
    ("affinity", "sticky"),
    ("secret", "secret_file"),
    ("token_file", "secret_file"),
    ("url", "paths"),
    ("urls", "paths"),
    ("count", "requests"),
    ("error_rate", "max_error_rate"),
    ("p95", "max_p95"),
];

/// The hint for an unknown key of the table at `at`.
pub(super) fn hint(key: &str, known: &[&'static str], at: &Span) -> String {
    let synonym = SYNONYMS
        .iter()
        .find(|(word, ours)| word.eq_ignore_ascii_case(key) && known.contains(ours))
        .map(|(_, ours)| *ours);
    if let Some(ours) = synonym.or_else(|| nearest(key, known)) {
        return format!("did you mean `{ours}`?");
    }
    let app = at.key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let tables = of_an_app();
    match tables.iter().find(|(_, keys)| keys.contains(&key)) {
        _ if RawFile::keys().contains(&key) => {
            return format!("`{key}` stands at the root of bgd.toml; a file of apps.d is one app");
        }
        Some((_, _)) if at.key.is_empty() => return format!("`{key}` belongs to an app: under [app.NAME]"),
        Some(("", _)) => return format!("`{key}` belongs to the app itself: {app}.{key}"),
        Some((table, _)) if !at.key.starts_with("daemon") => {
            return format!("`{key}` belongs to the table `{table}`: {app}.{table}.{key}");
        }
        _ if RawDaemon::keys().contains(&key) => {
            return format!("`{key}` belongs under [daemon] of bgd.toml");
        }
        Some(_) | None => {}
    }
    if let Some(ours) = related(key, known) {
        return format!("did you mean `{ours}`?");
    }
    let known = known.join(", ");
    match at.key.is_empty() {
        true => format!("known here: {known}; an app stands under [app.NAME], such as [app.{key}]"),
        false => format!("known here: {known}"),
    }
}
