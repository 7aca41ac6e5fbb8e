//! `[app.NAME]`, or the root of a file of `apps.d`: the keys that stand in no smaller table, and the app as a whole.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    Table as _,
    assets::{Assets, RawAssets},
    auth::{Auth, RawAuth},
    canary::{CanarySettings, RawCanary},
    checkout_limit::RawCheckoutLimit,
    cron::{CronSettings, RawCron},
    env::RawEnv,
    freeze::RawFreeze,
    front::{FrontSettings, RawFront},
    front_builtin,
    gate::{Gates, RawGate},
    health::{Health, RawHealth},
    hooks::{Hooks, RawHooks},
    limits::RawLimits,
    listen::Listen,
    migration::{MigrationRules, RawMigration},
    named::{Named, NamedTable},
    ports::Ports,
    preview::{PreviewSettings, RawPreview},
    protocol::Protocol,
    public::PublicAddress,
    remote::{BRANCH, Transport},
    rewrite::{RawRewrite, Rewrite},
    start::{Commands, RawStart, Start},
    static_site::{RawStatic, StaticSite},
    stop::{RawStop, Stop},
    task::{RawTask, Task},
    verify::{RawVerify, Verify},
    warmup::{RawWarmup, Warmup},
    watch::{RawWatch, Watch},
    window::RawWindow,
    worker::{RawWorker, WorkerSettings},
};
use crate::{
    config::{
        commands::ProgramCall,
        duration::exact,
        judge::{Holds, Judge},
        read::{Given, Written},
        span::Span,
    },
    os::privilege::NewPrivileges,
    rules::{
        address::Address,
        addresses::Addresses,
        ids::{AppName, Color},
        limits::{CheckoutLimit, Limits},
    },
};

table! {
    /// `[app.NAME]`, or the root of a file of `apps.d`.
    RawApp {
        remote: String,
        branch: String,
        poll: Duration,
        listen: String,
        ports: Vec<Written<i64>>,
        instances: i64,
        build: Commands,
        start: RawStart,
        protocol: String,
        stop: RawStop,
        drain: Duration,
        standby: Duration,
        keep: i64,
        user: String,
        env: RawEnv,
        env_file: String,
        shared: Vec<Written<String>>,
        cache: Vec<Written<String>>,
        build_timeout: Duration,
        fast_forward_only: bool,
        memory_check: String,
        auth: RawAuth,
        verify: RawVerify,
        rewrite: Vec<Written<RawRewrite>>,
        health: RawHealth,
        warmup: RawWarmup,
        canary: RawCanary,
        preview: RawPreview,
        watch: RawWatch,
        migration: RawMigration,
        hooks: RawHooks,
        worker: Named<RawWorker>,
        cron: Named<RawCron>,
        task: Vec<Written<RawTask>>,
        front: RawFront,
        new_privileges: bool,
        limits: RawLimits,
        checkout_limit: RawCheckoutLimit,
        dir: String,
        paths: Vec<Written<String>>,
        skip: Vec<Written<String>>,
        window: Vec<Written<RawWindow>>,
        freeze: Vec<Written<RawFreeze>>,
        gate: RawGate,
        site = "static": RawStatic,
        assets: RawAssets,
    }
}

impl NamedTable for RawApp {
    const FORM: &str = "tables [app.NAME]";
    const NAMELESS: (&str, &str) =
        ("a key of an app, but the app has no name", "write the header with a name: [app.NAME]");
}

