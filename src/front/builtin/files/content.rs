//! The bytes of a file on their way to a client: read piece by piece, on a thread that may block, and the next piece only
//! once the client has taken the former one.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes of one piece: a small file is read in one, and a slow client costs no more memory than this.
const PIECE: u64 = 64 << 10;

/// The rest of a file, or of a part of it.
pub(in crate::front::builtin) struct Content {
    file: Option<File>,
    /// The first byte that is still to be read.
    at: u64,
    /// Bytes still to be read.
    left: u64,
    /// A piece that was read and is not sent yet.
    ready: Option<Bytes>,
    reading: Option<JoinHandle<io::Result<(File, Bytes)>>>,
}

impl Content {
    /// Begins, and reads the first piece; blocks.
    pub(super) fn read(file: File, (first, length): (u64, u64)) -> io::Result<Self> {
        let piece = piece(&file, first, length)?;
        let read = piece.len() as u64;
        Ok(Self {
            file: Some(file),
            at: first + read,
            left: length - read,
            ready: Some(piece),
            reading: None,
        })
    }

    /// Bytes that are still to come.
    pub(in crate::front::builtin) fn left(&self) -> u64 {
        self.left + self.ready.as_ref().map_or(0, |piece| piece.len() as u64)
    }

    /// The next piece; `None` after the last one.
    pub(in crate::front::builtin) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(piece) = self.ready.take() {
            return Poll::Ready(Some(Ok(piece)));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (at, left) = (self.at, self.left);
        if let Some(file) = self.file.take() {
            self.reading = Some(spawn_blocking(move || piece(&file, at, left).map(|piece| (file, piece))));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let Poll::Ready(read) = Pin::new(reading).poll(cx) else { return Poll::Pending };
        self.reading = None;
        let read = read.map_err(io::Error::other).and_then(|read| read);
        Poll::Ready(Some(read.map(|(file, piece)| {
            self.file = Some(file);
            self.at += piece.len() as u64;
            self.left -= piece.len() as u64;
            piece
        })))
    }
}

fn piece(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(left.min(PIECE)).unwrap_or_default()];
    file.read_exact_at(&mut buffer, at)?;
    Ok(buffer.into())
}
