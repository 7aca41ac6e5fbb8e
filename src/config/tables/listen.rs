//! `listen`: whether the instances of an app listen on ports or on unix sockets, and what must fit to it: the length of
//! a socket's path, the placeholder that names the address, and what the front can be told.

use std::path::PathBuf;

use super::{app::RawApp, front::FrontSettings};
use crate::{
    config::{commands::goes_by, judge::Judge, nearest::meant, span::Span},
    os::unix::LONGEST_PATH,
    rules::{
        address::Address,
        addresses::{Addresses, socket_of},
        ids::{AppName, Color},
    },
};

/// Whether the instances of an app listen on ports or on unix sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On the app's ports.
    Ports,
    /// On unix sockets.
    Sockets(Sockets),
}

/// The unix sockets of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// Where they are, absolute; the app's own.
    pub directory: PathBuf,
}

impl Sockets {
    /// The socket of a color.
    pub fn of(&self, color: Color) -> PathBuf {
        self.directory.join(format!("{color}.sock"))
    }

    /// The one with the longest path, of so many instances.
    pub fn longest(&self, instances: u16) -> PathBuf {
        socket_of(&self.of(Color::Green), instances.saturating_sub(1))
    }
}

impl From<&Sockets> for Addresses {
    fn from(sockets: &Sockets) -> Self {
        let of = |color| Address::Socket(sockets.of(color));
        Self { blue: of(Color::Blue), green: of(Color::Green), each: 1 }
    }
}

/// Below the runtime directory, what the apps themselves bind.
const SOCKETS_OF_APPS: &str = "a";

/// How an app is told the address of a kind that it does not listen on.
struct Other {
    placeholder: &'static str,
    variable: &'static str,
    hint: &'static str,
}

const PORT: Other = Other {
    placeholder: "{port}",
    variable: "PORT",
    hint: "the app listens on a unix socket: its path is {socket}, or $SOCKET",
};
const SOCKET: Other = Other {
    placeholder: "{socket}",
    variable: "SOCKET",
    hint: "the app listens on a port: {port}, or $PORT; or write listen = \"unix\"",
};

impl Judge<'_> {
    /// Judges where an app listens; to be asked before the parts of `raw` are taken.
    pub(super) fn app_listen(&mut self, raw: &RawApp, name: &AppName) -> Listen {
        let words = [("tcp", false), ("unix", true)];
        let hint = |word: &str| {
            meant(word, &["tcp", "unix"], "use \"tcp\" or \"unix\"; the public address is `front.listen`")
        };
        let unix = match self.word(&raw.listen, &words, "is no way to listen", hint) {
            Some(unix) => unix,
            None if raw.listen.value().is_some() => return Listen::Ports,
            None => false,
        };
        self.stands_for_nothing(raw, if unix { &PORT } else { &SOCKET });
        if !unix {
            return Listen::Ports;
        }
        let hint = "leave `ports` out: the app listens on a unix socket";
        self.refuse([raw.ports.span()], "has no effect with listen = \"unix\"", hint);
        let sockets = Sockets { directory: self.runtime_dir.join(SOCKETS_OF_APPS).join(name.as_str()) };
        Listen::Sockets(sockets)
    }

    /// Notes whatever goes by the address of the other kind, which no instance has.
    fn stands_for_nothing(&mut self, raw: &RawApp, other: &Other) {
        let Other { placeholder, variable, hint } = other;
        let commands = raw.commands();
        for (at, text) in commands.iter().copied().chain(raw.values()) {
            if text.contains(placeholder) {
                self.notes.error(at, format!("has {placeholder}, which stands for nothing here"), *hint);
            }
        }
        // Then it is the app's own.
        let env = raw.env.value().is_some_and(|env| env.value.0.contains_key(*variable));
        if env || raw.env_file.span().is_some() {
            return;
        }
        for (at, text) in commands.into_iter().filter(|(_, text)| goes_by(text, variable)) {
            if !text.contains(&format!("{variable}=")) {
                self.notes.warn(at, format!("has ${variable}, which is not set here"), *hint);
            }
        }
    }

    /// A socket's path is of limited length, and so is a link to it that the front is told of.
    pub(super) fn sockets_fit(
        &mut self,
        raw: Option<&Span>,
        (listen, instances): (&Listen, u16),
        front: Option<&FrontSettings>,
    ) {
        let (Listen::Sockets(sockets), Some(at)) = (listen, raw) else { return };
        let link = front.and_then(|front| front.longest_link(instances));
        for path in std::iter::once(sockets.longest(instances)).chain(link) {
            let length = path.as_os_str().len();
            if let Some((what, hint)) = front.and_then(|front| front.unnameable(&path)) {
                self.notes.error(at, what, hint);
            } else if length > LONGEST_PATH {
                let what = format!("too long for a unix socket: {length} bytes: {}", path.display());
                let hint =
                    format!("at most {LONGEST_PATH}: choose a shorter daemon.runtime_dir, such as /run/bgd");
                self.notes.error(at, what, hint);
            }
        }
    }
}
