//! Where an app comes from: remote, branch, the credentials that fit them, and whose commits are deployed.

use std::path::PathBuf;

use super::{Holds, Judge, NamedFile, misspelt};
use crate::config::{
    defaults,
    problem::Place,
    raw::{RawAuth, RawVerify},
    read::Given,
    settings::{Auth, Verify, VerifyRange},
};

/// How git reaches a remote; decides which credentials make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Https,
    Http,
    Ssh,
    /// The git protocol, which knows no credentials.
    Git,
    Local,
}

/// A checked remote.
#[derive(Debug)]
pub(super) struct Remote {
    pub url: String,
    pub transport: Transport,
}

const SCHEMES: [(&str, Transport); 7] = [
    ("https", Transport::Https),
    ("http", Transport::Http),
    ("ssh", Transport::Ssh),
    ("git+ssh", Transport::Ssh),
    ("ssh+git", Transport::Ssh),
    ("git", Transport::Git),
    ("file", Transport::Local),
];

const EXAMPLES: &str =
    "https://host/path.git, ssh://git@host/path.git, git@host:path.git, or a path of this host";

impl Judge<'_> {
    /// The remote of the app at `app`; `None` when it is missing or wrong.
    pub(super) fn remote(&mut self, given: &Given<String>, app: &Place) -> Option<Remote> {
        if given.place().is_none() {
            self.notes.error(&app.absent("remote"), "is required", format!("write {EXAMPLES}"));
        }
        let written = given.value()?;
        self.filled(written, EXAMPLES).then_some(())?;
        let (text, at) = (written.value.trim(), &written.at);
        if let Some(wrong) = misspelt::judge(text) {
            self.notes.error(at, wrong.what, wrong.hint);
            return None;
        }
        let is_path = text.starts_with(['/', '.']);
        let odd = |c: char| c.is_control() || c == ' ' && !is_path;
        if text.starts_with('-') || text.contains(odd) {
            self.notes.error(at, "is no address that git fetches", EXAMPLES);
            return None;
        }
        match text.split_once("://") {
            Some((scheme, rest)) => self.remote_url(scheme, rest, at),
            None if is_scp(text) => {
                if let Some(odd) = misspelt::port_as_path(text) {
                    self.notes.warn(at, odd.what, odd.hint);
                }
                Some(Remote { url: text.trim_end_matches('/').to_owned(), transport: Transport::Ssh })
            }
            None => {
                let path = self.resolve(text, at)?;
                let Some(url) = path.to_str() else {
                    self.notes.error(
                        at,
                        format!("is not UTF-8 in full: {path:?}"),
                        "move it, or the configuration",
                    );
                    return None;
                };
                let url = url.to_owned();
                self.look_for_repository(path, at, !is_path && misspelt::begins_with_a_host(text));
                Some(Remote { url, transport: Transport::Local })
            }
        }
    }

    /// That a repository is at the path is for somebody with a file system to see.
    fn look_for_repository(&mut self, path: PathBuf, at: &Place, like_a_host: bool) {
        self.named_files.push(NamedFile { path, at: at.clone(), holds: Holds::Repository { like_a_host } });
    }

    fn remote_url(&mut self, scheme: &str, rest: &str, at: &Place) -> Option<Remote> {
        let known = SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name));
        let Some((_, transport)) = known else {
            let what = format!("is no address that git fetches: {:?}", format!("{scheme}://…"));
            self.notes.error(at, what, EXAMPLES);
            return None;
        };
        let host = rest.split('/').next().unwrap_or_default();
        let bare = host.rsplit_once('@').map_or(host, |(_, bare)| bare);
        match transport {
            Transport::Local if !rest.starts_with('/') => {
                self.notes.error(at, "file:// without an absolute path", "write file:///srv/git/shop.git");
                return None;
            }
            Transport::Local => {
                self.look_for_repository(PathBuf::from(rest), at, false);
                return Some(Remote { url: format!("{scheme}://{rest}"), transport: *transport });
            }
            _ if bare.is_empty() || bare.starts_with(['-', ':']) => {
                self.notes.error(at, "names no host", EXAMPLES);
                return None;
            }
            _ if host.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) => {
                let hint = "put it into a file that only bgd reads, and name that in auth.token_file";
                self.notes.warn(at, "holds a password", hint);
            }
            _ => {}
        }
        // Servers take a second slash before git's own part of the path for another one.
        let rest = rest.trim_end_matches('/');
        Some(Remote { url: format!("{scheme}://{rest}"), transport: *transport })
    }

    /// The branch, without `refs/heads/`.
    pub(super) fn branch(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let (name, at) = (written.value.as_str(), &written.at);
        if let Some(short) = name.strip_prefix("refs/heads/") {
            self.notes.error(at, "is a whole ref, not a branch", format!("write {short:?}"));
            return None;
        }
        if name.starts_with("refs/") {
            let hint =
                "a branch is what is pushed to, such as \"main\"; `bgd deploy --rev` takes a tag or a commit";
            self.notes.error(at, format!("is a whole ref, not a branch: {name:?}"), hint);
            return None;
        }
        if let Some(short) = name.strip_prefix("origin/") {
            let what = "looks like a branch of a clone, whose remote is called origin";
            self.notes.warn(at, what, format!("write {short:?}"));
        }
        if name.len() == 40 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
            let hint = "write the branch, such as \"main\"; `bgd deploy --rev` takes a commit";
            self.notes.warn(at, "looks like a commit, not a branch", hint);
        }
        self.filled(written, "write a branch, such as \"main\"").then_some(())?;
        if !is_branch(name) {
            self.notes.error(
                at,
                format!("is no name of a branch: {name:?}"),
                "see `git check-ref-format --help`",
            );
            return None;
        }
        Some(name.to_owned())
    }

    /// Credentials; each must fit the remote, if that is known.
    pub(super) fn auth(&mut self, raw: &RawAuth, transport: Option<Transport>) -> Auth {
        let ssh = [raw.ssh_key.place(), raw.known_hosts.place()];
        let http = [raw.ca_file.place(), raw.proxy.place()];
        match transport {
            Some(Transport::Https) => self.refuse(ssh, "is for ssh, but the remote is https", TOKEN),
            Some(Transport::Http) => {
                self.refuse(ssh, "is for ssh, but the remote is http", TOKEN);
                self.refuse(
                    [raw.ca_file.place()],
                    "is for https, but the remote is http",
                    "leave it out, or use https",
                );
                if let Some(at) = raw.token_file.place() {
                    self.notes.warn(at, "the token travels unencrypted over http", "use https");
                }
            }
            Some(Transport::Ssh) => {
                let hint = "use auth.ssh_key, or an https remote";
                self.refuse([raw.token_file.place()], "is for https, but the remote is ssh", hint);
                let hint =
                    "leave it out, or use an https remote; ssh's own way out is ProxyJump in ~/.ssh/config";
                self.refuse(http, "is for https, but the remote is ssh", hint);
            }
            Some(Transport::Git | Transport::Local) => {
                let all = ssh.into_iter().chain([raw.token_file.place()]);
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

impl Judge<'_> {
    /// Whose commits are deployed; a table that names nobody would look like a check and be none.
    pub(super) fn verify(&mut self, given: Given<RawVerify>) -> Option<Verify> {
        let raw = given.into_value()?.value;
        if raw.signers.place().or(raw.keyring.place()).is_none() {
            let hint = "write signers = \"allowed_signers\" (SSH keys), keyring = \"keyring.gpg\" (GPG keys), or both";
            self.notes.error(&raw.at, "names nobody to trust", hint);
        }
        Some(Verify {
            signers: self.host_file(&raw.signers, Holds::Plain),
            keyring: self.host_file(&raw.keyring, Holds::Plain),
            range: self.verify_range(&raw.range),
        })
    }

    fn verify_range(&mut self, given: &Given<String>) -> VerifyRange {
        match given.value().map(|written| (written.value.as_str(), &written.at)) {
            None => defaults::VERIFY_RANGE,
            Some(("tip", _)) => VerifyRange::Tip,
            Some(("all", _)) => VerifyRange::All,
            Some((other, at)) => {
                let hint = "\"tip\": the commit that is deployed; \"all\": every new commit";
                self.notes.error(at, format!("is no range: {other:?}"), hint);
                defaults::VERIFY_RANGE
            }
        }
    }
}

const TOKEN: &str = "use auth.token_file, or an ssh remote such as git@host:path.git";

/// `host:path` as git reads it: a colon before the first slash.
fn is_scp(text: &str) -> bool {
    text.split('/').next().is_some_and(|first| first.find(':').is_some_and(|at| at > 0))
}

/// The rules of `git check-ref-format --branch`.
fn is_branch(name: &str) -> bool {
    let part_ok = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let bad_char = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    name.split('/').all(part_ok)
        && !name.contains(bad_char)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && !name.starts_with('-')
        && name != "@"
        && name != "HEAD"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_follow_the_rules_of_git() {
        for good in ["main", "rel/x", "feature-1", "ünï", "v1.2", "a@b"] {
            assert!(is_branch(good), "{good}");
        }
        for bad in
            ["", "-x", "a..b", "a b", "x.lock", "a/.b", "a//b", "/a", "a/", "@", "a@{1}", "a~1", "HEAD", "a."]
        {
            assert!(!is_branch(bad), "{bad}");
        }
    }

    #[test]
    fn a_colon_before_the_first_slash_is_ssh() {
        for scp in ["git@host:acme/shop.git", "host:shop", "host:/abs"] {
            assert!(is_scp(scp), "{scp}");
        }
        for path in ["/srv/a:b", "./a:b", "shop.git", ":x", "../x"] {
            assert!(!is_scp(path), "{path}");
        }
    }
}
