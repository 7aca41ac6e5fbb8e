//! `protocol`: what an app speaks on its port, and what must fit to it.

use super::front::{FrontSettings, a_front_that_speaks};
use crate::config::{judge::Judge, nearest::meant, read::Given, span::Span};

/// What an instance speaks on its port.
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
        self.word(given, &NAMES, "is no protocol", hint).unwrap_or(DEFAULT)
    }

    /// A front must speak what the app speaks; `None` is a front that is wrong by itself.
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

    /// A warm-up asks as a client of HTTP does.
    pub(super) fn warmup_speaks(&mut self, protocol: Protocol, at: Option<&Span>) {
        if let (Protocol::FastCgi | Protocol::Uwsgi, Some(at)) = (protocol, at) {
            let hint = "leave it out, or warm the app up in the hook before_start";
            self.notes.error(at, "a warm-up speaks HTTP only", hint);
        }
    }
}
