//! Host keys: only whole lines about the host, or hashed ones, and never a revoked key.

use bgd::release::git::known_hosts::relevant_lines;

/// The first line is the host as known_hosts files write it, the rest is such a file.
pub fn known_hosts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (token, text) = text.split_once('\n').unwrap_or((&text, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if token.is_empty() || !token.chars().all(plain) {
        return;
    }
    let kept = relevant_lines(text, token);
    assert_eq!(relevant_lines(&kept, token), kept, "nothing is left to leave out");
    assert!(kept.lines().count() <= text.lines().count());
    for line in kept.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [hosts, kind, key] = words[..] else { panic!("three words: {line:?}") };
        assert!(hosts == token || hosts.starts_with("|1|"), "{line:?} is about another host");
        let as_written = |given: &str| given.split_whitespace().skip(1).take(2).eq([kind, key]);
        assert!(text.lines().any(as_written), "{line:?} was in no line");
        assert!(!text.lines().any(|given| revokes(given, key)), "{line:?} is revoked");
    }
}

fn revokes(line: &str, key: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("@revoked") && words.any(|word| word == key)
}
