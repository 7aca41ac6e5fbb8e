//! The configuration as meant: validated, with defaults filled in, paths absolute, durations as durations.
//! Made only by `config::load`; everything above reads these types and never the raw ones.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use super::addresses::{Listen, Ports, Sockets};
pub use crate::rules::{
    addresses::{Addresses, MOST_INSTANCES},
    limits::{CheckoutLimit, Limits},
    sticky::Sticky,
};
use crate::{
    os::privilege::NewPrivileges,
    rules::{
        address::Address,
        canary::CanaryStep,
        ids::{AppName, Color},
        traffic,
    },
};

/// Everything one daemon runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where bgd itself keeps things.
    pub daemon: DaemonSettings,
    /// The apps by name.
    pub apps: BTreeMap<AppName, Arc<AppSettings>>,
    /// The files these settings came from, main file first.
    pub files: Vec<PathBuf>,
}

/// Where bgd keeps its record and its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Durable: database, mirrors, releases, logs.
    pub state_dir: PathBuf,
    /// Gone after a reboot: sockets and the lock.
    pub runtime_dir: PathBuf,
    /// Who may act through the control socket; `None`: whoever may open it.
    pub operators: Option<Vec<Principal>>,
    /// Who may read through it, beside them.
    pub readers: Vec<Principal>,
}

/// Somebody of this host, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// One user.
    User(String),
    /// All members of a group; written with `@`.
    Group(String),
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => f.pad(name),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}

/// One app, as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct AppSettings {
    /// The app's name.
    pub name: AppName,
    /// Anything git fetches: URL or path.
    pub remote: String,
    /// The branch to follow, without `refs/heads/`.
    pub branch: String,
    /// Wait between two looks at the remote.
    pub poll: Duration,
    /// Whether it listens on ports or on unix sockets.
    pub listen: Listen,
    /// Ports of blue and green, of each color's first instance; without a meaning when it listens on sockets.
    pub ports: Ports,
    /// How many instances a color has, 1 to [`MOST_INSTANCES`]; their ports follow each other.
    pub instances: u16,
    /// Build commands, in order.
    pub build: Vec<String>,
    /// How an instance is started.
    pub start: Start,
    /// What it speaks on its port.
    pub protocol: Protocol,
    /// How an instance is stopped.
    pub stop: Stop,
    /// The longest wait for requests in flight before `stop`.
    pub drain: Duration,
    /// How long the old color is kept warm after a flip.
    pub standby: Duration,
    /// Good releases kept on disk.
    pub keep: NonZeroUsize,
    /// Build and run as this user; `None` is bgd's own.
    pub user: Option<String>,
    /// Whether builds, hooks and instances may gain rights by running a setuid program.
    pub new_privileges: NewPrivileges,
    /// Extra environment, before placeholders are replaced.
    pub env: BTreeMap<String, String>,
    /// A file of `KEY=value` lines, read at each build and start.
    pub env_file: Option<PathBuf>,
    /// Paths relative to the release that live in `<app>/shared`; a trailing `/` in the file means directory.
    pub shared: Vec<PathBuf>,
    /// Paths relative to the release copied from the previous release before the build.
    pub cache: Vec<PathBuf>,
    /// Limit of the whole build.
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
    /// How the traffic moves to a new release by degrees.
    pub canary: Canary,
    /// How a request asks for the color that is not live; `None`: it can't.
    pub preview: Option<Preview>,
    /// What happens after a flip.
    pub watch: Watch,
    /// Commands of the app at points of a deploy.
    pub hooks: Hooks,
    /// What routes the public traffic.
    pub front: FrontSettings,
    /// Where the public is asked while the traffic moves; `None` measures nothing.
    pub public: Option<PublicAddress>,
    /// What an instance, a build or a hook may use.
    pub limits: Limits,
    /// What a commit may bring.
    pub checkout_limit: CheckoutLimit,
}

impl AppSettings {
    /// Where both colors listen.
    pub fn addresses(&self) -> Addresses {
        match &self.listen {
            Listen::Ports => Addresses { each: self.instances, ..self.ports.into() },
            Listen::Sockets(sockets) => Addresses { each: self.instances, ..sockets.into() },
        }
    }

    /// Where one of a color's instances listens, counted from 0; also one more than there are now.
    pub fn address_at(&self, color: Color, index: u16) -> Address {
        self.addresses().nth(color, index)
    }

    /// Whether the front's requests are counted: a watch judges them, or status shows a canary's share.
    pub fn counts_traffic(&self) -> bool {
        self.watch.traffic.any() || !self.canary.steps.is_empty()
    }
}

/// A start command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Run by `/bin/sh -c`.
    Shell(String),
    /// Run as it is; never empty.
    Argv(Vec<String>),
}

