//! The kernel's list of TCP sockets with one port and state. By netlink, which filters in the kernel: a busy host has
//! tens of thousands of closed connections waiting, and reading them all from /proc/net/tcp takes a hundred
//! milliseconds. That file is the fallback where netlink is forbidden. Asked by `process` (who listens) and `front`
//! (what is in flight).

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

/// What the kernel sends at once at most.
const BUFFER: usize = 64 * 1024;

const HEADER: usize = 16;
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// States by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A connection, accepted or not yet.
    Established = 1,
    /// A listener.
    Listen = 10,
}

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its own address.
    pub local: SocketAddr,
    /// Its owner.
    pub uid: u32,
    /// What its descriptors point to.
    pub inode: u64,
}

/// A port of its own end and of the other one; 0 is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

/// All sockets of both families in this state with this local port; with port 0 on any port.
pub fn read(state: State, port: u16) -> io::Result<Vec<Socket>> {
    read_between(state, Ports { local: port, remote: 0 })
}

/// The clients' ends of the connections to this port, wherever it is.
pub fn clients_of(port: u16) -> io::Result<Vec<Socket>> {
    read_between(State::Established, Ports { local: 0, remote: port })
}

fn read_between(state: State, ports: Ports) -> io::Result<Vec<Socket>> {
    // Whatever is wrong with netlink here (a filter, a missing kernel module): the files tell the same.
    by_netlink(state, ports).or_else(|_| by_proc(state, ports))
}

fn by_netlink(state: State, ports: Ports) -> io::Result<Vec<Socket>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers at once; a second without an answer means that it never will.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    for family in [libc::AF_INET, libc::AF_INET6] {
        send(netlink.as_raw_fd(), &request(family, state, ports), MsgFlags::empty())?;
        loop {
            let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if take_messages(buffer.get(..count).unwrap_or_default(), &mut found)? == Dump::Over {
                break;
            }
        }
    }
    Ok(found)
}

/// A netlink header and an `inet_diag_req_v2` that asks for TCP, a state, and ports.
fn request(family: i32, state: State, ports: Ports) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family).unwrap_or(0), 6, 0, 0]);
    bytes.extend((1_u32 << state as u8).to_ne_bytes());
    bytes.extend(ports.local.to_be_bytes());
    bytes.extend(ports.remote.to_be_bytes());
    bytes.resize(72, 0);
    bytes
}

/// Whether more is to come.
#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Goes,
    Over,
}

/// Pure, and total: cut or wrong messages are errors.
fn take_messages(bytes: &[u8], found: &mut Vec<Socket>) -> io::Result<Dump> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = usize::try_from(u32_at(rest, 0).ok_or_else(broken)?).map_err(io::Error::other)?;
        let message = rest.get(..length).filter(|_| length >= HEADER).ok_or_else(broken)?;
        let kind = message.get(4..6).and_then(|two| Some(u16::from_ne_bytes(two.try_into().ok()?)));
        match kind {
            Some(DONE) => return Ok(Dump::Over),
            Some(ERROR) => return Err(io::Error::other("the kernel refuses to list its sockets")),
            Some(BY_FAMILY) => found.push(message.get(HEADER..).and_then(parse_message).ok_or_else(broken)?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Dump::Goes)
}

/// An `inet_diag_msg`.
fn parse_message(message: &[u8]) -> Option<Socket> {
    let family = i32::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = message.get(8..24)?;
    let address = match family {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    let local = SocketAddr::new(address, port);
    Some(Socket { local, uid: u32_at(message, 64)?, inode: u32_at(message, 68)?.into() })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn by_proc(state: State, ports: Ports) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match File::open(path) {
            // No IPv6 on this host.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::with_capacity(BUFFER, file).lines().skip(1) {
            let is = |wanted: u16, port: u16| wanted == 0 || wanted == port;
            let asked = |line: &Line| {
                line.state == state as u8
                    && is(ports.local, line.socket.local.port())
                    && is(ports.remote, line.remote.port())
            };
            found.extend(parse_line(&line?).filter(asked).map(|line| line.socket));
        }
    }
    Ok(found)
}

/// A line of the file.
struct Line {
    state: u8,
    remote: SocketAddr,
    socket: Socket,
}

fn parse_line(line: &str) -> Option<Line> {
    let mut fields = line.split_ascii_whitespace();
    let local = parse_address(fields.nth(1)?)?;
    let remote = parse_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Line { state, remote, socket: Socket { local, uid, inode } })
}

/// Hex in 32-bit words of the host's byte order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok().filter(|word| word.len() == 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn netlink_and_proc_tell_the_same() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: no {address} here");
                continue;
            };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (own, others) =
                (Ports { local: local.port(), remote: 0 }, Ports { local: 0, remote: local.port() });
            for (state, ports, expected) in [
                (State::Listen, own, local),
                (State::Established, own, local),
                (State::Established, others, client.local_addr().unwrap()),
            ] {
                let told = by_netlink(state, ports).unwrap();
                assert_eq!(told, by_proc(state, ports).unwrap());
                assert_eq!(told.iter().map(|one| one.local).collect::<Vec<_>>(), [expected]);
            }
            drop(client);
        }
    }

    #[test]
    fn lines_that_are_not_sockets_are_left_out() {
        for bad in ["", "sl local_address", "0: 0100007F:zz 0 0A", "0: 01:01 0:0 0A 0 0 0 0 0 1"] {
            assert!(parse_line(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = take_messages(&bytes, &mut Vec::new());
            let mut framed = request(2, State::Listen, Ports { local: 1, remote: 0 });
            framed.extend(bytes);
            let _ = take_messages(&framed, &mut Vec::new());
        }
    }
}
