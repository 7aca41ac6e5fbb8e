//! A client on one connection, and when a version is first seen.

use std::{
    io::{self, BufReader},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

pub use super::shared::http::get;
use super::{
    Res,
    shared::http::{Answer, connect, exchange},
};

/// One connection, kept as long as the server keeps it.
#[derive(Debug)]
pub struct Client {
    to: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
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
            None => connect(self.to)?,
        };
        let answer = exchange(&mut stream, "GET", path, "")?;
        self.kept = Some(stream).filter(|_| !answer.closes);
        Ok(answer)
    }
}

/// When this version was first answered by; asked on new connections, every half millisecond.
pub fn first_answer(to: SocketAddr, version: &str) -> Res<Instant> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if get(to, "/").is_ok_and(|answer| answer.field("x-version") == version) {
            return Ok(Instant::now());
        }
        if Instant::now() > until {
            return Err(format!("{to} never answered with version {version}").into());
        }
        sleep(Duration::from_micros(500));
    }
}
