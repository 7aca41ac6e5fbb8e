//! Errors of the nginx front, with their messages and hints for the operator. One enum for reading nginx's state, one
//! for the cutover, which says for each failure whether anything is left changed.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

use super::{include::IncludeError, place::PlaceError};

/// Hint when a file that is not bgd's breaks the configuration.
const FOREIGN: &str =
    "repair that file until `nginx -t` passes, then `bgd deploy`; `bgd flip` works meanwhile";

/// nginx's reason for refusing a configuration, parsed from its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file that nginx blames.
    pub file: Option<PathBuf>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// nginx's own words, one line.
    pub quote: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quote)
    }
}

/// Why nginx's state can't be read, or why a flip is not safe.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// nginx is not running, or keeps its pid elsewhere.
    #[error("{}: {path}", unread(source))]
    PidFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// nginx was stopped or is starting, or the disk was full when it wrote the file.
    #[error("nginx's pid file is empty: {path}")]
    PidFileEmpty {
        /// nginx's pid file, as configured.
        path: PathBuf,
    },
    /// The pid file does not hold a pid.
    #[error("nginx's pid file holds no pid: {path}: {text:?}")]
    PidFileGarbled {
        path: PathBuf,
        /// The content of the pid file, shortened.
        text: String,
    },
    /// The pid file names a process that has ended.
    #[error("nginx is not running: {path} names process {pid}, which is gone")]
    NotRunning {
        path: PathBuf,
        /// The pid in the pid file.
        pid: i32,
    },
    /// The pid file names another process: the kernel reused the pid, or nginx runs without a master.
    #[error("process {pid} of {path} is not an nginx master: {cmdline:?}")]
    NotNginx {
        path: PathBuf,
        /// The pid in the pid file.
        pid: i32,
        /// The command line of the process with that pid.
        cmdline: String,
    },
    /// The master's child processes can't be read from the kernel.
    #[error("can't list the workers of nginx master {pid}")]
    Workers {
        /// The master's pid.
        pid: i32,
        #[source]
        source: io::Error,
    },
    /// A second master has nginx's listening sockets, and a reload reaches only one of the two.
    #[error("nginx is being upgraded: {}", masters(*old, *new))]
    Upgrading {
        /// Pid of the older master.
        old: i32,
        /// Pid of the master that the pid file names; `None` while there is no new one yet.
        new: Option<i32>,
    },
    /// A worker that a reload does not reach receives a part of the requests.
    #[error("nginx worker {worker}, which is not one of master {master}, accepts on its sockets too")]
    Shared {
        /// Pid of the master that the pid file names.
        master: i32,
        /// Pid of the worker, which is not a child of that master.
        worker: i32,
    },
    /// The include file can't be read or replaced.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The include file is not one of bgd's.
    #[error("refusing to touch {path}")]
    Include {
        path: PathBuf,
        #[source]
        source: IncludeError,
    },
    /// Two apps are configured with the same file.
    #[error("refusing to touch {path}: it belongs to app {app}")]
    OtherApp {
        path: PathBuf,
        /// The other app, which wrote the file.
        app: String,
    },
    /// The file exists, but nginx does not read it.
    #[error("nginx does not include {path}: {fault}")]
    NotIncluded {
        path: PathBuf,
        /// nginx's error message.
        fault: ConfigFault,
    },
    /// A file that is not bgd's breaks the configuration.
    #[error("nginx refuses its configuration because of something that is not bgd's: {0}")]
    ForeignConfig(ConfigFault),
    /// bgd's own file breaks the configuration.
    #[error("nginx refuses bgd's file: {0}")]
    OwnConfig(ConfigFault),
    /// A configured command could not be started.
    #[error("can't run `{command}`")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    /// A configured command ran too long and was ended.
    #[error("`{command}` did not end within {} s", limit.as_secs_f32())]
    CommandTimeout {
        command: String,
        /// The time limit that the command exceeded.
        limit: Duration,
    },
    /// The reload command reported failure.
    #[error("`{command}` failed ({status}): {said}")]
    Reload {
        command: String,
        status: ExitStatus,
        /// The last line of its output, or nginx's own error.
        said: String,
    },
    /// nginx's workers may not reach the app's sockets.
    #[error("nginx's workers (uid {uid}) may not pass {}, on the way to the app's sockets", directory.display())]
    ShutOut {
        /// The first directory on the way that they may not pass.
        directory: PathBuf,
        /// The user id that they run as.
        uid: u32,
    },
    /// A worker has another root directory, and so sees other files than bgd.
    #[error("nginx's worker {worker} has a root directory of its own, where the app's sockets are not")]
    OtherRoot {
        /// The worker's pid.
        worker: i32,
    },
    /// No free port for the proof address.
    #[error("no free port on {address} for bgd's proof address: tried {tried}")]
    NoProofPort {
        address: std::net::Ipv4Addr,
        /// The number of ports that were tried.
        tried: usize,
    },
}

/// Why a route is not in force.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The failure came before anything was changed.
    #[error(transparent)]
    Untouched(NginxError),
    /// A file that is not bgd's breaks `nginx -t`; bgd's file is as it was and nothing was reloaded. The caller
    /// may fall back to starting the wanted release on the port that nginx already uses.
    #[error("nginx refuses its configuration because of something that is not bgd's: {0}")]
    ForeignConfig(ConfigFault),
    /// nginx was not asked to reload, or refused; bgd's file is as it was.
    #[error("the flip was taken back before nginx took it")]
    TakenBack(#[source] NginxError),
    /// nginx was reloaded, and the new route is not in force.
    #[error("nginx was reloaded, but the new route is not in force after {:.1} s: {seen}", waited.as_secs_f32())]
    NotInEffect {
        /// From the reload until bgd gave up.
        waited: Duration,
        /// The last look's result, which is not the new route.
        seen: String,
        /// Lines that nginx's master wrote into its error log meanwhile; empty if bgd can't read that file.
        log: Vec<String>,
        /// The state after the old text was put back.
        aftermath: Aftermath,
    },
    /// The old text could not be put back: the file and nginx differ until the next flip, or until an operator repairs
    /// the file.
    #[error("the old text of bgd's file could not be put back: {cause}")]
    NotPutBack {
        /// The failure for which the old text had to go back.
        cause: Box<RouteError>,
        #[source]
        source: PlaceError,
    },
}

impl RouteError {
    /// Lines that nginx's master wrote into its error log during the flip.
    pub fn log(&self) -> &[String] {
        match self {
            Self::NotInEffect { log, .. } => log,
            Self::NotPutBack { cause, .. } => cause.log(),
            Self::Untouched(_) | Self::ForeignConfig(_) | Self::TakenBack(_) => &[],
        }
    }
}

/// Which route is in force after an unproven flip; the old text is back in the file in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// nginx itself refused the new configuration and never left the old one.
    NeverLeft,
    /// A second reload brought the old route back, with proof.
    BroughtBack,
    /// The old route could not be proven: the caller must look again before it stops anything.
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
    /// Whether another master or worker, which a reload does not reach, receives requests.
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

    /// Advice for the operator, where there is any.
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
    /// Whether nginx still has its former route in force.
    pub fn left_as_it_was(&self) -> bool {
        match self {
            Self::Untouched(_) | Self::ForeignConfig(_) | Self::TakenBack(_) => true,
            Self::NotInEffect { aftermath, .. } => *aftermath != Aftermath::Unproven,
            Self::NotPutBack { .. } => false,
        }
    }

    /// Advice for the operator, where there is any.
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
