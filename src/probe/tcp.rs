//! The TCP probe: the port accepts a connection. That the instance has been up for a while is for the
//! caller to see to.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use crate::probe::{Outcome, Reason};

/// Connects once.
pub(super) async fn ask(port: u16, limit: Duration) -> Outcome {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let reason = match timeout(limit, TcpStream::connect(address)).await {
        // Without a listener, a port of the ephemeral range can get connected to itself.
        Ok(Ok(stream)) if stream.local_addr().is_ok_and(|own| own == address) => Reason::Refused { port },
        Ok(Ok(_)) => return Ok(String::new()),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Reason::Refused { port },
        Ok(Err(error)) => Reason::Broken { port, error: error.to_string() },
        Err(_) => Reason::NoAnswer { limit },
    };
    Err((reason, String::new()))
}
