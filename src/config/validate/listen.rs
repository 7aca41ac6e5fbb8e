//! `listen`: whether the instances of an app listen on ports or on unix sockets, and what must fit to it: the length of
//! a socket's path, the placeholder that names the address, and what nginx can be told.

use super::Judge;
use crate::{
    config::{
        nearest::nearest,
        problem::Place,
        raw::{RawApp, RawStart},
        read::{Given, Written},
        settings::{FrontSettings, Listen, Sockets},
    },
    os::unix::{LONGEST_PATH, is_plain},
    rules::ids::AppName,
};

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
        let unix = match raw.listen.value() {
            None => false,
            Some(written) => match written.value.as_str() {
                "tcp" => false,
                "unix" => true,
                _ => {
                    self.no_way_to_listen(written);
                    return Listen::Ports;
                }
            },
        };
        self.stands_for_nothing(raw, if unix { &PORT } else { &SOCKET });
        if !unix {
            return Listen::Ports;
        }
        let hint = "leave `ports` out: the app listens on a unix socket";
        self.refuse([raw.ports.place()], "has no effect with listen = \"unix\"", hint);
        let sockets = Sockets { directory: self.runtime_dir.join(SOCKETS_OF_APPS).join(name.as_str()) };
        Listen::Sockets(sockets)
    }

    /// Notes whatever goes by the address of the other kind, which no instance has.
    fn stands_for_nothing(&mut self, raw: &RawApp, other: &Other) {
        let Other { placeholder, variable, hint } = other;
        let commands = commands(raw);
        for (at, text) in commands.iter().copied().chain(values(raw)) {
            if text.contains(placeholder) {
                self.notes.error(at, format!("has {placeholder}, which stands for nothing here"), *hint);
            }
        }
        // Then it is the app's own.
        let env = raw.env.value().is_some_and(|env| env.value.0.contains_key(*variable));
        if env || raw.env_file.place().is_some() {
            return;
        }
        for (at, text) in commands.into_iter().filter(|(_, text)| goes_by(text, variable)) {
            if !text.contains(&format!("{variable}=")) {
                self.notes.warn(at, format!("has ${variable}, which is not set here"), *hint);
            }
        }
    }

    fn no_way_to_listen(&mut self, written: &Written<String>) {
        let hint = match nearest(&written.value, &["tcp", "unix"]) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use \"tcp\" or \"unix\"; the public address is `front.listen`".to_owned(),
        };
        self.notes.error(&written.at, format!("is no way to listen: {:?}", written.value), hint);
    }

    /// A socket's path is of limited length. nginx reads it out of bgd's file, and a word of its configuration has no
    /// quotes there.
    pub(super) fn sockets_fit(
        &mut self,
        raw: Option<&Place>,
        (listen, instances): (&Listen, u16),
        front: Option<&FrontSettings>,
    ) {
        let (Listen::Sockets(sockets), Some(at)) = (listen, raw) else { return };
        let nginx = match front {
            Some(FrontSettings::Nginx(nginx)) => Some(nginx),
            _ => None,
        };
        for path in [Some(sockets.longest(instances)), nginx.map(|nginx| nginx.longest_link(instances))]
            .into_iter()
            .flatten()
        {
            let length = path.as_os_str().len();
            if nginx.is_some() && !is_plain(&path) {
                let what = format!("can't be named in nginx's configuration: {}", path.display());
                let hint = "choose directories whose names have letters, digits and . _ - + @ alone";
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

/// Whether a shell would look this variable up.
pub(super) fn goes_by(text: &str, variable: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split('$').skip(1).any(|rest| match rest.strip_prefix('{') {
        Some(braced) => braced.strip_prefix(variable).is_some_and(|end| !end.starts_with(is_name)),
        None => rest.strip_prefix(variable).is_some_and(|end| !end.starts_with(is_name)),
    })
}

/// The commands of an app, in which placeholders are replaced and variables looked up.
pub(super) fn commands(raw: &RawApp) -> Vec<(&Place, &str)> {
    let mut all = Vec::new();
    if let Some(build) = raw.build.value() {
        all.extend(build.value.0.iter().map(|one| (&one.at, one.value.as_str())));
    }
    match raw.start.value().map(|written| (&written.at, &written.value)) {
        Some((at, RawStart::Shell(line))) => all.push((at, line.as_str())),
        Some((_, RawStart::Argv(argv))) => all.extend(argv.iter().map(|one| (&one.at, one.value.as_str()))),
        None => {}
    }
    all.extend(raw.stop.value().and_then(|stop| text_of(&stop.value.command)));
    all.extend(raw.health.value().and_then(|health| text_of(&health.value.command)));
    if let Some(hooks) = raw.hooks.value().map(|hooks| &hooks.value) {
        let hooks = [&hooks.before_start, &hooks.after_live, &hooks.after_failed];
        all.extend(hooks.into_iter().filter_map(text_of));
    }
    all
}

/// The other texts of an app in which placeholders are replaced.
pub(super) fn values(raw: &RawApp) -> Vec<(&Place, &str)> {
    let env = raw.env.value().into_iter().flat_map(|env| env.value.0.values());
    let rewrites = raw.rewrite.value().map_or(&[][..], |all| &all.value);
    let env = env.map(|one| (&one.at, one.value.as_str()));
    env.chain(rewrites.iter().filter_map(|one| text_of(&one.value.with))).collect()
}

fn text_of(given: &Given<String>) -> Option<(&Place, &str)> {
    given.value().map(|written| (&written.at, written.value.as_str()))
}
