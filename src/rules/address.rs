//! The address of an instance. Probes ask it, fronts route to it, and bgd looks for it among the host's sockets; one
//! type, so that none of them needs to know the kind before it connects. Pure: opens nothing.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The address on which an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A port of 127.0.0.1 (never `localhost`, which may mean another address).
    Port(u16),
    /// A unix socket, by its absolute path.
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

    /// The address with its noun, for people: `port 9501`, `socket /run/bgd/a/shop/blue.sock`.
    pub fn named(&self) -> String {
        match self {
            Self::Port(port) => format!("port {port}"),
            Self::Socket(path) => format!("socket {}", path.display()),
        }
    }
}

/// nginx's notation: `127.0.0.1:9501`, `unix:/run/bgd/a/shop/blue.sock`.
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
