//! `[app.NAME.health]`: what a probe asks, and limits that can be met.

use std::{num::NonZeroU32, path::PathBuf};

use reqwest::Url;

use super::Judge;
use crate::{
    config::{
        defaults,
        duration::exact,
        problem::Place,
        raw::RawHealth,
        read::{Given, Written},
        settings::{FastCgiProbe, Health, HttpProbe, Probe, Protocol},
    },
    rules::health::confirmed_within,
};

impl Judge<'_> {
    /// Judges the health check of the app at `app`.
    pub(super) fn health(&mut self, given: Given<RawHealth>, protocol: Protocol, app: &Place) -> Health {
        let unreadable = matches!(given, Given::Unreadable(_));
        let raw = RawHealth::or_empty(given, app.absent("health"));
        let health = Health {
            probe: self.probe(&raw, protocol),
            interval: self.positive(&raw.interval, defaults::HEALTH_INTERVAL),
            timeout: self.positive(&raw.timeout, defaults::HEALTH_TIMEOUT),
            deadline: self.positive(&raw.deadline, defaults::HEALTH_DEADLINE),
            successes: self.successes(&raw.successes),
        };
        if health.probe == Probe::Tcp
            && raw.path.place().is_none()
            && raw.command.place().is_none()
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
        let of_http = [raw.host.place(), raw.status.place(), raw.body.place(), raw.script.place()];
        let http = self.http(raw);
        let script = self.script(&raw.script, protocol);
        match (raw.path.place(), raw.command.place()) {
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

    /// A path as a request line can bear it, with its query.
    pub(super) fn url_path(&mut self, path: &Written<String>) -> Option<String> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '#' || !c.is_ascii();
        if !path.value.starts_with('/') || path.value.contains(odd) {
            let what = format!("is no path of a URL: {:?}", path.value);
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
            let what = format!("is no value of a Host header: {:?}", written.value);
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
        let Some(list) = raw.status.value() else { return defaults::HEALTH_STATUS.to_vec() };
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
                    let what = format!("is no status of HTTP: {}", code.value);
                    self.notes.error(&code.at, what, "a status is 100 to 599, such as 200");
                }
            }
        }
        codes
    }

    fn successes(&mut self, given: &Given<i64>) -> NonZeroU32 {
        let Some(written) = given.value() else { return defaults::HEALTH_SUCCESSES };
        u32::try_from(written.value).ok().and_then(NonZeroU32::new).unwrap_or_else(|| {
            let what = format!("must be 1 or more: {}", written.value);
            self.notes.error(&written.at, what, "2 is the default; one lucky answer is not health");
            defaults::HEALTH_SUCCESSES
        })
    }

    /// The deadline must leave time for what it waits for.
    fn deadline_can_be_met(&mut self, raw: &RawHealth, health: &Health) {
        let waits = [raw.deadline.place(), raw.successes.place(), raw.interval.place()];
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
        }
    }
}

/// What to write instead of a text that is not a path.
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
