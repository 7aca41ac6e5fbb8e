//! `remote` and `branch`: the source of an app. `misspelt.rs` recognizes misspelt remotes.

use std::path::PathBuf;

use crate::config::{
    judge::{Holds, Judge, NamedFile},
    misspelt,
    read::Given,
    span::Span,
};

pub(super) const BRANCH: &str = "main";

/// The transport of a remote, which decides which credentials fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Https,
    Http,
    Ssh,
    /// The git protocol, which has no credentials.
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
    pub(super) fn remote(&mut self, given: &Given<String>, app: &Span) -> Option<Remote> {
        if given.span().is_none() {
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
            self.notes.error(at, "is not an address that git fetches", EXAMPLES);
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

    /// Records the path for a check on disk that it holds a repository.
    fn look_for_repository(&mut self, path: PathBuf, at: &Span, like_a_host: bool) {
        self.named_files.push(NamedFile { path, at: at.clone(), holds: Holds::Repository { like_a_host } });
    }

    fn remote_url(&mut self, scheme: &str, rest: &str, at: &Span) -> Option<Remote> {
        let known = SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name));
        let Some((_, transport)) = known else {
            let what = format!("is not an address that git fetches: {:?}", format!("{scheme}://…"));
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
        // Some servers treat `//` before git's part of the path as another path.
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
                format!("is not a branch name: {name:?}"),
                "see `git check-ref-format --help`",
            );
            return None;
        }
        Some(name.to_owned())
    }
}

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
    use crate::config::{parse, parse::Surroundings, tests::*};

    const WRONG: &[Wrong] = &[
        ("branch = \"\"", "4 app.shop.branch", "is empty"),
        ("branch = \"refs/heads/main\"", "4 app.shop.branch", "whole ref"),
        ("branch = \"refs/tags/v1\"", "4 app.shop.branch", "whole ref"),
        ("branch = \"a..b\"", "4 app.shop.branch", "not a branch name"),
        ("branch = 1", "4 app.shop.branch", "expected a text, found the number 1"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

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

    #[test]
    fn each_wrong_remote_is_one_error() {
        for (remote, what) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("~/shop.git", "`~` is not expanded"),
            ("--upload-pack=x", "not an address that git fetches"),
            ("https://", "names no host"),
            ("ssh://-oProxyCommand=x/y", "names no host"),
            ("svn://host/x", "not an address that git fetches: \"svn://…\""),
            ("file://srv/shop.git", "without an absolute path"),
            ("https://host/a\\nb", "not an address that git fetches"),
            ("git@git.example.com/acme/shop.git", "lacks the colon"),
            ("ssh://git@git.example.com:acme/shop.git", "names no port"),
            ("/srv/a\\u001bb", "not an address that git fetches"),
        ] {
            let found = errors(&format!("[app.shop]\nremote = \"{remote}\"\nstart = \"x\""));
            assert_eq!(found.len(), 1, "{remote}: {found:#?}");
            assert!(found[0].starts_with("2 app.shop.remote") && found[0].contains(what), "{found:#?}");
        }
        for (remote, key, what) in [
            ("git@host:a.git", "ca_file", "is for https, but the remote is ssh"),
            ("http://host/a.git", "ca_file", "is for https, but the remote is http"),
            ("/srv/a.git", "ca_file", "is for https, and the remote is not"),
            ("https://host/a.git", "proxy", "is not the URL of a proxy"),
            ("git@host:a.git", "token_file", "is for https, but the remote is ssh"),
            ("/srv/a.git", "ssh_key", "takes no credentials"),
            ("git://host/a.git", "token_file", "takes no credentials"),
        ] {
            let text = format!("[app.shop]\nremote = \"{remote}\"\nstart = \"x\"\nauth.{key} = \"/k\"");
            let found = errors(&text);
            assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
        }
    }

    #[test]
    fn a_relative_remote_below_a_directory_that_is_not_utf8_is_refused() {
        let base = std::os::unix::ffi::OsStringExt::from_vec(b"/srv/\xff".to_vec());
        let odd = Surroundings { base: std::ffi::OsString::into(base), ..surroundings() };
        let text = "[app.shop]\nremote = \"a.git\"\nstart = \"x\"";
        let problems = parse(&source("bgd.toml", text), &[], &odd).unwrap_err();
        assert!(problems.to_string().contains("is not UTF-8 in full"), "{problems}");
    }

    #[test]
    fn every_form_of_remote_is_understood() {
        for remote in [
            "https://git.example.com/acme/shop.git",
            "ssh://git@git.example.com:2222/shop.git",
            "git@git.example.com:acme/shop.git",
            "git://git.example.com/shop.git",
            "file:///srv/git/shop.git",
            "/srv/git/shop.git",
            "/srv/git/my shop.git",
        ] {
            let text = format!("[app.shop]\nremote = {remote:?}\nstart = \"x\"");
            assert_eq!(shop(&text).remote, remote);
        }
    }
}
