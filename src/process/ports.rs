//! Who holds a TCP port: listeners on IPv4 and IPv6, the processes that own them, connections still open.
//! Called before a start (is the port free, who holds it), while probing (is it our tree that listens) and
//! while draining. Sees this network namespace only; blocks for milliseconds ([`holders`], which reads all of
//! /proc, for hundreds of them on a large host): call it through `spawn_blocking`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt, socket,
        sockopt::{Ipv6V6Only, ReuseAddr},
    },
};

use crate::{
    os::{
        process::command_line,
        tcp::{self, State},
        unix,
    },
    rules::address::Address,
};

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its owner.
    pub uid: u32,
    /// What its descriptors point to; the key for [`holders`].
    pub inode: u64,
}

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// Its command line, shortened, for messages.
    pub command: String,
    /// The sockets that it holds, of those asked for.
    pub inodes: BTreeSet<u64>,
}

/// All sockets that listen on this port, on any address; 0 is any port.
pub fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let found = tcp::read(State::Listen, port)?.into_iter();
    Ok(found.map(|one| Listener { address: one.local, uid: one.uid, inode: one.inode }).collect())
}

/// The inodes of all sockets that listen at an address of an instance.
pub fn listening_at(address: &Address) -> io::Result<Vec<u64>> {
    match address {
        Address::Port(port) => Ok(listeners(*port)?.iter().map(|listener| listener.inode).collect()),
        Address::Socket(path) => unix::listening(path),
    }
}

/// The same of many addresses, each with its inode; the kernel is asked for all ports at once.
pub fn listening_at_any(addresses: &[Address]) -> io::Result<Vec<(Address, u64)>> {
    let ports: BTreeSet<u16> = addresses.iter().filter_map(Address::port).collect();
    let mut found = Vec::new();
    if !ports.is_empty() {
        let listeners = listeners(0)?.into_iter().filter(|one| ports.contains(&one.address.port()));
        found.extend(listeners.map(|one| (Address::Port(one.address.port()), one.inode)));
    }
    let paths: BTreeSet<&Path> = addresses.iter().filter_map(Address::socket).collect();
    if !paths.is_empty() {
        let listening = unix::all_listening()?.into_iter().filter(|(path, _)| paths.contains(&**path));
        found.extend(listening.map(|(path, inode)| (Address::Socket(path), inode)));
    }
    Ok(found)
}

/// The users whom the TCP sockets among these belong to.
pub(crate) fn owners(inodes: &BTreeSet<u64>) -> io::Result<BTreeSet<u32>> {
    let all = tcp::read(State::Listen, 0)?.into_iter();
    Ok(all.filter(|one| inodes.contains(&one.inode)).map(|one| one.uid).collect())
}

/// The processes that have one of these sockets open. Those of other users are seen by root only. Looks through what
/// every process of the host has open: for a message, never on the way of a deploy that goes well.
pub fn holders(inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    holders_among(|_| true, inodes)
}

/// Those of the processes that `asked` accepts which have one of these sockets open.
pub(crate) fn holders_among(asked: impl Fn(i32) -> bool, inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !asked(pid) {
            continue;
        }
        let held = held_by(pid, inodes);
        if !held.is_empty() {
            found.push(Holder { pid, command: command_line(pid), inodes: held });
        }
    }
    Ok(found)
}

/// Those of the sockets that this process has open; none when it is gone or another user's.
pub fn held_by(pid: i32, inodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    open.filter_map(|entry| socket_inode(fs::read_link(entry.ok()?.path()).ok()?.to_str()?))
        .filter(|inode| inodes.contains(inode))
        .collect()
}

/// The sockets that this process has open, each with its number there.
pub(crate) fn sockets_of(pid: i32) -> Vec<(i32, u64)> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let socket = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, socket_inode(fs::read_link(entry.path()).ok()?.to_str()?)?))
    };
    open.filter_map(socket).collect()
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Connections of clients to this local port that are established.
pub fn established(port: u16) -> io::Result<usize> {
    Ok(tcp::read(State::Established, port)?.len())
}

/// The sockets of clients' connections to this local port that are established.
pub(crate) fn established_sockets(port: u16) -> io::Result<BTreeSet<u64>> {
    Ok(tcp::read(State::Established, port)?.into_iter().map(|one| one.inode).collect())
}

/// Nothing listens on the port and an app could bind it, on every address of both families.
pub fn free(port: u16) -> io::Result<bool> {
    Ok(listeners(port)?.is_empty() && can_bind(port)?)
}

/// Binds without listening, so that no client is ever accepted by the attempt.
fn can_bind(port: u16) -> io::Result<bool> {
    let v4 = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    let v6 = SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    Ok(try_bind(AddressFamily::Inet, &v4)? && try_bind(AddressFamily::Inet6, &v6)?)
}

fn try_bind(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<bool> {
    let attempt = || -> nix::Result<()> {
        let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // As nearly every server does it: connections in TIME_WAIT don't count.
        setsockopt(&socket, ReuseAddr, &true)?;
        if family == AddressFamily::Inet6 {
            setsockopt(&socket, Ipv6V6Only, &true)?;
        }
        bind(socket.as_raw_fd(), address)
    };
    match attempt() {
        Ok(()) => Ok(true),
        Err(Errno::EADDRINUSE) => Ok(false),
        // No such family on this host; or a port below 1024 that only root could try: the listeners decide.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EACCES) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn d1_a_listener_is_found_with_its_process_and_the_port_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = listeners(address.port()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, address);
        assert!(!free(address.port()).unwrap());
        let inodes = BTreeSet::from([found[0].inode]);
        let holders = holders(&inodes).unwrap();
        assert!(holders.iter().any(|holder| holder.pid == me() && !holder.command.is_empty()));
        assert_eq!(held_by(me(), &inodes), inodes);
        assert_eq!(owners(&inodes).unwrap(), BTreeSet::from([nix::unistd::geteuid().as_raw()]));
    }

    #[test]
    fn an_ipv6_listener_is_found_too() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            println!("skipped: no IPv6 here");
            return;
        };
        let address = listener.local_addr().unwrap();
        assert_eq!(listeners(address.port()).unwrap()[0].address, address);
        assert!(!free(address.port()).unwrap());
    }

    #[test]
    fn open_connections_are_counted_and_a_closed_listener_leaves_the_port_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(established(address.port()).unwrap(), 0);
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(established(address.port()).unwrap(), 1);
        drop(listener);
        drop(client);
        drop(server);
        assert!(free(address.port()).unwrap());
    }
}
