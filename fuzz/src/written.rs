//! Settings as somebody would write them who leaves nothing out, so that they can be read again.

use std::{path::Path, time::Duration};

use bgd::config::{
    duration,
    settings::{
        AppSettings, Assets, AssetsKept, Auth, CanarySettings, CheckoutLimit, CronSettings, FrontSettings,
        Gates, Health, Hooks, HttpProbe, Inconclusive, Limits, Listen, MemoryCheck, MigrationRules,
        OnFailure, PreviewSettings, Principal, Probe, Protocol, Repeat, Rewrite, Settings, Start, StaticSite,
        Sticky, Stop, StopHow, Task, Verify, VerifyRange, Warmup, Watch, WorkerSettings,
    },
    signal,
};
use bgd::os::privilege::NewPrivileges;
use bgd::rules::{
    cron::{Missed, Overlap},
    opening::{Freeze, Window},
    workers::Takeover,
};
use toml::{Table, Value};

/// The whole of a `bgd.toml`.
pub fn settings(settings: &Settings) -> String {
    let mut daemon = Table::new();
    put(&mut daemon, "state_dir", path(&settings.daemon.state_dir));
    put(&mut daemon, "runtime_dir", path(&settings.daemon.runtime_dir));
    if let Some(operators) = &settings.daemon.operators {
        put(&mut daemon, "operators", names(operators));
    }
    put(&mut daemon, "readers", names(&settings.daemon.readers));
    let apps = settings.apps.iter().map(|(name, of)| (name.to_string(), Value::Table(app(of))));
    let mut all = Table::new();
    put(&mut all, "daemon", daemon);
    put(&mut all, "app", apps.collect::<Table>());
    toml::to_string(&all).expect("a table can be written")
}

fn app(app: &AppSettings) -> Table {
    let mut out = Table::new();
    // A path is written as a directory: blanks at the end of a remote mean nothing.
    let slash = if app.remote.starts_with('/') { "/" } else { "" };
    put(&mut out, "remote", format!("{}{slash}", app.remote));
    put(&mut out, "branch", app.branch.as_str());
    put(&mut out, "poll", time(app.poll));
    match &app.listen {
        Listen::Ports => {
            put(&mut out, "ports", list([i64::from(app.ports.blue), i64::from(app.ports.green)]));
        }
        Listen::Sockets(_) => put(&mut out, "listen", "unix"),
    }
    put(&mut out, "instances", i64::from(app.instances));
    put(&mut out, "build", list(app.build.clone()));
    put(&mut out, "start", start(&app.start));
    put(&mut out, "protocol", protocol(app.protocol));
    put(&mut out, "stop", stop(&app.stop));
    put(&mut out, "drain", time(app.drain));
    put(&mut out, "standby", time(app.standby));
    put(&mut out, "keep", i64::try_from(app.keep.get()).expect("it was read from one"));
    put_if(&mut out, "user", app.user.clone());
    put(&mut out, "env", app.env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect::<Table>());
    put_if(&mut out, "env_file", app.env_file.as_deref().map(path));
    put(&mut out, "shared", list(app.shared.iter().map(|one| path(one))));
    put(&mut out, "cache", list(app.cache.iter().map(|one| path(one))));
    put(&mut out, "build_timeout", time(app.build_timeout));
    put(&mut out, "fast_forward_only", app.fast_forward_only);
    put(&mut out, "checkout_limit", checkout_limit(app.checkout_limit));
    put(&mut out, "memory_check", memory_check(app.memory_check));
    put(&mut out, "new_privileges", app.new_privileges == NewPrivileges::Allowed);
    put(&mut out, "auth", auth(&app.auth));
    put_if(&mut out, "verify", app.verify.as_ref().map(verify));
    put(&mut out, "rewrite", list(app.rewrites.iter().map(rewrite)));
    put(&mut out, "health", health(&app.health));
    put_if(&mut out, "warmup", app.warmup.as_ref().map(warmup));
    if !app.canary.steps.is_empty() {
        put(&mut out, "canary", canary(&app.canary));
    }
    put_if(&mut out, "preview", app.preview.as_ref().map(preview));
    put(&mut out, "watch", watch(app.watch));
    put_if(&mut out, "migration", app.migration.as_ref().map(migration));
    put(&mut out, "limits", limits(app.limits));
    put(&mut out, "hooks", hooks(&app.hooks));
    put_if(&mut out, "dir", app.dir.as_deref().map(path));
    gates(&app.gates, &mut out);
    put(&mut out, "task", list(app.tasks.iter().map(task)));
    put(&mut out, "worker", named(app.workers.iter().map(|one| (one.plan.name.to_string(), worker(one)))));
    put(&mut out, "cron", named(app.crons.iter().map(|one| (one.rule.name.to_string(), cron(one)))));
    put_if(&mut out, "assets", app.assets.as_ref().map(assets));
    if let Some(site) = &app.site {
        OF_INSTANCES.iter().for_each(|key| drop(out.remove(*key)));
        if let Some(watch) = out.get_mut("watch").and_then(Value::as_table_mut) {
            watch.remove("backup");
        }
        put(&mut out, "static", static_site(site));
    }
    let mut routed = front(&app.front);
    put(&mut routed, "address", app.public.as_ref().map_or("none", |public| public.url.as_str()));
    put(&mut out, "front", routed);
    out
}

