//! A second handle on the public listening socket, which the daemon keeps while a front serves. When the front's
//! process is killed, new clients are not refused: they wait in the socket's queue until the next front serves. Only
//! requests in flight are lost. Held by `client`, given to `spawn`. Must not be used while the process that it was
//! taken from lives: two fronts would serve one address with different routes.

use std::{
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{BuiltinError, handover};
use crate::{
    os::{blocking::blocking, process::PidFd},
    rules::route::Route,
};

/// The listening socket, its last route, and the process that serves it.
pub(super) struct Spare {
    listener: TcpListener,
    route: Option<Route>,
    pid: u32,
    process: PidFd,
}

impl Spare {
    /// Takes the socket from the front at `control`, which runs as process `pid`.
    pub(super) async fn take(control: &Path, pid: u32) -> Result<Self, BuiltinError> {
        let path = PathBuf::from(control);
        let process = PidFd::open(pid.cast_signed())
            .map_err(|source| BuiltinError::Control { path: path.clone(), source })?;
        let heritage = blocking(move || handover::take(&path)).await?;
        Ok(Self { listener: heritage.listener, route: heritage.route, pid, process })
    }

    /// Whether the socket was taken from this process.
    pub(super) fn is_of(&self, pid: u32) -> bool {
        self.pid == pid
    }

    /// The process that serves the socket.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Records the route in force.
    pub(super) fn routed(&mut self, route: &Route) {
        self.route = Some(route.clone());
    }

    /// A handle on the process that serves the socket.
    pub(super) fn process(&self) -> std::io::Result<PidFd> {
        self.process.try_clone()
    }

    /// Whether the process that served the socket has ended; false when unknown.
    pub(super) fn is_orphaned(&self) -> bool {
        self.process.has_ended().unwrap_or(false)
    }

    /// A socket for a child's standard input, which passes it the listening socket and the route.
    pub(super) fn bequest(&self) -> std::io::Result<OwnedFd> {
        handover::bequeath(self.listener.as_fd(), self.route.as_ref())
    }
}
