//! The public listening socket: bound, or inherited. One socket shared by all workers, and by a successor
//! during a handover, so that what waits in its queue is never lost. Also says who holds an address that
//! can't be bound. Called by `role` at start.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt::{
        Ipv6V6Only, KeepAlive, ReuseAddr, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay,
        TcpUserTimeout,
    },
};

use crate::os::{holders::holders, process::name_of, tcp};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Seconds of silence after which keepalive probes a client, so that one that vanished is not in flight for ever.
const ASK_AFTER: u32 = 60;
/// Milliseconds that a client may leave our bytes unacknowledged or its window shut.
const UNHEARD: u32 = 120_000;

/// Binds the public address. Accepted connections inherit the options on Linux, which saves calls.
pub(super) fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 as well, whatever the system's default is.
        setsockopt(&fd, Ipv6V6Only, &false)?;
    }
    setsockopt(&fd, TcpNoDelay, &true)?;
    setsockopt(&fd, KeepAlive, &true)?;
    setsockopt(&fd, TcpKeepIdle, &ASK_AFTER)?;
    setsockopt(&fd, TcpKeepInterval, &15)?;
    setsockopt(&fd, TcpKeepCount, &4)?;
    setsockopt(&fd, TcpUserTimeout, &UNHEARD)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd.as_fd(), Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(TcpListener::from(fd))
}

/// The process that listens on this port, for an error message: `pid 4242 (nginx)`; `None` when unknown.
pub fn holder(address: SocketAddr) -> Option<String> {
    let inodes = tcp::listening(address.port()).ok()?.into_iter().map(|one| one.inode).collect();
    let pid = holders(&inodes).ok()?.first()?.pid;
    Some(format!("pid {pid} ({})", name_of(pid).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_an_address_is_named() {
        let taken = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(bound(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let named = holder(address).unwrap();
        assert!(named.starts_with(&format!("pid {} (", std::process::id())), "{named}");
    }

    #[test]
    fn what_is_accepted_does_not_wait_for_more_to_send() {
        let listener = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn ipv6_any_serves_ipv4_too() {
        let Ok(both) = bound("[::]:0".parse().unwrap()) else {
            println!("skipped: no IPv6 here");
            return;
        };
        let port = both.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
