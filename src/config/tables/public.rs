//! `address` of `[app.NAME.front]`: the public address that bgd probes during a flip. The builtin front's comes from
//! its `listen`; for other fronts it must be written. Sends no requests itself.

use std::net::IpAddr;

use reqwest::Url;

use super::{
    front::FrontSettings,
    health::{Health, HttpProbe},
};
use crate::config::{
    judge::Judge,
    read::{Given, Written},
};

/// The public URL with which a flip is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAddress {
    /// `http://…`, with its path.
    pub url: String,
    /// Host header; `None` means the URL's host.
    pub host: Option<String>,
}

/// The value that switches the measurement off.
const NONE: &str = "none";

impl Judge<'_> {
    /// Checks the public address. Without a path it gets the path of the health check.
    pub(super) fn public(
        &mut self,
        given: &Given<String>,
        front: Option<&FrontSettings>,
        health: &Health,
    ) -> Option<PublicAddress> {
        let probe = health.probe.page();
        match given {
            Given::Unreadable(_) => None,
            Given::Value(written) if written.value == NONE => None,
            Given::Value(written) => {
                let address = public(&written.value, probe);
                if address.is_none() {
                    self.note_no_address(written);
                }
                address
            }
            Given::Absent => public(&format!("http://{}", front?.reached_at()?), probe),
        }
    }

    fn note_no_address(&mut self, written: &Written<String>) {
        let hint = match written.value.starts_with("https:") {
            true => "it is asked without TLS; name an address that answers plain http from this host",
            false => "such as \"http://127.0.0.1:80/up\", or \"none\" to measure nothing",
        };
        let what = format!("is not an address that can be asked: {:?}", written.value);
        self.notes.error(&written.at, what, hint);
    }
}

fn public(text: &str, probe: Option<&HttpProbe>) -> Option<PublicAddress> {
    let url = Url::parse(text).ok()?;
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    // The URL parser accepts blanks and control characters, so refuse them first.
    let plain = text.starts_with("http://") && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !(bare && plain) {
        return None;
    }
    let origin = url.origin().ascii_serialization();
    let own_path = text["http://".len()..].contains(['/', '?']);
    let path = match probe {
        Some(probe) if !own_path => probe.path.clone(),
        _ => url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path())),
    };
    let host = match url.host_str() {
        // The URL's host name selects the site; an IP address does not.
        Some(name) if named(name) => None,
        _ => probe.and_then(|probe| probe.host.clone()),
    };
    Some(PublicAddress { url: format!("{origin}{path}"), host })
}

fn named(host: &str) -> bool {
    host != "localhost" && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    fn probe() -> HttpProbe {
        let host = Some("shop.example.com".to_owned());
        HttpProbe { path: "/up".to_owned(), host, status: vec![200], body: None }
    }

    fn asked(text: &str) -> Option<(String, Option<String>)> {
        public(text, Some(&probe())).map(|address| (address.url, address.host))
    }

    #[test]
    fn an_address_without_a_path_is_asked_as_the_health_check_asks() {
        let host = Some("shop.example.com".to_owned());
        assert_eq!(asked("http://127.0.0.1:80"), Some(("http://127.0.0.1/up".to_owned(), host.clone())));
        assert_eq!(asked("http://[::1]:81/"), Some(("http://[::1]:81/".to_owned(), host.clone())));
        assert_eq!(asked("http://localhost/a?b=1"), Some(("http://localhost/a?b=1".to_owned(), host)));
        assert_eq!(asked("http://example.org"), Some(("http://example.org/up".to_owned(), None)));
        assert_eq!(public("http://127.0.0.1", None).unwrap().url, "http://127.0.0.1/");
    }

    #[test]
    fn what_can_not_be_asked_is_no_address() {
        for text in
            ["", "/up", "127.0.0.1:80", "https://example.org", "http://", "http://a b/", "http://u:p@a/"]
        {
            assert_eq!(asked(text), None, "{text}");
        }
    }

    #[test]
    fn the_public_address_is_known_of_the_builtin_front_and_written_of_an_nginx() {
        let url = |more: &str| shop(&with(more)).public.map(|public| public.url);
        assert_eq!(url("").as_deref(), Some("http://127.0.0.1:8080/"));
        assert_eq!(url("health.path = \"/up\"").as_deref(), Some("http://127.0.0.1:8080/up"));
        assert_eq!(url("front.address = \"none\""), None);
        assert_eq!(url("front.type = \"nginx\""), None);
        let nginx = "front = { type = \"nginx\", address = \"http://shop.example.com\" }";
        assert_eq!(url(nginx).as_deref(), Some("http://shop.example.com/"));
    }
}
