//! The kernel's TCP sockets of one port and state. Asks by netlink, which filters in the kernel: a busy host has tens
//! of thousands of closed connections waiting, and reading them all from /proc/net/tcp takes a hundred milliseconds.
//! That file is the fallback where netlink is forbidden.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

use super::netlink::{SockDiag, broken, u32_at};

/// Bytes per read of the file.
const BUFFER: usize = 64 * 1024;

/// TCP states, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum TcpState {
    /// A connection, accepted or not yet.
    Established = 1,
    Listen = 10,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSocket {
    pub local: SocketAddr,
    /// User id of its owner.
    pub uid: u32,
    /// Inode, which /proc/PID/fd shows for its descriptors.
    pub inode: u64,
}

/// The local and the remote port to match; 0 matches any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortFilter {
    local: u16,
    remote: u16,
}

/// The IPv4 and IPv6 sockets that listen on this port, on any address; port 0 matches any.
pub fn listening(port: u16) -> io::Result<Vec<TcpSocket>> {
    read(TcpState::Listen, PortFilter { local: port, remote: 0 })
}

/// Connections whose local port this is: the server's ends on this host.
pub(crate) fn connections(port: u16) -> io::Result<Vec<TcpSocket>> {
    read(TcpState::Established, PortFilter { local: port, remote: 0 })
}

/// Connections whose remote port this is: the clients' ends, to a server on any host.
pub(crate) fn clients_of(port: u16) -> io::Result<Vec<TcpSocket>> {
    read(TcpState::Established, PortFilter { local: 0, remote: port })
}

/// User ids of the listening sockets with these inodes.
pub(crate) fn owners(inodes: &BTreeSet<u64>) -> io::Result<BTreeSet<u32>> {
    let all = listening(0)?.into_iter();
    Ok(all.filter(|one| inodes.contains(&one.inode)).map(|one| one.uid).collect())
}

fn read(state: TcpState, ports: PortFilter) -> io::Result<Vec<TcpSocket>> {
    // For any netlink error (a filter, a missing kernel module) read the files, which say the same.
    by_netlink(state, ports).or_else(|_| by_proc(state, ports))
}

fn by_netlink(state: TcpState, ports: PortFilter) -> io::Result<Vec<TcpSocket>> {
    let mut kernel = SockDiag::open()?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        kernel.dump(&question(family, state, ports), |answer| take(answer, &mut found))?;
    }
    Ok(found)
}

/// An `inet_diag_req_v2`: TCP, a state, and ports.
fn question(family: i32, state: TcpState, ports: PortFilter) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[0] = u8::try_from(family).unwrap_or(0);
    bytes[1] = 6;
    bytes[4..8].copy_from_slice(&(1_u32 << state as u8).to_ne_bytes());
    bytes[8..10].copy_from_slice(&ports.local.to_be_bytes());
    bytes[10..12].copy_from_slice(&ports.remote.to_be_bytes());
    bytes
}

fn take(answer: &[u8], found: &mut Vec<TcpSocket>) -> io::Result<()> {
    found.push(parse_answer(answer).ok_or_else(broken)?);
    Ok(())
}

/// Parses an `inet_diag_msg`.
fn parse_answer(answer: &[u8]) -> Option<TcpSocket> {
    let family = i32::from(*answer.first()?);
    let port = u16::from_be_bytes(answer.get(4..6)?.try_into().ok()?);
    let address = answer.get(8..24)?;
    let address = match family {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    let local = SocketAddr::new(address, port);
    Some(TcpSocket { local, uid: u32_at(answer, 64)?, inode: u32_at(answer, 68)?.into() })
}

fn by_proc(state: TcpState, ports: PortFilter) -> io::Result<Vec<TcpSocket>> {
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match File::open(path) {
            // A host without IPv6 does not have the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::with_capacity(BUFFER, file).lines().skip(1) {
            let is = |wanted: u16, port: u16| wanted == 0 || wanted == port;
            let asked = |line: &TcpEntry| {
                line.state == state as u8
                    && is(ports.local, line.socket.local.port())
                    && is(ports.remote, line.remote.port())
            };
            found.extend(parse_line(&line?).filter(asked).map(|line| line.socket));
        }
    }
    Ok(found)
}

/// A parsed line of /proc/net/tcp.
struct TcpEntry {
    state: u8,
    remote: SocketAddr,
    socket: TcpSocket,
}

fn parse_line(line: &str) -> Option<TcpEntry> {
    let mut fields = line.split_ascii_whitespace();
    let local = parse_address(fields.nth(1)?)?;
    let remote = parse_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(TcpEntry { state, remote, socket: TcpSocket { local, uid, inode } })
}

/// Parses an address: hex in 32-bit words of the host's byte order, then the port.
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
    use crate::os::netlink::{framed, take_answers};

    #[test]
    fn netlink_and_proc_tell_the_same() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: no {address} here");
                continue;
            };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (own, others) = (
                PortFilter { local: local.port(), remote: 0 },
                PortFilter { local: 0, remote: local.port() },
            );
            for (state, ports, expected) in [
                (TcpState::Listen, own, local),
                (TcpState::Established, own, local),
                (TcpState::Established, others, client.local_addr().unwrap()),
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
            let _ = parse_answer(&bytes);
            let _ = take_answers(&bytes, |answer| take(answer, &mut Vec::new()));
            let any_port = question(2, TcpState::Listen, PortFilter { local: 1, remote: 0 });
            let more = [framed(&any_port), bytes].concat();
            let _ = take_answers(&more, |answer| take(answer, &mut Vec::new()));
        }
    }
}
