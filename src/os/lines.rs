//! Messages of one JSON line each, between bgd's processes, over pipes and sockets.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// Serialises a message as a line, with its line feed.
pub(crate) fn line<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a line, with its line feed. A result without a line feed means that the other side has closed, or that the
/// line is longer than `limit` bytes.
pub(crate) async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(limit).read_until(b'\n', &mut line).await?;
    Ok(line)
}
