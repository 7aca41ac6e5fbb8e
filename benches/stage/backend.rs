//! What stands behind the fronts while they are compared: it answers a page at once, takes uploads and streams events.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::interval,
};

use super::{Res, paced};

/// Bytes of the body of `/page`, and of the answer to an upload.
pub const PAGE: usize = 512;
/// Bytes of an upload.
pub const UPLOAD: usize = 1 << 20;
/// Between two events of a stream.
pub const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of an event: `data: `, when it was sent in 20 digits, and an empty line.
pub const EVENT: usize = 28;
/// The `x-version` of each answer.
pub const VERSION: &str = "bench";

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Since the first call, by the clock that events are stamped with.
pub fn now() -> Duration {
    EPOCH.elapsed()
}

/// Serves from a thread of its own, for as long as the runtime is kept.
pub fn serve(port: u16) -> Res<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))?;
    runtime.spawn(async move {
        // Accepting fails only when descriptors run out; then the clients say so.
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { drop(answer(stream).await) });
        }
    });
    Ok(runtime)
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (page, hello) = (whole(&[b'x'; PAGE]), whole(paced::PAGE));
    let mut bytes = Vec::with_capacity(64 * 1024);
    loop {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        if bytes.starts_with(b"GET /events ") {
            return events(stream).await;
        }
        let is_page = bytes.starts_with(b"GET /page ");
        let is_upload = bytes.starts_with(b"POST ");
        if is_upload {
            take(&mut stream, &mut bytes, end + 4 + UPLOAD).await?;
        }
        stream.write_all(if is_page || is_upload { &page } else { &hello }).await?;
        bytes.clear();
    }
}

fn whole(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nX-Version: {VERSION}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Reads until there were so many bytes, and keeps none of them.
async fn take(stream: &mut TcpStream, bytes: &mut Vec<u8>, all: usize) -> io::Result<()> {
    let mut had = bytes.len();
    while had < all {
        bytes.clear();
        match stream.read_buf(bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => had += count,
        }
    }
    Ok(())
}

/// Until the client goes.
async fn events(mut stream: TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut tick = interval(PAUSE);
    loop {
        tick.tick().await;
        let event = format!("{EVENT:x}\r\ndata: {:020}\n\n\r\n", now().as_nanos());
        stream.write_all(event.as_bytes()).await?;
    }
}
