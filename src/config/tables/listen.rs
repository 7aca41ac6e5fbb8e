//! `listen`: whether the instances of an app listen on ports or on unix sockets, and the checks that depend on it: the
//! length of a socket's path, the placeholder of the address, and the paths that the front supports.

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
    Sockets(AppSockets),
}

/// The unix sockets of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSockets {
    /// Their directory, absolute; for this app only.
    pub directory: PathBuf,
}

impl AppSockets {
    /// The socket of a color.
    pub fn of(&self, color: Color) -> PathBuf {
        self.directory.join(format!("{color}.sock"))
    }

    /// The longest path of a socket with this number of instances.
    pub fn longest(&self, instances: u16) -> PathBuf {
        socket_of(&self.of(Color::Green), instances.saturating_sub(1))
    }
}

impl From<&AppSockets> for Addresses {
    fn from(sockets: &AppSockets) -> Self {
        let of = |color| Address::Socket(sockets.of(color));
        Self { blue: of(Color::Blue), green: of(Color::Green), each: 1 }
    }
}

/// Directory below the runtime directory for the sockets that the apps bind.
const SOCKETS_OF_APPS: &str = "a";

/// The placeholder and variable of an address kind that the app does not use.
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
    /// Checks `listen`; call it before parts of `raw` are taken.
    pub(super) fn app_listen(&mut self, raw: &RawApp, name: &AppName) -> Listen {
        let words = [("tcp", false), ("unix", true)];
        let hint = |word: &str| {
            meant(word, &["tcp", "unix"], "use \"tcp\" or \"unix\"; the public address is `front.listen`")
        };
        let unix = match self.word(&raw.listen, &words, "is not a way to listen", hint) {
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
        let sockets = AppSockets { directory: self.runtime_dir.join(SOCKETS_OF_APPS).join(name.as_str()) };
        Listen::Sockets(sockets)
    }

    /// Warns of texts that use an address of the other kind, which no instance has.
    fn stands_for_nothing(&mut self, raw: &RawApp, other: &Other) {
        let Other { placeholder, variable, hint } = other;
        let commands = raw.commands();
        for (at, text) in commands.iter().copied().chain(raw.values()) {
            if text.contains(placeholder) {
                self.notes.error(at, format!("has {placeholder}, which stands for nothing here"), *hint);
            }
        }
        for (at, text) in raw.worker_commands() {
            let other = if other.placeholder == PORT.placeholder { &SOCKET } else { &PORT };
            if text.contains(other.placeholder) {
                let what = format!("has {}, which stands for nothing here", other.placeholder);
                self.notes.error(at, what, "a worker has no port and no socket");
            }
        }
        let own = if *placeholder == PORT.placeholder { SOCKET.placeholder } else { PORT.placeholder };
        for (at, _) in raw.cron_commands().into_iter().filter(|(_, text)| text.contains(own)) {
            let what = format!("has {own}, which stands for nothing here");
            self.notes.error(at, what, "a scheduled command has no port and no socket");
        }
        // Set in `env`, the variable is the app's own.
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

    /// Notes paths that are too long: of a socket, or of the link through which the front reaches it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    #[test]
    fn an_app_on_sockets_has_one_for_each_color_below_the_runtime_directory() {
        let app = shop(&with("listen = \"unix\"\nbuild = [\"make {socket}\"]\nenv.SOCKET = \"{socket}\""));
        assert_eq!(app.listen, Listen::Sockets(AppSockets { directory: "/run/bgd/a/shop".into() }));
        assert_eq!(app.address_at(Color::Green, 0), Address::Socket("/run/bgd/a/shop/green.sock".into()));
        let tcp = shop(&with("listen = \"tcp\"\nports = [9601, 9602]"));
        assert_eq!(
            (tcp.listen.clone(), tcp.address_at(Color::Blue, 0)),
            (Listen::Ports, Address::Port(9601))
        );
    }

    #[test]
    fn each_of_several_instances_has_a_socket_of_its_own() {
        let app = shop(&with("listen = \"unix\"\ninstances = 3"));
        let named = |name: &str| Address::Socket(format!("/run/bgd/a/shop/{name}.sock").into());
        let all: Vec<_> = app.addresses().all(Color::Green).collect();
        assert_eq!(all, [named("green"), named("green.2"), named("green.3")]);
        assert_eq!(app.addresses().color(&named("blue.3")), Some(Color::Blue));
    }

    #[test]
    fn apps_on_sockets_claim_no_ports() {
        let app = "remote = \"https://git.example.com/a.git\"\nstart = \"x\"\nlisten = \"unix\"\n";
        let both = format!("[app.shop]\n{app}[app.blog]\n{app}front.listen = \"127.0.0.1:8081\"\n");
        assert!(load(&both).is_ok(), "{:?}", load(&both));
    }

    #[test]
    fn what_does_not_fit_to_where_an_app_listens_is_refused() {
        let unix = |more: &str| errors(&with(&format!("listen = \"unix\"\n{more}")));
        assert_eq!(unix("ports = [9501, 9502]"), ["5 app.shop.ports: has no effect with listen = \"unix\""]);
        let lost = "has {port}, which stands for nothing here";
        assert_eq!(unix("build = [\"make\", \"make {port}\"]"), [format!("5 app.shop.build[1]: {lost}")]);
        assert_eq!(unix("env.A = \"{port}\""), [format!("5 app.shop.env.A: {lost}")]);
        assert_eq!(unix("stop = { command = \"x {port}\" }"), [format!("5 app.shop.stop.command: {lost}")]);
        assert_eq!(unix("hooks.after_live = \"x {port}\""), [format!("5 app.shop.hooks.after_live: {lost}")]);
        assert_eq!(unix("health.command = \"x {port}\""), [format!("5 app.shop.health.command: {lost}")]);
        let rewrite = unix("[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"b\"\nwith = \"{port}\"");
        assert_eq!(rewrite, [format!("8 app.shop.rewrite[0].with: {lost}")]);
        assert_eq!(unix("env.SOCKET = \"/x\""), ["5 app.shop.env.SOCKET: is set by bgd itself"]);
        let tcp = errors(&with("build = \"make {socket}\""));
        assert_eq!(tcp, ["4 app.shop.build: has {socket}, which stands for nothing here"]);
        let wrong = errors(&with("listen = \"0.0.0.0:80\""));
        assert_eq!(wrong, ["4 app.shop.listen: is not a way to listen: \"0.0.0.0:80\""]);
    }

    #[test]
    fn a_command_that_goes_by_the_address_of_the_other_kind_is_warned_of() {
        let app = |more: &str| format!("[app.shop]\nremote = \"/r\"\n{more}");
        // Without the warning of a weak health check.
        let found = |more: &str| -> Vec<String> {
            warnings(&app(more)).into_iter().filter(|said| !said.contains("health: weak")).collect()
        };
        let unix = "listen = \"unix\"\nstart = ";
        let said =
            |key: &str, variable: &str| [format!("app.shop.{key}: has {variable}, which is not set here")];
        assert_eq!(found(&format!("{unix}\"run --port $PORT\"")), said("start", "$PORT"));
        assert_eq!(
            found(&format!("{unix}[\"sh\", \"-c\", \"run ${{PORT:-3000}}\"]")),
            said("start[2]", "$PORT")
        );
        assert_eq!(found("start = \"run -u $SOCKET\""), said("start", "$SOCKET"));
        assert_eq!(
            found("start = \"x\"\nhealth.command = \"ask $SOCKET\""),
            said("health.command", "$SOCKET")
        );
        for fine in [
            &format!("{unix}\"run $SOCKET $PORTAL ${{PORT_OF_DB}} PORT\""),
            &format!("{unix}\"PORT=80; run $SOCKET $PORT\""),
            &format!("{unix}\"run $SOCKET $PORT\"\nenv.PORT = \"80\""),
            &format!("{unix}\"run $SOCKET $PORT\"\nenv_file = \"e\""),
            "start = \"run $PORT\"",
        ] {
            assert_eq!(found(fine), [""; 0], "{fine}");
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_or_nginx_can_not_be_told_is_refused() {
        let app = with("listen = \"unix\"\n");
        let long = format!("[daemon]\nruntime_dir = \"/run/{}\"\n{app}", "x".repeat(85));
        let found = errors(&long);
        assert!(found[0].contains("app.shop.listen: too long for a unix socket: 108 bytes"), "{found:?}");
        let fits = long.replace("xxx\"", "xx\"");
        assert!(load(&fits).is_ok(), "{:?}", load(&fits));
        assert!(errors(&(fits + "instances = 2\n"))[0].contains("109 bytes"), "of the last instance");
        let nginx = "[app.shop.front]\ntype = \"nginx\"\nupstream = \"shop\"\n";
        let blank = format!("{app}{nginx}file = \"/etc/my nginx/bgd.conf\"\n");
        let said = "app.shop.listen: can't be named in nginx's configuration: /etc/my nginx/.bgd.conf.live";
        assert!(errors(&blank)[0].ends_with(said), "{:?}", errors(&blank));
        assert!(load(&format!("{app}{nginx}")).is_ok());
        let three = errors(&blank.replace("\"unix\"\n", "\"unix\"\ninstances = 3\n"));
        assert!(three[0].ends_with("/etc/my nginx/.bgd.conf.live-3/3"), "{three:?}");
    }
}
