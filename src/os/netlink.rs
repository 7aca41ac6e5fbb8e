//! Questions to the kernel about the sockets of this network namespace (sock_diag): one netlink exchange for `tcp` and
//! `unix`. The framing is small enough that a crate for it would be larger than what it replaces.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

/// Largest datagram that the kernel sends, in bytes.
const BUFFER: usize = 64 * 1024;
/// Bytes of a message header: length, kind, flags, sequence number, port.
const HEADER: usize = 16;
/// Message kind of a query by address family, and of its answers.
const BY_FAMILY: u16 = 20;
/// Flags of a query for all sockets that match.
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A netlink socket connected to the kernel.
pub(super) struct SockDiag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens the socket; fails where netlink is forbidden.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
        // The kernel answers at once; a second without an answer means that it never will.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Sends a query, and passes the body of each answer to the caller.
    pub(super) fn dump(
        &mut self,
        question: &[u8],
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        send(fd, &framed(question), MsgFlags::empty())?;
        loop {
            let count = recv(fd, &mut self.buffer, MsgFlags::empty())?;
            if take_answers(self.buffer.get(..count).unwrap_or_default(), &mut each)? == Dump::Over {
                return Ok(());
            }
        }
    }
}

/// Puts the header before a query.
pub(super) fn framed(question: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + question.len()).unwrap_or(u32::MAX);
    let head = [&length.to_ne_bytes()[..], &BY_FAMILY.to_ne_bytes(), &REQUEST_DUMP.to_ne_bytes(), &[0; 8]];
    [&head.concat(), question].concat()
}

/// Whether more answers follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dump {
    Goes,
    Over,
}

/// Passes the body of each answer in `bytes` to the caller. Pure and total: a truncated or malformed message is an
/// error.
pub(super) fn take_answers(bytes: &[u8], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Dump> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(broken)?;
        let message = rest.get(..length).filter(|_| length >= HEADER).ok_or_else(broken)?;
        match u16_at(message, 4) {
            Some(DONE) => return Ok(Dump::Over),
            Some(ERROR) => return Err(io::Error::other("the kernel refuses to list its sockets")),
            Some(BY_FAMILY) => each(message.get(HEADER..).unwrap_or_default())?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Dump::Goes)
}

/// The error for an answer that does not have the layout of the kernel's headers.
pub(super) fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// A 32-bit number in the host's byte order; `None` beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A 16-bit number in the host's byte order; `None` beyond the end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
