//! Receives a front's report of each request on a datagram socket. Any user may send to it, because a front's workers
//! run as a user of their own; the kernel names the sender, and only datagrams of trusted senders count. A lost
//! datagram is not counted.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{self, IoSliceMut},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::Path,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use tokio::{io::Interest, net::UnixDatagram, time::Instant};

use super::{Front, traffic::RequestSample};

/// Bytes. Longer than any line that a front sends; the rest of a longer datagram is not read.
const LONGEST: usize = 4096;
/// Shortest time between two queries for the front's workers.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// The socket, and the uids of the front's workers, whose datagrams count.
#[derive(Debug)]
pub struct Ear {
    socket: UnixDatagram,
    trusted: BTreeSet<u32>,
    asked: Option<Instant>,
}

impl Ear {
    /// Binds the socket, and removes one that an earlier bgd left at this path.
    ///
    /// # Errors
    /// When the socket or its directory can't be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        match fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self { socket, trusted: BTreeSet::new(), asked: None })
    }

    /// The next request that the front reports: a sample for each color that the request was tried on. Cancel-safe, but
    /// a datagram from a sender not yet known may be lost.
    ///
    /// # Errors
    /// When the socket can't be read.
    pub async fn hear(&mut self, front: &dyn Front) -> io::Result<Vec<RequestSample>> {
        loop {
            let (datagram, uid) = self.datagram().await?;
            if !self.trusts(uid) && self.may_ask() {
                self.trusted = front.worker_uids().await;
            }
            if self.trusts(uid) {
                return Ok(front.samples(&datagram));
            }
        }
    }

    /// The next datagram, and the uid of its sender.
    async fn datagram(&self) -> io::Result<(Vec<u8>, Option<u32>)> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await
    }

    /// Trusts bgd's own user, root, and the users that the front's workers run as.
    fn trusts(&self, uid: Option<u32>) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        uid.is_some_and(|uid| uid == 0 || uid == own || self.trusted.contains(&uid))
    }

    /// Whether bgd may look up the workers again. The rate is limited, because otherwise each datagram of an unknown
    /// sender would cause a look-up.
    fn may_ask(&mut self) -> bool {
        let may = self.asked.is_none_or(|asked| asked.elapsed() >= ASKED_AGAIN);
        if may {
            self.asked = Some(Instant::now());
        }
        may
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut bytes = vec![0; LONGEST];
    let mut credentials = nix::cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut credentials), flags)?;
    let uid = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender.uid()),
        _ => None,
    });
    let length = received.bytes;
    bytes.truncate(length);
    Ok((bytes, uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_sent_arrives_with_its_sender_and_a_stale_socket_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t/shop.sock");
        drop(Ear::open(&path).unwrap());
        let mut ear = Ear::open(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"one", &path).await.unwrap();
        sender.send_to(&[b'x'; LONGEST * 2], &path).await.unwrap();
        let (datagram, uid) = ear.datagram().await.unwrap();
        assert_eq!((datagram.as_slice(), uid), (&b"one"[..], Some(nix::unistd::geteuid().as_raw())));
        assert_eq!(ear.datagram().await.unwrap().0.len(), LONGEST);
        assert!(ear.trusts(uid));
        assert!(!ear.trusts(None) && !ear.trusts(Some(12_345)));
        assert!(ear.may_ask() && !ear.may_ask());
        ear.trusted = BTreeSet::from([12_345]);
        assert!(ear.trusts(Some(12_345)));
    }
}
