//! The public listening socket: bound, or inherited. One socket shared by all workers, and by a successor
//! during a handover, so that what waits in its queue is never lost. Also says who holds an address that
//! can't be bound. Called by `role` at start.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt::{
        Ipv6V6Only, KeepAlive, ReuseAddr, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay,
        TcpUserTimeout,
    },
};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Seconds of silence after which a client is asked whether it is still there, so that one that vanished
/// is not in flight for ever.
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

/// Who listens on this port, for an error message: `pid 4242 (nginx)`; `None` when that can't be seen.
pub fn holder(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&std::fs::read_to_string(table).ok()?, address.port()))?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|c| c.is_ascii_digit()))
        .find(|entry| holds(&entry.path(), &wanted))
        .map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("pid {} ({})", entry.file_name().to_string_lossy(), name.trim())
        })
}

fn holds(process: &Path, wanted: &str) -> bool {
    let Ok(open) = std::fs::read_dir(process.join("fd")) else { return false };
    open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted))
}

/// The inode of the socket that listens on a port, from the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let at = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (at == port && *state == LISTEN).then(|| inode.parse().ok()).flatten()
    })
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