/// The validated settings of one app.
#[derive(Debug, Clone, PartialEq)]
pub struct AppSettings {
    /// The app's name.
    pub name: AppName,
    /// Anything git fetches: URL or path.
    pub remote: String,
    /// The branch to follow, without `refs/heads/`.
    pub branch: String,
    /// Wait between two polls of the remote.
    pub poll: Duration,
    /// Whether it listens on ports or on unix sockets.
    pub listen: Listen,
    /// Ports of the first instance of blue and of green; without meaning if the app listens on sockets.
    pub ports: Ports,
    /// Instances per color, 1 to [`MOST_INSTANCES`], on consecutive ports; 0 for a static site.
    pub instances: u16,
    /// Build commands, in order.
    pub build: Vec<String>,
    /// How an instance is started; without meaning for a static site.
    pub start: Start,
    /// The protocol on its ports or sockets.
    pub protocol: Protocol,
    /// How an instance is stopped.
    pub stop: Stop,
    /// The longest wait for requests in flight before `stop`.
    pub drain: Duration,
    /// How long the old color is kept warm after a flip.
    pub standby: Duration,
    /// Number of good releases kept on disk.
    pub keep: NonZeroUsize,
    /// Build and run as this user; `None` means bgd's user.
    pub user: Option<String>,
    /// Whether builds, hooks and instances may gain rights by running a setuid program.
    pub new_privileges: NewPrivileges,
    /// Extra environment, before placeholders are replaced.
    pub env: BTreeMap<String, String>,
    /// A file of `KEY=value` lines, read at each build and start.
    pub env_file: Option<PathBuf>,
    /// Paths relative to the release that are stored in `<app>/shared`; a trailing `/` in the file means a directory.
    pub shared: Vec<PathBuf>,
    /// Paths relative to the release that are copied from the previous release before the build.
    pub cache: Vec<PathBuf>,
    /// Time limit of the whole build.
    pub build_timeout: Duration,
    /// Refuse a force-pushed branch.
    pub fast_forward_only: bool,
    /// What follows when a second copy of the app is likely to need more memory than is free.
    pub memory_check: MemoryCheck,
    /// Credentials of the remote.
    pub auth: Auth,
    /// Deploy signed commits only.
    pub verify: Option<Verify>,
    /// Literal replacements in files of the release.
    pub rewrites: Vec<Rewrite>,
    /// When an instance counts as healthy.
    pub health: Health,
    /// Requests to a new instance before it gets traffic.
    pub warmup: Option<Warmup>,
    /// The gradual move of traffic to a new release.
    pub canary: CanarySettings,
    /// How a request selects the color that is not live; `None`: it can't.
    pub preview: Option<PreviewSettings>,
    /// What happens after a flip.
    pub watch: Watch,
    /// Which releases change the database; `None`: nobody looks.
    pub migration: Option<MigrationRules>,
    /// Commands of the app at points of a deploy.
    pub hooks: Hooks,
    /// Processes without a port that work for the live release.
    pub workers: Vec<WorkerSettings>,
    /// Commands of the live release at set times.
    pub crons: Vec<CronSettings>,
    /// Commands that run once in a deploy, in their order.
    pub tasks: Vec<Task>,
    /// What routes the public traffic.
    pub front: FrontSettings,
    /// The public address that bgd probes during a flip; `None`: flips are not measured.
    pub public: Option<PublicAddress>,
    /// Resource limits of an instance, a build or a hook.
    pub limits: Limits,
    /// Limit of files and bytes of a commit.
    pub checkout_limit: CheckoutLimit,
    /// The directory of the release in which the app's commands run; `None`: its root.
    pub dir: Option<PathBuf>,
    /// What keeps a commit from being deployed by itself.
    pub gates: Gates,
    /// The files that the front serves in place of instances; `None` for an app with instances.
    pub site: Option<StaticSite>,
    /// Files of former releases that the front still serves.
    pub assets: Option<Assets>,
}

impl AppSettings {
    /// The addresses of both colors.
    pub fn addresses(&self) -> Addresses {
        match &self.listen {
            Listen::Ports => Addresses { each: self.instances, ..self.ports.into() },
            Listen::Sockets(sockets) => Addresses { each: self.instances, ..sockets.into() },
        }
    }

    /// The address of a color's instance, counted from 0; the index may exceed the current number of instances.
    pub fn address_at(&self, color: Color, index: u16) -> Address {
        self.addresses().nth(color, index)
    }

    /// Whether bgd counts the front's requests: for the watch, or for a canary's share in status.
    pub fn counts_traffic(&self) -> bool {
        self.watch.traffic.any() || !self.canary.steps.is_empty()
    }
}

/// What follows when a second copy of the app is likely to need more memory than is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryCheck {
    /// Warn, and start the new release.
    #[default]
    Warn,
    /// Fail the deploy before the start.
    Refuse,
}

const POLL: Duration = Duration::from_secs(10);
/// A shorter `poll` of a server is warned of.
const OFTEN: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(30);
const STANDBY: Duration = Duration::ZERO;
const KEEP: NonZeroUsize = NonZeroUsize::new(5).unwrap();
const BUILD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const FAST_FORWARD_ONLY: bool = false;
const NEW_PRIVILEGES: bool = false;

