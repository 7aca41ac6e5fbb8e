//! The HTTP probe: one GET to the instance, without proxy, redirects, compression or kept connections.
//! Reads the whole body, but never more than [`BODY_LIMIT`].

use std::{error::Error, io, time::Duration};

use reqwest::{
    Client, ClientBuilder, Response,
    header::{self, HeaderValue},
    redirect,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    config::settings::HttpProbe,
    probe::{
        Outcome, Reason,
        expected::{self, BODY_LIMIT},
        reason::{chain, excerpt},
    },
    rules::address::Address,
};

/// Probes once.
pub(super) async fn ask(probe: &HttpProbe, address: &Address, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let bare = |reason| (reason, String::new());
    let client = client_of(address, "health probe").map_err(bare)?;
    let asked = get(&client, address, &probe.path, probe.host.as_deref());
    let mut response = match timeout_at(deadline, asked).await {
        Ok(sent) => sent.map_err(bare)?,
        Err(_) => return Err(bare(Reason::NoAnswer { limit })),
    };
    let mut body = Vec::new();
    let read = timeout_at(deadline, read(&mut response, &mut body)).await;
    let seen = excerpt(&body);
    let status = response.status().as_u16();
    let location = response.headers().get(header::LOCATION).map(HeaderValue::as_bytes);
    if let Some(reason) = expected::wrong_status(probe, status, location) {
        return Err((reason, seen));
    }
    let reason = match read {
        Err(_) => Reason::Unfinished { path: probe.path.clone(), status, limit },
        Ok(Err(error)) => Reason::Broken { address: address.clone(), error: chain(&error) },
        Ok(Ok(())) => match expected::wrong_body(probe, &body) {
            Some(reason) => reason,
            None => return Ok(seen),
        },
    };
    Err((reason, seen))
}

/// Sends one GET and returns when the head of the answer has arrived.
pub(super) async fn get(
    client: &Client,
    address: &Address,
    path: &str,
    host: Option<&str>,
) -> Result<Response, Reason> {
    let mut request = client.get(match address {
        Address::Port(port) => format!("http://127.0.0.1:{port}{path}"),
        // The client connects to the socket; this host only becomes the Host header when none is configured.
        Address::Socket(_) => format!("http://127.0.0.1{path}"),
    });
    if let Some(host) = host {
        request = request.header(header::HOST, host);
    }
    request.send().await.map_err(|error| {
        if refused(&error) {
            Reason::Refused { address: address.clone() }
        } else if error.is_builder() {
            Reason::Impossible { error: chain(&error) }
        } else {
            Reason::Broken { address: address.clone(), error: chain(&error.without_url()) }
        }
    })
}

/// A client without kept connections: no answer comes over an earlier one, perhaps of another process. `purpose` is
/// shown in the app's log.
pub(super) fn client(purpose: &str) -> Result<Client, Reason> {
    build(Client::builder(), purpose)
}

/// A `client` that connects to an instance's port or unix socket.
pub(super) fn client_of(address: &Address, purpose: &str) -> Result<Client, Reason> {
    build(
        match address {
            Address::Port(_) => Client::builder(),
            Address::Socket(path) => Client::builder().unix_socket(path.as_path()),
        },
        purpose,
    )
}

fn build(builder: ClientBuilder, purpose: &str) -> Result<Client, Reason> {
    builder
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(0)
        .http1_only()
        .user_agent(format!("bgd/{} ({purpose})", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Reason::Impossible { error: chain(&error) })
}

async fn read(response: &mut Response, body: &mut Vec<u8>) -> Result<(), reqwest::Error> {
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == BODY_LIMIT {
            break;
        }
    }
    Ok(())
}

fn refused(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let nobody =
            |e: &io::Error| [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound].contains(&e.kind());
        if error.downcast_ref::<io::Error>().is_some_and(nobody) {
            return true;
        }
        cause = error.source();
    }
    false
}
