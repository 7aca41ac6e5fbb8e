//! The configuration as written: one struct for each table, every key optional, nothing judged.
//! This is the one list of the keys that exist; `parse.rs` reads files into it, `validate/` turns it into settings.

use std::{collections::BTreeMap, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    nearest::{nearest, related},
    problem::Place,
    read::{FromToml, Given, Item, Reader, Written},
};

/// Declares a table: its fields, the keys they are written as, and their types. Reading one notes unknown keys.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $key:literal: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(dead_code, reason = "every table has the same shape; `at` is not asked of each")]
        pub(super) struct $name {
            /// Where the table begins.
            pub at: Place,
            $(pub $field: Given<$kind>,)*
        }

        impl $name {
            /// The keys of the table.
            pub const KEYS: &[&str] = &[$($key),*];

            /// Reads the table, with every problem in it noted.
            pub fn read(table: &DeTable<'_>, at: &Place, reader: &mut Reader<'_>) -> Self {
                reader.refuse_unknown(table, at, Self::KEYS, |key| hint(key, Self::KEYS, at));
                Self { at: at.clone(), $($field: reader.field(table, at, $key),)* }
            }

            /// The table, or an empty one at `at`.
            #[allow(dead_code, reason = "some tables are never optional")]
            pub fn or_empty(given: Given<Self>, at: Place) -> Self {
                match given {
                    Given::Value(written) => written.value,
                    Given::Absent | Given::Unreadable(_) => Self { at, $($field: Given::Absent,)* },
                }
            }
        }

        impl FromToml for $name {
            fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
                match item.get_ref() {
                    DeValue::Table(table) => Some(Self::read(table, at, reader)),
                    _ => reader.wrong_type(at, "a table", item),
                }
            }
        }
    };
}

table! {
    /// `bgd.toml`.
    RawFile { app = "app": RawApps, daemon = "daemon": RawDaemon }
}

table! {
    /// `[daemon]`.
    RawDaemon {
        state_dir = "state_dir": String,
        runtime_dir = "runtime_dir": String,
        operators = "operators": Vec<Written<String>>,
        readers = "readers": Vec<Written<String>>,
    }
}

table! {
    /// `[app.NAME]`, or the root of a file of `apps.d`.
    RawApp {
        remote = "remote": String,
        branch = "branch": String,
        poll = "poll": Duration,
        listen = "listen": String,
        ports = "ports": Vec<Written<i64>>,
        instances = "instances": i64,
        build = "build": Commands,
        start = "start": RawStart,
        protocol = "protocol": String,
        stop = "stop": RawStop,
        drain = "drain": Duration,
        standby = "standby": Duration,
        keep = "keep": i64,
        user = "user": String,
        env = "env": RawEnv,
        env_file = "env_file": String,
        shared = "shared": Vec<Written<String>>,
        cache = "cache": Vec<Written<String>>,
        build_timeout = "build_timeout": Duration,
        fast_forward_only = "fast_forward_only": bool,
        memory_check = "memory_check": String,
        auth = "auth": RawAuth,
        verify = "verify": RawVerify,
        rewrite = "rewrite": Vec<Written<RawRewrite>>,
        health = "health": RawHealth,
        warmup = "warmup": RawWarmup,
        canary = "canary": RawCanary,
        preview = "preview": RawPreview,
        watch = "watch": RawWatch,
        hooks = "hooks": RawHooks,
        front = "front": RawFront,
        new_privileges = "new_privileges": bool,
        limits = "limits": RawLimits,
        checkout_limit = "checkout_limit": RawCheckoutLimit,
    }
}

table! {
    /// `stop = { … }`.
    RawStop { signal = "signal": RawSignal, command = "command": String, grace = "grace": Duration }
}

table! {
    /// `[app.NAME.auth]`.
    RawAuth {
        ssh_key = "ssh_key": String,
        known_hosts = "known_hosts": String,
        token_file = "token_file": String,
        ca_file = "ca_file": String,
        proxy = "proxy": String,
    }
}

table! {
    /// `[app.NAME.verify]`.
    RawVerify { signers = "signers": String, keyring = "keyring": String, range = "range": String }
}

