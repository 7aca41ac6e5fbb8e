//! `protocol`: what an app speaks on its port, and what must fit to it: the front, and the signal that ends uWSGI.

use super::Judge;
use crate::config::{
    defaults,
    nearest::nearest,
    problem::Place,
    raw::{RawSignal, RawStart, RawStop},
    read::Given,
    settings::{FrontSettings, Protocol},
    signal::{self, BadSignal},
};

/// The protocols by name.
const NAMES: [(&str, Protocol); 3] =
    [("http", Protocol::Http), ("fastcgi", Protocol::FastCgi), ("uwsgi", Protocol::Uwsgi)];

/// In a start command: uWSGI is told what TERM means, or has a file of its own that may say so.
const TERM_MAY_END_IT: [&str; 7] = ["die-on-term", "unix_signal", ".ini", ".xml", ".yaml", ".yml", ".json"];

impl Judge<'_> {
    /// Judges the protocol of an app.
    pub(super) fn protocol(&mut self, given: &Given<String>) -> Protocol {
        let Some(written) = given.value() else { return defaults::PROTOCOL };
        if let Some((_, protocol)) = NAMES.iter().find(|(name, _)| *name == written.value) {
            return *protocol;
        }
        let hint = match nearest(&written.value, &NAMES.map(|(name, _)| name)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use \"http\", \"fastcgi\" or \"uwsgi\"".to_owned(),
        };
        self.notes.error(&written.at, format!("is no protocol: {:?}", written.value), hint);
        defaults::PROTOCOL
    }

    /// A front must speak what the app speaks; `None` is a front that is wrong by itself.
    pub(super) fn front_speaks(&mut self, given: &Given<String>, front: Option<&FrontSettings>) {
        let Some(written) = given.value() else { return };
        let pass = match written.value.as_str() {
            "fastcgi" => "fastcgi_pass",
            "uwsgi" => "uwsgi_pass",
            _ => return,
        };
        if matches!(front, None | Some(FrontSettings::Nginx(_))) {
            return;
        }
        let hint = format!("write front.type = \"nginx\", whose site says {pass}; or let the app speak HTTP");
        self.notes.error(&written.at, "the front of this app speaks HTTP only", hint);
    }

    /// A warm-up asks as a client of HTTP does.
    pub(super) fn warmup_speaks(&mut self, protocol: Protocol, at: Option<&Place>) {
        if let (Protocol::FastCgi | Protocol::Uwsgi, Some(at)) = (protocol, at) {
            let hint = "leave it out, or warm the app up in the hook before_start";
            self.notes.error(at, "a warm-up speaks HTTP only", hint);
        }
    }

    /// TERM makes uWSGI start anew, and bgd would wait for its end until it kills it.
    pub(super) fn uwsgi_ends(&mut self, start: &Given<RawStart>, stop: &Given<RawStop>) {
        let Some(signal) = stop.value().and_then(|stop| stop.value.signal.value()) else { return };
        let words = match start.value().map(|start| &start.value) {
            Some(RawStart::Shell(line)) => line.clone(),
            Some(RawStart::Argv(argv)) => {
                argv.iter().map(|word| word.value.as_str()).collect::<Vec<_>>().join(" ")
            }
            None => return,
        };
        let told = TERM_MAY_END_IT.iter().any(|word| words.contains(word));
        if number(&signal.value) == Ok(libc::SIGTERM) && !told {
            let hint = "start it with --die-on-term, or leave the signal out for INT";
            self.notes.warn(&signal.at, "TERM makes uwsgi start anew instead of ending", hint);
        }
    }
}

/// The number of a signal as written.
pub(super) fn number(signal: &RawSignal) -> Result<i32, BadSignal> {
    match signal {
        RawSignal::Name(name) => signal::by_name(name),
        RawSignal::Number(number) => signal::by_number(*number),
    }
}
