//! Parses a remote, and resolves a submodule's URL against it. Used before a connection is made, for host keys,
//! credentials and local shortcuts. Pure.

use std::path::PathBuf;

/// Where a remote is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// Over ssh.
    Ssh {
        /// Host in lower case, without brackets.
        host: String,
        /// 22 unless given.
        port: u16,
    },
    /// Over http, https, git or anything else with a URL.
    Url {
        /// Scheme in lower case, such as `https`.
        scheme: String,
        /// Host and, if given, port; lower case.
        authority: String,
    },
}

/// Reads a remote as git does: URL, `user@host:path`, or a path.
pub fn location(remote: &str) -> Location {
    if let Some((scheme, rest)) = remote.split_once("://") {
        return url_location(&scheme.to_ascii_lowercase(), rest);
    }
    match scp_host(remote) {
        Some(host) => Location::Ssh { host: host.to_ascii_lowercase(), port: 22 },
        None => Location::Local(PathBuf::from(remote)),
    }
}

/// The parts of a remote that are passed to ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    /// Login name, if the remote has one.
    pub user: Option<String>,
    /// Host as written, without brackets.
    pub host: String,
    /// Port, if the remote has one.
    pub port: Option<u16>,
    /// Path on the server; may begin with `~`.
    pub path: String,
}

/// The parts of a remote over ssh; `None` for any other.
pub fn ssh_address(remote: &str) -> Option<SshAddress> {
    if !matches!(location(remote), Location::Ssh { .. }) {
        return None;
    }
    let Some((_, rest)) = remote.split_once("://") else {
        let (before, path) = remote.split_once(':')?;
        let (user, host) = before.rsplit_once('@').map_or((None, before), |(user, host)| (Some(user), host));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        return Some(SshAddress { user: user.map(str::to_owned), host, port: None, path: path.to_owned() });
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (host, port) = host_and_port(host);
    let path = percent_decoded(path).to_string_lossy().into_owned();
    let path = if path.starts_with("/~") { path[1..].to_owned() } else { path };
    let user = user.map(|user| user.split(':').next().unwrap_or(user));
    let user = user.map(|user| percent_decoded(user).to_string_lossy().into_owned());
    Some(SshAddress { user, host, port, path })
}

/// Host and port of a remote over https.
pub fn https_address(remote: &str) -> Option<(String, u16)> {
    match location(remote) {
        Location::Url { scheme, authority } if scheme == "https" => {
            let (host, port) = host_and_port(&authority);
            Some((host, port.unwrap_or(443)))
        }
        _ => None,
    }
}

/// Splits a remote over plain http into user name and password, if it has both, and the URL without them.
pub fn plain_http(remote: &str) -> Option<(Option<(String, String)>, String)> {
    if !matches!(location(remote), Location::Url { scheme, .. } if scheme == "http") {
        return None;
    }
    let (_, rest) = remote.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let decoded = |text: &str| percent_decoded(text).to_string_lossy().into_owned();
    let login = user_info.split_once(':').map(|(user, password)| (decoded(user), decoded(password)));
    Some((login, format!("http://{host}{path}")))
}

/// The user name in a URL, if there is one.
pub fn user_of(remote: &str) -> Option<String> {
    let (_, rest) = remote.split_once("://")?;
    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
    let user = user.split(':').next().filter(|user| !user.is_empty())?;
    Some(percent_decoded(user).to_string_lossy().into_owned())
}

fn url_location(scheme: &str, rest: &str) -> Location {
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.rsplit('@').next().unwrap_or(authority).to_ascii_lowercase();
    match scheme {
        "file" => Location::Local(percent_decoded(path)),
        "ssh" | "git+ssh" | "ssh+git" => {
            let (host, port) = host_and_port(&authority);
            Location::Ssh { host, port: port.unwrap_or(22) }
        }
        _ => Location::Url { scheme: scheme.to_owned(), authority },
    }
}

/// The host of `user@host:path`; a slash before the colon makes it a path.
fn scp_host(remote: &str) -> Option<&str> {
    let (before, _) = remote.split_once(':')?;
    if before.is_empty() || before.contains('/') {
        return None;
    }
    let host = before.rsplit('@').next()?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

fn host_and_port(authority: &str) -> (String, Option<u16>) {
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host.to_owned(), rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().ok()),
        None => (authority.to_owned(), None),
    }
}

fn percent_decoded(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Why bgd refuses a submodule's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It has more `..` than the parent's URL has parts.
    #[error("its relative url leads out of the remote")]
    TooFarUp,
    /// A remote repository may not make bgd read this machine's files.
    #[error("its url is a path on this machine, and the remote is not")]
    Local,
}

