//! `stop = { … }`: how bgd asks an instance to end, and how long that may take.

use std::time::Duration;

use toml::de::DeValue;

use super::{protocol::Protocol, start::RawStart};
use crate::config::{
    judge::Judge,
    read::{FromToml, Given, Item, Reader},
    signal::{self, BadSignal},
    span::Span,
};

table! {
    /// `stop = { … }`.
    RawStop { signal: RawSignal, command: String, grace: Duration }
}

/// `stop.signal` as written.
#[derive(Debug, Clone)]
pub(in crate::config) enum RawSignal {
    Name(String),
    Number(i64),
}

impl FromToml for RawSignal {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Integer(_) => FromToml::from_toml(item, at, reader).map(Self::Number),
            DeValue::String(_) => FromToml::from_toml(item, at, reader).map(Self::Name),
            _ => reader.wrong_type(at, "a signal such as \"TERM\"", item),
        }
    }
}

/// How bgd stops an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The polite request.
    pub how: StopHow,
    /// Time between the request and KILL.
    pub grace: Duration,
}

/// The polite request to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopHow {
    /// A signal number for the started process (for example 15, TERM).
    Signal(i32),
    /// A command run in the release directory.
    Command(String),
}

const GRACE: Duration = Duration::from_secs(30);

/// The default signal for a protocol's usual server: php-fpm drops its requests on TERM and finishes them on QUIT;
/// uWSGI restarts on TERM, unless an option changes that.
fn usual_signal(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Http => libc::SIGTERM,
        Protocol::FastCgi => libc::SIGQUIT,
        Protocol::Uwsgi => libc::SIGINT,
    }
}

/// Parts of a start command that may make uWSGI end on TERM: an option, or a configuration file that may contain it.
const TERM_MAY_END_IT: [&str; 7] = ["die-on-term", "unix_signal", ".ini", ".xml", ".yaml", ".yml", ".json"];

impl Judge<'_> {
    /// Judges how an app that speaks this protocol is stopped.
    pub(super) fn stop(&mut self, raw: RawStop, protocol: Protocol) -> Stop {
        if let (Some(_), Some(at)) = (raw.signal.span(), raw.command.span()) {
            self.notes.error(at, "`signal` and `command` exclude each other", "keep one of them");
        }
        let number = raw.signal.value().and_then(|written| {
            let number = number(&written.value);
            number.map_err(|bad| self.notes.error(&written.at, bad.to_string(), bad.hint())).ok()
        });
        if let Some(at) = raw.signal.span().filter(|_| number == Some(libc::SIGKILL)) {
            let hint = "\"TERM\" asks it to end, and KILL follows after `grace`";
            self.notes.warn(at, "ends the app without a word: it can't finish or close anything", hint);
        }
        let how = match self.command(&raw.command) {
            Some(command) => StopHow::Command(command),
            None => StopHow::Signal(number.unwrap_or_else(|| usual_signal(protocol))),
        };
        Stop { how, grace: Self::or(raw.grace, GRACE) }
    }

    /// Warns if `stop.signal` is TERM for uWSGI, which restarts on it, so that bgd would wait and then kill it.
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
fn number(signal: &RawSignal) -> Result<i32, BadSignal> {
    match signal {
        RawSignal::Name(name) => signal::by_name(name),
        RawSignal::Number(number) => signal::by_number(*number),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("stop.signal = \"STOP\"", "4 app.shop.stop.signal", "does not ask a process to end: SIGSTOP"),
        ("stop.signal = 99", "4 app.shop.stop.signal", "is not a signal number: 99"),
        ("stop.command = \"\"", "4 app.shop.stop.command", "is empty"),
        ("stop.wait = \"1s\"", "4 app.shop.stop.wait", "unknown key"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_stop_that_an_app_can_t_hear_is_warned_of() {
        let said = |signal: &str| {
            let app = "remote = \"/srv/shop.git\"\nstart = \"./serve $PORT\"\nhealth.path = \"/\"";
            warnings(&format!("[app.shop]\n{app}\nstop.signal = {signal}"))
        };
        let what = "app.shop.stop.signal: ends the app without a word: it can't finish or close anything";
        assert_eq!((said("\"KILL\""), said("9")), (vec![what.to_owned()], vec![what.to_owned()]));
        assert_eq!(said("\"INT\"").len(), 0);
    }

    #[test]
    fn a_uwsgi_that_starts_anew_at_the_signal_is_told() {
        let warned = |start: &str, signal: &str| {
            let text = format!(
                "[app.shop]\nremote = \"/srv/shop.git\"\nprotocol = \"uwsgi\"\nstart = {start}\nfront.type = \"nginx\"\n\
                 health.path = \"/\"\nstop.signal = \"{signal}\""
            );
            let warnings: Vec<String> =
                load(&text).unwrap().warnings.iter().map(ToString::to_string).collect();
            assert!(warnings.len() < 2, "{warnings:?}");
            warnings
                .concat()
                .starts_with("warning: bgd.toml:7: app.shop.stop.signal: TERM makes uwsgi start anew")
        };
        assert!(warned("\"uwsgi --master\"", "TERM"));
        assert!(warned("[\"uwsgi\", \"--master\"]", "TERM"));
        assert!(!warned("[\"uwsgi\", \"--die-on-term\"]", "TERM"));
        assert!(!warned("\"uwsgi --hook-master-start 'unix_signal:15 gracefully_kill_them_all'\"", "TERM"));
        assert!(!warned("\"uwsgi --ini uwsgi.ini\"", "TERM"));
        assert!(!warned("\"uwsgi --master\"", "INT"));
    }
}
