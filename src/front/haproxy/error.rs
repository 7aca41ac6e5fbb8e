//! What can be wrong with a HAProxy, in the operator's words.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::rules::{address::Address, ids::Color};

/// What to do about a socket that takes no orders.
const LEVEL: &str =
    "write `level admin` behind `stats socket` in haproxy.cfg, then `systemctl reload haproxy`";

/// What to do about a check that asks for something else than bgd's.
pub(super) const CHECK: &str =
    "bgd's own check passed: compare `option httpchk` in haproxy.cfg with `health`, then `bgd deploy`";

/// Why HAProxy can't be looked at, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    /// Nobody listens on the socket.
    #[error("haproxy does not answer on {path}")]
    NotRunning {
        /// The configured socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error("haproxy's socket may not be used by this user: {path}")]
    Denied {
        /// The configured socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The talk broke off.
    #[error("talking to haproxy on {path}")]
    Talk {
        /// The configured socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Connected, and no answer.
    #[error("haproxy did not answer on {path} within {} s", limit.as_secs_f32())]
    Silent {
        /// The configured socket.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The socket lets nobody change anything.
    #[error("haproxy's socket {path} has level {level:?}, which may not move traffic")]
    Level {
        /// The configured socket.
        path: PathBuf,
        /// What HAProxy calls it.
        level: String,
    },
    /// An answer that is not what this command gives.
    #[error("haproxy's answer to `{command}` on {path} can't be understood: {what}")]
    Garbled {
        /// The configured socket.
        path: PathBuf,
        /// What was asked.
        command: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The configured backend does not exist.
    #[error("haproxy on {path} has no backend {backend:?}")]
    NoBackend {
        /// The configured socket.
        path: PathBuf,
        /// The configured backend.
        backend: String,
    },
    /// The backend lacks a server.
    #[error("haproxy has no server {server}; in that backend are: {there}")]
    NoServer {
        /// Backend and server.
        server: String,
        /// The servers of the backend.
        there: String,
    },
    /// The server is somebody else's, or the ports were changed in one place only.
    #[error("haproxy's server {server} is {address}, but {color} listens on {}", wanted.named())]
    OtherAddress {
        /// Backend and server.
        server: String,
        /// Where it is.
        address: String,
        /// The color that it should be.
        color: Color,
        /// Where that color listens.
        wanted: Address,
    },
    /// HAProxy did not do it.
    #[error("haproxy on {path} refused `{command}`: {said}")]
    Refused {
        /// The configured socket.
        path: PathBuf,
        /// What it was told.
        command: String,
        /// Its words.
        said: String,
    },
    /// HAProxy's own check says that the new color is not well; what served before serves on.
    #[error("haproxy's own check of {server} fails: {check}")]
    CheckFails {
        /// Backend and server.
        server: String,
        /// HAProxy's words for the last check.
        check: String,
    },
    /// HAProxy does not check the server, and the app is not where it would look.
    #[error("the app is not reached at {address}, where haproxy's server {server} is")]
    Unreachable {
        /// Backend and server.
        server: String,
        /// Where it is.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Told, acknowledged, and not so.
    #[error("haproxy took the new route, but after {:.1} s it is not in force: {seen}", waited.as_secs_f32())]
    NotInEffect {
        /// From the command to giving up.
        waited: Duration,
        /// What was seen instead.
        seen: String,
    },
}

impl HaproxyError {
    /// What the operator can do about it, where that is known.
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

    /// Whether HAProxy serves on as before and takes no orders, until somebody changes that.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Level { .. } => true,
            Self::Refused { said, .. } => said.contains("Permission denied"),
            _ => false,
        }
    }

    /// Whether HAProxy goes on by the route that it had before: the new one was refused before anything was moved.
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