/// What an instance speaks on its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// FastCGI, as php-fpm does.
    FastCgi,
    /// The protocol of uWSGI.
    Uwsgi,
}

/// How an instance is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The polite request.
    pub how: StopHow,
    /// From the request to KILL.
    pub grace: Duration,
}

/// The polite request to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopHow {
    /// A signal number for the started process (for example 15, TERM).
    Signal(i32),
    /// A command run in the release directory.
    Command(String),
}

/// How the remote is reached, and with which credentials; all `None` means ssh agent and the user's own keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// Known hosts; default the user's and the system's.
    pub known_hosts: Option<PathBuf>,
    /// File with a token for https.
    pub token_file: Option<PathBuf>,
    /// Certificates of authorities that are trusted for https, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The URL of the proxy for http and https.
    pub proxy: Option<String>,
}

/// Whose signed commits are deployed; at least one file is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// SSH keys, in OpenSSH's format allowed_signers (`gpg.ssh.allowedSignersFile` of git).
    pub signers: Option<PathBuf>,
    /// GPG keys, as `gpg --export` writes them; all of them are trusted.
    pub keyring: Option<PathBuf>,
    /// Which commits have to be signed.
    pub range: VerifyRange,
}

/// Which commits have to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyRange {
    /// The one that is deployed: who signs it vouches for its history.
    Tip,
    /// Every commit since the one accepted last; of the first deploy, the tip.
    All,
}

/// One literal replacement in a file of the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Relative to the release.
    pub file: PathBuf,
    /// Literal text; not found is an error.
    pub find: String,
    /// The replacement, before placeholders are replaced.
    pub with: String,
}

/// When an instance counts as healthy.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Between two answers that are not good; a good one is confirmed sooner, see `rules::health`.
    pub interval: Duration,
    /// Limit of one probe.
    pub timeout: Duration,
    /// Limit of the whole start.
    pub deadline: Duration,
    /// Consecutive successes of the same process.
    pub successes: NonZeroU32,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The port accepts, and the process has been up for [`Probe::TCP_SETTLE`].
    Tcp,
    /// GET on 127.0.0.1.
    Http(HttpProbe),
    /// The same by FastCGI.
    FastCgi(FastCgiProbe),
    /// The same in the protocol of uWSGI.
    Uwsgi(HttpProbe),
    /// A command of the app; exit 0 is healthy.
    Command(String),
}

impl Probe {
    /// How long an instance must have been up before an open port alone counts (contract: 2 s).
    pub const TCP_SETTLE: Duration = Duration::from_secs(2);

    /// The page that is asked for, in whatever protocol.
    pub fn page(&self) -> Option<&HttpProbe> {
        match self {
            Self::Http(page) | Self::Uwsgi(page) | Self::FastCgi(FastCgiProbe { page, .. }) => Some(page),
            Self::Tcp | Self::Command(_) => None,
        }
    }
}

/// A probe by FastCGI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastCgiProbe {
    /// What is asked, and which answer is healthy.
    pub page: HttpProbe,
    /// The file that answers, relative to the release; `None` leaves that to the path, as for php-fpm's `ping.path`.
    pub script: Option<PathBuf>,
}

/// A GET, and which answer is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Begins with `/`.
    pub path: String,
    /// Host header; `None` is `127.0.0.1:<port>`.
    pub host: Option<String>,
    /// Accepted status codes; never empty.
    pub status: Vec<u16>,
    /// Must be contained in the body.
    pub body: Option<String>,
}

/// Requests to a new instance before it gets traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    /// What is asked, in turn; each begins with `/`, never empty.
    pub paths: Vec<String>,
    /// Requests at most.
    pub requests: NonZeroU32,
    /// Enough when 95 of the last 100 requests (of all, while they are fewer, at least 20) took no longer than
    /// this; `None`: all `requests` are made.
    pub until_p95: Option<Duration>,
}

impl Warmup {
    /// Fewer requests than this have no 95th percentile.
    pub const FEWEST: u32 = 20;
}

/// How the traffic moves to a new release by degrees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Canary {
    /// Shares on the way to all of it, each larger than the one before and less than all; empty: all at once.
    pub steps: Vec<CanaryStep>,
    /// What keeps a client on its side.
    pub sticky: Sticky,
}

/// How a request asks for the color that is not live. Either is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// A header with this name: letters, digits and `-`.
    pub header: String,
    /// A cookie with this name: letters, digits and `_`; another than that of [`Sticky::Cookie`].
    pub cookie: String,
    /// A file whose first line is the value that either must have.
    pub secret_file: PathBuf,
}

