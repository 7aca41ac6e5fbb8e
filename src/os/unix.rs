//! The kernel's unix sockets of this network namespace, by bound path: listeners and open connections. Asks by
//! netlink, which also tells whether a connection still has a peer; /proc/net/unix is the fallback where netlink is
//! forbidden.
//!
//! The path is the text that the listener bound: a socket bound by a relative path, or renamed afterwards, is not
//! found by its present path.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::netlink::{SockDiag, broken, u16_at, u32_at};

/// The longest path of a unix socket in bytes: 108 less the terminating zero.
pub const LONGEST_PATH: usize = 107;

/// Whether the path needs no quotes in a configuration that has none, such as nginx's: absolute, and only letters,
/// digits and `/._-+@`.
pub fn is_plain(path: &Path) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"/._-+@".contains(&c);
    path.is_absolute() && path.to_str().is_some_and(|text| text.bytes().all(plain))
}

/// Bytes of an answer before its attributes.
const ABOUT: usize = 16;
/// Attributes of an answer: the name, and the peer.
const NAME: u16 = 0;
const PEER: u16 = 2;
const SHOW_NAME_AND_PEER: u32 = 1 | 4;

/// Socket states, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum UnixState {
    Connected = 1,
    Listening = 10,
}

/// A socket bound to a path, or accepted by one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnixSocket {
    path: PathBuf,
    state: UnixState,
    inode: u64,
    /// Whether the peer's end is open.
    has_peer: bool,
}

/// The inodes of the sockets that listen on this path. More than one where an earlier socket's file was removed.
pub fn listening(path: &Path) -> io::Result<Vec<u64>> {
    let all = read(UnixState::Listening)?.into_iter();
    Ok(all.filter(|socket| socket.path == path).map(|socket| socket.inode).collect())
}

/// Every path with a listening socket, and the inode of the socket.
pub fn all_listening() -> io::Result<Vec<(PathBuf, u64)>> {
    Ok(read(UnixState::Listening)?.into_iter().map(|socket| (socket.path, socket.inode)).collect())
}

/// How many clients have a connection open to a listener on this path, accepted or not yet.
pub fn connections(path: &Path) -> io::Result<usize> {
    let all = read(UnixState::Connected)?.into_iter();
    Ok(all.filter(|socket| socket.has_peer && socket.path == path).count())
}

fn read(state: UnixState) -> io::Result<Vec<UnixSocket>> {
    // For any netlink error (a filter, a missing kernel module) read the file, which says nearly the same.
    by_netlink(state).or_else(|_| Ok(by_proc(state, &std::fs::read("/proc/net/unix")?)))
}

fn by_netlink(state: UnixState) -> io::Result<Vec<UnixSocket>> {
    let mut found = Vec::new();
    SockDiag::open()?.dump(&question(state), |answer| take(answer, state, &mut found))?;
    Ok(found)
}

/// A `unix_diag_req` for names and peers.
fn question(state: UnixState) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0] = libc::AF_UNIX as u8;
    bytes[4..8].copy_from_slice(&(1_u32 << state as u8).to_ne_bytes());
    bytes[12..16].copy_from_slice(&SHOW_NAME_AND_PEER.to_ne_bytes());
    bytes
}

fn take(answer: &[u8], state: UnixState, found: &mut Vec<UnixSocket>) -> io::Result<()> {
    if answer.len() < ABOUT {
        return Err(broken());
    }
    found.extend(parse_answer(answer, state));
    Ok(())
}

/// Parses a `unix_diag_msg` and its attributes; `None` for a socket without a path.
fn parse_answer(answer: &[u8], state: UnixState) -> Option<UnixSocket> {
    let inode = u32_at(answer, 4)?;
    let (mut path, mut peer) = (None, 0);
    let mut rest = answer.get(ABOUT..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(4..usize::from(length))?;
        match kind {
            NAME => path = path_of(value),
            PEER => peer = u32_at(value, 0)?,
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    // A closed peer is still reported, with inode 0.
    Some(UnixSocket { path: path?, state, inode: inode.into(), has_peer: peer != 0 })
}

/// The path of a bound name, without its trailing zeros; `None` for an abstract name, which begins with a zero.
fn path_of(name: &[u8]) -> Option<PathBuf> {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    (end > 0).then(|| PathBuf::from(OsStr::from_bytes(&name[..end])))
}

/// The sockets of this state in /proc/net/unix, which does not say whether a connection has a peer.
fn by_proc(state: UnixState, table: &[u8]) -> Vec<UnixSocket> {
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(parse_line).filter(|socket| socket.state == state).collect()
}

/// `Num RefCount Protocol Flags Type St Inode Path`; a path may have spaces.
fn parse_line(line: &[u8]) -> Option<UnixSocket> {
    let text = |field: &[u8]| Some(str::from_utf8(field).ok()?.to_owned());
    let mut rest = line;
    let mut fields = Vec::new();
    for _ in 0..7 {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|byte| *byte == b' ')?;
        fields.push(text(&rest[..end])?);
        rest = &rest[end..];
    }
    let path = rest.strip_prefix(b" ").filter(|path| path.first() == Some(&b'/'))?;
    let (accepts, state) = (fields.get(3)? == "00010000", fields.get(5)?.as_str());
    let state = match state {
        _ if accepts => UnixState::Listening,
        // Connected: accepted, or still in the listener's queue.
        "03" | "02" => UnixState::Connected,
        _ => return None,
    };
    let inode = fields.get(6)?.parse().ok()?;
    Some(UnixSocket { path: OsStr::from_bytes(path).into(), state, inode, has_peer: true })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;
    use crate::os::netlink::{framed, take_answers};

    #[test]
    fn a_listener_and_its_open_connections_are_found_by_their_path_in_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (_waiting, client) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        let (_first, _) = listener.accept().unwrap();
        let (server, _) = listener.accept().unwrap();
        let at = |all: Vec<UnixSocket>| all.into_iter().filter(|one| one.path == path).collect::<Vec<_>>();
        let proc = std::fs::read("/proc/net/unix").unwrap();
        for (state, count) in [(UnixState::Listening, 1), (UnixState::Connected, 2)] {
            let told = at(by_proc(state, &proc));
            assert_eq!(told.len(), count, "{told:?}");
            match by_netlink(state) {
                Ok(all) => assert_eq!(at(all).len(), count),
                Err(err) => println!("skipped: no netlink here: {err}"),
            }
        }
        assert_eq!(listening(&path).unwrap().len(), 1);
        assert_eq!(connections(&path).unwrap(), 2);
        drop(client);
        if by_netlink(UnixState::Connected).is_ok() {
            assert_eq!(connections(&path).unwrap(), 1, "an end that the server keeps open is not a request");
        }
        drop(server);
        drop(listener);
        assert!(listening(&path).unwrap().is_empty());
    }

    #[test]
    fn lines_that_are_no_sockets_with_a_path_are_left_out() {
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 6789 /run/a.sock";
        assert!(parse_line(line).is_some_and(|one| one.inode == 6789 && one.state == UnixState::Listening));
        for bad in
            ["", "Num RefCount", "0: 2 0 00010000 0001 01 6789", "0: 2 0 00010000 0001 01 6789 @abstract"]
        {
            assert_eq!(parse_line(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let taken = |answer: &[u8]| take(answer, UnixState::Listening, &mut Vec::new());
            let _ = taken(&bytes);
            let _ = by_proc(UnixState::Connected, &bytes);
            let _ = take_answers(&bytes, taken);
            let _ = take_answers(&[&framed(&question(UnixState::Listening)), &bytes[..]].concat(), taken);
        }
    }
}
