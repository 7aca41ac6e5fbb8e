//! HTTP by hand, so that nothing is repaired silently.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer that takes longer is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub head: BTreeMap<String, String>,
    pub body: String,
    /// Whether the server closes the connection behind it.
    pub closes: bool,
}

impl Answer {
    pub fn field(&self, name: &str) -> &str {
        self.head.get(name).map_or("", String::as_str)
    }

    /// An error unless the status is 200.
    pub fn good(self) -> io::Result<Self> {
        match self.status {
            200 => Ok(self),
            status => Err(io::Error::other(format!("answered {status}: {:?}", self.body.trim()))),
        }
    }
}

pub fn connect(to: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, LOST_AFTER)?;
    stream.set_read_timeout(Some(LOST_AFTER))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One GET on a connection of its own.
pub fn get(to: SocketAddr, path: &str) -> io::Result<Answer> {
    once(to, "GET", path, "")
}

/// One request on a connection of its own.
pub fn once(to: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    exchange(&mut connect(to)?, method, path, body)
}

pub fn exchange<S: Read + Write>(
    stream: &mut BufReader<S>,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Answer> {
    send(stream, method, path, body)?;
    answer(stream)
}

pub fn send<S: Write>(stream: &mut BufReader<S>, method: &str, path: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(text.as_bytes())
}

pub fn answer<S: Read>(stream: &mut BufReader<S>) -> io::Result<Answer> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"));
    }
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut head = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the answer is cut short"));
        }
        match line.trim().split_once(':') {
            Some((name, value)) => head.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let closes = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let length: Option<usize> = head.get("content-length").and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let read = match length {
        // Its end is the end of the connection.
        None if closes || first.starts_with("HTTP/1.0 ") => stream.read_to_end(&mut body).map(drop),
        _ => stream.read_exact(&mut body),
    };
    read.map_err(|err| io::Error::other(format!("the body is cut short: {err}")))?;
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned(), closes })
}
