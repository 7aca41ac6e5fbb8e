//! A handle on one process (pidfd): a signal can't reach another one that was given the same pid. Used by
//! `client` to end a front, and by `spare` to see that one has ended.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

/// A handle on one process that no other one can slip into.
pub(super) struct Process(OwnedFd);

impl Process {
    /// The process that has this pid now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes two numbers, answers a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Another handle on the same process.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a signal; one that has ended already is no error.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is ours and open; a null info is allowed.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, 0) };
        match io::Error::last_os_error() {
            error if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self, within: Duration) -> io::Result<()> {
        // SAFETY: owns the descriptor it registers, which stays open and the same until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(self.0.try_clone()?, Interest::READABLE) }?;
        let _ended =
            timeout(within, fd.readable()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(())
    }
}