impl RawApp {
    /// The commands of an app, in which bgd replaces placeholders and a shell expands variables.
    pub fn commands(&self) -> Vec<(&Span, &str)> {
        let mut all = Vec::new();
        if let Some(build) = self.build.value() {
            all.extend(build.value.0.iter().map(|one| (&one.at, one.value.as_str())));
        }
        match self.start.value().map(|written| (&written.at, &written.value)) {
            Some((at, RawStart::Shell(line))) => all.push((at, line.as_str())),
            Some((_, RawStart::Argv(argv))) => {
                all.extend(argv.iter().map(|one| (&one.at, one.value.as_str())))
            }
            None => {}
        }
        all.extend(self.stop.value().and_then(|stop| text_of(&stop.value.command)));
        all.extend(self.health.value().and_then(|health| text_of(&health.value.command)));
        if let Some(hooks) = self.hooks.value().map(|hooks| &hooks.value) {
            let hooks = [&hooks.before_start, &hooks.after_live, &hooks.after_failed];
            all.extend(hooks.into_iter().filter_map(text_of));
        }
        all.extend(self.worker_commands());
        all.extend(self.cron_commands());
        let tasks = self.task.value().map_or(&[][..], |tasks| &tasks.value);
        all.extend(tasks.iter().filter_map(|task| text_of(&task.value.run)));
        all
    }

    /// The commands of workers, which have no port and no socket.
    pub fn worker_commands(&self) -> Vec<(&Span, &str)> {
        let workers = self.worker.value().map_or(&[][..], |all| &all.value.0);
        workers.iter().flat_map(|(_, worker)| worker.commands()).collect()
    }

    /// The programs that each worker's `start` calls, whether a shell reads it, and its place.
    pub fn worker_starts(&self) -> Vec<(Vec<ProgramCall>, bool, &Span)> {
        let workers = self.worker.value().map_or(&[][..], |all| &all.value.0);
        workers.iter().filter_map(|(_, worker)| worker.calls()).collect()
    }

    /// The commands of schedules, which have no port and no socket.
    pub fn cron_commands(&self) -> Vec<(&Span, &str)> {
        let crons = self.cron.value().map_or(&[][..], |all| &all.value.0);
        crons.iter().filter_map(|(_, cron)| text_of(&cron.run)).collect()
    }

    /// The other texts of an app in which bgd replaces placeholders.
    pub fn values(&self) -> Vec<(&Span, &str)> {
        let env = self.env.value().into_iter().flat_map(|env| env.value.0.values());
        let rewrites = self.rewrite.value().map_or(&[][..], |all| &all.value);
        let env = env.map(|one| (&one.at, one.value.as_str()));
        env.chain(rewrites.iter().filter_map(|one| text_of(&one.value.with))).collect()
    }
}

pub(super) fn text_of(given: &Given<String>) -> Option<(&Span, &str)> {
    given.value().map(|written| (&written.at, written.value.as_str()))
}

