//! Text that comes from outside, made fit to show: one line, UTF-8, no control characters, no user info in
//! URLs. Used for everything that leaves the worker. Pure.

/// Longest text kept, in characters: a subject line or an error needs no more, and a hostile one gets no more.
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

/// Characters that reorder or hide text on a terminal or in a page.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Text without the user info and the query of any URL in it; a URL's path and host stay.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "'\"<>`".contains(c)).unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let host = url[..authority_end].rfind('@').map_or(0, |at| at + 1);
        let query = url.find('?').filter(|at| *at >= host).unwrap_or(url.len());
        out.push_str(&url[host..query]);
        if query < url.len() {
            out.push_str("?…");
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// [`redact`], and each of `secrets` replaced as well.
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
        ] {
            assert_eq!(redact(given), want);
        }
        assert_eq!(scrub("remote said hunter22", &["hunter22".into()]), "remote said …");
    }
}
