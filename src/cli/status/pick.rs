//! `bgd status -o KEY`: one value of the JSON by its dotted path, for scripts. Pure.
//!
//! A key that does not exist is an error even where `null` hides its parent, so that a typo in a script is not
//! taken for "unknown"; hence the list.

use serde_json::Value;

use crate::{
    api::wire::{AppReport, Status},
    cli::problem::CliProblem,
};

/// The keys of an app, as in `bgd status --json`; a test holds them against the real thing.
const KEYS: &[&str] = &[
    "name",
    "state",
    "live",
    "live.color",
    "live.port",
    "live.socket",
    "live.release",
    "live.commit",
    "live.subject",
    "live.author",
    "live.pid",
    "live.healthy",
    "live.instances",
    "live.given_up",
    "live.restarts",
    "live.up_since",
    "live.restart_wait_ms",
    "live.memory_bytes",
    "live.cpu_percent",
    "live.since",
    "idle",
    "idle.color",
    "idle.port",
    "idle.socket",
    "idle.release",
    "idle.commit",
    "idle.pid",
    "idle.instances",
    "idle.state",
    "idle.backup",
    "idle.memory_bytes",
    "idle.cpu_percent",
    "deploy",
    "deploy.id",
    "deploy.kind",
    "deploy.commit",
    "deploy.color",
    "deploy.phase",
    "deploy.started_at",
    "deploy.phase_since",
    "deploy.phase_ms",
    "deploy.ending",
    "deploy.task",
    "canary",
    "canary.step",
    "canary.steps",
    "canary.wanted",
    "canary.measured",
    "canary.since",
    "canary.by_hand",
    "canary.held",
    "canary.next_share",
    "canary.next_at",
    "canary.deadline_at",
    "hold",
    "hold.by",
    "hold.reason",
    "hold.since",
    "hold.until",
    "remote",
    "remote.branch",
    "remote.head",
    "remote.checked_at",
    "remote.error",
    "remote.hint",
    "remote.refs",
    "remote.next_at",
    "last",
    "last.id",
    "last.commit",
    "last.outcome",
    "last.phase",
    "last.error",
    "last.hint",
    "last.finished_at",
    "last.steps",
    "last.replaced",
    "trouble",
    "rollback",
    "rollback.possible",
    "rollback.to",
    "rollback.warm",
    "rollback.barrier",
    "rollback.automatic",
    "schema_ahead",
    "schema_ahead.deploy",
    "schema_ahead.release",
    "schema_ahead.commit",
    "schema_ahead.since",
    "schema_ahead.text",
    "why",
    "why.code",
    "why.text",
    "why.hint",
    "why.again_at",
    "gate",
    "gate.kind",
    "gate.commit",
    "gate.text",
    "gate.opens_at",
    "workers",
    "cron",
    "tasks",
];

/// The keys of the daemon.
const DAEMON_KEYS: &[&str] = &[
    "schema",
    "daemon",
    "daemon.running",
    "daemon.version",
    "daemon.pid",
    "daemon.started_at",
    "daemon.config_refused",
];

/// Refuses a key that no status has; done before the daemon is asked.
pub fn check(key: &str) -> Result<(), CliProblem> {
    if KEYS.contains(&key) || DAEMON_KEYS.contains(&key) {
        return Ok(());
    }
    Err(CliProblem::usage(format!("no such key: {key:?}"), format!("one of {}", near(key).join(", "))))
}

/// The known keys with the same first part; without any, the keys of one part.
fn near(key: &str) -> Vec<&'static str> {
    let all = || KEYS.iter().chain(DAEMON_KEYS).copied();
    let first = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
    let beside: Vec<_> = all().filter(|known| first(known) == first(key)).collect();
    if beside.is_empty() { all().filter(|known| !known.contains('.')).collect() } else { beside }
}

/// The value as text; empty for `null`, JSON for an object or an array.
pub fn value(status: &Status, key: &str) -> Result<String, CliProblem> {
    check(key)?;
    let whole = |value: Result<Value, serde_json::Error>| value.expect("a status is plain data");
    let root = match DAEMON_KEYS.contains(&key) {
        true => whole(serde_json::to_value(status)),
        false => whole(serde_json::to_value(only(status)?)),
    };
    let found = key.split('.').try_fold(&root, |value, name| value.get(name));
    Ok(match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => crate::os::printable::one_line(text),
        Some(other) => other.to_string(),
    })
}

fn only(status: &Status) -> Result<&AppReport, CliProblem> {
    match status.apps.as_slice() {
        [app] => Ok(app),
        apps => {
            let names: Vec<_> = apps.iter().map(|app| app.name.as_str()).collect();
            let count = names.len();
            Err(CliProblem::usage(
                format!("`-o` prints a value of one app, and there are {count}"),
                format!("name one of {}", names.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::status::fixture;

    #[test]
    fn values_come_out_bare_and_null_is_an_empty_line() {
        let status = fixture::status(vec![fixture::live()]);
        for (key, text) in [
            ("state", "live"),
            ("live.commit", "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"),
            ("live.port", "9501"),
            ("live.healthy", "true"),
            ("deploy.phase", ""),
            ("hold", ""),
            ("daemon.pid", "4242"),
            ("last.steps", r#"[{"ms":41,"name":"fetch"},{"ms":63,"name":"switch"}]"#),
        ] {
            assert_eq!(value(&status, key).unwrap(), text, "{key}");
        }
    }

    #[test]
    fn a_typo_is_an_error_even_below_null_and_several_apps_need_a_name() {
        let one = fixture::status(vec![fixture::empty()]);
        assert!(value(&one, "deploy.phse").is_err());
        assert!(near("rollback.warn").contains(&"rollback.warm"));
        assert!(near("lives").contains(&"live") && !near("lives").contains(&"live.pid"));
        let two = fixture::status(vec![fixture::live(), fixture::live()]);
        assert!(value(&two, "state").is_err());
        assert_eq!(value(&two, "daemon.running").unwrap(), "true");
    }

    #[test]
    fn the_list_of_keys_is_that_of_the_json() {
        let mut full = fixture::deploying();
        full.hold = fixture::held().hold;
        full.gate = fixture::gated().gate;
        full.canary = Some(fixture::canary());
        full.schema_ahead = Some(fixture::barrier());
        full.trouble = Some("nginx does not run".to_owned());
        let Value::Object(app) = serde_json::to_value(&full).unwrap() else { panic!("an object") };
        let mut real = BTreeSet::new();
        for (name, value) in &app {
            real.insert(name.clone());
            for inner in value.as_object().into_iter().flatten() {
                real.insert(format!("{name}.{}", inner.0));
            }
        }
        assert_eq!(real, KEYS.iter().map(|key| (*key).to_owned()).collect());
    }
}
