//! The daemon's end of a shim's socket: one connection, one request, one answer. The peer must be the very process of
//! the record. Called by `handle` and `shims`, which handle its failures.

use std::{future::Future, io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::os::lines::line;
use crate::shim::{
    record::Record,
    wire::{MAX_REPLY, ShimReply, ShimReport, ShimRequest},
};

/// Time limit for connecting, and for answers that are given at once: a shim needs well under a millisecond.
pub(super) const PROMPT: Duration = Duration::from_secs(1);

/// Asks the shim of this record. Waits without a limit if the request is one that waits. Cancel-safe: dropping the
/// future closes the connection, and a requested stop goes on.
pub(super) async fn ask(record: &Record, request: ShimRequest) -> io::Result<ShimReport> {
    match request {
        ShimRequest::Status | ShimRequest::Quiet | ShimRequest::Forget => {
            within(PROMPT, talk(record, request)).await
        }
        ShimRequest::WaitExit | ShimRequest::WaitEnd | ShimRequest::Stop | ShimRequest::Kill => {
            talk(record, request).await
        }
    }
}

/// Asks the shim that listens at a socket for its record.
pub(super) async fn introduce(socket: &Path) -> io::Result<ShimReport> {
    within(PROMPT, async {
        let (mut stream, pid) = connect(socket).await?;
        let report = exchange(&mut stream, ShimRequest::Status).await?;
        if report.record.shim.pid == pid { Ok(report) } else { Err(stranger(pid)) }
    })
    .await
}

async fn talk(record: &Record, request: ShimRequest) -> io::Result<ShimReport> {
    let (mut stream, pid) = within(PROMPT, connect(&record.socket)).await?;
    if pid != record.shim.pid {
        return Err(stranger(pid));
    }
    let report = exchange(&mut stream, request).await?;
    if report.record.id == record.id { Ok(report) } else { Err(stranger(pid)) }
}

async fn connect(socket: &Path) -> io::Result<(UnixStream, i32)> {
    let stream = UnixStream::connect(socket).await?;
    let pid = stream.peer_cred()?.pid().unwrap_or(0);
    Ok((stream, pid))
}

/// The write side stays open: the shim takes a closed one for a client that no longer wants its answer.
async fn exchange(stream: &mut UnixStream, request: ShimRequest) -> io::Result<ShimReport> {
    stream.write_all(&line(&request)?).await?;
    let mut answer = Vec::new();
    stream.take(MAX_REPLY).read_to_end(&mut answer).await?;
    match serde_json::from_slice(&answer)? {
        ShimReply::Report(report) => Ok(*report),
        ShimReply::Refused(reason) => Err(io::Error::other(format!("the shim refused: {reason}"))),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn stranger(pid: i32) -> io::Error {
    io::Error::other(format!("another process answers: pid {pid}"))
}
