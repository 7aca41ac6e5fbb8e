//! `[app.NAME.front]` with `type = "nginx"`: an existing nginx.

use std::path::{Path, PathBuf};

use super::{
    Table as _,
    front::{FrontKind, FrontSettings, RawFront},
    protocol::Protocol,
};
use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    os::unix::is_plain,
    rules::ids::AppName,
};

table! {
    /// The keys of the nginx front.
    RawNginx {
        upstream: String,
        file: String,
        test: Vec<Written<String>>,
        reload: Vec<Written<String>>,
        pid_file: String,
    }
}

pub(super) const KIND: FrontKind = FrontKind {
    name: "nginx",
    written: |raw| raw.nginx.written(),
    own_way: |key| match key {
        "listen" => Some("nginx listens as its own server block says; leave it out"),
        "request_timeout" | "response_timeout" => {
            Some("nginx has its own limits: client_body_timeout, and proxy_read_timeout and its like")
        }
        _ => None,
    },
    judge: |judge, raw, app| Some(FrontSettings::Nginx(judge.nginx(raw, app))),
};

const TEST: [&str; 2] = ["nginx", "-t"];
const RELOAD: [&str; 3] = ["nginx", "-s", "reload"];
const PID_FILE: &str = "/run/nginx.pid";

/// The default include file of an app.
fn usual_file(app: &AppName) -> PathBuf {
    PathBuf::from(format!("/etc/nginx/conf.d/bgd-{app}.conf"))
}

/// An existing nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxSettings {
    /// Name of the upstream block.
    pub upstream: String,
    /// The include file, which only bgd writes.
    pub file: PathBuf,
    /// Command that validates the configuration.
    pub test: Vec<String>,
    /// Command that reloads nginx.
    pub reload: Vec<String>,
    /// The master's pid file.
    pub pid_file: PathBuf,
}

impl NginxSettings {
    /// The symlink beside the include file to the live socket of an app that listens on sockets. Its name begins with a
    /// dot, so that no `include` pattern matches it.
    pub fn link(&self) -> PathBuf {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        self.file.with_file_name(format!(".{name}.live"))
    }

    /// The longest path in the include file that uses the link, with this number of instances.
    pub fn longest_link(&self, instances: u16) -> PathBuf {
        match instances {
            1 => self.link(),
            several => format!("{}-{several}/{several}", self.link().display()).into(),
        }
    }
}

/// The hint for an app with another protocol than HTTP.
pub(super) fn way_to_speak(protocol: Protocol) -> String {
    let pass = match protocol {
        Protocol::Http => "proxy_pass",
        Protocol::FastCgi => "fastcgi_pass",
        Protocol::Uwsgi => "uwsgi_pass",
    };
    format!("write front.type = \"nginx\", whose site says {pass}")
}

/// bgd's include has addresses alone.
pub(super) const NO_SITE: (&str, &str) = (
    "needs the builtin front, which nginx may pass requests on to",
    "take front.type = \"nginx\" out, and write `proxy_pass http://127.0.0.1:8080;` into the site",
);

/// Why a path can't be in bgd's include file, where it is an unquoted word of nginx's configuration.
pub(super) fn unnameable(path: &Path) -> Option<(String, &'static str)> {
    let what = || format!("can't be named in nginx's configuration: {}", path.display());
    let hint = "choose directories whose names have letters, digits and . _ - + @ alone";
    (!is_plain(path)).then(|| (what(), hint))
}

impl Judge<'_> {
    fn nginx(&mut self, raw: &RawFront, app: &AppName) -> NginxSettings {
        let raw = &raw.nginx;
        let upstream = self.upstream(&raw.upstream).unwrap_or_else(|| app.to_string());
        let file = self.nginx_file(&raw.file).unwrap_or_else(|| usual_file(app));
        self.claim("upstream", &upstream, &raw.upstream, raw.at.absent("upstream"));
        self.claim("file", &file.display().to_string(), &raw.file, raw.at.absent("file"));
        NginxSettings {
            upstream,
            file,
            test: self.argv((&raw.test, "test")).unwrap_or_else(|| TEST.map(str::to_owned).to_vec()),
            reload: self.argv((&raw.reload, "reload")).unwrap_or_else(|| RELOAD.map(str::to_owned).to_vec()),
            pid_file: self.host_path(&raw.pid_file).unwrap_or_else(|| PID_FILE.into()),
        }
    }

    fn upstream(&mut self, given: &Given<String>) -> Option<String> {
        let inner = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let name = |text: &str| {
            let fits = text.chars().all(inner) && text.starts_with(|c: char| c.is_ascii_alphanumeric());
            fits.then(|| text.to_owned())
        };
        let hint = "letters, digits, `-`, `_` and `.`, such as \"shop\"";
        self.text(given, name, "is not an upstream name", hint)
    }

    /// The include file, which only bgd may write: it replaces the whole file.
    fn nginx_file(&mut self, given: &Given<String>) -> Option<PathBuf> {
        let path = self.written_file(given)?;
        let at = given.span()?;
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

    /// A command as a list; `None` if it is absent or wrong.
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

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("front.upstream = \"x\"", "4 app.shop.front.upstream", "no effect with the builtin front"),
        (
            "front = { type = \"nginx\", listen = \"[::]:80\" }",
            "4 app.shop.front.listen",
            "no effect with the nginx front",
        ),
        (
            "front = { type = \"nginx\", upstream = \"a;b\" }",
            "4 app.shop.front.upstream",
            "not an upstream name",
        ),
        ("front = { type = \"nginx\", file = \"/etc/\" }", "4 app.shop.front.file", "is a directory"),
        (
            "front = { type = \"nginx\", file = \"/etc/nginx/nginx.conf\" }",
            "4 app.shop.front.file",
            "nginx's own configuration",
        ),
        ("front = { type = \"nginx\", test = [] }", "4 app.shop.front.test", "is empty"),
        ("front = { type = \"nginx\", reload = \"x\" }", "4 app.shop.front.reload", "expected a list"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn two_apps_cannot_have_the_same_upstream_or_file_of_nginx() {
        let nginx = "front = { type = \"nginx\", upstream = \"u\", file = \"/n/./x.conf\" }\n";
        let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\nports = [1, 2]\n";
        let found = errors(&format!("{}{blog}{}", with(nginx), nginx.replace("./", "")));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found[1].contains("upstream \"u\" is used twice, first by app.shop.front.upstream (bgd.toml:4)"),
            "{found:#?}"
        );
        assert!(found[0].contains("file \"/n/x.conf\" is used twice"), "{found:#?}");
    }
}
