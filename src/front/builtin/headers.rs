//! What a proxy changes in a head: hop-by-hop fields go, `X-Forwarded-*` come, everything else stays as it
//! was sent. Pure. Called by `proxy` and `tunnel`.
//!
//! - `X-Forwarded-For` is appended to: the last address is the one that connected to us.
//! - `X-Forwarded-Proto` and `-Host` are kept when the peer is on loopback (a TLS terminator on this
//!   host); from anyone else they are replaced, since they could be forged.
//! - `Host` stays as the client sent it. `Expect` is answered by us, when the backend wants the body.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, Entry, HOST, HeaderName, HeaderValue, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
    http::{request, response, uri::PathAndQuery},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const EVENTS: &[u8] = b"text/event-stream";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What is known about a client's connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Its address, as `X-Forwarded-For` names it.
    pub(super) address: HeaderValue,
    /// Whether it may say which scheme and host its own client used.
    pub(super) trusted: bool,
    /// The address itself.
    pub(super) ip: IpAddr,
}

impl Client {
    /// The client that connected from this address.
    pub(super) fn of(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let address = HeaderValue::try_from(ip.to_string()).expect("an address is printable");
        Self { address, trusted: ip.is_loopback(), ip }
    }
}

/// Whether the client asks to leave HTTP/1.1 for a protocol that we pass through. `h2c` is not one: requests
/// inside it would escape the flip.
pub(super) fn wants_upgrade(parts: &request::Parts) -> bool {
    let is_h2c = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case("h2c"));
    parts.version == Version::HTTP_11
        && has_token(&parts.headers, &CONNECTION, "upgrade")
        && parts.headers.get(UPGRADE).is_some_and(|value| !is_h2c(value))
}

/// Turns a client's head into the one for the backend; an error is the reason for a 400.
pub(super) fn request(parts: &mut request::Parts, client: &Client) -> Result<(), &'static str> {
    let upgrade = wants_upgrade(parts).then(|| parts.headers.get(UPGRADE).cloned()).flatten();
    let trailers = has_token(&parts.headers, &TE, "trailers");
    host(parts)?;
    strip(&mut parts.headers);
    let headers = &mut parts.headers;
    headers.remove(EXPECT);
    headers.remove(HTTP2_SETTINGS);
    if headers.contains_key(TE) {
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    forwarded(headers, client);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(())
}

