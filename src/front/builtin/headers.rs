//! Rewrites the heads of messages: removes hop-by-hop fields, adds `X-Forwarded-*`, and leaves everything else as it
//! was sent. Pure. Called by `proxy` and `tunnel`.
//!
//! - `X-Forwarded-For` is appended to: the last address is the one that connected to us.
//! - `X-Forwarded-Proto` and `-Host` are kept when the peer is on loopback (a TLS terminator on this
//!   host); from anyone else they are replaced, since they could be forged.
//! - `Host` stays as the client sent it. We answer `Expect`, when the backend wants the body.
//! - Bodies are framed anew, so `chunked` is the only transfer coding that passes.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, Entry, FORWARDED, HOST, HeaderName, HeaderValue,
        TE, TRANSFER_ENCODING, UPGRADE,
    },
    http::{
        request, response,
        uri::{Authority, PathAndQuery},
    },
};

/// Prefix of the fields in which a proxy before us describes the client.
const FORWARDED_BY_PROXY: &str = "x-forwarded-";
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const EVENTS: &[u8] = b"text/event-stream";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A client's address, and whether we trust what it forwards.
#[derive(Debug, Clone)]
pub(super) struct ClientAddress {
    /// Its address, as `X-Forwarded-For` names it.
    pub(super) address: HeaderValue,
    /// Whether it may say which scheme and host its own client used.
    pub(super) trusted: bool,
    /// The address itself.
    pub(super) ip: IpAddr,
}

impl ClientAddress {
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
    let is_h2c = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case(b"h2c"));
    parts.version == Version::HTTP_11
        && has_token(&parts.headers, &CONNECTION, b"upgrade")
        && parts.headers.get(UPGRADE).is_some_and(|value| !is_h2c(value))
}

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestRefusal {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

impl RequestRefusal {
    const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

/// Turns a client's head into the one for the backend.
pub(super) fn request(parts: &mut request::Parts, client: &ClientAddress) -> Result<(), RequestRefusal> {
    let upgrade = wants_upgrade(parts).then(|| parts.headers.get(UPGRADE).cloned()).flatten();
    let trailers = has_token(&parts.headers, &TE, b"trailers");
    let coding = Coding::of(&parts.headers);
    match coding {
        Coding::None | Coding::Chunked => {}
        Coding::Twice => return Err(RequestRefusal::bad("the body is chunked more than once\n")),
        Coding::Other => {
            let reason = "chunked is the only transfer coding that is possible here\n";
            return Err(RequestRefusal { status: StatusCode::NOT_IMPLEMENTED, reason });
        }
    }
    host(parts)?;
    strip(&mut parts.headers);
    let headers = &mut parts.headers;
    if coding == Coding::Chunked {
        // Without it hyper sends no body of unknown length with GET and HEAD.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
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

/// The fields of an interim answer (1xx), for the client.
pub(super) fn interim(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    strip(&mut fields);
    fields.remove(CONTENT_LENGTH);
    fields
}

/// How the body of a message is coded for this hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Chunked,
    /// `chunked` more than once.
    Twice,
    /// Something else, perhaps below `chunked`.
    Other,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(TRANSFER_ENCODING) {
            return Self::None;
        }
        let mut count = 0;
        for token in headers.get_all(TRANSFER_ENCODING).iter().flat_map(tokens) {
            if !token.eq_ignore_ascii_case(b"chunked") {
                return Self::Other;
            }
            count += 1;
        }
        if count == 1 { Self::Chunked } else { Self::Twice }
    }
}

/// Whether the body of the answer can be framed anew without a loss.
pub(super) fn is_framed_plainly(answer: &response::Parts) -> bool {
    matches!(Coding::of(&answer.headers), Coding::None | Coding::Chunked)
}

/// Whether the answer is a stream of events, which lasts as long as the client wants.
pub(super) fn is_events(parts: &response::Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..EVENTS.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

/// Exactly one Host, and a target in origin form, whatever form the client used.
fn host(parts: &mut request::Parts) -> Result<(), RequestRefusal> {
    const BAD_HOST: RequestRefusal = RequestRefusal::bad("the Host header is not a host\n");
    if let Some(authority) = parts.uri.authority() {
        if parts.uri.scheme().is_none() {
            return Err(RequestRefusal::bad("the target of the request is not a path\n"));
        }
        let name = authority.as_str();
        let name = name.rsplit_once('@').map_or(name, |(_, host)| host);
        let value = HeaderValue::from_str(name).map_err(|_| BAD_HOST)?;
        parts.headers.insert(HOST, value);
        let path = parts.uri.path_and_query().cloned();
        let options = parts.method == Method::OPTIONS && parts.uri.path().is_empty();
        let fallback = PathAndQuery::from_static(if options { "*" } else { "/" });
        parts.uri = Uri::from(path.filter(|path| !path.as_str().is_empty()).unwrap_or(fallback));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(BAD_HOST),
        (Some(_), Some(_)) => Err(RequestRefusal::bad("more than one Host header\n")),
        (None, _) if parts.version == Version::HTTP_11 => Err(RequestRefusal::bad("no Host header\n")),
        (None, _) => {
            parts.headers.insert(HOST, HeaderValue::from_static("localhost"));
            Ok(())
        }
    }
}

/// Whether a value is a host with or without a port, or empty, which a client may send. A comma, which a name could
/// have, is more likely two values in one.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let is_port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()))
    };
    text.is_empty()
        || !text.contains(['@', ','])
            && text.parse::<Authority>().is_ok_and(|it| text.strip_prefix(it.host()).is_some_and(is_port))
}

/// Removes the fields that concern one hop only. hyper sets the framing; a `Content-Length` beside `Transfer-Encoding`
/// contradicts it and is removed too.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter(|token| {
                !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close")
            })
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !is_kept_from_clients(name))
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

