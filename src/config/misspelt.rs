//! Finds misspelt remotes, which git would refuse or misread, by their text, and gives the right form in the hint.
//! Pure. Never repeats the user info of a URL.

use super::nearest::nearest;

/// A misspelt remote: the problem and the hint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misspelt {
    pub what: String,
    pub hint: String,
}

fn misspelt(what: impl Into<String>, hint: impl Into<String>) -> Option<Misspelt> {
    Some(Misspelt { what: what.into(), hint: hint.into() })
}

const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];
/// Path parts after the repository in the URL of a web page about it; GitLab's all begin with `-`.
const PAGES: [&str; 16] = [
    "-",
    "tree",
    "blob",
    "src",
    "raw",
    "commit",
    "commits",
    "branches",
    "tags",
    "releases",
    "pull",
    "pulls",
    "issues",
    "merge_requests",
    "actions",
    "settings",
];
/// The pages whose next path part is a branch.
const BRANCH_PAGES: [&str; 4] = ["tree", "blob", "raw", "commits"];

/// Finds an obvious mistake in the text of a remote.
pub(super) fn judge(text: &str) -> Option<Misspelt> {
    if text.contains('\\') {
        return misspelt("is not an address that git fetches: it holds a backslash", "write / instead");
    }
    if let Some(rest) = text.strip_prefix("git clone ") {
        return misspelt("is a command, not an address", format!("write {:?}", without_user(rest.trim())));
    }
    match text.split_once("://") {
        Some((scheme, rest)) => url(scheme, rest),
        None if text.starts_with(['/', '.', '~']) => None,
        None => short(text),
    }
}

/// A URL without its user info.
fn without_user(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
        }
        None => text.to_owned(),
    }
}

fn url(scheme: &str, rest: &str) -> Option<Misspelt> {
    let known = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if !known {
        return unknown_scheme(scheme, rest);
    }
    if scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    wrong_port(scheme, host, path).or_else(|| no_path(host, path)).or_else(|| page(scheme, host, path))
}

fn unknown_scheme(scheme: &str, rest: &str) -> Option<Misspelt> {
    let what =
        format!("is not an address that git fetches: {:?}", format!("{}://…", scheme.rsplit('@').next()?));
    let meant = match scheme.rsplit_once(['@', '+', ':', ' ', '<', '"', '\'']) {
        Some((_, inner)) if SCHEMES.contains(&inner) => Some(inner),
        _ => nearest(scheme, &SCHEMES),
    };
    meant.and_then(|meant| misspelt(what, format!("write {:?}", without_user(&format!("{meant}://{rest}")))))
}

/// A colon after the host that is not followed by a port: the form `host:path` in a URL.
fn wrong_port(scheme: &str, host: &str, path: &str) -> Option<Misspelt> {
    let (name, port) = host.rsplit_once(':').filter(|_| !host.ends_with(']'))?;
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        return None;
    }
    let joined = if port.is_empty() { path.to_owned() } else { format!("/{port}{path}") };
    let user = if scheme.contains("ssh") { "git@" } else { "" };
    let mut hint = format!("write {scheme}://{user}{name}{joined}");
    if scheme.contains("ssh") {
        hint.push_str(&format!(", or git@{name}:{}", joined.trim_start_matches('/')));
    }
    misspelt(format!("names no port behind the host: {port:?}"), hint)
}

fn no_path(host: &str, path: &str) -> Option<Misspelt> {
    let empty = path.trim_matches('/').is_empty() && !host.is_empty();
    empty.then(|| Misspelt {
        what: "names a host, and no repository there".to_owned(),
        hint: "add the repository's path, as its page says for cloning".to_owned(),
    })
}

