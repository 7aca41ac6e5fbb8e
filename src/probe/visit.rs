//! A visit: one GET as a client makes it, with the time to the last byte. Made by the engine's warm-up, several at the
//! same time; the warm-up judges the answers.

use std::time::Duration;

use reqwest::{Client, Response};
use tokio::time::{Instant, timeout_at};

use super::{Reason, http, reason::chain};
use crate::rules::address::Address;

/// A client of one instance, with a new connection for each visit: a server that serves one connection at a time is
/// not held up by an idle one.
#[derive(Debug)]
pub struct Visitor<'h> {
    client: Client,
    address: Address,
    host: Option<&'h str>,
    limit: Duration,
}

/// The result of one visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Time from the request to the last byte, or to the error.
    pub took: Duration,
    /// The status of a complete answer, errors included; redirects are not followed.
    pub status: Result<u16, Reason>,
}

impl<'h> Visitor<'h> {
    /// Makes a client for the instance at this address, with this Host header; each visit ends within `limit`.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn new(address: Address, host: Option<&'h str>, limit: Duration) -> Result<Self, Reason> {
        Ok(Self { client: http::client_of(&address, "warm-up")?, address, host, limit })
    }

    /// Sends one GET for a path with its query. Dropping the future ends the request.
    pub async fn visit(&self, path: &str) -> Visit {
        let begun = Instant::now();
        let status = self.ask(path, begun + self.limit).await;
        Visit { took: begun.elapsed(), status }
    }

    async fn ask(&self, path: &str, until: Instant) -> Result<u16, Reason> {
        let limit = self.limit;
        let asked = http::get(&self.client, &self.address, path, self.host);
        let mut response = timeout_at(until, asked).await.map_err(|_| Reason::NoAnswer { limit })??;
        let status = response.status().as_u16();
        match timeout_at(until, to_the_end(&mut response)).await {
            Ok(Ok(())) => Ok(status),
            Ok(Err(err)) => {
                Err(Reason::Broken { address: self.address.clone(), error: chain(&err.without_url()) })
            }
            Err(_) => Err(Reason::Unfinished { path: path.to_owned(), status, limit }),
        }
    }
}

async fn to_the_end(response: &mut Response) -> Result<(), reqwest::Error> {
    while response.chunk().await?.is_some() {}
    Ok(())
}
