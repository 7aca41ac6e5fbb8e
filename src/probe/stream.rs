//! A connection to an instance's port or unix socket. Used by the probes that speak a protocol themselves; has no time
//! limit of its own.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::Reason;
use crate::rules::address::Address;

/// Both directions of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects once.
pub(super) async fn connect(address: &Address) -> Result<Box<dyn Stream>, Reason> {
    let connected: std::io::Result<Box<dyn Stream>> = match address {
        Address::Port(port) => tcp(*port).await.map(|stream| Box::new(stream) as _),
        Address::Socket(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
    };
    connected.map_err(|error| {
        // A socket that is missing, or without a listener, is reported like a closed port.
        let nobody = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
        let address = address.clone();
        if nobody {
            Reason::Refused { address }
        } else {
            Reason::Broken { address, error: error.to_string() }
        }
    })
}

async fn tcp(port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).await?;
    // Without a listener, a port of the ephemeral range can get connected to itself.
    if stream.local_addr().is_ok_and(|own| own == address) {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
