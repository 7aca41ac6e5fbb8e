//! The builtin front: an HTTP/1.1 reverse proxy in a process of its own (`bgd front`), which outlives the daemon. The
//! daemon's side is [`Builtin`]; it starts the process, replaces it with a newer one without losing a connection, and
//! sends it the route. The process keeps the route in memory only, so the daemon sends it again after a fresh start.
//! The daemon keeps a second handle on the listening socket (`spare`), so that a killed front costs only the requests
//! in flight: new connections wait in the queue.
//!
//! ```text
//! daemon                          front process
//! client ── link ── control ──▶  answer ── stage ── switch ◀── proxy ◀── guest ◀── worker (per core)
//!    └── spawn ─────────────────▶ role ── listen, handover        └── upstream, reply, tunnel, headers
//! ```
//!
//! While two colors are routed, `table` chooses the color of each request (`wish` reads the request's preview secret,
//! address or cookie), and `tally` counts the results.
//!
//! `crowd` reserves descriptors, so a flood of clients stops neither visitors nor the control socket (promise N1).
//!
//! The front passes HTTP/1.1 and 1.0, streamed both ways, and upgrades; `headers` says what changes in heads, `proxy`
//! what is sent again. Limits on clients: 64 KiB and 100 fields of head within 20 s, 75 s idle, 60 s without taking
//! anything of an answer, and [`ExchangeLimits`] between two pieces of a body. Limits on apps: [`ExchangeLimits`] until the head of an
//! answer, then only the drain's.
//!
//! A static site has no app behind it: `files` answers from the directory that is routed. Files of former releases are
//! asked for once the live release said 404.
//!
//! Must not decide what is live: it applies the daemon's route.

mod answer;
mod client;
pub mod control;
mod crowd;
pub mod files;
mod flow;
mod front;
mod guest;
mod handover;
mod headers;
mod interim;
mod journal;
mod limits;
mod link;
mod listen;
mod proxy;
mod reply;
mod role;
mod silence;
mod sockets;
mod spare;
mod spawn;
mod stage;
mod supervise;
mod switch;
mod table;
mod tally;
mod target;
mod tunnel;
mod upload;
mod upstream;
mod wish;
mod worker;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

pub use client::{Builtin, FrontPlace};
pub use limits::ExchangeLimits;
pub use role::run;

/// A failure between the daemon and its front.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// The front's program could not be started.
    #[error("can't start the front {exe}", exe = .exe.display())]
    Spawn {
        exe: PathBuf,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
    /// A file or directory the front needs can't be used.
    #[error("can't use {path} for the front", path = .path.display())]
    Place {
        /// The file or directory.
        path: PathBuf,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
    /// Another process listens on the public address.
    #[error("the address {listen} is in use by {holder}")]
    AddressTaken {
        /// The public address.
        listen: SocketAddr,
        /// The process that holds it, such as `pid 4242 (nginx)`; `another process` when unknown.
        holder: String,
    },
    /// The front's process ended, or reported why it can't serve.
    #[error("the front can't serve {listen}: {reason}")]
    Start {
        /// The public address.
        listen: SocketAddr,
        /// The front's message.
        reason: String,
    },
    /// The front's process did not say in time that it serves.
    #[error("the front for {listen} was not ready within {waited:?}")]
    NotReady {
        /// The public address.
        listen: SocketAddr,
        waited: Duration,
    },
    /// The control socket failed.
    #[error("can't talk to the front at {path}", path = .path.display())]
    Control {
        /// The control socket.
        path: PathBuf,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
    /// The control socket gave no answer.
    #[error("no answer from the front at {path} within {waited:?}", path = .path.display())]
    Silent {
        /// The control socket.
        path: PathBuf,
        waited: Duration,
    },
    /// No front listens on the control socket.
    #[error("no front runs at {path}", path = .path.display())]
    NotRunning {
        /// The control socket.
        path: PathBuf,
    },
    /// The front refused the request.
    #[error("the front refused: {reason}")]
    Refused {
        /// The front's message.
        reason: String,
    },
    /// The front's answer does not fit the request.
    #[error("unexpected answer of the front: {answer}")]
    Unexpected {
        /// The answer, in its debug form.
        answer: String,
    },
    /// The answer was not a line of the protocol.
    #[error(transparent)]
    BadLine(#[from] control::BadControlLine),
    /// The front did not end.
    #[error("the front did not end: pid {pid}")]
    Unstoppable {
        pid: u32,
        #[source]
        #[expect(missing_docs, reason = "the cause")]
        source: io::Error,
    },
}

impl BuiltinError {
    /// Advice for the operator; `None` when the error says all that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AddressTaken { .. } => Some("stop it, or set another front.listen; then `bgd deploy`"),
            // The front is another process and reports only a text.
            Self::Start { reason, .. } if reason.contains("(os error 13)") => Some(
                "a port below 1024 takes root or CAP_NET_BIND_SERVICE; or set a higher front.listen: `bgd doctor`",
            ),
            Self::Start { reason, .. } if reason.contains("(os error 99)") => {
                Some("front.listen has to be an address of this host, or 0.0.0.0 for all: `bgd doctor`")
            }
            Self::Start { reason, .. } if reason.contains("(os error 98)") => {
                Some("`ss -ltnp` shows who has that port; stop it, or set another front.listen")
            }
            _ => None,
        }
    }
}
