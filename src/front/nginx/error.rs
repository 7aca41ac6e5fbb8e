//! What can be wrong with an nginx, in the operator's words. One enum for looking, one for the cutover; the
//! latter says for each failure whether anything is left changed.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

use super::{include::IncludeError, place::PlaceError};

/// What to do when somebody else's file is in the way.
const FOREIGN: &str =
    "repair that file until `nginx -t` passes, then `bgd deploy`; `bgd flip` works meanwhile";

/// Why nginx refused a configuration, as far as its output tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file that nginx blames.
    pub file: Option<PathBuf>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// nginx's own words, one line.
    pub quote: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quote)
    }
}

/// Why nginx can't be looked at, or can't be trusted with a flip.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// nginx is not running, or keeps its pid elsewhere.
    #[error("{}: {path}", unread(source))]
    PidFile {
        /// The configured pid file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// nginx was stopped or is starting, or the disk was full when it wrote the file.
    #[error("nginx's pid file is empty: {path}")]
    PidFileEmpty {
        /// The configured pid file.
        path: PathBuf,
    },
    /// Something else is in the file.
    #[error("nginx's pid file holds no pid: {path}: {text:?}")]
    PidFileGarbled {
        /// The configured pid file.
        path: PathBuf,
        /// What it holds, shortened.
        text: String,
    },
    /// A pid left behind.
    #[error("nginx is not running: {path} names process {pid}, which is gone")]
    NotRunning {
        /// The configured pid file.
        path: PathBuf,
        /// What it names.
        pid: i32,
    },
    /// A pid left behind and given to another process, or an nginx without master.
    #[error("process {pid} of {path} is no nginx master: {cmdline:?}")]
    NotNginx {
        /// The configured pid file.
        path: PathBuf,
        /// What it names.
        pid: i32,
        /// What runs under that pid.
        cmdline: String,
    },
    /// The kernel does not tell which processes belong to the master.
    #[error("can't list the workers of nginx master {pid}")]
    Workers {
        /// The master.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A second master has its listening sockets, and a reload reaches one of both only.
    #[error("nginx is being upgraded: {}", masters(*old, *new))]
    Upgrading {
        /// The one before.
        old: i32,
        /// The one that the pid file names.
        new: Option<i32>,
    },
    /// A worker that a reload does not reach takes a part of the requests.
    #[error("nginx worker {worker}, which is not one of master {master}, accepts on its sockets too")]
    Shared {
        /// The master of the pid file.
        master: i32,
        /// Somebody else's worker.
        worker: i32,
    },
    /// The include file can't be read or replaced.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The include file is not one of bgd's.
    #[error("refusing to touch {path}")]
    Include {
        /// The include file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IncludeError,
    },
    /// Two apps were given one file.
    #[error("refusing to touch {path}: it belongs to app {app}")]
    OtherApp {
        /// The include file.
        path: PathBuf,
        /// Whose it is.
        app: String,
    },
    /// The file is there, and nginx does not read it.
    #[error("nginx does not include {path}: {fault}")]
    NotIncluded {
        /// The include file.
        path: PathBuf,
        /// What nginx said.
        fault: Fault,
    },
    /// Someone else's file breaks the configuration.
    #[error("nginx refuses its configuration because of something that is not bgd's: {0}")]
    ForeignConfig(Fault),
    /// bgd's own file breaks the configuration.
    #[error("nginx refuses bgd's file: {0}")]
    OwnConfig(Fault),
    /// A configured command could not be started.
    #[error("can't run `{command}`")]
    Spawn {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A configured command ran too long and was ended.
    #[error("`{command}` did not end within {} s", limit.as_secs_f32())]
    CommandTimeout {
        /// The command line.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The reload command reported failure.
    #[error("`{command}` failed ({status}): {said}")]
    Reload {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// A worker can't get to the app's sockets.
    #[error("nginx's workers (uid {uid}) may not pass {}, on the way to the app's sockets", directory.display())]
    ShutOut {
        /// The first directory that shuts them out.
        directory: PathBuf,
        /// Whom they run as.
        uid: u32,
    },
    /// A worker with a root directory of its own sees other files than bgd.
    #[error("nginx's worker {worker} has a root directory of its own, where the app's sockets are not")]
    OtherRoot {
        /// Its pid.
        worker: i32,
    },
    /// No free port for the proof address.
    #[error("no free port on {address} for bgd's proof address: tried {tried}")]
    NoProofPort {
        /// The loopback address.
        address: std::net::Ipv4Addr,
        /// How many were tried.
        tried: usize,
    },
}

/// Why a route is not in force.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Found before anything was touched.
    #[error(transparent)]
    Untouched(NginxError),
    /// Someone else's file breaks `nginx -t`; bgd's file is as it was and nothing was reloaded. The caller
    /// may fall back to starting the wanted release on the port that nginx already uses.
    #[error("nginx refuses its configuration because of something that is not bgd's: {0}")]
    ForeignConfig(Fault),
    /// nginx was not asked to reload, or refused to; bgd's file is as it was.
    #[error("the flip was taken back before nginx took it")]
    TakenBack(#[source] NginxError),
    /// nginx was reloaded, and the new route is not in force.
    #[error("nginx was reloaded, but the new route is not in force after {:.1} s: {seen}", waited.as_secs_f32())]
    NotInEffect {
        /// From the reload to giving up.
        waited: Duration,
        /// What was seen instead.
        seen: String,
        /// What nginx's master wrote into its error log meanwhile; empty if there is no such file to read.
        log: Vec<String>,
        /// What is in force now.
        aftermath: Aftermath,
    },
    /// The old text could not be put back: file and nginx disagree until the next flip or a hand.
    #[error("the old text of bgd's file could not be put back: {cause}")]
    NotPutBack {
        /// What had gone wrong before.
        cause: Box<RouteError>,
        /// Why.
        #[source]
        source: PlaceError,
    },
}

impl RouteError {
    /// What nginx's master wrote into its error log meanwhile.
    pub fn log(&self) -> &[String] {
        match self {
            Self::NotInEffect { log, .. } => log,
            Self::NotPutBack { cause, .. } => cause.log(),
            Self::Untouched(_) | Self::ForeignConfig(_) | Self::TakenBack(_) => &[],
        }
    }
}

/// How things stand after a flip that was not proven; the old text is back in the file in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// nginx itself refused the new configuration and never left the old one.
    NeverLeft,
    /// A second reload brought the old route back, which is proven.
    BroughtBack,
    /// The old route could not be proven: look again before anything is stopped.
    Unproven,
}

fn unread(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "nginx is not running: can't read its pid file",
        _ => "can't read nginx's pid file",
    }
}

fn masters(old: i32, new: Option<i32>) -> String {
    match new {
        Some(new) => format!("its older master {old} is still there beside {new}, and takes no new route"),
        None => format!("its master {old} is starting a new one"),
    }
}

impl NginxError {
    /// Whether requests go where a reload changes nothing.
    pub fn is_divided(&self) -> bool {
        matches!(self, Self::Upgrading { .. } | Self::Shared { .. })
    }

    /// Whether no running nginx was found behind the pid file.
    pub fn is_down(&self) -> bool {
        matches!(
            self,
            Self::PidFile { .. }
                | Self::PidFileEmpty { .. }
                | Self::PidFileGarbled { .. }
                | Self::NotRunning { .. }
                | Self::NotNginx { .. }
        )
    }

    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::PidFile { .. } | Self::PidFileEmpty { .. } | Self::PidFileGarbled { .. } => {
                "start nginx (`systemctl start nginx`), or set `pid_file` to what `pid` says in nginx.conf"
            }
            Self::NotRunning { .. } | Self::NotNginx { .. } => {
                "start nginx (`systemctl start nginx`); its file then routes as before"
            }
            Self::Upgrading { .. } => {
                "end the upgrade: `kill -QUIT` the older master (its pid is in nginx.pid.oldbin), then `bgd deploy`; `bgd flip` works meanwhile"
            }
            Self::Shared { .. } => {
                "its master was killed: `kill -QUIT` that worker, then `bgd deploy`; `bgd flip` works meanwhile"
            }
            Self::Place(PlaceError::NotWritable { .. }) => {
                "let bgd's user write in that directory: the file is replaced by a rename"
            }
            Self::Include { source: IncludeError::NotOurs, .. } => {
                "move that file away, or give bgd another `file`"
            }
            Self::OtherApp { .. } => "give each app a `file` of its own",
            Self::NotIncluded { .. } | Self::OwnConfig(_) => {
                "include bgd's file in nginx's http block, once, and define the upstream nowhere else"
            }
            Self::ForeignConfig(_) => FOREIGN,
            Self::Spawn { .. } | Self::CommandTimeout { .. } | Self::Reload { .. } => {
                "run the command by hand, as bgd's user"
            }
            Self::ShutOut { .. } => {
                "let them: `chmod o+x` on that directory, or another daemon.runtime_dir; or listen = \"tcp\""
            }
            Self::OtherRoot { .. } => "let the app listen on ports: listen = \"tcp\"",
            Self::Place(_) | Self::Include { .. } | Self::Workers { .. } | Self::NoProofPort { .. } => {
                return None;
            }
        })
    }
}

impl RouteError {
    /// Whether nginx goes on by the route that it had before.
    pub fn left_as_it_was(&self) -> bool {
        match self {
            Self::Untouched(_) | Self::ForeignConfig(_) | Self::TakenBack(_) => true,
            Self::NotInEffect { aftermath, .. } => *aftermath != Aftermath::Unproven,
            Self::NotPutBack { .. } => false,
        }
    }

    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Untouched(err) | Self::TakenBack(err) => err.hint(),
            Self::ForeignConfig(_) => Some(FOREIGN),
            Self::NotInEffect { .. } => Some(
                "nginx's error log says why; often another process has the address of some `listen`: `ss -ltnp`",
            ),
            Self::NotPutBack { .. } => {
                Some("make room or permission, then `bgd flip` again: it repairs the file")
            }
        }
    }
}
