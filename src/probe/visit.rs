//! A visit: one GET for its own sake, as a client makes it, with how long it took to the last byte. Made by the
//! engine's warm-up, several at the same time; what an answer is worth is judged there.

use std::time::Duration;

use reqwest::{Client, Response};
use tokio::time::{Instant, timeout_at};

use super::{Reason, http, reason::chain};
use crate::rules::address::Address;

/// Who visits one instance, each time on a fresh connection: a server that works on one connection at a time is not
/// held up by one that idles.
#[derive(Debug)]
pub struct Visitor<'h> {
    client: Client,
    address: Address,
    host: Option<&'h str>,
    limit: Duration,
}

/// What one visit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// From the request to the last byte, or to where it broke off.
    pub took: Duration,
    /// The status of a whole answer, whatever it is; redirects are not followed.
    pub status: Result<u16, Reason>,
}

impl<'h> Visitor<'h> {
    /// Of the instance that listens there, with this Host header, each visit within `limit`.
    ///
    /// # Errors
    /// When there can be no client at all.
    pub fn new(address: Address, host: Option<&'h str>, limit: Duration) -> Result<Self, Reason> {
        Ok(Self { client: http::client_of(&address, "warm-up")?, address, host, limit })
    }

    /// Asks once for a path, with its query. Dropping the future ends the request.
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
