//! The proof by effect: asks nginx on bgd's own loopback address which file it has in force, and chooses the
//! port of that address. A TCP address from 127/8 and not a unix socket, because a socket left by a crash
//! keeps nginx from starting; not 127.0.0.1, so that no app can be in the way.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::error::NginxError;
use crate::{
    config::settings::Addresses,
    os::hash::fnv,
    rules::{
        address::Address,
        ids::{AppName, Color, Generation, ReleaseId},
    },
};

/// The address of every include's proof server; ports differ.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 98, 103, 100);
/// Limit of one query. The answer is constant and the address loopback, so a slower worker hangs. `status` has one
/// second in all.
const LIMIT: Duration = Duration::from_millis(800);
/// Most bytes that are read; the answer is below 1 KiB.
const ANSWER_CAP: u64 = 16 * 1024;
/// From an app's port to its proof port: above the app's ports, and up to `LAST`, below the range that Linux uses for
/// outgoing connections (from 32768).
const OFFSET: u16 = 20_000;
const LAST: u16 = 32_767;

/// nginx's answer on the proof address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ProofAnswer {
    pub(super) app: AppName,
    pub(super) color: Option<Color>,
    #[serde(default)]
    pub(super) canary: Option<Color>,
    /// The canary's share, in percent.
    #[serde(default)]
    pub(super) share: u16,
    #[serde(default)]
    pub(super) backup: Option<Color>,
    pub(super) generation: Generation,
    pub(super) release: Option<ReleaseId>,
    /// Whether the upstream names a link, which then decides what is live.
    #[serde(default)]
    pub(super) link: bool,
    pub(super) sum: String,
}

/// Why the proof address did not give bgd's answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("nothing answers on bgd's proof address {address} (is the file included in nginx's http block?)")]
    Silent {
        address: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    #[error("bgd's proof address {address} did not answer within {} ms", LIMIT.as_millis())]
    Slow { address: SocketAddrV4 },
    #[error("something else answers on bgd's proof address {address}: {text:?}")]
    Stranger { address: SocketAddrV4, text: String },
}

/// Asks once, on a new connection.
pub(super) async fn ask(address: SocketAddrV4) -> Result<ProofAnswer, AskError> {
    let answer = timeout(LIMIT, exchange(address)).await.map_err(|_| AskError::Slow { address })?;
    let answer = answer.map_err(|source| AskError::Silent { address, source })?;
    let text = String::from_utf8_lossy(&answer);
    read(&text).ok_or_else(|| {
        let text = text.chars().take(80).collect();
        AskError::Stranger { address, text }
    })
}

/// Sends a request with HTTP/1.0, so that the answer is not chunked and ends with the connection.
async fn exchange(address: SocketAddrV4) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: bgd\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_CAP).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &str) -> Option<ProofAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let ok = head.starts_with("HTTP/1.") && head.split(' ').nth(1) == Some("200");
    ok.then(|| serde_json::from_str(body).ok()).flatten()
}

/// The proof address that is tried first for an app, and that is asked when the file is lost.
pub(super) fn usual(addresses: &Addresses) -> SocketAddrV4 {
    let port = match &addresses.blue {
        Address::Port(blue) => match blue.checked_add(OFFSET) {
            Some(port) if port <= LAST => port,
            _ => OFFSET + blue % (LAST - OFFSET),
        },
        // The path has the app's name, so that two apps seldom get the same port.
        Address::Socket(path) => {
            OFFSET + (fnv(path.to_string_lossy().as_bytes()) % u64::from(LAST - OFFSET)) as u16
        }
    };
    SocketAddrV4::new(ADDRESS, port)
}

/// Chooses a proof address whose port is free: the usual one, or the next free one after it.
pub(super) fn choose(addresses: &Addresses) -> Result<SocketAddrV4, NginxError> {
    let usual = usual(addresses).port();
    let candidates = (usual..=LAST).chain(OFFSET..usual);
    let tried = candidates.clone().count();
    candidates
        .filter(|port| addresses.color(&Address::Port(*port)).is_none())
        .map(|port| SocketAddrV4::new(ADDRESS, port))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .ok_or(NginxError::NoProofPort { address: ADDRESS, tried })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Ports;

    fn ports(blue: u16) -> Addresses {
        Ports { blue, green: blue.wrapping_add(1) }.into()
    }

    #[test]
    fn the_proof_port_stays_below_the_ports_of_outgoing_connections() {
        assert_eq!(usual(&ports(9501)).port(), 29501);
        for blue in [1, 80, 9501, 12_767, 12_768, 20_000, 32_767, 40_000, 65_535] {
            let port = usual(&ports(blue)).port();
            assert!((OFFSET..=LAST).contains(&port), "{blue}: {port}");
        }
    }

    #[test]
    fn a_taken_proof_port_is_passed_over() {
        let first = choose(&ports(9601)).unwrap();
        let _holder = std::net::TcpListener::bind(first).unwrap();
        let second = choose(&ports(9601)).unwrap();
        assert_ne!(first, second);
        assert_eq!(*second.ip(), ADDRESS);
    }

    #[test]
    fn only_a_whole_and_right_answer_counts() {
        let body = r#"{"app":"shop","color":"green","generation":7,"release":null,"sum":"ab"}"#;
        let effect = read(&format!("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{body}")).unwrap();
        assert_eq!((effect.color, effect.generation), (Some(Color::Green), Generation(7)));
        for bad in ["", "HTTP/1.1 200 OK\r\n\r\n<html>", &format!("HTTP/1.1 502 Bad\r\n\r\n{body}")] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
