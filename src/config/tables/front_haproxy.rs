//! `[app.NAME.front]` with `type = "haproxy"`: an existing HAProxy.

use std::path::PathBuf;

use super::{
    Table as _,
    front::{FrontKind, FrontSettings, RawFront},
};
use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    rules::{
        addresses::MOST_INSTANCES,
        ids::{AppName, Color},
    },
};

table! {
    /// The keys of the HAProxy front.
    RawHaproxy { socket: String, backend: String, servers: Vec<Written<String>>, state_file: String }
}

pub(super) const KIND: FrontKind = FrontKind {
    name: "haproxy",
    written: |raw| raw.haproxy.written(),
    own_way: |key| match key {
        "listen" => Some("haproxy listens as its own frontend says; leave it out"),
        "request_timeout" | "response_timeout" => {
            Some("haproxy has its own limits: timeout client and timeout server")
        }
        _ => None,
    },
    judge: |judge, raw, app| Some(FrontSettings::Haproxy(judge.haproxy(raw, app))),
};

const SOCKET: &str = "/run/haproxy/admin.sock";
const SERVERS: [&str; 2] = ["blue", "green"];

/// Only HAProxy's own configuration, which bgd does not write, can make a server a backup.
pub(super) const NO_BACKUP: &str =
    "can't be had with haproxy, whose backups are fixed by its own configuration";

/// HAProxy passes requests on, and opens no file for them.
pub(super) const NO_FILES: (&str, &str) = (
    "needs a front that serves files, and haproxy can't",
    "leave front.type out for the builtin front; or start a server of files, without `static`",
);

/// An existing HAProxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxySettings {
    /// Its `stats socket`, with `level admin`.
    pub socket: PathBuf,
    /// Name of the backend.
    pub backend: String,
    /// The backend's servers for blue and green.
    pub servers: HaproxyServers,
    /// File with the states of the servers for HAProxy's next start; `None`: bgd does not save them.
    pub state_file: Option<PathBuf>,
}

/// Names of the first server of each color in HAProxy's backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyServers {
    /// The server on blue's port.
    pub blue: String,
    /// The server on green's port.
    pub green: String,
}

impl HaproxyServers {
    /// The server of a color.
    pub fn of(&self, color: Color) -> &String {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The server of a color's instance, counted from 0: `blue`, `blue-2`, `blue-3`.
    pub fn nth(&self, color: Color, index: usize) -> String {
        let first = self.of(color);
        if index == 0 { first.clone() } else { format!("{first}-{}", index + 1) }
    }

    /// The color of a server, if it belongs to the app. The two configured names come first: each is the first server
    /// of its color, even if it looks like a later server of the other.
    pub fn color(&self, name: &str) -> Option<Color> {
        let is_first = |color: &Color| self.of(*color) == name;
        let is_later = |color: &Color| {
            let number = name.strip_prefix(self.of(*color).as_str()).and_then(|rest| rest.strip_prefix('-'));
            number.and_then(|it| it.parse().ok()).is_some_and(|it| (2..=MOST_INSTANCES).contains(&it))
        };
        let first = Color::ALL.into_iter().find(is_first);
        first.or_else(|| Color::ALL.into_iter().find(is_later))
    }
}

impl HaproxyServers {
    /// The problem and the hint if a further instance of a color would need the server that is configured as the other
    /// color's first.
    pub(super) fn no_room(&self, instances: u16) -> Option<(String, &'static str)> {
        let later =
            |color: Color| (1..usize::from(instances)).map(move |index| (color, self.nth(color, index)));
        let taken = |(color, name): &(Color, String)| self.color(name) != Some(*color);
        let (color, name) = Color::ALL.into_iter().flat_map(later).find(taken)?;
        let other = color.other();
        let what = format!("needs a server {name} of {color}, and front.servers gives that name to {other}");
        Some((what, "servers = [\"blue\", \"green\"] have room: blue, blue-2, blue-3, and so on"))
    }
}

impl Judge<'_> {
    fn haproxy(&mut self, raw: &RawFront, app: &AppName) -> HaproxySettings {
        let raw = &raw.haproxy;
        let socket = self.host_path(&raw.socket).unwrap_or_else(|| SOCKET.into());
        let backend = self.haproxy_name(raw.backend.value(), "backend").unwrap_or_else(|| app.to_string());
        let claimed = format!("{backend} at {}", socket.display());
        self.claim("backend", &claimed, &raw.backend, raw.at.absent("backend"));
        let state_file = self.written_file(&raw.state_file);
        if let Some(path) = &state_file {
            self.claim(
                "state_file",
                &path.display().to_string(),
                &raw.state_file,
                raw.at.absent("state_file"),
            );
        }
        HaproxySettings { socket, backend, servers: self.haproxy_servers(&raw.servers), state_file }
    }

