//! Asks the public address: one GET through the front, on a connection of its own, without proxy and redirects. Called
//! by the engine's meter during a flip; checks that an answer came, not which one.

use std::time::Duration;

use reqwest::{Client, StatusCode, header};

use super::{Reason, http::client, reason::chain};
use crate::config::settings::PublicAddress;

/// Bytes read of a body before it counts as complete: more would be load, not measurement.
const ENOUGH: usize = 1 << 20;

/// A public address with a client for it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Public {
    client: Client,
    address: PublicAddress,
    limit: Duration,
}

/// The result of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicReply {
    /// A complete answer came.
    Answered,
    /// No complete answer came, or the front answered in place of the app. One line.
    Lost(String),
}

impl Public {
    /// Makes the client, sends nothing; `limit` is for one whole request.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn new(address: &PublicAddress, limit: Duration) -> Result<Self, Reason> {
        Ok(Self { client: client("flip meter")?, address: address.clone(), limit })
    }

    /// Sends one request. Dropping the future ends it.
    pub async fn ask(&self) -> PublicReply {
        match tokio::time::timeout(self.limit, self.exchange()).await {
            Ok(Ok(status)) if stands_in(status) => PublicReply::Lost(format!("answered {}", status.as_u16())),
            Ok(Ok(_)) => PublicReply::Answered,
            Ok(Err(err)) => PublicReply::Lost(chain(&err.without_url())),
            Err(_) => PublicReply::Lost(format!("no complete answer within {:?}", self.limit)),
        }
    }

    async fn exchange(&self) -> Result<StatusCode, reqwest::Error> {
        let mut request = self.client.get(&self.address.url);
        if let Some(host) = &self.address.host {
            request = request.header(header::HOST, host);
        }
        let mut response = request.send().await?;
        let mut read = 0;
        while let Some(chunk) = response.chunk().await? {
            read += chunk.len();
            if read >= ENOUGH {
                break;
            }
        }
        Ok(response.status())
    }
}

/// Whether a front gives this status when it does not reach the app.
fn stands_in(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// The result of a request that is answered with these bytes and a closed connection.
    async fn reply(bytes: &'static str) -> PublicReply {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let read = stream.read(&mut asked).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let address = PublicAddress { url, host: Some("shop.example.com".to_owned()) };
        let reply = Public::new(&address, Duration::from_secs(60)).unwrap().ask().await;
        let asked = server.await.unwrap();
        assert!(asked.starts_with("GET /x HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("host: shop.example.com\r\n"), "{asked}");
        reply
    }

    #[tokio::test]
    async fn any_complete_answer_of_the_app_counts() {
        for status in ["200 OK", "301 Moved\r\nLocation: http://127.0.0.1:1/", "404 X", "500 X"] {
            let bytes = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
            assert_eq!(reply(Box::leak(bytes.into_boxed_str())).await, PublicReply::Answered, "{status}");
        }
    }

    #[tokio::test]
    async fn what_a_front_says_without_an_app_is_a_loss() {
        for status in ["502", "503", "504"] {
            let bytes = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            let lost = reply(Box::leak(bytes.into_boxed_str())).await;
            assert_eq!(lost, PublicReply::Lost(format!("answered {status}")));
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_a_loss() {
        for bytes in ["", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
            assert!(matches!(reply(bytes).await, PublicReply::Lost(_)), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_loss() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", free.local_addr().unwrap());
        drop(free);
        let address = PublicAddress { url, host: None };
        let lost = Public::new(&address, Duration::from_secs(60)).unwrap().ask().await;
        assert!(matches!(&lost, PublicReply::Lost(why) if why.contains("refused")), "{lost:?}");
    }
}
