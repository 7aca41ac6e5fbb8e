//! Cleans text from outside for display: one line, UTF-8, no control characters, no user info in URLs. Used for
//! everything that leaves the worker. Pure.

use crate::os::printable::is_invisible;

/// Longest text kept, in characters: enough for a subject line or an error, and a limit for a hostile one.
const LONGEST: usize = 500;

/// Any bytes as one line of text: invalid UTF-8 replaced, control, format and line-breaking characters turned
/// into single spaces, ends trimmed, at most 500 characters.
pub fn one_line(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut gap = false;
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_whitespace() || c.is_control() || is_invisible(c) {
            gap = !out.is_empty();
            continue;
        }
        if gap {
            out.push(' ');
            gap = false;
        }
        out.push(c);
    }
    match out.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &out[..at]),
        None => out,
    }
}

/// Removes the user info and the query of each URL in the text, even of a URL inside another's path; hosts and paths
/// stay.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut at, mut end) = (0, 0);
    while let Some(found) = text[at..].find("://") {
        let start = at + found + 3;
        out.push_str(&text[at..start]);
        if start > end {
            end = url_end(text, start);
        }
        let url = &text[start..end];
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        // The colon may belong to the scheme of a URL that follows.
        let authority = authority.strip_suffix(':').unwrap_or(authority);
        let host = authority.rfind('@').map_or(0, |sign| sign + 1);
        let rest = &url[authority.len()..];
        at = start + authority.len();
        out.push_str(&authority[host..]);
        let inner = rest.find("://").unwrap_or(rest.len());
        if let Some(query) = rest[..inner].find('?') {
            out.push_str(&rest[..query]);
            out.push_str("?…");
            at = end;
        }
    }
    out.push_str(&text[at..]);
    out
}

/// The end of the URL that contains the offset `start`.
fn url_end(text: &str, start: usize) -> usize {
    let ends = |c: char| c.is_whitespace() || "'\"<>`".contains(c);
    text[start..].find(ends).map_or(text.len(), |length| start + length)
}

/// Like [`redact`], and replaces each of `secrets` too.
pub fn scrub(text: &str, secrets: &[String]) -> String {
    let plain = secrets.iter().filter(|secret| secret.len() >= 4);
    plain.fold(redact(text), |text, secret| text.replace(secret.as_str(), "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a13_any_bytes_become_one_clean_line() {
        assert_eq!(one_line(b" a\r\n\tb\x1b[31m c\x00 "), "a b [31m c");
        assert_eq!(one_line(b"caf\xe9 \xff"), "caf\u{fffd} \u{fffd}");
        assert_eq!(one_line("x\u{202e}y\u{2028}z\u{85}w".as_bytes()), "x y z w");
        assert_eq!(one_line("x\u{61c}y\u{ad}\u{e0041}z".as_bytes()), "x y z");
        assert_eq!(one_line(&[b'a'; 5000]).chars().count(), LONGEST + 1);
        assert_eq!(one_line(b"\n\n"), "");
    }

    #[test]
    fn l1_urls_lose_user_info_and_query_and_nothing_else() {
        for (given, want) in [
            ("https://me:s3@host/x.git", "https://host/x.git"),
            ("fetch 'https://tok@host:8443/x' failed", "fetch 'https://host:8443/x' failed"),
            ("https://a@b:c@host", "https://host"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://host/x?private_token=abc done", "https://host/x?… done"),
            ("ssh://git@host/x", "ssh://host/x"),
            ("git@host:x", "git@host:x"),
            ("plain :// text", "plain :// text"),
            ("http://proxy/https://me:s3@host/x", "http://proxy/https://host/x"),
            ("http://proxy/?to=https://me:s3@host/x y", "http://proxy/?… y"),
            ("http://a@https://me:s3@host/x?q", "http://https://host/x?…"),
        ] {
            assert_eq!(redact(given), want);
        }
        assert_eq!(scrub("remote said hunter22", &["hunter22".into()]), "remote said …");
    }
}