table! {
    /// `[[app.NAME.rewrite]]`.
    RawRewrite { file = "file": String, find = "find": String, with = "with": String }
}

table! {
    /// `[app.NAME.health]`.
    RawHealth {
        path = "path": String,
        script = "script": String,
        command = "command": String,
        host = "host": String,
        status = "status": Vec<Written<i64>>,
        body = "body": String,
        interval = "interval": Duration,
        timeout = "timeout": Duration,
        deadline = "deadline": Duration,
        successes = "successes": i64,
    }
}

table! {
    /// `[app.NAME.warmup]`.
    RawWarmup {
        paths = "paths": Vec<Written<String>>,
        requests = "requests": i64,
        until_p95 = "until_p95": Duration,
    }
}

table! {
    /// `[app.NAME.canary]`.
    RawCanary { steps = "steps": Vec<Written<String>>, sticky = "sticky": String, cookie = "cookie": String }
}

table! {
    /// `[app.NAME.preview]`.
    RawPreview { header = "header": String, cookie = "cookie": String, secret_file = "secret_file": String }
}

table! {
    /// `[app.NAME.watch]`.
    RawWatch {
        period = "for": Duration,
        restart = "restart": bool,
        backup = "backup": bool,
        max_error_rate = "max_error_rate": String,
        max_p95 = "max_p95": String,
        min_requests = "min_requests": i64,
        inconclusive = "inconclusive": String,
    }
}

table! {
    /// `[app.NAME.hooks]`.
    RawHooks {
        before_start = "before_start": String,
        after_live = "after_live": String,
        after_failed = "after_failed": String,
        timeout = "timeout": Duration,
    }
}

table! {
    /// `[app.NAME.front]`.
    RawFront {
        kind = "type": String,
        listen = "listen": String,
        upstream = "upstream": String,
        file = "file": String,
        test = "test": Vec<Written<String>>,
        reload = "reload": Vec<Written<String>>,
        pid_file = "pid_file": String,
        request_timeout = "request_timeout": Duration,
        response_timeout = "response_timeout": Duration,
        address = "address": String,
        socket = "socket": String,
        backend = "backend": String,
        servers = "servers": Vec<Written<String>>,
        state_file = "state_file": String,
    }
}

table! {
    /// `[app.NAME.checkout_limit]`.
    RawCheckoutLimit { files = "files": i64, size = "size": String }
}

table! {
    /// `[app.NAME.limits]`.
    RawLimits { memory = "memory": String, cpu = "cpu": String, tasks = "tasks": i64 }
}

/// The tables of an app with their keys; the empty name is the app itself.
const APP_TABLES: [(&str, &[&str]); 14] = [
    ("", RawApp::KEYS),
    ("stop", RawStop::KEYS),
    ("auth", RawAuth::KEYS),
    ("verify", RawVerify::KEYS),
    ("rewrite", RawRewrite::KEYS),
    ("health", RawHealth::KEYS),
    ("warmup", RawWarmup::KEYS),
    ("canary", RawCanary::KEYS),
    ("preview", RawPreview::KEYS),
    ("watch", RawWatch::KEYS),
    ("hooks", RawHooks::KEYS),
    ("front", RawFront::KEYS),
    ("limits", RawLimits::KEYS),
    ("checkout_limit", RawCheckoutLimit::KEYS),
];

/// Words of other tools for keys of ours.
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