    fn haproxy_servers(&mut self, given: &Given<Vec<Written<String>>>) -> HaproxyServers {
        let [blue, green] = SERVERS.map(str::to_owned);
        let usual = HaproxyServers { blue, green };
        let Some(written) = given.value() else { return usual };
        let hint = "blue's server, then green's, such as [\"blue\", \"green\"]";
        let [blue, green] = &written.value[..] else {
            let count = written.value.len();
            self.notes.error(&written.at, format!("must name two servers, not {count}"), hint);
            return usual;
        };
        if blue.value == green.value {
            let what = format!("blue and green have the same server: {:?}", blue.value);
            self.notes.error(&green.at, what, hint);
        }
        let [blue, green] = [blue, green].map(|name| self.haproxy_name(Some(name), "server"));
        HaproxyServers { blue: blue.unwrap_or(usual.blue), green: green.unwrap_or(usual.green) }
    }

    /// A valid name in HAProxy, without characters that end a command on its socket.
    fn haproxy_name(&mut self, written: Option<&Written<String>>, what: &str) -> Option<String> {
        let written = written?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if written.value.is_empty() || !written.value.chars().all(fits) {
            let said = format!("is not a {what} name: {:?}", written.value);
            self.notes.error(&written.at, said, "letters, digits, `-`, `_`, `.` and `:`, as in haproxy.cfg");
            return None;
        }
        Some(written.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("front.socket = \"/h.sock\"", "4 app.shop.front.socket", "no effect with the builtin front"),
        (
            "front = { type = \"nginx\", backend = \"shop\" }",
            "4 app.shop.front.backend",
            "no effect with the nginx front",
        ),
        (
            "front = { type = \"haproxy\", upstream = \"shop\" }",
            "4 app.shop.front.upstream",
            "no effect with the haproxy front",
        ),
        (
            "front = { type = \"haproxy\", backend = \"a; b\" }",
            "4 app.shop.front.backend",
            "is not a backend name",
        ),
        (
            "front = { type = \"haproxy\", servers = [\"a\", \"b/c\"] }",
            "4 app.shop.front.servers[1]",
            "is not a server name",
        ),
        (
            "front = { type = \"haproxy\", servers = [\"a\"] }",
            "4 app.shop.front.servers",
            "must name two servers, not 1",
        ),
        (
            "front = { type = \"haproxy\", servers = [\"a\", \"a\"] }",
            "4 app.shop.front.servers[1]",
            "the same server",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn two_apps_cannot_have_the_same_backend_of_one_haproxy() {
        let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\nports = [1, 2]\n";
        let two = |one: &str, other: &str| errors(&format!("{}{blog}{other}", with(one)));
        let haproxy = "front = { type = \"haproxy\", backend = \"b\" }\n";
        let found = two(haproxy, haproxy);
        let expected = "backend \"b at /run/haproxy/admin.sock\" is used twice";
        assert!(found.len() == 1 && found[0].contains(expected), "{found:#?}");
        let elsewhere = "front = { type = \"haproxy\", backend = \"b\", socket = \"/o.sock\" }\n";
        assert!(load(&format!("{}{blog}{elsewhere}", with(haproxy))).is_ok());
    }

    #[test]
    fn the_haproxy_front_has_defaults_by_the_name_of_the_app() {
        let haproxy = |socket: &str, backend: &str, [blue, green]: [&str; 2]| {
            FrontSettings::Haproxy(HaproxySettings {
                socket: socket.into(),
                backend: backend.to_owned(),
                servers: HaproxyServers { blue: blue.to_owned(), green: green.to_owned() },
                state_file: None,
            })
        };
        let usual = haproxy("/run/haproxy/admin.sock", "shop", ["blue", "green"]);
        let three = "instances = 3\nports = [9501, 9511]\nfront.type = \"haproxy\"";
        assert_eq!((shop(&with(three)).instances, shop(&with(three)).front), (3, usual.clone()));
        assert_eq!(shop(&with("front.type = \"haproxy\"")).front, usual);
        let text = "front = { type = \"haproxy\", socket = \"h.sock\", backend = \"b.1\", servers = [\"a\", \"b\"] }";
        assert_eq!(shop(&with(text)).front, haproxy("/etc/bgd/h.sock", "b.1", ["a", "b"]));
    }
}
