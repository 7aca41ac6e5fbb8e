//! Errors of the HAProxy front, with their messages and hints for the operator.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::rules::{address::Address, ids::Color};

/// Hint for a socket whose level does not allow changes.
const LEVEL: &str =
    "write `level admin` behind `stats socket` in haproxy.cfg, then `systemctl reload haproxy`";

/// Hint for a check that requests something else than bgd's own probe.
pub(super) const CHECK: &str =
    "bgd's own check passed: compare `option httpchk` in haproxy.cfg with `health`, then `bgd deploy`";

/// Why HAProxy's state can't be read, or why a route is not in force.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    /// Nobody listens on the socket.
    #[error("haproxy does not answer on {path}")]
    NotRunning {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// bgd's user may not open the socket.
    #[error("haproxy's socket may not be used by this user: {path}")]
    Denied {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The connection to the socket failed.
    #[error("talking to haproxy on {path}")]
    Talk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// HAProxy accepted the connection and did not answer in time.
    #[error("haproxy did not answer on {path} within {} s", limit.as_secs_f32())]
    Silent {
        path: PathBuf,
        /// The time in which HAProxy did not answer.
        limit: Duration,
    },
    /// The socket's level does not allow changes.
    #[error("haproxy's socket {path} has level {level:?}, which may not move traffic")]
    Level {
        path: PathBuf,
        /// The level, in HAProxy's word.
        level: String,
    },
    /// An answer that does not have the format of this command's answers.
    #[error("haproxy's answer to `{command}` on {path} can't be understood: {what}")]
    Garbled {
        path: PathBuf,
        command: String,
        /// The defect of the answer.
        what: String,
    },
    /// The configured backend does not exist.
    #[error("haproxy on {path} has no backend {backend:?}")]
    NoBackend {
        /// HAProxy's socket, as configured.
        path: PathBuf,
        backend: String,
    },
    /// The backend lacks a server.
    #[error("haproxy has no server {server}; in that backend are: {there}")]
    NoServer {
        /// `backend/server`.
        server: String,
        /// The servers of the backend.
        there: String,
    },
    /// The server belongs to another program, or the ports were changed in one of the two configurations only.
    #[error("haproxy's server {server} is {address}, but {color} listens on {}", wanted.named())]
    OtherAddress {
        /// `backend/server`.
        server: String,
        /// The server's address in haproxy.cfg.
        address: String,
        /// The color that the server is configured for.
        color: Color,
        /// Where that color listens.
        wanted: Address,
    },
    /// HAProxy refused a command.
    #[error("haproxy on {path} refused `{command}`: {said}")]
    Refused {
        path: PathBuf,
        /// The refused command.
        command: String,
        /// HAProxy's answer.
        said: String,
    },
    /// HAProxy's own check of the new color fails; the old color still serves.
    #[error("haproxy's own check of {server} fails: {check}")]
    CheckFails {
        /// `backend/server`.
        server: String,
        /// HAProxy's words for the last check.
        check: String,
    },
    /// HAProxy does not check the server, and bgd can't connect to the app at the server's address.
    #[error("the app is not reached at {address}, where haproxy's server {server} is")]
    Unreachable {
        /// `backend/server`.
        server: String,
        /// The server's address in haproxy.cfg.
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// HAProxy acknowledged the commands, but does not report the wanted states.
    #[error("haproxy took the new route, but after {:.1} s it is not in force: {seen}", waited.as_secs_f32())]
    NotInEffect {
        /// From the command to giving up.
        waited: Duration,
        /// The states that HAProxy reports instead.
        seen: String,
    },
}

impl HaproxyError {
    /// Advice for the operator, where there is any.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotRunning { .. } => {
                "start haproxy (`systemctl start haproxy`), or set `socket` to what `stats socket` says in haproxy.cfg"
            }
            Self::Denied { .. } => {
                "run bgd as root, or let its user in by `stats socket … group`, then `systemctl reload haproxy`"
            }
            Self::Level { .. } => LEVEL,
            Self::NoBackend { .. } => {
                "`backend` in [app.x.front] is the name behind `backend` in haproxy.cfg; `bgd doctor` looks again"
            }
            Self::NoServer { .. } => {
                "the backend needs a `server` line for blue and one for green (of a second instance: blue-2), then `systemctl reload haproxy`"
            }
            Self::OtherAddress { wanted: Address::Socket(_), .. } => {
                "write `unix@` and that path as the server's address in haproxy.cfg; `bgd doctor` looks again"
            }
            Self::OtherAddress { wanted: Address::Port(_), .. } => {
                "make the port in haproxy.cfg and `ports` in bgd.toml the same; `bgd doctor` looks again"
            }
            Self::Refused { said, .. } if said.contains("Permission denied") => LEVEL,
            Self::Refused { said, .. } if said.contains("static LB") => {
                "shares need a balance that can change: `hash-type consistent` beside `balance source` or `hash`"
            }
            Self::CheckFails { .. } => CHECK,
            Self::Unreachable { .. } => {
                "bgd starts the app on 127.0.0.1: write that address in haproxy.cfg, or `check` behind the server"
            }
            Self::NotInEffect { .. } => {
                "does something else change these servers, such as agent-check or `track`? then `bgd doctor`"
            }
            Self::Silent { .. } | Self::Talk { .. } | Self::Garbled { .. } | Self::Refused { .. } => {
                return None;
            }
        })
    }

    /// Whether HAProxy serves as before and accepts no commands until an operator changes its socket.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Level { .. } => true,
            Self::Refused { said, .. } => said.contains("Permission denied"),
            _ => false,
        }
    }

    /// Whether HAProxy still has its former route: the error came before anything was moved.
    pub fn left_as_it_was(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. }
                | Self::Level { .. }
                | Self::NoBackend { .. }
                | Self::NoServer { .. }
                | Self::OtherAddress { .. }
                | Self::CheckFails { .. }
        ) || self.is_closed()
    }

    /// Whether no running HAProxy was found behind the socket.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}