/// What to do about an unknown key of the table at `at`.
fn hint(key: &str, known: &[&str], at: &Place) -> String {
    let synonym = SYNONYMS
        .iter()
        .find(|(word, ours)| word.eq_ignore_ascii_case(key) && known.contains(ours))
        .map(|(_, ours)| *ours);
    if let Some(ours) = synonym.or_else(|| nearest(key, known)) {
        return format!("did you mean `{ours}`?");
    }
    let app = at.key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    match APP_TABLES.iter().find(|(_, keys)| keys.contains(&key)) {
        _ if RawFile::KEYS.contains(&key) => {
            return format!("`{key}` stands at the root of bgd.toml; a file of apps.d is one app");
        }
        Some((_, _)) if at.key.is_empty() => return format!("`{key}` belongs to an app: under [app.NAME]"),
        Some(("", _)) => return format!("`{key}` belongs to the app itself: {app}.{key}"),
        Some((table, _)) if !at.key.starts_with("daemon") => {
            return format!("`{key}` belongs to the table `{table}`: {app}.{table}.{key}");
        }
        _ if RawDaemon::KEYS.contains(&key) => return format!("`{key}` belongs under [daemon] of bgd.toml"),
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

/// `[app.NAME]` tables, by name as written.
#[derive(Debug, Clone)]
pub(super) struct RawApps(pub Vec<(String, RawApp)>);

impl FromToml for RawApps {
    fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            return reader.wrong_type(at, "tables [app.NAME]", item);
        };
        let mut apps = Vec::new();
        for (name, item) in table.iter() {
            let at = at.key(name.get_ref(), reader.line(name.span().start));
            match (item.get_ref(), RawApp::KEYS.contains(&name.get_ref().as_ref())) {
                (DeValue::Table(table), _) => {
                    apps.push((name.get_ref().to_string(), RawApp::read(table, &at, reader)));
                }
                (_, true) => reader.notes.error(
                    &at,
                    "a key of an app, but the app has no name",
                    "write the header with a name: [app.NAME]",
                ),
                (_, false) => {
                    reader.wrong_type::<()>(&at, "a table", item);
                }
            }
        }
        // The table is in the order of names; what is said of two apps shall follow the file.
        apps.sort_by_key(|(_, app)| app.at.line);
        Some(Self(apps))
    }
}

/// A text or a list of texts.
#[derive(Debug, Clone)]
pub(super) struct Commands(pub Vec<Written<String>>);

impl FromToml for Commands {
    fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Array(_) => FromToml::from_toml(item, at, reader).map(Self),
            DeValue::String(_) => {
                let value = String::from_toml(item, at, reader)?;
                Some(Self(vec![Written { value, at: at.clone() }]))
            }
            _ => reader.wrong_type(at, "a text or a list of texts", item),
        }
    }
}

/// `start` as written.
#[derive(Debug, Clone)]
pub(super) enum RawStart {
    Shell(String),
    Argv(Vec<Written<String>>),
}

impl FromToml for RawStart {
    fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Array(_) => FromToml::from_toml(item, at, reader).map(Self::Argv),
            DeValue::String(_) => FromToml::from_toml(item, at, reader).map(Self::Shell),
            _ => reader.wrong_type(at, "a text or a list of texts", item),
        }
    }
}

/// `stop.signal` as written.
#[derive(Debug, Clone)]
pub(super) enum RawSignal {
    Name(String),
    Number(i64),
}

impl FromToml for RawSignal {
    fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Integer(_) => FromToml::from_toml(item, at, reader).map(Self::Number),
            DeValue::String(_) => FromToml::from_toml(item, at, reader).map(Self::Name),
            _ => reader.wrong_type(at, "a signal such as \"TERM\"", item),
        }
    }
}

/// `env` as written: any key is allowed here.
#[derive(Debug, Clone)]
pub(super) struct RawEnv(pub BTreeMap<String, Written<String>>);

impl FromToml for RawEnv {
    fn from_toml(item: &Item<'_>, at: &Place, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            return reader.wrong_type(at, "a table such as { APP_ENV = \"prod\" }", item);
        };
        let mut all = BTreeMap::new();
        for (name, item) in table.iter() {
            let at = at.key(name.get_ref(), reader.line(name.span().start));
            if matches!(item.get_ref(), DeValue::String(_)) {
                let value = String::from_toml(item, &at, reader)?;
                all.insert(name.get_ref().to_string(), Written { value, at });
            } else {
                // Not by way of `wrong_type`: that shows numbers, and a number here may be a PIN.
                reader.notes.error(
                    &at,
                    "expected a text",
                    "environment variables are texts: write it in quotes",
                );
            }
        }
        Some(Self(all))
    }
}