/// Whether `Connection` must not remove the field: it is framing, or a proxy before us describes the client in it,
/// which the client could remove otherwise. `TE` is handled separately.
fn is_kept_from_clients(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TE, FORWARDED, REAL_IP].contains(name)
        || name.as_str().starts_with(FORWARDED_BY_PROXY)
}

fn forwarded(headers: &mut HeaderMap, client: &ClientAddress) {
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

fn say(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, client: &ClientAddress) {
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

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &[u8]) -> bool {
    headers.get_all(name).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The comma-separated parts of a value, without parameters.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = value.as_bytes().split(|byte| *byte == b',');
    parts
        .map(|part| part.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn client(trusted: bool) -> ClientAddress {
        ClientAddress { trusted, ..ClientAddress::of("192.0.2.7".parse().unwrap()) }
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
                "transfer-encoding: chunked",
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
    fn connection_takes_nothing_off_that_a_proxy_said_about_the_client() {
        let said = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=203.0.113.1"),
            ("x-real-ip", "203.0.113.1"),
        ];
        let mut head =
            parts("/", &[&said[..], &[("host", "a"), ("x-mine", "1"), ("cookie", "a=b")]].concat());
        // Each line is read, also one with bytes that are not ASCII.
        for line in [
            &b"X-Forwarded-For, x-forwarded-proto, X-FORWARDED-PORT, forwarded, x-real-ip, host"[..],
            b"\xff, x-mine, content-length, transfer-encoding",
        ] {
            head.headers.append(CONNECTION, HeaderValue::from_bytes(line).unwrap());
        }
        request(&mut head, &client(true)).unwrap();
        assert_eq!(
            names(&head.headers),
            [
                "cookie: a=b",
                "forwarded: for=203.0.113.1",
                "host: a",
                "x-forwarded-for: 203.0.113.1, 192.0.2.7",
                "x-forwarded-host: a",
                "x-forwarded-port: 443",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.1",
            ]
        );
    }

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        let of = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("transfer-encoding", *line)).collect();
            let mut head = parts("/", &[&lines[..], &[("host", "a")]].concat());
            let done = request(&mut head, &client(false)).map_err(|refusal| refusal.status.as_u16());
            done.map(|()| head.headers.get(TRANSFER_ENCODING).cloned())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["Chunked"]), Ok(Some(HeaderValue::from_static("chunked"))));
        assert_eq!(of(&["gzip, chunked"]), Err(501));
        assert_eq!(of(&["gzip", "chunked"]), Err(501));
        assert_eq!(of(&["identity"]), Err(501));
        assert_eq!(of(&["chunked, chunked"]), Err(400));
        assert_eq!(of(&["chunked", "chunked"]), Err(400));
        let answer = |line: &str| {
            let builder = hyper::Response::builder().header(TRANSFER_ENCODING, line);
            is_framed_plainly(&builder.body(()).unwrap().into_parts().0)
        };
        assert!(
            answer("chunked") && !answer("gzip, chunked") && !answer("gzip") && !answer("chunked, chunked")
        );
    }

    #[test]
    fn a_host_that_is_not_one_and_a_target_without_a_path_are_refused() {
        let with = |host: &str| request(&mut parts("/", &[("host", host)]), &client(false)).is_ok();
        for host in ["", "a", "a.example:80", "a_b.example.", "a:", "127.0.0.1:80", "[::1]", "[::1]:80"] {
            assert!(with(host), "{host:?}");
        }
        for host in
            ["a b", "a/evil", "a, b", "a,b", "u@a", "a:b", "a:80:80", "a?b", "a#b", "a\\b", "<a>", "[::1"]
        {
            assert!(!with(host), "{host:?}");
        }
        let mut bare = parts("echo", &[("host", "a")]);
        assert_eq!(bare.uri.authority().map(Authority::as_str), Some("echo"));
        assert!(request(&mut bare, &client(false)).is_err());
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
