//! `listen`: whether the instances of an app listen on ports or on unix sockets, and what must fit to it: the length of
//! a socket's path, the placeholder that names the address, and what nginx can be told.

use std::path::Path;

use super::Judge;
use crate::{
    config::{
        nearest::nearest,
        problem::Place,
        raw::{RawApp, RawStart},
        read::{Given, Written},
        settings::{FrontSettings, Listen, Sockets},
    },
    rules::ids::AppName,
    unix_sockets::LONGEST_PATH,
};

/// Below the runtime directory, what the apps themselves bind.
const SOCKETS_OF_APPS: &str = "a";

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
        let (wrong, hint) = match unix {
            true => ("{port}", "the app listens on a unix socket: its path is {socket}"),
            false => ("{socket}", "the app listens on a port: {port}; or write listen = \"unix\""),
        };
        for (at, text) in templates(raw) {
            if text.contains(wrong) {
                self.notes.error(at, format!("has {wrong}, which stands for nothing here"), hint);
            }
        }
        if !unix {
            return Listen::Ports;
        }
        let hint = "leave `ports` out: the app listens on a unix socket";
        self.refuse([raw.ports.place()], "has no effect with listen = \"unix\"", hint);
        let sockets = Sockets { directory: self.runtime_dir.join(SOCKETS_OF_APPS).join(name.as_str()) };
        if let Some(at) = raw.listen.place() {
            self.socket_fits(sockets.longest().as_path(), at);
        }
        Listen::Sockets(sockets)
    }

    fn no_way_to_listen(&mut self, written: &Written<String>) {
        let hint = match nearest(&written.value, &["tcp", "unix"]) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use \"tcp\" or \"unix\"; the public address is `front.listen`".to_owned(),
        };
        self.notes.error(&written.at, format!("is no way to listen: {:?}", written.value), hint);
    }

    fn socket_fits(&mut self, path: &Path, at: &Place) {
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            let what = format!("too long for a unix socket: {length} bytes: {}", path.display());
            let hint =
                format!("at most {LONGEST_PATH}: choose a shorter daemon.runtime_dir, such as /run/bgd");
            self.notes.error(at, what, hint);
        }
    }

    /// nginx reads the paths of the sockets out of bgd's file, and a word of its configuration has no quotes there.
    pub(super) fn nginx_can_name(&mut self, raw: Option<&Place>, listen: &Listen, front: &FrontSettings) {
        let (Listen::Sockets(sockets), FrontSettings::Nginx(nginx), Some(at)) = (listen, front, raw) else {
            return;
        };
        for path in [sockets.longest(), nginx.link()] {
            if !path.to_str().is_some_and(|text| text.bytes().all(is_plain)) {
                let what = format!("can't be named in nginx's configuration: {}", path.display());
                let hint = "choose directories whose names have letters, digits and . _ - + @ alone";
                self.notes.error(at, what, hint);
            } else if path.as_os_str().len() > LONGEST_PATH {
                self.socket_fits(&path, at);
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte)
}

/// All texts of an app in which placeholders are replaced.
fn templates(raw: &RawApp) -> Vec<(&Place, &str)> {
    fn of(given: &Given<String>) -> Option<(&Place, &str)> {
        given.value().map(|written| (&written.at, written.value.as_str()))
    }
    let mut all = Vec::new();
    if let Some(build) = raw.build.value() {
        all.extend(build.value.0.iter().map(|one| (&one.at, one.value.as_str())));
    }
    match raw.start.value().map(|written| (&written.at, &written.value)) {
        Some((at, RawStart::Shell(line))) => all.push((at, line.as_str())),
        Some((_, RawStart::Argv(argv))) => all.extend(argv.iter().map(|one| (&one.at, one.value.as_str()))),
        None => {}
    }
    all.extend(raw.stop.value().and_then(|stop| of(&stop.value.command)));
    all.extend(raw.health.value().and_then(|health| of(&health.value.command)));
    if let Some(env) = raw.env.value() {
        all.extend(env.value.0.values().map(|one| (&one.at, one.value.as_str())));
    }
    for rewrite in raw.rewrite.value().map_or(&[][..], |all| &all.value) {
        all.extend(of(&rewrite.value.with));
    }
    if let Some(hooks) = raw.hooks.value().map(|hooks| &hooks.value) {
        all.extend([&hooks.before_start, &hooks.after_live, &hooks.after_failed].into_iter().filter_map(of));
    }
    all
}