/// Keys that a static site can't have.
const OF_INSTANCES: [&str; 9] =
    ["start", "protocol", "listen", "ports", "instances", "stop", "warmup", "preview", "memory_check"];

fn named(tables: impl Iterator<Item = (String, Table)>) -> Table {
    tables.map(|(name, table)| (name, Value::Table(table))).collect()
}

fn worker(worker: &WorkerSettings) -> Table {
    let mut out = Table::new();
    put(&mut out, "start", start(&worker.start));
    put(&mut out, "instances", i64::from(worker.plan.instances));
    put(&mut out, "stop", stop(&worker.stop));
    put_if(&mut out, "quiet", worker.quiet.map(signal::name));
    put(&mut out, "exclusive", worker.plan.exclusive);
    put(&mut out, "takeover", if worker.plan.takeover == Takeover::Watched { "watched" } else { "live" });
    out
}

fn cron(cron: &CronSettings) -> Table {
    let mut out = Table::new();
    put(&mut out, "schedule", cron.rule.schedule.text());
    put(&mut out, "time_zone", cron.rule.schedule.zone());
    put(&mut out, "run", cron.run.as_str());
    put(&mut out, "timeout", time(cron.timeout));
    let overlap = match cron.rule.overlap {
        Overlap::Skip => "skip",
        Overlap::Allow => "allow",
        Overlap::End => "end",
    };
    put(&mut out, "overlap", overlap);
    put(&mut out, "missed", if cron.rule.missed == Missed::Run { "run" } else { "skip" });
    out
}

fn static_site(site: &StaticSite) -> Table {
    let mut out = Table::new();
    let whole = site.dir.as_os_str().is_empty();
    put(&mut out, "dir", if whole { ".".to_owned() } else { path(&site.dir) });
    put_if(&mut out, "fallback", site.fallback.as_deref().map(path));
    out
}

fn assets(assets: &Assets) -> Table {
    let mut out = Table::new();
    put(&mut out, "dir", path(&assets.dir));
    put(&mut out, "url", assets.url.as_str());
    match assets.keep {
        AssetsKept::Releases(number) => {
            put(&mut out, "keep", i64::try_from(number.get()).expect("it was read from one"));
        }
        AssetsKept::For(age) => put(&mut out, "keep", time(age)),
    }
    out
}

fn gates(gates: &Gates, out: &mut Table) {
    put_if(out, "paths", gates.paths.as_ref().map(|paths| list(paths.iter())));
    put(out, "skip", list(gates.skip.clone()));
    let zone = |zone: &jiff::tz::TimeZone| zone.iana_name().unwrap_or("UTC").to_owned();
    let window = |window: &Window| {
        let mut out = Table::new();
        let named = |day: &jiff::civil::Weekday| DAYS[day.to_monday_zero_offset() as usize];
        put(&mut out, "days", list(window.days.iter().map(named)));
        put(&mut out, "from", window.from.strftime("%H:%M").to_string());
        let to = window.to.strftime("%H:%M").to_string();
        put(&mut out, "to", if to == "00:00" { "24:00".to_owned() } else { to });
        put(&mut out, "time_zone", zone(&window.zone));
        out
    };
    put(out, "window", list(gates.openings.windows.iter().map(window)));
    let freeze = |freeze: &Freeze| {
        let mut out = Table::new();
        put(&mut out, "from", freeze.from.to_string());
        put(&mut out, "to", freeze.to.to_string());
        put(&mut out, "time_zone", zone(&freeze.zone));
        put_if(&mut out, "reason", freeze.reason.clone());
        out
    };
    put(out, "freeze", list(gates.openings.freezes.iter().map(freeze)));
    if let Some(command) = &gates.command {
        let mut gate = Table::new();
        put(&mut gate, "command", command.line.as_str());
        put(&mut gate, "interval", time(command.interval));
        put(&mut gate, "timeout", time(command.timeout));
        put(&mut gate, "deadline", time(command.deadline));
        put(out, "gate", gate);
    }
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn start(start: &Start) -> Value {
    match start {
        Start::Shell(command) => command.as_str().into(),
        Start::Argv(argv) => list(argv.clone()),
    }
}

fn checkout_limit(limit: CheckoutLimit) -> Table {
    let mut out = Table::new();
    put(&mut out, "files", i64::try_from(limit.files).expect("it was read from one"));
    put(&mut out, "size", format!("{}K", limit.bytes >> 10));
    out
}

fn memory_check(memory_check: MemoryCheck) -> &'static str {
    match memory_check {
        MemoryCheck::Warn => "warn",
        MemoryCheck::Refuse => "refuse",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::FastCgi => "fastcgi",
        Protocol::Uwsgi => "uwsgi",
    }
}

