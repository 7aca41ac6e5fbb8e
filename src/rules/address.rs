//! Where an instance listens. Asked by probes, named to fronts, looked for among the sockets of the host; one type,
//! so that none of them needs to know which kind it is until it connects. Pure: opens nothing.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// On this port of 127.0.0.1 (never `localhost`, which may mean another address).
    Port(u16),
    /// On the unix socket with this absolute path.
    Socket(PathBuf),
}

impl Address {
    /// The port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Port(port) => Some(*port),
            Self::Socket(_) => None,
        }
    }

    /// The path of the socket, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Port(_) => None,
            Self::Socket(path) => Some(path),
        }
    }

    /// With its noun, for people: `port 9501`, `socket /run/bgd/a/shop/blue.sock`.
    pub fn named(&self) -> String {
        match self {
            Self::Port(port) => format!("port {port}"),
            Self::Socket(path) => format!("socket {}", path.display()),
        }
    }
}

/// As nginx writes it: `127.0.0.1:9501`, `unix:/run/bgd/a/shop/blue.sock`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_nginx_writes_it() {
        assert_eq!(Address::Port(9501).to_string(), "127.0.0.1:9501");
        assert_eq!(Address::Socket("/run/x.sock".into()).to_string(), "unix:/run/x.sock");
    }
}