/// The URL of a submodule, as git resolves it beside the parent's.
pub fn submodule_url(parent: &str, url: &str) -> Result<String, BadUrl> {
    if !(url.starts_with("./") || url.starts_with("../")) {
        let local = |remote: &str| matches!(location(remote), Location::Local(_));
        return if local(url) && !local(parent) { Err(BadUrl::Local) } else { Ok(url.to_owned()) };
    }
    let floor = fixed_prefix(parent);
    let mut base = parent.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else if let Some(next) = rest.strip_prefix("../") {
            rest = next;
            let cut = base.rfind(['/', ':']).filter(|cut| *cut + 1 >= floor).ok_or(BadUrl::TooFarUp)?;
            let keep = if base.as_bytes()[cut] == b':' { cut + 1 } else { cut };
            if keep == base.len() {
                return Err(BadUrl::TooFarUp);
            }
            base.truncate(keep);
        } else {
            break;
        }
    }
    let glue = if base.ends_with(':') { "" } else { "/" };
    Ok(format!("{base}{glue}{rest}"))
}

/// Length in bytes of the part that `..` can't remove: scheme and host, or the host of the scp form.
fn fixed_prefix(remote: &str) -> usize {
    match remote.find("://") {
        Some(at) => remote[at + 3..].find('/').map_or(remote.len(), |slash| at + 3 + slash),
        None => scp_host(remote).and_then(|_| remote.find(':')).map_or(0, |colon| colon + 1),
    }
}

/// Whether two remotes are on the same server, so that the credentials of one may be sent to the other.
pub fn same_server(one: &str, other: &str) -> bool {
    let (one, other) = (location(one), location(other));
    one == other && !matches!(one, Location::Local(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(host: &str, port: u16) -> Location {
        Location::Ssh { host: host.into(), port }
    }

    #[test]
    fn remotes_are_read_as_git_reads_them() {
        assert_eq!(location("/srv/x.git"), Location::Local("/srv/x.git".into()));
        assert_eq!(location("./a:b"), Location::Local("./a:b".into()));
        assert_eq!(location("file:///srv/a%20b%.git"), Location::Local("/srv/a b%.git".into()));
        assert_eq!(location("file://localhost/srv/x"), Location::Local("/srv/x".into()));
        assert_eq!(location("git@Example.com:acme/x.git"), ssh("example.com", 22));
        assert_eq!(location("ssh://git@h:2222/x"), ssh("h", 2222));
        assert_eq!(location("ssh://git@[::1]:2222/x"), ssh("::1", 2222));
        assert_eq!(
            location("HTTPS://me:pw@Host:8443/x"),
            Location::Url { scheme: "https".into(), authority: "host:8443".into() }
        );
    }

    #[test]
    fn b6_relative_submodule_urls_are_resolved_against_the_remote() {
        for (parent, url, want) in [
            ("https://h/a/shop.git", "../lib.git", Ok("https://h/a/lib.git")),
            ("https://h/a/shop.git/", "../../b/lib", Ok("https://h/b/lib")),
            ("https://h/a", "../../x", Err(BadUrl::TooFarUp)),
            ("git@h:acme/shop.git", "../lib.git", Ok("git@h:acme/lib.git")),
            ("git@h:shop.git", "../lib.git", Ok("git@h:lib.git")),
            ("git@h:shop.git", "../../lib.git", Err(BadUrl::TooFarUp)),
            ("/srv/shop.git", "../lib.git", Ok("/srv/lib.git")),
            ("/srv/shop.git", "./lib.git", Ok("/srv/shop.git/lib.git")),
            ("https://h/a", "/etc/x", Err(BadUrl::Local)),
            ("https://h/a", "file:///etc/x", Err(BadUrl::Local)),
            ("/srv/a", "/srv/b", Ok("/srv/b")),
            ("https://h/a", "https://other/x", Ok("https://other/x")),
        ] {
            assert_eq!(submodule_url(parent, url), want.map(str::to_owned), "{parent} {url}");
        }
    }

    #[test]
    fn what_ssh_is_told_is_what_git_tells_it() {
        for (remote, user, host, port, path) in [
            ("git@H.example:acme/x.git", Some("git"), "H.example", None, "acme/x.git"),
            ("alias:x", None, "alias", None, "x"),
            ("ssh://me@h:2222/srv/a%20b", Some("me"), "h", Some(2222), "/srv/a b"),
            ("ssh://h/~me/x", None, "h", None, "~me/x"),
            ("ssh://[::1]:22/x", None, "::1", Some(22), "/x"),
        ] {
            let found = ssh_address(remote).unwrap();
            assert_eq!(
                (found.user.as_deref(), found.host.as_str(), found.port),
                (user, host, port),
                "{remote}"
            );
            assert_eq!(found.path, path);
        }
        assert_eq!(ssh_address("https://h/x"), None);
        assert_eq!(user_of("https://gitlab+deploy-token-42@h/x").as_deref(), Some("gitlab+deploy-token-42"));
        assert_eq!(user_of("https://a%40b:pw@h/x").as_deref(), Some("a@b"));
        assert_eq!(user_of("https://h/a@b"), None);
    }

    #[test]
    fn l1_credentials_go_to_the_server_of_the_remote_alone() {
        assert!(same_server("https://tok@h/a", "https://h/b"));
        assert!(!same_server("https://h/a", "http://h/b"), "a token is not sent in the clear");
        assert!(!same_server("https://h/a", "https://h.evil/b"));
        assert!(!same_server("https://h/a", "https://h:8443/b"));
        assert!(same_server("git@h:a", "ssh://git@h/b"));
    }
}
