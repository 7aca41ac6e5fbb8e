//! `protocol`: the protocol of an app's instances, and the checks that depend on it.

use super::front::{FrontSettings, a_front_that_speaks};
use crate::config::{judge::Judge, nearest::meant, read::Given, span::Span};

/// The protocol of an instance on its port or socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// FastCGI, as php-fpm does.
    FastCgi,
    /// The protocol of uWSGI.
    Uwsgi,
}

const DEFAULT: Protocol = Protocol::Http;

/// The protocols by name.
const NAMES: [(&str, Protocol); 3] =
    [("http", Protocol::Http), ("fastcgi", Protocol::FastCgi), ("uwsgi", Protocol::Uwsgi)];

impl Judge<'_> {
    /// Judges the protocol of an app.
    pub(super) fn protocol(&mut self, given: &Given<String>) -> Protocol {
        let names = NAMES.map(|(name, _)| name);
        let hint = |word: &str| meant(word, &names, "use \"http\", \"fastcgi\" or \"uwsgi\"");
        self.word(given, &NAMES, "is not a protocol", hint).unwrap_or(DEFAULT)
    }

    /// Checks that the front supports the app's protocol; `None` stands for a front that is already refused.
    pub(super) fn front_speaks(
        &mut self,
        (given, protocol): (&Given<String>, Protocol),
        front: Option<&FrontSettings>,
    ) {
        let (Some(at), Some(front)) = (given.span(), front) else { return };
        if !front.speaks(protocol) {
            let hint = format!("{}; or let the app speak HTTP", a_front_that_speaks(protocol));
            self.notes.error(at, "the front of this app speaks HTTP only", hint);
        }
    }

    /// Checks that an app with a warm-up speaks HTTP, since the warm-up is an HTTP client.
    pub(super) fn warmup_speaks(&mut self, protocol: Protocol, at: Option<&Span>) {
        if let (Protocol::FastCgi | Protocol::Uwsgi, Some(at)) = (protocol, at) {
            let hint = "leave it out, or warm the app up in the hook before_start";
            self.notes.error(at, "a warm-up speaks HTTP only", hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        settings::{FastCgiProbe, HttpProbe, Probe, StopHow},
        tests::*,
    };

    const WRONG: &[Wrong] = &[
        ("protocol = \"ftp\"", "4 app.shop.protocol", "is not a protocol: \"ftp\""),
        ("protocol = \"fastcgi\"", "4 app.shop.protocol", "speaks HTTP only"),
        ("protocol = \"uwsgi\"\nfront.type = \"builtin\"", "4 app.shop.protocol", "speaks HTTP only"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn other_protocols_have_the_same_health_and_a_signal_of_their_own() {
        let behind_nginx = |more: &str| shop(&with(&format!("front.type = \"nginx\"\n{more}")));
        let page = HttpProbe { path: "/up".to_owned(), host: None, status: vec![200], body: None };
        let app = behind_nginx(
            "protocol = \"fastcgi\"\nhealth = { path = \"/up\", script = \"public/index.php\" }",
        );
        assert_eq!((app.protocol, app.stop.how), (Protocol::FastCgi, StopHow::Signal(3)));
        let script = Some("public/index.php".into());
        assert_eq!(app.health.probe, Probe::FastCgi(FastCgiProbe { page: page.clone(), script }));
        let app = behind_nginx("protocol = \"fastcgi\"\nhealth.path = \"/up\"");
        assert_eq!(app.health.probe, Probe::FastCgi(FastCgiProbe { page: page.clone(), script: None }));
        let app = behind_nginx("protocol = \"uwsgi\"\nhealth.path = \"/up\"");
        assert_eq!((app.protocol, app.stop.how), (Protocol::Uwsgi, StopHow::Signal(2)));
        assert_eq!(app.health.probe, Probe::Uwsgi(page));
        assert_eq!(behind_nginx("protocol = \"uwsgi\"").health.probe, Probe::Tcp);
        let app = behind_nginx("protocol = \"fastcgi\"\nstop.signal = \"TERM\"");
        assert_eq!(app.stop.how, StopHow::Signal(15));
        assert_eq!(shop(&with("protocol = \"http\"")).protocol, Protocol::Http);
    }
}