/// The URL of a web page about a repository.
fn page(scheme: &str, host: &str, path: &str) -> Option<Misspelt> {
    let (path, fragment) = path.split_once('#').map_or((path, None), |(path, name)| (path, Some(name)));
    if let Some(name) = fragment {
        let hint = format!("write \"{scheme}://{host}{path}\", and branch = {name:?} if that is meant");
        return misspelt("holds a #, which git does not know", hint);
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let at = parts.iter().skip(2).position(|part| PAGES.contains(part)).map(|at| at + 2)?;
    if !scheme.starts_with("http") || path.trim_end_matches('/').ends_with(".git") {
        return None;
    }
    let kind = parts[at..].iter().find(|part| **part != "-").copied().unwrap_or_default();
    let behind = parts[at..].iter().skip_while(|part| **part != kind).nth(1);
    let behind = behind.filter(|_| BRANCH_PAGES.contains(&kind));
    let branch = behind.map(|name| format!(", and branch = {name:?}")).unwrap_or_default();
    let hint = format!("write \"{scheme}://{host}/{}\"{branch}", parts[..at].join("/"));
    misspelt("is the address of a page about the repository, not of the repository", hint)
}

/// Mistakes in a remote without `://`: `user@host:path`, or a path on this host.
fn short(text: &str) -> Option<Misspelt> {
    let first = text.split('/').next().unwrap_or_default();
    let (before, behind) = text.split_once(':').unwrap_or((text, ""));
    if before.contains('/') || !text.contains(':') {
        return no_colon(text, first);
    }
    if SCHEMES.contains(&before) {
        let slashes = if before == "file" { "file:///" } else { return missing_slashes(before, behind) };
        return misspelt("lacks slashes", format!("write {slashes}{}", behind.trim_start_matches('/')));
    }
    if behind.trim_matches('/').is_empty() {
        return misspelt("names a host, and no repository there", format!("write {before}:path.git"));
    }
    if behind.split('/').next().is_some_and(|part| part.contains('@')) {
        return misspelt("ssh takes no password from an address", "use auth.ssh_key");
    }
    None
}

fn missing_slashes(scheme: &str, rest: &str) -> Option<Misspelt> {
    let right = without_user(&format!("{scheme}://{}", rest.trim_start_matches('/')));
    misspelt("lacks slashes", format!("write {right}"))
}

fn no_colon(text: &str, first: &str) -> Option<Misspelt> {
    let rest = text.get(first.len()..).unwrap_or_default().trim_start_matches('/');
    if first.contains('@') {
        let what = "lacks the colon between host and path, and would be a path of this host";
        return misspelt(what, format!("write {first}:{rest}"));
    }
    if SCHEMES.contains(&first) && text.get(first.len()..).is_some_and(|rest| rest.starts_with("//")) {
        return misspelt(format!("lacks the colon behind {first}"), format!("write {first}://{rest}"));
    }
    None
}

/// A remote `host:2222/path`, in which git reads the port as a part of the path.
pub(super) fn port_as_path(text: &str) -> Option<Misspelt> {
    let (host, path) = text.split_once(':').filter(|(host, _)| !host.contains('/'))?;
    let (port, rest) = path.split_once('/')?;
    let _: u16 = port.parse().ok()?;
    let what = format!("{port} is read as a directory of the server, not as a port");
    misspelt(what, format!("write ssh://{host}:{port}/{rest} if the port is meant"))
}

/// Whether a relative path begins like the name of a server.
pub(super) fn begins_with_a_host(text: &str) -> bool {
    let Some((first, rest)) = text.split_once('/') else { return false };
    let host = first.split(':').next().unwrap_or(first);
    let last = host.rsplit('.').next().unwrap_or_default();
    let named = host.contains('.') && !host.starts_with('.') && !["git", "d"].contains(&last);
    named && last.len() >= 2 && last.bytes().all(|c| c.is_ascii_alphabetic()) && !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_remote_is_told_with_the_right_form() {
        for (text, hint) in [
            ("git@git.example.com/acme/shop.git", "write git@git.example.com:acme/shop.git"),
            (
                "ssh://git@h.example:acme/shop.git",
                "write ssh://git@h.example/acme/shop.git, or git@h.example:acme/shop.git",
            ),
            ("https://git@h.example:acme/shop.git", "write https://h.example/acme/shop.git"),
            (
                "ssh://git@h.example:/srv/shop.git",
                "write ssh://git@h.example/srv/shop.git, or git@h.example:srv/shop.git",
            ),
            ("htps://h.example/a/b", "write \"https://h.example/a/b\""),
            ("httpss://me:pw@h.example/a/b", "write \"https://h.example/a/b\""),
            ("git+https://h.example/a/b", "write \"https://h.example/a/b\""),
            ("git@https://h.example/a/b", "write \"https://h.example/a/b\""),
            ("https:/h.example/a/b", "write https://h.example/a/b"),
            ("https:h.example/a/b", "write https://h.example/a/b"),
            ("https//h.example/a/b", "write https://h.example/a/b"),
            ("file:/srv/shop.git", "write file:///srv/shop.git"),
            ("https:\\\\h.example\\a", "write / instead"),
            ("git clone https://me:pw@h.example/a/b", "write \"https://h.example/a/b\""),
            ("https://h.example/a/b/tree/main", "write \"https://h.example/a/b\", and branch = \"main\""),
            (
                "https://me:pw@h.example/g/a/b/-/blob/dev/README",
                "write \"https://h.example/g/a/b\", and branch = \"dev\"",
            ),
            ("https://h.example/a/b/pulls", "write \"https://h.example/a/b\""),
            (
                "https://h.example/a/b.git#dev",
                "write \"https://h.example/a/b.git\", and branch = \"dev\" if that is meant",
            ),
            ("https://h.example/", "add the repository's path, as its page says for cloning"),
            ("git@h.example:", "write git@h.example:path.git"),
            ("me:pw@h.example:a/b", "use auth.ssh_key"),
        ] {
            let found = judge(text).unwrap_or_else(|| panic!("{text} is taken"));
            assert_eq!(found.hint, hint, "{text}");
            assert!(!found.what.contains("pw"), "{found:?}");
        }
    }

    #[test]
    fn what_git_fetches_is_left_alone() {
        for text in [
            "https://h.example/a/b.git",
            "https://h.example:8443/a/b/",
            "http://[::1]:80/x",
            "ssh://git@[::1]/x",
            "ssh://git@h:22/x",
            "git@h.example:acme/shop.git",
            "h:/srv/shop.git",
            "git@h.example:src/tree/x",
            "/srv/a:b",
            "./x@y/z",
            "shop.git",
            "repos.d/shop.git",
            "file:///srv/x.git",
            "git://h/x",
            "https://h.example/tree/tree",
            "https://h.example/g/tree/shop.git",
            "~x",
        ] {
            assert_eq!(judge(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_in_the_short_form_and_a_host_without_a_scheme_are_seen() {
        assert_eq!(
            port_as_path("git@h:2222/a/b").unwrap().hint,
            "write ssh://git@h:2222/a/b if the port is meant"
        );
        assert_eq!(port_as_path("git@h:acme/b"), None);
        for (text, host) in [
            ("git.example.com/acme/shop", true),
            ("shop.git", false),
            ("shop.git/x", false),
            ("apps.d/x", false),
            ("sub/shop.git", false),
            ("v1.2/x", false),
        ] {
            assert_eq!(begins_with_a_host(text), host, "{text}");
        }
    }
}
