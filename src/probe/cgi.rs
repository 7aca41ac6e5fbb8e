//! Shared by the probes for FastCGI and uWSGI: the variables of a request, one exchange on a connection of its own,
//! and the judgement of the answered page. Knows nothing of either protocol's encoding.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    config::settings::HttpProbe,
    probe::{
        Outcome, Reason, expected,
        page::{Page, PageHead},
        reason::excerpt,
        stream::connect,
    },
    rules::address::Address,
};

/// Name and value of a variable.
pub(super) type Variable = (&'static str, Vec<u8>);

/// The variables that every app gets for a GET of the probe's path.
pub(super) fn variables(probe: &HttpProbe, address: &Address) -> Vec<Variable> {
    let (_, query) = path_and_query(probe);
    let (own, port) = match address {
        Address::Port(port) => (address.to_string(), port.to_string()),
        // The values that nginx has for a unix socket.
        Address::Socket(_) => ("127.0.0.1".to_owned(), String::new()),
    };
    let host = probe.host.clone().unwrap_or(own);
    let agent = concat!("bgd/", env!("CARGO_PKG_VERSION"), " (health probe)");
    [
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", &probe.path),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", ""),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("SERVER_NAME", host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name)),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", &port),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("HTTP_HOST", &host),
        ("HTTP_USER_AGENT", agent),
    ]
    .map(|(name, value)| (name, value.as_bytes().to_vec()))
    .into()
}

fn path_and_query(probe: &HttpProbe) -> (&str, &str) {
    probe.path.split_once('?').unwrap_or((&probe.path, ""))
}

/// The path without its query, percent-decoded.
pub(super) fn decoded_path(probe: &HttpProbe) -> Vec<u8> {
    let (path, _) = path_and_query(probe);
    let (mut left, mut decoded) = (path.as_bytes(), Vec::new());
    while let Some((first, rest)) = left.split_first() {
        let pair = rest.get(..2).filter(|pair| *first == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        let byte = pair.and_then(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        left = if byte.is_some() { &rest[2..] } else { rest };
    }
    decoded
}

/// A decoder that makes a page of a connection's bytes.
pub(super) trait PageDecoder {
    /// Takes the next bytes; true when the answer is complete. An error says why the bytes are not an answer.
    fn take(&mut self, piece: &[u8]) -> Result<bool, String>;
    /// Ends the answer, after the app has closed the connection.
    fn finish(&mut self) -> Result<(), String>;
    /// The page as far as it has arrived.
    fn page(&self) -> &Page;
    /// The app's error output, which is not a part of the page.
    fn errors(&self) -> &[u8];
}

/// One encoded request, with the probe and the address it is for.
pub(super) struct EncodedRequest<'a> {
    /// The probe, with the expected status and body.
    pub probe: &'a HttpProbe,
    /// The address of the instance.
    pub address: &'a Address,
    /// Time limit of the whole exchange.
    pub limit: Duration,
    /// The encoded request.
    pub request: Vec<u8>,
}

impl EncodedRequest<'_> {
    /// Sends the request once and judges the answer.
    pub async fn ask(&self, mut inbox: impl PageDecoder) -> Outcome {
        let asked = timeout(self.limit, self.exchange(&mut inbox)).await;
        let page = inbox.page();
        let seen = excerpt(&[inbox.errors(), b" ", page.body()].concat());
        let head = page.head();
        let wrong =
            |head: &PageHead| expected::wrong_status(self.probe, head.status, head.location.as_deref());
        if let Some(reason) = head.and_then(wrong) {
            return Err((reason, seen));
        }
        let reason = match (asked, head) {
            (Err(_), None) => Reason::NoAnswer { limit: self.limit },
            (Err(_), Some(head)) => {
                let path = self.probe.path.clone();
                Reason::Unfinished { path, status: head.status, limit: self.limit }
            }
            (Ok(Err(reason)), _) => reason,
            (Ok(Ok(())), _) => match expected::wrong_body(self.probe, page.body()) {
                Some(reason) => reason,
                None => return Ok(seen),
            },
        };
        Err((reason, seen))
    }

    async fn exchange(&self, inbox: &mut impl PageDecoder) -> Result<(), Reason> {
        let broken = |error: String| Reason::Broken { address: self.address.clone(), error };
        let mut stream = connect(self.address).await?;
        stream.write_all(&self.request).await.map_err(|error| broken(error.to_string()))?;
        let mut piece = [0; 8192];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) => return inbox.finish().map_err(broken),
                Ok(count) if inbox.take(&piece[..count]).map_err(broken)? => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(broken(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_without_its_query() {
        let path = |text: &str| {
            let probe = HttpProbe { path: text.to_owned(), host: None, status: vec![200], body: None };
            String::from_utf8(decoded_path(&probe)).unwrap()
        };
        assert_eq!(path("/up?deep=1%20"), "/up");
        assert_eq!(path("/a%20b%2Fc%C3%A4"), "/a b/cä");
        assert_eq!(path("/100%/%zz/%+1/%2"), "/100%/%zz/%+1/%2");
    }
}
