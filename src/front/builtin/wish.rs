//! Reads from a request which color it should go to, as far as the route depends on it: the secret of a preview, the
//! client's address, the ticket in a cookie. Made by `table` once for each request, kept by `proxy` through all
//! attempts to send it. Must not decide which color that means: the shares are the table's.
//!
//! - The client's address is that of the TCP peer; where that is loopback (a TLS terminator on this host), the last
//!   address in `X-Forwarded-For`, which the terminator has seen itself. Of IPv6 the first 64 bits count: a client
//!   changes the rest by itself.
//! - A ticket is a number from which the slot is hashed, so the front stores nothing and the ticket is not a secret. A
//!   client that takes no cookies gets a new number with each request.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::IpAddr,
};

use hyper::{
    HeaderMap,
    header::{COOKIE, HeaderName, HeaderValue},
};

use super::{control::PerColor, headers::ClientAddress};
use crate::{
    os::hash::mixed,
    rules::{ids::Color, route::Preview},
};

/// Where a request should go, and which targets could not be connected so far.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) place: SharePlace,
    /// The cookie for a client that has none yet.
    ticket: Option<HeaderValue>,
    refused: PerColor<bool>,
    blamed: PerColor<bool>,
    /// Numbers of the targets that could not be connected.
    passed_over: Vec<u64>,
}

/// A request's place among the shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum SharePlace {
    /// The live color.
    #[default]
    Live,
    /// The canary, even at a share of 0 %.
    Canary,
    /// The slot of this turn.
    Turn(u64),
    /// The slot that the client's number hashes to.
    Key(u64),
}

impl Wish {
    /// A wish for this place, which nothing has refused yet.
    pub(super) fn new(place: SharePlace) -> Self {
        Self { place, ..Self::default() }
    }

    /// Sets the cookie for a client that has none.
    pub(super) fn with_ticket(self, ticket: Option<HeaderValue>) -> Self {
        Self { ticket, ..self }
    }

    /// Records that a color could not be connected; returns whether it is the first time for this request.
    pub(super) fn refuse(&mut self, color: Color) -> bool {
        *self.refused.of_mut(color) = true;
        !std::mem::replace(self.blamed.of_mut(color), true)
    }

    /// Records that a single target could not be connected.
    pub(super) fn pass_over(&mut self, target: u64) {
        self.passed_over.push(target);
    }

    /// Whether a single target could not be connected since the last [`Wish::try_all_again`].
    pub(super) fn is_passed_over(&self, target: u64) -> bool {
        self.passed_over.contains(&target)
    }

    /// Whether a color could not be connected since the last [`Wish::try_all_again`].
    pub(super) fn is_refused(&self, color: Color) -> bool {
        *self.refused.of(color)
    }

    /// Forgets failed connects after a pause, so that every target may be tried again.
    pub(super) fn try_all_again(&mut self) {
        self.refused = PerColor::default();
        self.passed_over.clear();
    }

    /// Whether the request asks for a preview of the canary.
    pub(super) fn is_preview(&self) -> bool {
        self.place == SharePlace::Canary
    }

    /// The cookie for a client without one; `None` when the answer may come from another color than the ticket's.
    pub(super) fn greeting(&self) -> Option<HeaderValue> {
        self.ticket.clone().filter(|_| self.blamed == PerColor::default())
    }
}

/// The secret of a preview, and where a request may carry it.
pub(super) struct Password {
    header: Option<HeaderName>,
    preview: Preview,
}

impl From<Preview> for Password {
    fn from(preview: Preview) -> Self {
        // No request has a header whose name is not valid.
        Self { header: preview.header.parse().ok(), preview }
    }
}

impl Password {
    /// Whether a request carries the secret, in the header or in the cookie.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let secret = self.preview.secret.as_bytes();
        let mut told = self.header.iter().flat_map(|name| headers.get_all(name));
        told.any(|value| is_same(value.as_bytes(), secret))
            || cookies(headers, &self.preview.cookie).any(|value| is_same(value, secret))
    }
}

/// Compares in a time that depends on the lengths alone, so that it does not reveal the secret.
fn is_same(told: &[u8], secret: &[u8]) -> bool {
    let differing =
        told.iter().zip(secret).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    told.len() == secret.len() && differing == 0
}

/// The values of a cookie; there may be several, of different paths.
fn cookies<'head>(headers: &'head HeaderMap, name: &'head str) -> impl Iterator<Item = &'head [u8]> {
    let pairs =
        headers.get_all(COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let (found, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        (found.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
    })
}

/// A client's address as a number: a hash.
pub(super) fn address_key(headers: &HeaderMap, client: &ClientAddress) -> u64 {
    let told = client.trusted.then(|| headers.get_all("x-forwarded-for").into_iter().next_back()).flatten();
    let last = told.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse::<IpAddr>().ok());
    match last.map_or(client.ip, |address| address.to_canonical()) {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()[..8]),
    }
}

