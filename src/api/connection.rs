//! A client's connection, as request handlers use it: it sends lines, and tells when the client has left.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    access::Peer,
    wire::{Refusal, Reply},
};
use crate::os::lines::line;

/// One client, whose request has been read.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) write: OwnedWriteHalf,
    pub(super) read: BufReader<OwnedReadHalf>,
    pub(super) peer: Peer,
}

impl Connection {
    /// Sends one reply line.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        self.write.write_all(&line(reply)?).await
    }

    /// Resolves when the client has left. Cancel-safe: further input is ignored.
    pub(super) async fn gone(&mut self) {
        let mut rest = [0; 64];
        while let Ok(read) = self.read.read(&mut rest).await {
            if read == 0 {
                return;
            }
        }
    }
}

/// Sends a refusal without waiting: a client that does not take it at once misses only the reason.
pub(super) fn send_away(stream: &UnixStream, why: Refusal) {
    if let Ok(line) = line(&Reply::Refused(why)) {
        let _untold = stream.try_write(&line);
    }
}
