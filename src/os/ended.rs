//! Waits on a runtime for the end of a process that is not a child. Separate from `process`, which the shim uses and
//! which needs no runtime.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

use super::process::PidFd;

/// Resolves when the process has ended. Cancel-safe.
pub(crate) async fn ended(process: PidFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned, stays the same and is open for as long as it is registered.
    let watched = unsafe { AsyncFd::register_with_interest(OwnedFd::from(process), Interest::READABLE) }?;
    watched.readable().await?.retain_ready();
    Ok(())
}
