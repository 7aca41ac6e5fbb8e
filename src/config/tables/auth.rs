//! `[app.NAME.auth]`: credentials of the remote, each of which must fit its protocol.

use std::path::PathBuf;

use super::remote::Transport;
use crate::config::{
    judge::{Holds, Judge},
    read::Given,
};

table! {
    /// `[app.NAME.auth]`.
    RawAuth { ssh_key: String, known_hosts: String, token_file: String, ca_file: String, proxy: String }
}

/// Credentials and proxy of the remote; all `None` means the ssh agent and the user's own keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// File of known hosts; `None` means the user's and the system's files.
    pub known_hosts: Option<PathBuf>,
    /// File with a token for https.
    pub token_file: Option<PathBuf>,
    /// Certificates of authorities to trust for https besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The URL of the proxy for http and https.
    pub proxy: Option<String>,
}

const TOKEN: &str = "use auth.token_file, or an ssh remote such as git@host:path.git";

impl Judge<'_> {
    /// Checks the credentials; each must fit the remote's protocol, if that is known.
    pub(super) fn auth(&mut self, raw: &RawAuth, transport: Option<Transport>) -> Auth {
        let ssh = [raw.ssh_key.span(), raw.known_hosts.span()];
        let http = [raw.ca_file.span(), raw.proxy.span()];
        match transport {
            Some(Transport::Https) => self.refuse(ssh, "is for ssh, but the remote is https", TOKEN),
            Some(Transport::Http) => {
                self.refuse(ssh, "is for ssh, but the remote is http", TOKEN);
                self.refuse(
                    [raw.ca_file.span()],
                    "is for https, but the remote is http",
                    "leave it out, or use https",
                );
                if let Some(at) = raw.token_file.span() {
                    self.notes.warn(at, "the token travels unencrypted over http", "use https");
                }
            }
            Some(Transport::Ssh) => {
                let hint = "use auth.ssh_key, or an https remote";
                self.refuse([raw.token_file.span()], "is for https, but the remote is ssh", hint);
                let hint =
                    "leave it out, or use an https remote; ssh's own way out is ProxyJump in ~/.ssh/config";
                self.refuse(http, "is for https, but the remote is ssh", hint);
            }
            Some(Transport::Git | Transport::Local) => {
                let all = ssh.into_iter().chain([raw.token_file.span()]);
                self.refuse(
                    all,
                    "the remote takes no credentials",
                    "leave it out, or use an ssh or https remote",
                );
                self.refuse(
                    http,
                    "is for https, and the remote is not",
                    "leave it out, or use an https remote",
                );
            }
            None => {}
        }
        Auth {
            ssh_key: self.host_file(&raw.ssh_key, Holds::PrivateKey),
            known_hosts: self.host_file(&raw.known_hosts, Holds::Plain),
            token_file: self.host_file(&raw.token_file, Holds::Token),
            ca_file: self.host_file(&raw.ca_file, Holds::Authorities),
            proxy: self.proxy(&raw.proxy),
        }
    }

    fn proxy(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let (text, at) = (written.value.trim(), &written.at);
        let example = "write http://host:port";
        self.filled(written, example).then_some(())?;
        let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = rest else {
            let socks = text.starts_with("socks");
            let what = if socks { "SOCKS is not spoken" } else { "is not the URL of a proxy" };
            self.notes.error(at, what, example);
            return None;
        };
        let host = rest.trim_end_matches('/').rsplit('@').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') || host.contains(['/', ' ']) {
            self.notes.error(at, "is not the URL of a proxy", example);
            return None;
        }
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("auth.ssh_key = \"/k\"", "4 app.shop.auth.ssh_key", "is for ssh, but the remote is https"),
        ("auth.known_hosts = \"/k\"", "4 app.shop.auth.known_hosts", "is for ssh"),
        ("auth = \"x\"", "4 app.shop.auth", "expected a table, found a text"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