/// Checks an app. The result is valid only if no error was noted.
pub(in crate::config) fn app(judge: &mut Judge<'_>, name: AppName, raw: RawApp) -> AppSettings {
    let listen = judge.app_listen(&raw, &name);
    judge.placeholders(&raw);
    judge.programs(&raw);
    let gates = judge.gates(&raw);
    let dir = raw.dir.value().and_then(|written| judge.release_dir(written));
    let (site, assets) = (judge.static_site(&raw), judge.assets(&raw.assets));
    let at = raw.at;
    let remote = judge.remote(&raw.remote, &at);
    let transport = remote.as_ref().map(|remote| remote.transport);
    let auth = judge.auth(&RawAuth::or_empty(raw.auth, at.absent("auth")), transport);
    let verify = judge.verify(raw.verify);
    let (shared, cache) = (judge.release_paths(&raw.shared), judge.release_paths(&raw.cache));
    judge.refuse_overlaps(&[&shared[..], &cache[..]].concat(), "a path is shared or cached, and once");
    let rewrites = judge.rewrites(&raw.rewrite, &shared);
    let protocol = judge.protocol(&raw.protocol);
    let health = judge.health(raw.health, (protocol, site.as_ref()), &at);
    judge.warmup_speaks(protocol, raw.warmup.span());
    let warmup = judge.warmup(raw.warmup, &health);
    let canary = judge.canary(&raw.canary, &name);
    let preview = judge.preview(raw.preview, &raw.canary, &canary);
    let raw_watch = RawWatch::or_empty(raw.watch, at.absent("watch"));
    let watch = judge.watch(&raw_watch, &health, &canary);
    let address = raw.front.value().map_or(Given::Absent, |front| front.value.address.clone());
    let front = judge.front(raw.front, &name, &at);
    judge.backup_stands(&raw_watch.backup, front.as_ref());
    let public = judge.public(&address, front.as_ref(), &health);
    let limits = judge.limits(raw.limits, &at);
    let checkout_limit = judge.checkout_limit(raw.checkout_limit, &at);
    judge.files_are_served((raw.site.span(), raw.assets.span()), front.as_ref());
    let instances = match &site {
        Some(_) => 0,
        None => judge.instances(&raw.instances, front.as_ref(), &rewrites),
    };
    judge.front_speaks((&raw.protocol, protocol), front.as_ref());
    judge.sockets_fit(raw.listen.span(), (&listen, instances), front.as_ref());
    if protocol == Protocol::Uwsgi {
        judge.uwsgi_ends(&raw.start, &raw.stop);
    }
    AppSettings {
        remote: remote.map(|remote| remote.url).unwrap_or_default(),
        branch: judge.branch(&raw.branch).unwrap_or_else(|| BRANCH.to_owned()),
        poll: judge.poll(&raw.poll, transport),
        ports: judge.app_ports((&raw.ports, &listen), instances, &at),
        instances,
        build: judge.build(&raw.build),
        start: match &site {
            Some(_) => Start::Argv(Vec::new()),
            None => judge.start(&raw.start, &at),
        },
        stop: judge.stop(RawStop::or_empty(raw.stop, at.absent("stop")), protocol),
        protocol,
        drain: judge.drain(raw.drain),
        standby: Judge::or(raw.standby, STANDBY),
        keep: judge
            .number(
                &raw.keep,
                |number| usize::try_from(number).ok().and_then(NonZeroUsize::new),
                "must be 1 or more",
                "keep at least 1; 2 or more leave a way back",
            )
            .unwrap_or(KEEP),
        user: judge.user(&raw.user),
        new_privileges: new_privileges(raw.new_privileges),
        env: judge.env(raw.env, &listen),
        env_file: judge.host_file(&raw.env_file, Holds::Variables),
        shared: shared.into_iter().map(|path| path.value).collect(),
        cache: cache.into_iter().map(|path| path.value).collect(),
        build_timeout: judge.positive(&raw.build_timeout, BUILD_TIMEOUT),
        fast_forward_only: Judge::or(raw.fast_forward_only, FAST_FORWARD_ONLY),
        memory_check: judge
            .word(
                &raw.memory_check,
                &[("warn", MemoryCheck::Warn), ("refuse", MemoryCheck::Refuse)],
                "is not a memory check",
                |_| "\"warn\": the deploy goes on; \"refuse\": it fails before its start".to_owned(),
            )
            .unwrap_or_default(),
        auth,
        verify,
        rewrites,
        health,
        warmup,
        canary,
        preview,
        watch,
        migration: judge.migration(raw.migration),
        workers: judge.workers(raw.worker),
        tasks: judge.app_tasks(&raw.task),
        hooks: judge.hooks(&RawHooks::or_empty(raw.hooks, at.absent("hooks"))),
        crons: judge.crons(raw.cron),
        front: front.unwrap_or_else(front_builtin::usual),
        public,
        limits,
        checkout_limit,
        dir,
        gates,
        site,
        assets,
        listen,
        name,
    }
}

fn new_privileges(given: Given<bool>) -> NewPrivileges {
    match Judge::or(given, NEW_PRIVILEGES) {
        true => NewPrivileges::Allowed,
        false => NewPrivileges::Refused,
    }
}

