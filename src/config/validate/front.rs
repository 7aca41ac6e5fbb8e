//! `[app.NAME.front]`: which front, and only the keys that it has.

use std::net::SocketAddr;

use super::{Judge, NameClaim, PortClaim};
use crate::config::{
    defaults,
    nearest::nearest,
    problem::Place,
    raw::RawFront,
    read::{Given, Written},
    settings::{FrontSettings, HaproxyServers, HaproxySettings, NginxSettings},
};
use crate::rules::ids::AppName;

/// The fronts by name.
const TYPES: [&str; 3] = ["builtin", "nginx", "haproxy"];

impl Judge<'_> {
    /// Judges the front of the app `name` at `app`; `None` when it is wrong as a whole.
    pub(super) fn front(
        &mut self,
        given: Given<RawFront>,
        name: &AppName,
        app: &Place,
    ) -> Option<FrontSettings> {
        if matches!(given, Given::Unreadable(_)) {
            return None;
        }
        let raw = RawFront::or_empty(given, app.absent("front"));
        let kind = match &raw.kind {
            Given::Absent => defaults::FRONT,
            Given::Unreadable(_) => return None,
            Given::Value(written) => &written.value,
        };
        match kind {
            "builtin" => self.builtin(&raw),
            "nginx" => Some(FrontSettings::Nginx(self.nginx(&raw, name))),
            "haproxy" => Some(FrontSettings::Haproxy(self.haproxy(&raw, name))),
            _ => {
                self.other_front(raw.kind.value()?);
                None
            }
        }
    }

    fn other_front(&mut self, kind: &Written<String>) {
        let hint = match nearest(&kind.value, &TYPES) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "use \"builtin\", \"nginx\" or \"haproxy\"".to_owned(),
        };
        self.notes.error(&kind.at, format!("is no front: {:?}", kind.value), hint);
    }

    fn builtin(&mut self, raw: &RawFront) -> Option<FrontSettings> {
        let hint = "write type = \"nginx\", or leave it out";
        self.refuse(of_nginx(raw), "has no effect with the builtin front", hint);
        let hint = "write type = \"haproxy\", or leave it out";
        self.refuse(of_haproxy(raw), "has no effect with the builtin front", hint);
        let listen = match &raw.listen {
            Given::Absent => defaults::LISTEN,
            Given::Unreadable(_) => return None,
            Given::Value(written) => self.listen(written)?,
        };
        let at = raw.listen.place().cloned().unwrap_or_else(|| raw.at.absent("listen"));
        let default = raw.listen.place().is_none();
        self.ports.push(PortClaim {
            port: listen.port(),
            listen: Some(listen.ip()),
            at,
            default,
            instances: 1,
        });
        Some(FrontSettings::Builtin {
            listen,
            request_timeout: self.positive(&raw.request_timeout, defaults::EXCHANGE_TIMEOUT),
            response_timeout: self.positive(&raw.response_timeout, defaults::EXCHANGE_TIMEOUT),
        })
    }

    fn listen(&mut self, written: &Written<String>) -> Option<SocketAddr> {
        let text = written.value.as_str();
        let hint = match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((_, Ok(0))) => "write a port of 1 to 65535".to_owned(),
            Some(("" | "*", Ok(port))) => {
                format!("write \"0.0.0.0:{port}\" (every address) or \"127.0.0.1:{port}\"")
            }
            Some(("localhost", Ok(port))) => format!("write \"127.0.0.1:{port}\""),
            _ => match text.parse::<u16>() {
                Ok(port) => format!("write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every address"),
                Err(_) => "write an IP address and a port, such as \"0.0.0.0:80\" or \"[::]:80\"".to_owned(),
            },
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Some(address),
            _ => {
                self.notes.error(&written.at, format!("is no address to listen on: {text:?}"), hint);
                None
            }
        }
    }

    fn nginx(&mut self, raw: &RawFront, name: &AppName) -> NginxSettings {
        let hint = "nginx listens as its own server block says; leave it out";
        self.refuse([raw.listen.place()], "has no effect with the nginx front", hint);
        let hint = "nginx has its own limits: client_body_timeout, and proxy_read_timeout and its like";
        self.refuse(of_builtin(raw), "has no effect with the nginx front", hint);
        let hint = "write type = \"haproxy\", or leave it out";
        self.refuse(of_haproxy(raw), "has no effect with the nginx front", hint);
        let upstream = self.upstream(&raw.upstream).unwrap_or_else(|| defaults::nginx_upstream(name));
        let file = self.nginx_file(&raw.file).unwrap_or_else(|| defaults::nginx_file(name));
        self.claim("upstream", &upstream, &raw.upstream, raw.at.absent("upstream"));
        self.claim("file", &file.display().to_string(), &raw.file, raw.at.absent("file"));
        NginxSettings {
            upstream,
            file,
            test: self
                .argv((&raw.test, "test"))
                .unwrap_or_else(|| defaults::NGINX_TEST.map(str::to_owned).to_vec()),
            reload: self
                .argv((&raw.reload, "reload"))
                .unwrap_or_else(|| defaults::NGINX_RELOAD.map(str::to_owned).to_vec()),
            pid_file: self.host_path(&raw.pid_file).unwrap_or_else(|| defaults::NGINX_PID_FILE.into()),
        }
    }

    fn haproxy(&mut self, raw: &RawFront, name: &AppName) -> HaproxySettings {
        let hint = "haproxy listens as its own frontend says; leave it out";
        self.refuse([raw.listen.place()], "has no effect with the haproxy front", hint);
        let hint = "haproxy has its own limits: timeout client and timeout server";
        self.refuse(of_builtin(raw), "has no effect with the haproxy front", hint);
        let hint = "write type = \"nginx\", or leave it out";
        self.refuse(of_nginx(raw), "has no effect with the haproxy front", hint);
        let socket = self.host_path(&raw.socket).unwrap_or_else(|| defaults::HAPROXY_SOCKET.into());
        let backend = self.haproxy_name(raw.backend.value(), "backend");
        let backend = backend.unwrap_or_else(|| defaults::haproxy_backend(name));
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
        let [blue, green] = defaults::HAPROXY_SERVERS.map(str::to_owned);
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

    /// A name as HAProxy allows it: nothing in it can end a command of its socket.
    fn haproxy_name(&mut self, written: Option<&Written<String>>, what: &str) -> Option<String> {
        let written = written?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if written.value.is_empty() || !written.value.chars().all(fits) {
            let said = format!("is no name of a {what}: {:?}", written.value);
            self.notes.error(&written.at, said, "letters, digits, `-`, `_`, `.` and `:`, as in haproxy.cfg");
            return None;
        }
        Some(written.value.clone())
    }

    /// Remembers a name of the front, unless it only stands in for a wrong one.
    fn claim(&mut self, what: &'static str, value: &str, given: &Given<String>, absent: Place) {
        let at = match given {
            Given::Absent => absent,
            Given::Unreadable(_) => return,
            Given::Value(written) => written.at.clone(),
        };
        self.names.push(NameClaim { what, value: value.to_owned(), at });
    }

    fn upstream(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let inner = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let fits = written.value.chars().all(inner)
            && written.value.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !fits {
            let what = format!("is no name of an upstream: {:?}", written.value);
            self.notes.error(&written.at, what, "letters, digits, `-`, `_` and `.`, such as \"shop\"");
        }
        fits.then(|| written.value.clone())
    }

    /// A file of its own: whatever else stood there would be gone.
    fn nginx_file(&mut self, given: &Given<String>) -> Option<std::path::PathBuf> {
        let path = self.written_file(given)?;
        let at = given.place()?;
        let hint =
            "a file that bgd alone writes and nginx.conf includes, such as /etc/nginx/conf.d/bgd-shop.conf";
        if path.file_name().is_some_and(|name| name == "nginx.conf") {
            self.notes.error(at, "is nginx's own configuration, which bgd would replace", hint);
            return None;
        }
        let below_pattern = path.parent().is_some_and(|dir| dir.ends_with("conf.d"));
        if below_pattern && path.extension().is_none_or(|extension| extension != "conf") {
            self.notes.warn(
                at,
                "does not end in .conf: `include conf.d/*.conf` of nginx.conf passes it over",
                hint,
            );
        }
        Some(path)
    }

    /// A file that bgd shall write.
    fn written_file(&mut self, given: &Given<String>) -> Option<std::path::PathBuf> {
        let path = self.host_path(given)?;
        let written = given.value()?;
        if written.value.ends_with('/') || path.file_name().is_none() {
            self.notes.error(&written.at, "is a directory, not a file", "name the file that bgd shall write");
            return None;
        }
        Some(path)
    }

    /// A command as a list; `None` when it is absent or wrong.
    fn argv(&mut self, (given, key): (&Given<Vec<Written<String>>>, &str)) -> Option<Vec<String>> {
        let list = given.value()?;
        let Some(first) = list.value.first() else {
            self.notes.error(
                &list.at,
                "is empty",
                "the first element is the program, the others its arguments",
            );
            return None;
        };
        self.filled(first, "the first element is the program").then_some(())?;
        self.no_shell_reads(&list.value, key);
        Some(list.value.iter().map(|word| word.value.clone()).collect())
    }
}

/// The keys that only the builtin front has, but for `listen`.
fn of_builtin(raw: &RawFront) -> [Option<&Place>; 2] {
    [raw.request_timeout.place(), raw.response_timeout.place()]
}

/// The keys that only the nginx front has.
fn of_nginx(raw: &RawFront) -> [Option<&Place>; 5] {
    [raw.upstream.place(), raw.file.place(), raw.test.place(), raw.reload.place(), raw.pid_file.place()]
}

/// The keys that only the haproxy front has.
fn of_haproxy(raw: &RawFront) -> [Option<&Place>; 4] {
    [raw.socket.place(), raw.backend.place(), raw.servers.place(), raw.state_file.place()]
}