fn stop(stop: &Stop) -> Table {
    let mut out = Table::new();
    match &stop.how {
        StopHow::Signal(number) => put(&mut out, "signal", signal::name(*number)),
        StopHow::Command(command) => put(&mut out, "command", command.as_str()),
    }
    put(&mut out, "grace", time(stop.grace));
    out
}

fn auth(auth: &Auth) -> Table {
    let mut out = Table::new();
    put_if(&mut out, "ssh_key", auth.ssh_key.as_deref().map(path));
    put_if(&mut out, "known_hosts", auth.known_hosts.as_deref().map(path));
    put_if(&mut out, "token_file", auth.token_file.as_deref().map(path));
    put_if(&mut out, "ca_file", auth.ca_file.as_deref().map(path));
    put_if(&mut out, "proxy", auth.proxy.clone());
    out
}

fn verify(verify: &Verify) -> Table {
    let mut out = Table::new();
    put_if(&mut out, "signers", verify.signers.as_deref().map(path));
    put_if(&mut out, "keyring", verify.keyring.as_deref().map(path));
    put(
        &mut out,
        "range",
        match verify.range {
            VerifyRange::Tip => "tip",
            VerifyRange::All => "all",
        },
    );
    out
}

fn warmup(warmup: &Warmup) -> Table {
    let mut out = Table::new();
    put(&mut out, "paths", list(warmup.paths.clone()));
    put(&mut out, "requests", i64::from(warmup.requests.get()));
    put_if(&mut out, "until_p95", warmup.until_p95.map(time));
    out
}

fn canary(canary: &CanarySettings) -> Table {
    let mut out = Table::new();
    let hold = |hold| format!(":{}", time(hold));
    let steps =
        canary.steps.iter().map(|step| format!("{}{}", step.share, step.hold.map(hold).unwrap_or_default()));
    put(&mut out, "steps", list(steps));
    let sticky = match &canary.sticky {
        Sticky::None => "none",
        Sticky::Ip => "ip",
        Sticky::Cookie(name) => {
            put(&mut out, "cookie", name.as_str());
            "cookie"
        }
    };
    put(&mut out, "sticky", sticky);
    if !canary.approvers.is_empty() {
        put(&mut out, "approvers", names(&canary.approvers));
    }
    put_if(&mut out, "deadline", canary.deadline.map(time));
    out
}

fn preview(preview: &PreviewSettings) -> Table {
    let mut out = Table::new();
    put(&mut out, "header", preview.header.as_str());
    put(&mut out, "cookie", preview.cookie.as_str());
    put(&mut out, "secret_file", path(&preview.secret_file));
    out
}

fn watch(watch: Watch) -> Table {
    let mut out = Table::new();
    put(&mut out, "for", time(watch.period));
    put(&mut out, "restart", watch.restart);
    put(&mut out, "backup", watch.backup);
    let percent = |millionths: u32| format!("{}.{:04}%", millionths / 10_000, millionths % 10_000);
    put_if(&mut out, "max_error_rate", watch.traffic.max_error_rate.map(|rate| percent(rate.0)));
    put_if(&mut out, "max_p95", watch.traffic.max_p95.map(|slower| format!("+{slower}%")));
    if watch.traffic.any() {
        put(&mut out, "min_requests", i64::from(watch.traffic.min_requests.get()));
        put(
            &mut out,
            "inconclusive",
            match watch.inconclusive {
                Inconclusive::GoOn => "go_on",
                Inconclusive::Hold => "hold",
            },
        );
    }
    out
}

