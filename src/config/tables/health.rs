//! `[app.NAME.health]`: the probe, and its limits, which must be possible to meet.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use reqwest::Url;

use super::{Table as _, protocol::Protocol, static_site::StaticSite};
use crate::{
    config::{
        duration::exact,
        judge::Judge,
        read::{Given, Written},
        span::Span,
    },
    rules::health::confirmed_within,
};

table! {
    /// `[app.NAME.health]`.
    RawHealth {
        path: String,
        script: String,
        command: String,
        host: String,
        status: Vec<Written<i64>>,
        body: String,
        interval: Duration,
        timeout: Duration,
        deadline: Duration,
        successes: i64,
    }
}

/// The conditions under which an instance counts as healthy.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: Probe,
    /// Wait after a failed probe; after a success the next one follows sooner, see `rules::health`.
    pub interval: Duration,
    /// Time limit of one probe.
    pub timeout: Duration,
    /// Time limit of the whole start.
    pub deadline: Duration,
    /// Required consecutive successes of the same process.
    pub successes: NonZeroU32,
}

/// The kind of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The port accepts, and the process has been up for [`Probe::TCP_SETTLE`].
    Tcp,
    /// GET on 127.0.0.1.
    Http(HttpProbe),
    /// GET over FastCGI.
    FastCgi(FastCgiProbe),
    /// GET in the protocol of uWSGI.
    Uwsgi(HttpProbe),
    /// A command of the app; exit 0 is healthy.
    Command(String),
}

impl Probe {
    /// How long an instance must have been up before an open port alone counts (contract: 2 s).
    pub const TCP_SETTLE: Duration = Duration::from_secs(2);

    /// The requested page, in any protocol.
    pub fn page(&self) -> Option<&HttpProbe> {
        match self {
            Self::Http(page) | Self::Uwsgi(page) | Self::FastCgi(FastCgiProbe { page, .. }) => Some(page),
            Self::Tcp | Self::Command(_) => None,
        }
    }
}

/// A probe over FastCGI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastCgiProbe {
    /// The request, and the healthy response.
    pub page: HttpProbe,
    /// The script, relative to the release; `None`: the path selects it, as for php-fpm's `ping.path`.
    pub script: Option<PathBuf>,
}

/// A GET request, and the healthy response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path, which begins with `/`.
    pub path: String,
    /// Host header; `None` is `127.0.0.1:<port>`.
    pub host: Option<String>,
    /// Accepted status codes; never empty.
    pub status: Vec<u16>,
    /// Text that the body must contain.
    pub body: Option<String>,
}

const STATUS: [u16; 1] = [200];
const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(60);
const SUCCESSES: NonZeroU32 = NonZeroU32::new(2).unwrap();