/// Turns a backend's head into the one for the client.
pub(super) fn response(parts: &mut response::Parts) {
    let upgrade = (parts.status == hyper::StatusCode::SWITCHING_PROTOCOLS)
        .then(|| parts.headers.get(UPGRADE).cloned())
        .flatten();
    strip(&mut parts.headers);
    if let Some(protocol) = upgrade {
        parts.headers.insert(UPGRADE, protocol);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.version = Version::HTTP_11;
}

/// Whether the answer is a stream of events, which lasts as long as the client wants.
pub(super) fn is_events(parts: &response::Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..EVENTS.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

/// Exactly one Host, and a target in origin form, whatever form the client used.
fn host(parts: &mut request::Parts) -> Result<(), &'static str> {
    if let Some(authority) = parts.uri.authority() {
        let name = authority.as_str();
        let name = name.rsplit_once('@').map_or(name, |(_, host)| host);
        let value = HeaderValue::from_str(name).map_err(|_| "bad host in the request line\n")?;
        parts.headers.insert(HOST, value);
        let path = parts.uri.path_and_query().cloned();
        let options = parts.method == Method::OPTIONS && parts.uri.path().is_empty();
        let fallback = PathAndQuery::from_static(if options { "*" } else { "/" });
        parts.uri = Uri::from(path.filter(|path| !path.as_str().is_empty()).unwrap_or(fallback));
        return Ok(());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        (Some(_), Some(_)) => Err("more than one Host header\n"),
        (None, _) if parts.version == Version::HTTP_11 => Err("no Host header\n"),
        (None, _) => {
            parts.headers.insert(HOST, HeaderValue::from_static("localhost"));
            Ok(())
        }
    }
}

/// Removes the fields that concern one hop only. Framing is hyper's: with `Transfer-Encoding` goes a
/// `Content-Length` that contradicts it.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter(|token| !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close"))
            .filter_map(|token| token.parse().ok())
            .filter(|name| {
                *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != TE
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(UPGRADE);
}

fn forwarded(headers: &mut HeaderMap, client: &Client) {
    let before: Vec<&[u8]> =
        headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).filter(|v| !v.is_empty()).collect();
    let chain = if before.is_empty() {
        client.address.clone()
    } else {
        let all = [before.join(&b", "[..]), client.address.as_bytes().to_vec()].join(&b", "[..]);
        HeaderValue::from_bytes(&all).unwrap_or_else(|_| client.address.clone())
    };
    headers.insert(FORWARDED_FOR, chain);
    let host = headers.get(HOST).cloned();
    say(headers, FORWARDED_PROTO, HeaderValue::from_static("http"), client);
    if let Some(host) = host {
        say(headers, FORWARDED_HOST, host, client);
    }
}

fn say(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, client: &Client) {
    match headers.entry(name) {
        Entry::Occupied(_) if client.trusted => {}
        Entry::Occupied(mut said) => {
            said.insert(value);
        }
        Entry::Vacant(unsaid) => {
            unsaid.insert(value);
        }
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The comma-separated parts of a value, without parameters.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let parts = value.to_str().unwrap_or_default().split(',');
    parts.map(|part| part.split(';').next().unwrap_or_default().trim()).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn client(trusted: bool) -> Client {
        Client { trusted, ..Client::of("192.0.2.7".parse().unwrap()) }
    }

    fn parts(uri: &str, headers: &[(&'static str, &str)]) -> request::Parts {
        let builder = headers.iter().fold(Request::builder().uri(uri), |b, (k, v)| b.header(*k, *v));
        builder.body(()).unwrap().into_parts().0
    }

    fn names(map: &HeaderMap) -> Vec<String> {
        let mut all: Vec<_> = map.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn hop_by_hop_fields_go_and_the_rest_stays() {
        let mut head = parts(
            "/a?b",
            &[
                ("host", "shop.example"),
                ("connection", "keep-alive, X-Mine, host"),
                ("x-mine", "1"),
                ("keep-alive", "5"),
                ("te", "gzip, trailers;q=1"),
                ("expect", "100-continue"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("cookie", "a=b"),
            ],
        );
        request(&mut head, &client(false)).unwrap();
        assert_eq!(
            names(&head.headers),
            [
                "cookie: a=b",
                "host: shop.example",
                "te: trailers",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn forwarded_scheme_and_host_are_believed_from_loopback_only() {
        let given = [
            ("host", "inner"),
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-for", "203.0.113.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer"),
        ];
        for (trusted, proto, host) in [(true, "https", "outer"), (false, "http", "inner")] {
            let mut head = parts("/", &given);
            request(&mut head, &client(trusted)).unwrap();
            assert_eq!(head.headers[FORWARDED_FOR], "203.0.113.1, 203.0.113.2, 192.0.2.7");
            assert_eq!(head.headers[FORWARDED_PROTO], proto);
            assert_eq!(head.headers[FORWARDED_HOST], host);
        }
    }

    #[test]
    fn the_host_is_one_and_the_target_is_in_origin_form() {
        let mut absolute = parts("http://u@real.example:81/x?y", &[("host", "other")]);
        request(&mut absolute, &client(false)).unwrap();
        assert_eq!(
            (absolute.uri.to_string().as_str(), &absolute.headers[HOST]),
            ("/x?y", &"real.example:81".parse().unwrap())
        );
        assert!(request(&mut parts("/", &[]), &client(false)).is_err());
        assert!(request(&mut parts("/", &[("host", "a"), ("host", "b")]), &client(false)).is_err());
        let mut old = parts("/", &[]);
        old.version = Version::HTTP_10;
        request(&mut old, &client(false)).unwrap();
        assert_eq!(old.headers[HOST], "localhost");
    }

    #[test]
    fn a_websocket_upgrade_passes_and_h2c_does_not() {
        let mut ws =
            parts("/", &[("host", "a"), ("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")]);
        request(&mut ws, &client(false)).unwrap();
        assert_eq!(
            (&ws.headers[CONNECTION], &ws.headers[UPGRADE]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        let mut h2c = parts(
            "/",
            &[
                ("host", "a"),
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
            ],
        );
        request(&mut h2c, &client(false)).unwrap();
        assert!(!h2c.headers.contains_key(UPGRADE) && !h2c.headers.contains_key(HTTP2_SETTINGS));
    }
}
