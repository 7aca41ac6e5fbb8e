//! A client as small as can be, so that what is measured is the server.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use super::Res;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Which version of the sample app answered.
    pub version: String,
}

/// One connection, kept as long as the server keeps it.
#[derive(Debug)]
pub struct Client {
    to: SocketAddr,
    kept: Option<TcpStream>,
}

impl Client {
    /// Not connected yet.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, kept: None }
    }

    /// One request and its whole answer.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.to)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                stream
            }
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.to)?;
        let (answer, keep) = read_answer(&mut stream)?;
        if keep {
            self.kept = Some(stream);
        }
        Ok(answer)
    }
}

/// One request on a connection of its own.
pub fn get(to: SocketAddr, path: &str) -> io::Result<Answer> {
    Client::new(to).get(path)
}

/// When this version was first answered by; asked on new connections, every half millisecond.
pub fn first_answer(to: SocketAddr, version: &str) -> Res<Instant> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if get(to, "/").is_ok_and(|answer| answer.version == version) {
            return Ok(Instant::now());
        }
        if Instant::now() > until {
            return Err(format!("{to} never answered with version {version}").into());
        }
        sleep(Duration::from_micros(500));
    }
}

fn read_answer(stream: &mut TcpStream) -> io::Result<(Answer, bool)> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut bytes = Vec::with_capacity(512);
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend(chunk.iter().take(count)),
        }
    };
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let length: usize = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend(chunk.iter().take(count)),
        }
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    let keep = field("connection").is_none_or(|value| value != "close");
    Ok((Answer { status, version: field("x-version").unwrap_or_default() }, keep))
}