impl Judge<'_> {
    /// Judges the health check of the app at `app`.
    pub(super) fn health(
        &mut self,
        given: Given<RawHealth>,
        (protocol, site): (Protocol, Option<&StaticSite>),
        app: &Span,
    ) -> Health {
        let unreadable = matches!(given, Given::Unreadable(_));
        let raw = RawHealth::or_empty(given, app.absent("health"));
        let health = Health {
            probe: self.probe(&raw, protocol),
            interval: self.positive(&raw.interval, INTERVAL),
            timeout: self.positive(&raw.timeout, TIMEOUT),
            deadline: self.positive(&raw.deadline, DEADLINE),
            successes: self
                .number(
                    &raw.successes,
                    |number| u32::try_from(number).ok().and_then(NonZeroU32::new),
                    "must be 1 or more",
                    "2 is the default; one lucky answer is not health",
                )
                .unwrap_or(SUCCESSES),
        };
        if health.probe == Probe::Tcp
            && raw.path.span().is_none()
            && raw.command.span().is_none()
            && site.is_none()
            && !unreadable
        {
            self.notes.warn(
                &raw.at,
                "weak: an open port and 2 s of life is all that is asked before traffic moves",
                "write path = \"/…\" (or command = \"…\") under health, something that fails when the app does",
            );
        }
        self.deadline_can_be_met(&raw, &health);
        health
    }

    fn probe(&mut self, raw: &RawHealth, protocol: Protocol) -> Probe {
        let of_http = [raw.host.span(), raw.status.span(), raw.body.span(), raw.script.span()];
        let http = self.http(raw);
        let script = self.script(&raw.script, protocol);
        match (raw.path.span(), raw.command.span()) {
            (Some(_), Some(command)) => {
                self.notes.error(command, "`path` and `command` exclude each other", "keep one of them");
            }
            (None, Some(_)) => {
                self.refuse(of_http, "has no effect with `command`", "leave it out, or ask by `path`");
            }
            (None, None) => self.refuse(of_http, "has no effect without `path`", "add path = \"/…\""),
            (Some(_), None) => {}
        }
        match (http, self.command(&raw.command)) {
            (Some(page), _) => match protocol {
                Protocol::Http => Probe::Http(page),
                Protocol::FastCgi => Probe::FastCgi(FastCgiProbe { page, script }),
                Protocol::Uwsgi => Probe::Uwsgi(page),
            },
            (None, Some(command)) => Probe::Command(command),
            (None, None) => Probe::Tcp,
        }
    }

    fn script(&mut self, given: &Given<String>, protocol: Protocol) -> Option<PathBuf> {
        let written = given.value()?;
        if protocol != Protocol::FastCgi {
            let hint = "write protocol = \"fastcgi\", or leave it out";
            self.notes.error(&written.at, "has no effect without FastCGI", hint);
            return None;
        }
        self.release_file(written)
    }

    fn http(&mut self, raw: &RawHealth) -> Option<HttpProbe> {
        let host = self.host(&raw.host);
        let status = self.status(raw);
        let body = raw.body.value().and_then(|body| {
            if body.value.is_empty() {
                self.notes.error(&body.at, "is empty", "every answer contains that; leave it out");
            }
            (!body.value.is_empty()).then(|| body.value.clone())
        });
        let path = self.url_path(raw.path.value()?)?;
        Some(HttpProbe { path, host, status, body })
    }

    /// A path with its query that is valid in a request line.
    pub(super) fn url_path(&mut self, path: &Written<String>) -> Option<String> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '#' || !c.is_ascii();
        if !path.value.starts_with('/') || path.value.contains(odd) {
            let what = format!("is not a URL path: {:?}", path.value);
            self.notes.error(&path.at, what, path_hint(&path.value));
            return None;
        }
        if let Some(name) = ["{port}", "{PORT}", "$PORT"].into_iter().find(|it| path.value.contains(it)) {
            let what = format!("has {name}, which stands for nothing here");
            self.notes.warn(&path.at, what, "the path alone: bgd asks each color at its own port");
        }
        Some(path.value.clone())
    }

    fn host(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let inner = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if written.value.is_empty() || !written.value.chars().all(inner) {
            let what = format!("is not a Host header value: {:?}", written.value);
            self.notes.error(
                &written.at,
                what,
                match Url::parse(&written.value).ok().and_then(|url| url.host_str().map(str::to_owned)) {
                    Some(name) => format!("the name alone: write {name:?}"),
                    None => "a name, with a port if needed, such as \"shop.example.com\"".to_owned(),
                },
            );
            return None;
        }
        Some(written.value.clone())
    }

    fn status(&mut self, raw: &RawHealth) -> Vec<u16> {
        let Some(list) = raw.status.value() else { return STATUS.to_vec() };
        if list.value.is_empty() {
            self.notes.error(
                &list.at,
                "is empty, so no answer is healthy",
                "write status = [200], or leave it out",
            );
        }
        let mut codes = Vec::new();
        for code in &list.value {
            match u16::try_from(code.value) {
                Ok(value @ 100..=599) => codes.push(value),
                _ => {
                    let what = format!("is not an HTTP status: {}", code.value);
                    self.notes.error(&code.at, what, "a status is 100 to 599, such as 200");
                }
            }
        }
        codes
    }

    /// Notes a deadline that is too short for the required successes.
    fn deadline_can_be_met(&mut self, raw: &RawHealth, health: &Health) {
        let waits = [raw.deadline.span(), raw.successes.span(), raw.interval.span(), raw.timeout.span()];
        let Some(at) = waits.into_iter().flatten().next() else { return };
        let settle = if health.probe == Probe::Tcp { Probe::TCP_SETTLE } else { Default::default() };
        let least = confirmed_within(health.successes, health.interval).saturating_add(settle);
        if least >= health.deadline {
            let what = format!(
                "can never be met: {} successes take at least {}, the deadline is {}",
                health.successes,
                exact(least),
                exact(health.deadline),
            );
            self.notes.error(at, what, "a longer deadline, a shorter interval, or fewer successes");
        } else if let Some(at) = raw.timeout.span()
            && health.timeout > health.deadline
        {
            let what = format!(
                "is longer than the deadline of the whole start: {} and {}",
                exact(health.timeout),
                exact(health.deadline)
            );
            self.notes.warn(at, what, "one slow answer uses up the whole start; write a shorter one");
        }
    }
}

