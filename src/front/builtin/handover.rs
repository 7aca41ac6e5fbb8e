//! Passing the listening socket and the route to a successor (SCM_RIGHTS): over the control socket, or, when the former
//! front was killed, over a socket that the daemon makes. The queue of connections stays with the listening socket, so
//! none is refused or lost. Used by `answer` and `spare` (give) and `role` (takes). The route may hold a secret, so it
//! is never passed in an argument or a file.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::TcpListener,
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;

use super::{
    BuiltinError,
    control::{self, ControlAnswer, ControlRequest, LONGEST},
};
use crate::rules::route::Route;

/// How long a successor waits for its predecessor's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a successor inherits.
pub(super) struct Heritage {
    /// The public listening socket.
    pub(super) listener: TcpListener,
    /// The route in force.
    pub(super) route: Option<Route>,
    /// The control connection to the predecessor, over which the successor tells it to leave and forwards requests
    /// until it has gone; `None` when it is dead.
    pub(super) stream: Option<UnixStream>,
}

impl Heritage {
    /// The heritage of a killed front: our standard input is the socket that [`bequeath`] made.
    pub(super) fn of_the_dead() -> io::Result<Self> {
        let stream = UnixStream::from(own_stdin()?);
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let (line, fd) = receive(&stream)?;
        match (control::parse(&line), fd) {
            (Ok(ControlAnswer::Heritage(route)), Some(fd)) => {
                Self::without_predecessor(fd, route.map(|route| *route))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn without_predecessor(listener: OwnedFd, route: Option<Route>) -> io::Result<Self> {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self { listener, route, stream: None })
    }
}

/// Replaces standard input with /dev/null and returns the former one: once this process accepts no more, none of its
/// descriptors may hold the listening socket open.
fn own_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(stdin)
}

/// Returns a unix socket with one message queued for a child: the route as a line, and the listening socket.
pub(super) fn bequeath(listener: BorrowedFd<'_>, route: Option<&Route>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // An error rather than a wait, if the line should not fit: nobody reads yet.
    ours.set_nonblocking(true)?;
    let line = control::line(&ControlAnswer::Heritage(route.cloned().map(Box::new)));
    let fds = [listener.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&fds)];
    let sent =
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&line)], &message, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == line.len() { Ok(theirs.into()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Sends one line along with a descriptor.
pub(super) async fn give(
    stream: &tokio::net::UnixStream,
    line: &[u8],
    listener: BorrowedFd<'_>,
) -> io::Result<()> {
    let fds = [listener.as_raw_fd()];
    let sent = stream.async_io(Interest::WRITABLE, || {
        let message = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], &message, flags, None)?)
    });
    // A stream may take part of a long line; the descriptor went with the first byte.
    match sent.await? {
        whole if whole == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Asks the running front at `control` for its socket and route. That front serves until it gets [`ControlRequest::Leave`].
pub(super) fn take(control: &Path) -> Result<Heritage, BuiltinError> {
    let failed = |source| BuiltinError::Control { path: control.to_owned(), source };
    let mut stream = UnixStream::connect(control).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
    io::Write::write_all(&mut stream, &control::line(&ControlRequest::Handover)).map_err(failed)?;
    let (line, fd) = receive(&stream).map_err(failed)?;
    match (control::parse(&line)?, fd) {
        (ControlAnswer::Heritage(route), Some(fd)) => {
            stream.set_read_timeout(None).map_err(failed)?;
            Ok(Heritage {
                listener: TcpListener::from(fd),
                route: route.map(|route| *route),
                stream: Some(stream),
            })
        }
        (ControlAnswer::Refused(reason), _) => Err(BuiltinError::Refused { reason }),
        (other, _) => Err(BuiltinError::Unexpected { answer: format!("{other:?}") }),
    }
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut passed = None;
    while !line.ends_with(b"\n") && line.len() < LONGEST {
        let mut buffer = vec![0; LONGEST];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                passed = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
            }
        }
        let read = message.bytes;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&buffer[..read]);
    }
    Ok((line, passed))
}
