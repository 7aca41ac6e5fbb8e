//! A stranger's path as names below a directory. Pure. Refuses what no file of a site is called: `..` and `.`, names
//! that begin with a dot (but `.well-known`), NUL, backslashes, an encoded `/`, and names or paths that are too long.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Bytes of a name that file systems can have.
const LONGEST_NAME: usize = 255;
/// Bytes of a path that the kernel takes, with room for the directory before it.
const LONGEST: usize = 3072;
/// The one name with a dot that is served, by which certificates and apps are found (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";
/// What is encoded in a path that is sent to a client.
const ODD: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The path of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    names: Vec<OsString>,
    /// Whether it ends with `/`.
    pub is_directory: bool,
}

impl Asked {
    /// Parses a path as it was sent, without its query; `None` for one that can't be a file's.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix('/').filter(|_| path.len() <= LONGEST)?;
        let mut names = Vec::new();
        for part in rest.split('/').filter(|part| !part.is_empty()) {
            let name: Vec<u8> = percent_decode_str(part).collect();
            let hidden = name.starts_with(b".") && !(names.is_empty() && name == WELL_KNOWN);
            let odd = |byte: &u8| matches!(byte, b'/' | b'\\' | 0);
            if hidden || name.len() > LONGEST_NAME || name.iter().any(odd) {
                return None;
            }
            names.push(OsString::from_vec(name));
        }
        Some(Self { is_directory: rest.is_empty() || rest.ends_with('/'), names })
    }

    /// The relative path; empty for the site's own directory.
    pub fn relative(&self) -> PathBuf {
        self.names.iter().collect()
    }

    /// The relative path of what lies below `url`, which begins and ends with `/`; `None` for what lies elsewhere.
    pub fn below(&self, url: &str) -> Option<PathBuf> {
        let mut names = self.names.iter();
        for part in url.split('/').filter(|part| !part.is_empty()) {
            (names.next()?.as_os_str() == OsStr::new(part)).then_some(())?;
        }
        let rest: PathBuf = names.collect();
        (!rest.as_os_str().is_empty() && !self.is_directory).then_some(rest)
    }

    /// Whether the last name looks like a file's: with an extension that begins with a letter. Such a path is not a
    /// page of an app that routes in the browser, so a missing one is not answered with the fallback.
    pub fn is_like_a_file(&self) -> bool {
        let extension = self.names.last().and_then(|name| Path::new(name).extension());
        extension.filter(|_| !self.is_directory).is_some_and(|extension| {
            let bytes = extension.as_bytes();
            bytes.len() <= 10
                && bytes.first().is_some_and(u8::is_ascii_alphabetic)
                && bytes.iter().all(u8::is_ascii_alphanumeric)
        })
    }

    /// The path without a slash at its end, for clients; never begins with two, which would name a host.
    pub fn path(&self) -> String {
        let encoded = |name: &OsString| percent_encode(name.as_bytes(), ODD).to_string();
        self.names.iter().map(|name| format!("/{}", encoded(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relative(path: &str) -> Option<String> {
        Asked::parse(path).map(|asked| asked.relative().to_str().unwrap_or("not UTF-8").to_owned())
    }

    #[test]
    fn a_path_is_names_below_a_directory() {
        for (path, names) in [
            ("/", ""),
            ("/a/b.html", "a/b.html"),
            ("/a//b/", "a/b"),
            ("//evil.example.com/", "evil.example.com"),
            ("/caf%C3%A9%20au/lait", "café au/lait"),
            ("/100%", "100%"),
            ("/.well-known/acme-challenge/x", ".well-known/acme-challenge/x"),
            ("/a%FF", "not UTF-8"),
        ] {
            assert_eq!(relative(path).as_deref(), Some(names), "{path}");
        }
    }

    #[test]
    fn what_leads_out_or_is_hidden_is_no_path() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(2000);
        for path in [
            "",
            "*",
            "a",
            "/..",
            "/a/../b",
            "/%2e%2e/etc/passwd",
            "/a/%2E./b",
            "/./a",
            "/.git/config",
            "/a/.env",
            "/%2egit",
            "/a/.well-known/x",
            "/a%2fb",
            "/a%2F..%2Fb",
            "/a\\b",
            "/a%5c..%5cb",
            "/a%00.html",
            &long,
            &deep,
        ] {
            assert_eq!(relative(path), None, "{path}");
        }
    }

    #[test]
    fn what_looks_like_a_file_has_an_extension_with_a_letter_first() {
        for (path, is) in [
            ("/app.js", true),
            ("/a/b.html", true),
            ("/users/7", false),
            ("/v1.2", false),
            ("/app.js/", false),
            ("/", false),
            ("/what.is this", false),
            ("/a.", false),
        ] {
            assert_eq!(Asked::parse(path).unwrap().is_like_a_file(), is, "{path}");
        }
    }

    #[test]
    fn below_a_url_only_files_count() {
        let below = |path: &str| {
            Asked::parse(path).unwrap().below("/assets/v/").map(|rest| rest.display().to_string())
        };
        assert_eq!(below("/assets/v/app.js").as_deref(), Some("app.js"));
        assert_eq!(below("/assets//v/a/b.js").as_deref(), Some("a/b.js"));
        for path in ["/assets/v/", "/assets/v", "/assets/app.js", "/assets/v/a/", "/assetsv/v/x"] {
            assert_eq!(below(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_for_a_client_names_no_host() {
        assert_eq!(Asked::parse("//evil.example.com").unwrap().path(), "/evil.example.com");
        assert_eq!(Asked::parse("/a b/c%0d%0a").unwrap().path(), "/a%20b/c%0D%0A");
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_directory(path in "[/.%\\\\a-f0-9\u{0}e2]{0,40}") {
            if let Some(asked) = Asked::parse(&path) {
                let relative = asked.relative();
                prop_assert!(relative.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert!(asked.path().is_empty() || !asked.path().starts_with("//"));
                prop_assert_eq!(Asked::parse(&format!("{}/", asked.path())).unwrap().relative(), relative);
            }
        }
    }
}