impl Judge<'_> {
    fn poll(&mut self, given: &Given<Duration>, transport: Option<Transport>) -> Duration {
        let poll = self.positive(given, POLL);
        let far = transport.is_some_and(|transport| transport != Transport::Local);
        if let Some(at) = given.span().filter(|_| far && poll < OFTEN) {
            let hint = format!("leave it out for {}; servers of git refuse who asks too often", exact(POLL));
            self.notes.warn(at, format!("asks the server every {}", exact(poll)), hint);
        }
        poll
    }

    fn drain(&mut self, given: Given<Duration>) -> Duration {
        if let Some(written) = given.value().filter(|written| written.value.is_zero()) {
            let hint = format!("leave it out for {}", exact(DRAIN));
            self.notes.warn(&written.at, "requests still in flight at a flip are cut", hint);
        }
        Self::or(given, DRAIN)
    }

    fn user(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let inner = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c) || !c.is_ascii();
        let fits = !written.value.is_empty()
            && written.value.chars().all(|c| inner(c) && !c.is_control() && !c.is_whitespace())
            && !written.value.starts_with('-');
        if !fits {
            let what = format!("is not a user name: {:?}", written.value);
            self.notes.error(&written.at, what, "the name alone; its groups come with it");
        }
        if fits && written.value.bytes().all(|c| c.is_ascii_digit()) {
            let what = format!("is a number, and users are looked up by name: {:?}", written.value);
            self.notes.warn(&written.at, what, "`getent passwd` shows the name of a number");
        }
        fits.then(|| written.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("poll = \"0s\"", "4 app.shop.poll", "longer than zero"),
        ("poll = \"often\"", "4 app.shop.poll", "is not a duration: \"often\""),
        ("poll = true", "4 app.shop.poll", "expected a duration"),
        ("standby = \"10000h\"", "4 app.shop.standby", "longer than 365 days"),
        ("keep = -1", "4 app.shop.keep", "1 or more: -1"),
        ("keep = \"5\"", "4 app.shop.keep", "expected a whole number, found a text"),
        ("keep = 99999999999999999999", "4 app.shop.keep", "too large"),
        ("user = \"\"", "4 app.shop.user", "not a user name"),
        ("user = \"www-data:www\"", "4 app.shop.user", "not a user name"),
        ("env_file = \"~/shop.env\"", "4 app.shop.env_file", "`~` is not expanded"),
        ("env_file = \"\"", "4 app.shop.env_file", "is empty"),
        ("env_file = \"/etc/\"", "4 app.shop.env_file", "is a directory"),
        ("env_file = \"a\\u0000b\"", "4 app.shop.env_file", "NUL"),
        ("shared = [\"/var\"]", "4 app.shop.shared[0]", "is absolute"),
        ("shared = [\"a/../b\"]", "4 app.shop.shared[0]", "leaves the release"),
        ("shared = [\".\"]", "4 app.shop.shared[0]", "is the whole release"),
        ("shared = [\"~/x\"]", "4 app.shop.shared[0]", "`~` is not expanded"),
        ("shared = [\"a\", \"b/\", \"a/c\"]", "4 app.shop.shared[2]", "overlaps \"a\" of app.shop.shared[0]"),
        (
            "shared = [\"a\"]\ncache = [\"a/\"]",
            "5 app.shop.cache[0]",
            "overlaps \"a\" of app.shop.shared[0] (bgd.toml:4)",
        ),
        ("dir = \"../api\"", "4 app.shop.dir", "leaves the release"),
        ("dir = \"/srv\"", "4 app.shop.dir", "is absolute"),
        ("cache = \"vendor\"", "4 app.shop.cache", "expected a list, found a text"),
        ("memory_check = \"stop\"", "4 app.shop.memory_check", "is not a memory check: \"stop\""),
        ("fast_forward_only = \"yes\"", "4 app.shop.fast_forward_only", "expected true or false"),
        ("[app.Shop]\nremote = \"/a\"\nstart = \"a\"", "4 app.Shop", "not an app name"),
        ("[app.\"a b\"]\nremote = \"/a\"\nstart = \"a\"", "4 app.\"a b\"", "not an app name"),
        ("[app.lock]\nremote = \"/a\"\nstart = \"a\"", "4 app.lock", "not an app name"),
        ("[app.reserve]\nremote = \"/a\"\nstart = \"a\"", "4 app.reserve", "are files of bgd"),
        ("[daemon]\nruntime_dir = \"/var/lib/bgd/shop\"", "1 app.shop", "would be daemon.runtime_dir"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_server_asked_every_few_milliseconds_is_warned_of_and_a_directory_is_not() {
        let said = |remote: &str, poll: &str| {
            let rest = format!("poll = \"{poll}\"\nstart = \"./serve $PORT\"\nhealth.path = \"/\"");
            warnings(&format!("[app.shop]\nremote = \"{remote}\"\n{rest}"))
        };
        let url = "https://git.example.com/shop.git";
        assert_eq!(said(url, "50ms"), ["app.shop.poll: asks the server every 50ms"]);
        assert_eq!((said(url, "1s").len(), said("/srv/shop.git", "50ms").len()), (0, 0));
    }
}