fn limits(limits: Limits) -> Table {
    let mut out = Table::new();
    put_if(&mut out, "memory", limits.memory.map(|bytes| format!("{}K", bytes >> 10)));
    put_if(&mut out, "cpu", limits.cpu.map(|percent| format!("{percent}%")));
    put_if(&mut out, "tasks", limits.tasks.map(i64::from));
    out
}

fn names(all: &[Principal]) -> Value {
    list(all.iter().map(ToString::to_string))
}

fn rewrite(rewrite: &Rewrite) -> Table {
    let mut out = Table::new();
    put(&mut out, "file", path(&rewrite.file));
    put(&mut out, "find", rewrite.find.as_str());
    put(&mut out, "with", rewrite.with.as_str());
    out
}

fn health(health: &Health) -> Table {
    let mut out = Table::new();
    match &health.probe {
        Probe::Tcp => {}
        Probe::Command(command) => put(&mut out, "command", command.as_str()),
        Probe::Http(asked) | Probe::Uwsgi(asked) => page(&mut out, asked),
        Probe::FastCgi(by) => {
            page(&mut out, &by.page);
            put_if(&mut out, "script", by.script.as_deref().map(path));
        }
    }
    put(&mut out, "interval", time(health.interval));
    put(&mut out, "timeout", time(health.timeout));
    put(&mut out, "deadline", time(health.deadline));
    put(&mut out, "successes", i64::from(health.successes.get()));
    out
}

fn page(out: &mut Table, page: &HttpProbe) {
    put(out, "path", page.path.as_str());
    put_if(out, "host", page.host.clone());
    put(out, "status", list(page.status.iter().map(|code| i64::from(*code))));
    put_if(out, "body", page.body.clone());
}

fn migration(rules: &MigrationRules) -> Table {
    let mut out = Table::new();
    for (key, patterns) in [("paths", &rules.paths), ("contract", &rules.contract)] {
        put_if(&mut out, key, patterns.as_ref().map(|patterns| list(patterns.iter())));
    }
    put(&mut out, "on_failure", if rules.on_failure == OnFailure::Flip { "flip" } else { "stay" });
    out
}

fn hooks(hooks: &Hooks) -> Table {
    let mut out = Table::new();
    put_if(&mut out, "before_start", hooks.before_start.clone());
    put_if(&mut out, "after_live", hooks.after_live.clone());
    put_if(&mut out, "after_failed", hooks.after_failed.clone());
    put(&mut out, "timeout", time(hooks.timeout));
    out
}

fn task(task: &Task) -> Table {
    let mut out = Table::new();
    put(&mut out, "name", task.name.as_str());
    put(&mut out, "run", task.run.as_str());
    put(&mut out, "when", task.when.as_str());
    put(&mut out, "timeout", time(task.timeout));
    put(&mut out, "again", task.again);
    put(&mut out, "repeat", if task.repeat == Repeat::Safe { "safe" } else { "unsafe" });
    out
}

fn front(front: &FrontSettings) -> Table {
    let mut out = Table::new();
    match front {
        FrontSettings::Builtin { listen, request_timeout, response_timeout } => {
            put(&mut out, "type", "builtin");
            put(&mut out, "listen", listen.to_string());
            put(&mut out, "request_timeout", time(*request_timeout));
            put(&mut out, "response_timeout", time(*response_timeout));
        }
        FrontSettings::Nginx(nginx) => {
            put(&mut out, "type", "nginx");
            put(&mut out, "upstream", nginx.upstream.as_str());
            put(&mut out, "file", path(&nginx.file));
            put(&mut out, "test", list(nginx.test.clone()));
            put(&mut out, "reload", list(nginx.reload.clone()));
            put(&mut out, "pid_file", path(&nginx.pid_file));
        }
        FrontSettings::Haproxy(haproxy) => {
            put(&mut out, "type", "haproxy");
            put(&mut out, "socket", path(&haproxy.socket));
            put(&mut out, "backend", haproxy.backend.as_str());
            put(&mut out, "servers", list([haproxy.servers.blue.clone(), haproxy.servers.green.clone()]));
            put_if(&mut out, "state_file", haproxy.state_file.as_deref().map(path));
        }
    }
    out
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn put_if(table: &mut Table, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        put(table, key, value);
    }
}

fn list<T: Into<Value>>(all: impl IntoIterator<Item = T>) -> Value {
    Value::Array(all.into_iter().map(Into::into).collect())
}

fn path(path: &Path) -> String {
    path.to_str().expect("it was read from a text").to_owned()
}

fn time(time: Duration) -> String {
    duration::exact(time)
}
