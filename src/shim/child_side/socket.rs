//! The shim's end of its unix socket: accepts, checks the peer's user, reads one request line per connection, and
//! keeps the connection until its answer is due. Never blocks; called by the shim's loop only.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::Uid,
};

use super::wire::{Inbox, MAX_REQUEST, ShimReply, ShimRequest};
use crate::os::{
    door::{Door, Name},
    lines::line,
};

/// Most connections kept at once; the daemon needs a handful.
const MAX_CONNECTIONS: usize = 64;

/// The listening socket with its connections.
pub(super) struct ShimSocket {
    path: PathBuf,
    listener: UnixListener,
    door: Door,
    connections: Vec<ShimConnection>,
}

/// One client.
struct ShimConnection {
    stream: UnixStream,
    read: Inbox,
    /// The request, once it has arrived.
    asked: Option<ShimRequest>,
    gone: bool,
}

impl ShimSocket {
    /// Binds, and replaces the socket of a former shim.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let (door, listener) = name(&path).listen()?;
        Ok(Self { path, listener, door, connections: Vec::new() })
    }

    /// Binds again if the socket is not found at its path any more (a wiped runtime directory).
    pub fn restore(&mut self) -> io::Result<()> {
        if !self.door.is_in_place() {
            (self.door, self.listener) = name(&self.path).listen()?;
        }
        Ok(())
    }

    /// Removes the socket file, if it is ours.
    pub fn remove(&self) -> io::Result<()> {
        self.door.remove()
    }

    /// The descriptors to poll for reading; without the listener while there are too many clients.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.connections.len() < MAX_CONNECTIONS).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|one| one.stream.as_fd()))
    }

    /// Accepts clients and reads their bytes. Returns the requests whose answer is still due.
    pub fn serve(&mut self) -> Vec<ShimRequest> {
        self.accept();
        self.connections.iter_mut().for_each(ShimConnection::advance);
        self.connections.retain(|one| !one.gone);
        self.connections.iter().filter_map(|one| one.asked).collect()
    }

    /// Sends the answer to all clients with one of these requests, and closes their connections.
    pub fn answer(&mut self, due: &[ShimRequest], reply: &ShimReply) {
        let asked = |one: &ShimConnection| one.asked.is_some_and(|request| due.contains(&request));
        self.connections.iter_mut().filter(|one| asked(one)).for_each(|one| one.answer(reply));
        self.connections.retain(|one| !one.gone);
    }

    /// A client that could not be accepted tries again, or goes by pid.
    fn accept(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if is_allowed(&stream) && stream.set_nonblocking(true).is_ok() {
                self.connections.push(ShimConnection {
                    stream,
                    read: Inbox::default(),
                    asked: None,
                    gone: false,
                });
            }
        }
    }
}

impl ShimConnection {
    /// Sends the answer and closes. It fits the empty socket buffer; a client that does not read loses the rest.
    fn answer(&mut self, reply: &ShimReply) {
        if let Ok(line) = line(reply) {
            // A client that went away in the meantime has no use for it.
            let _unread = self.stream.write_all(&line);
        }
        self.gone = true;
    }

    fn advance(&mut self) {
        let mut bytes = [0; MAX_REQUEST];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.gone = true,
            Ok(count) => self.take(bytes.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.asked.is_some() {
            return;
        }
        match self.read.take(bytes) {
            None => {}
            Some(Ok(request)) => self.asked = Some(request),
            Some(Err(bad)) => self.answer(&ShimReply::Refused(bad.to_string())),
        }
    }
}

fn is_allowed(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let peer = Uid::from_raw(peer.uid());
        peer.is_root() || peer == Uid::effective()
    })
}

/// The path and modes of the socket: only the daemon's user and root may connect.
fn name(path: &Path) -> Name<'_> {
    Name { path, mode: 0o600, folder_mode: 0o700 }
}