/// The hint for a text that is not a path.
fn path_hint(text: &str) -> String {
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '#' || !c.is_ascii();
    match Url::parse(text) {
        Ok(url) if url.has_host() => {
            let path = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
            format!("the path alone: write {path:?}; bgd asks each color at its own port")
        }
        _ if !text.is_empty() && !text.starts_with('/') && !text.contains(odd) => {
            format!("write {:?}", format!("/{text}"))
        }
        _ => "begin with `/`; encode blanks and special letters as %20".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        (
            "health = { path = \"/\", script = \"a.php\" }",
            "4 app.shop.health.script",
            "no effect without FastCGI",
        ),
        (
            "protocol = \"fastcgi\"\nfront.type = \"nginx\"\nhealth = { path = \"/\", script = \"/a.php\" }",
            "6 app.shop.health.script",
            "is absolute",
        ),
        (
            "protocol = \"fastcgi\"\nfront.type = \"nginx\"\nhealth.script = \"a.php\"",
            "6 app.shop.health.script",
            "no effect without `path`",
        ),
        ("health.path = \"up\"", "4 app.shop.health.path", "not a URL path"),
        ("health.path = \"http://localhost:3000/up\"", "4 app.shop.health.path", "not a URL path"),
        ("health = \"/up\"", "4 app.shop.health", "expected a table, found a text"),
        ("health.path = \"/a b\"", "4 app.shop.health.path", "not a URL path"),
        ("health = { path = \"/\", command = \"x\" }", "4 app.shop.health.command", "exclude each other"),
        (
            "health = { command = \"x\", host = \"h\" }",
            "4 app.shop.health.host",
            "has no effect with `command`",
        ),
        ("health = { path = \"/\", body = \"\" }", "4 app.shop.health.body", "is empty"),
        ("health = { path = \"/\", status = [] }", "4 app.shop.health.status", "is empty"),
        ("health = { path = \"/\", status = [99] }", "4 app.shop.health.status[0]", "not an HTTP status: 99"),
        (
            "health = { path = \"/\", host = \"http://x\" }",
            "4 app.shop.health.host",
            "not a Host header value",
        ),
        ("health.interval = \"0ms\"", "4 app.shop.health.interval", "longer than zero"),
        ("health.successes = 0", "4 app.shop.health.successes", "1 or more"),
        ("health.deadline = \"1s\"", "4 app.shop.health.deadline", "can never be met"),
        (
            "health = { path = \"/\", successes = 200 }",
            "4 app.shop.health.successes",
            "take at least 1m37s130ms",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn an_answer_that_may_take_longer_than_the_start_is_warned_of() {
        let said = |keys: &str| {
            let app = "remote = \"/srv/shop.git\"\nstart = \"./serve $PORT\"";
            warnings(&format!("[app.shop]\n{app}\nhealth = {{ path = \"/\", {keys} }}"))
        };
        let what = "app.shop.health.timeout: is longer than the deadline of the whole start: 30s and 20s";
        assert_eq!(said("timeout = \"30s\", deadline = \"20s\""), [what]);
        assert_eq!(said("timeout = \"20s\", deadline = \"20s\"").len(), 0);
    }
}