/// The number in a client's ticket; `None` without a valid one.
pub(super) fn ticket_key(headers: &HeaderMap, name: &str) -> Option<u64> {
    cookies(headers, name).find_map(|value| {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 16)?;
        text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok())?
    })
}

/// A session cookie with this number; `None` when the name can't be part of a header.
pub(super) fn ticket(
    name: &str,
    key: u64,
    headers: &HeaderMap,
    client: &ClientAddress,
) -> Option<HeaderValue> {
    let is_https = client.trusted && headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if is_https { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{name}={key:016x}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
}

/// An endless series of numbers, from a random start each time.
pub(super) fn numbers() -> impl Iterator<Item = u64> {
    let begin = RandomState::new().build_hasher().finish();
    (0..).map(move |step| mixed(begin.wrapping_add(step)))
}

/// A hash that is equal in every process and build, so that clients keep their slot when a front is replaced.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fold = |state: u64, byte: &u8| mixed(state ^ u64::from(*byte));
    bytes.iter().fold(bytes.len() as u64, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn client(ip: &str) -> ClientAddress {
        ClientAddress::of(ip.parse().unwrap())
    }

    #[test]
    fn a_preview_needs_the_whole_secret_in_its_header_or_its_cookie() {
        let secret = "s3cret-s3cret-s3cret";
        let preview =
            Preview { header: "X-Preview".to_owned(), cookie: "p".to_owned(), secret: secret.to_owned() };
        let password = Password::from(preview);
        let asks = |all: &[(&'static str, &str)]| password.is_in(&headers(all));
        assert!(asks(&[("x-preview", "wrong"), ("x-preview", secret)]));
        assert!(asks(&[("cookie", "a=b; p=old"), ("cookie", &format!("x=1;p={secret} ; y"))]));
        for wrong in ["", "s3cret-s3cret-s3cre", "s3cret-s3cret-s3cret-", "S3cret-s3cret-s3cret"] {
            assert!(
                !asks(&[("x-preview", wrong), ("cookie", &format!("p={wrong}; pp={secret}"))]),
                "{wrong}"
            );
        }
        assert!(!asks(&[("x-other", secret), ("cookie", secret)]));
    }

    #[test]
    fn an_address_is_told_by_the_peer_and_by_a_peer_on_this_host_for_another() {
        let told = headers(&[("x-forwarded-for", "198.51.100.1, 203.0.113.9")]);
        let key = |ip: &str, headers: &HeaderMap| address_key(headers, &client(ip));
        let none = HeaderMap::new();
        assert_eq!(key("192.0.2.1", &told), key("192.0.2.1", &none), "a stranger's word counts nothing");
        assert_eq!(key("127.0.0.1", &told), key("203.0.113.9", &none));
        assert_eq!(key("::ffff:192.0.2.1", &none), key("192.0.2.1", &none));
        assert_eq!(key("2001:db8::1", &none), key("2001:db8::ffff:2", &none));
        assert_ne!(key("2001:db8::1", &none), key("2001:db8:0:1::1", &none));
        let nonsense = headers(&[("x-forwarded-for", "somebody")]);
        assert_eq!(key("127.0.0.1", &nonsense), key("127.0.0.1", &none));
    }

    #[test]
    fn a_ticket_is_read_back_and_anything_else_in_its_place_is_none() {
        let (plain, https) = (HeaderMap::new(), headers(&[("x-forwarded-proto", "https")]));
        let cookie = |headers, ip| ticket("side", 0xabc, headers, &client(ip)).unwrap();
        assert_eq!(cookie(&plain, "127.0.0.1"), "side=0000000000000abc; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(cookie(&https, "192.0.2.1"), cookie(&plain, "127.0.0.1"));
        assert!(cookie(&https, "127.0.0.1").to_str().unwrap().ends_with("; Secure"));
        let back = headers(&[("cookie", "aside=1; side=0000000000000abc")]);
        assert_eq!(ticket_key(&back, "side"), Some(0xabc));
        for wrong in
            ["side=", "side=abc", "side=+000000000000abc", "side=00000000000000abc", "aside=0000000000000abc"]
        {
            assert_eq!(ticket_key(&headers(&[("cookie", wrong)]), "side"), None, "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_the_same_in_every_build() {
        assert_eq!(hash(b"20261121T101112Z-1-0123456"), 9_734_053_510_520_942_314);
    }
}
