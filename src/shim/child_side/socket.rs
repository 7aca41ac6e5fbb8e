//! The shim's end of its unix socket: accepts, checks who it is, reads one request line per connection, and
//! keeps the connection until its answer is due. Never blocks; called by the shim's loop only.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
};

use nix::{
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::Uid,
};

use super::record::make_folder;
use super::wire::{self, Inbox, MAX_REQUEST, Reply, Request};

/// Connections kept at once; the daemon needs a handful.
const MAX_CONNECTIONS: usize = 64;

/// The listening socket with its connections.
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    inode: (u64, u64),
    connections: Vec<Connection>,
}

/// One client.
struct Connection {
    stream: UnixStream,
    read: Inbox,
    /// What it waits for, once it has said so.
    asked: Option<Request>,
    gone: bool,
}

impl Socket {
    /// Binds, replacing what a former shim left behind.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let (listener, inode) = listen(&path)?;
        Ok(Self { path, listener, inode, connections: Vec::new() })
    }

    /// Binds again if the socket is no longer to be found under its name (a wiped runtime directory).
    pub fn restore(&mut self) -> io::Result<()> {
        let there =
            fs::symlink_metadata(&self.path).is_ok_and(|named| (named.dev(), named.ino()) == self.inode);
        if !there {
            (self.listener, self.inode) = listen(&self.path)?;
        }
        Ok(())
    }

    /// Removes the name, if it is ours.
    pub fn remove(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == self.inode => fs::remove_file(&self.path),
            _ => Ok(()),
        }
    }

    /// What to poll for reading; no new clients while there are too many.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.connections.len() < MAX_CONNECTIONS).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|one| one.stream.as_fd()))
    }

    /// Accepts and reads whatever is there. Returns the requests whose answer is still due.
    pub fn serve(&mut self) -> Vec<Request> {
        self.accept();
        self.connections.iter_mut().for_each(Connection::advance);
        self.connections.retain(|one| !one.gone);
        self.connections.iter().filter_map(|one| one.asked).collect()
    }

    /// Gives the answer to all who asked one of these, and closes their connections.
    pub fn answer(&mut self, due: &[Request], reply: &Reply) {
        let asked = |one: &Connection| one.asked.is_some_and(|request| due.contains(&request));
        self.connections.iter_mut().filter(|one| asked(one)).for_each(|one| one.answer(reply));
        self.connections.retain(|one| !one.gone);
    }

    /// A client that could not be accepted tries again, or goes by pid.
    fn accept(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if is_allowed(&stream) && stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection {
                    stream,
                    read: Inbox::default(),
                    asked: None,
                    gone: false,
                });
            }
        }
    }
}

impl Connection {
    /// Sends the one answer and is done. It fits the empty socket buffer; a client that does not read is cut.
    fn answer(&mut self, reply: &Reply) {
        if let Ok(line) = wire::line(reply) {
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
            Some(Err(bad)) => self.answer(&Reply::Refused(bad.to_string())),
        }
    }
}

fn is_allowed(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let peer = Uid::from_raw(peer.uid());
        peer.is_root() || peer == Uid::effective()
    })
}

fn listen(path: &std::path::Path) -> io::Result<(UnixListener, (u64, u64))> {
    if let Some(folder) = path.parent() {
        make_folder(folder, 0o700)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // From the first instant for us alone; the shim has one thread, so the mask is nobody else's.
    let mask = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(mask);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    let named = fs::symlink_metadata(path)?;
    Ok((listener, (named.dev(), named.ino())))
}