/// What happens after a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Keep probing for this long; failure flips back.
    pub period: Duration,
    /// Restart a live instance that dies.
    pub restart: bool,
    /// Have the old color behind the new one for this long: it takes the requests that the new one refuses.
    pub backup: bool,
    /// What real traffic must look like, in a canary's steps too.
    pub traffic: traffic::TrafficLimits,
    /// What follows when there was too little traffic to tell.
    pub inconclusive: Inconclusive,
}

/// What follows when a second copy of the app is likely to need more memory than is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryCheck {
    /// It is said, and the new release is started.
    #[default]
    Warn,
    /// The deploy fails before its start.
    Refuse,
}

/// What follows when there was too little traffic to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inconclusive {
    /// It is said, and the deploy goes on.
    #[default]
    GoOn,
    /// The step or the watch lasts until there was enough, or `bgd promote`.
    Hold,
}

/// Commands of the app at points of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Once per deploy, before the instance starts; failure ends the deploy.
    pub before_start: Option<String>,
    /// After the traffic moved; failure is reported only.
    pub after_live: Option<String>,
    /// After a failed deploy; failure is reported only.
    pub after_failed: Option<String>,
    /// Limit of each.
    pub timeout: Duration,
}

/// How a flip is measured from the public side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAddress {
    /// `http://…`, with its path.
    pub url: String,
    /// Host header; `None` is what the URL names.
    pub host: Option<String>,
}

/// What routes the public traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontSettings {
    /// bgd's own proxy process.
    Builtin {
        /// The public address.
        listen: SocketAddr,
        /// Of a client, between two pieces of its request's body.
        request_timeout: Duration,
        /// Of the app, until the head of its answer.
        response_timeout: Duration,
    },
    /// An nginx that is already there.
    Nginx(NginxSettings),
    /// A HAProxy that is already there.
    Haproxy(HaproxySettings),
}

impl FrontSettings {
    /// Whether the other settings mean another front, or another place of it; the limits of one may change at any time.
    pub fn is_another(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Builtin { listen, .. }, Self::Builtin { listen: new, .. }) => listen != new,
            (Self::Builtin { .. } | Self::Nginx(_) | Self::Haproxy(_), _) => self != other,
        }
    }
}

/// A HAProxy that is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxySettings {
    /// Its `stats socket`, with `level admin`.
    pub socket: PathBuf,
    /// Name of the backend.
    pub backend: String,
    /// The backend's servers for blue and green.
    pub servers: HaproxyServers,
    /// Where the states of the servers are kept for HAProxy's next start; `None`: nowhere.
    pub state_file: Option<PathBuf>,
}

/// Names of the two servers in HAProxy's backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyServers {
    /// The server on blue's port.
    pub blue: String,
    /// The server on green's port.
    pub green: String,
}

impl HaproxyServers {
    /// The server of a color.
    pub fn of(&self, color: Color) -> &String {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The server of one of a color's instances, counted from 0: `blue`, `blue-2`, `blue-3`.
    pub fn nth(&self, color: Color, index: usize) -> String {
        let first = self.of(color);
        if index == 0 { first.clone() } else { format!("{first}-{}", index + 1) }
    }

    /// The color whose server it is, if it is one of theirs. What is named here is the first of its color, whatever it
    /// is called.
    pub fn color(&self, name: &str) -> Option<Color> {
        let is_first = |color: &Color| self.of(*color) == name;
        let is_later = |color: &Color| {
            let number = name.strip_prefix(self.of(*color).as_str()).and_then(|rest| rest.strip_prefix('-'));
            number.and_then(|it| it.parse().ok()).is_some_and(|it| (2..=MOST_INSTANCES).contains(&it))
        };
        let first = Color::ALL.into_iter().find(is_first);
        first.or_else(|| Color::ALL.into_iter().find(is_later))
    }
}

/// An nginx that is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxSettings {
    /// Name of the upstream block.
    pub upstream: String,
    /// The include file that bgd alone writes.
    pub file: PathBuf,
    /// Command that validates the configuration.
    pub test: Vec<String>,
    /// Command that reloads.
    pub reload: Vec<String>,
    /// The master's pid file.
    pub pid_file: PathBuf,
}

impl NginxSettings {
    /// The link beside the include file that leads to the live socket of an app that listens on sockets. Its name
    /// begins with a dot, which no include matches.
    pub fn link(&self) -> PathBuf {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        self.file.with_file_name(format!(".{name}.live"))
    }

    /// The longest path that nginx is given to it, of so many instances.
    pub fn longest_link(&self, instances: u16) -> PathBuf {
        match instances {
            1 => self.link(),
            several => format!("{}-{several}/{several}", self.link().display()).into(),
        }
    }
}
