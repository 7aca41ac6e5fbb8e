//! Which ssh host keys are trusted. libssh2 does the comparison, but reads one fixed file, knows no patterns and
//! stops at the first odd line; so the worker gives it a file of its own with just the lines that concern one
//! host. Used by `transfer`; the text work is pure.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// The system's file, read after the user's.
const SYSTEM: &str = "/etc/ssh/ssh_known_hosts";

/// The files of known hosts.
pub fn files(configured: Option<&Path>, home: &Path) -> Vec<PathBuf> {
    match configured {
        Some(path) => vec![path.to_owned()],
        None => vec![home.join(".ssh/known_hosts"), PathBuf::from(SYSTEM)],
    }
}

/// A host as known_hosts files write it.
pub fn host_token(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// Writes the lines of `files` about one host to `target`, in libssh2's form. Missing files count as empty.
pub fn gather(files: &[PathBuf], token: &str, target: &Path) -> io::Result<()> {
    let mut text = String::new();
    for file in files {
        match fs::read(file) {
            Ok(bytes) => text.push_str(&relevant_lines(&String::from_utf8_lossy(&bytes), token)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(io::Error::new(err.kind(), format!("{}: {err}", file.display()))),
        }
    }
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(target, text)
}

/// The lines about one host, with its plain name; hashed lines stay unchanged, and libssh2 compares them.
pub fn relevant_lines(text: &str, token: &str) -> String {
    let revoked = revoked(text);
    let lines = text.lines().filter_map(HostKeyLine::parse).filter(|entry| !revoked.contains(entry.key));
    let mut out = String::new();
    for entry in lines {
        if entry.hosts.starts_with("|1|") {
            out.push_str(&format!("{} {} {}\n", entry.hosts, entry.kind, entry.key));
        } else if entry.names(token) {
            out.push_str(&format!("{token} {} {}\n", entry.kind, entry.key));
        }
    }
    out
}

/// The first file that lists the host, in plain or hashed form; for the latter `ssh-keygen` must be installed.
pub fn listed_in<'a>(files: &'a [PathBuf], token: &str) -> Option<&'a Path> {
    files.iter().map(PathBuf::as_path).find(|file| {
        let text =
            fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let plain = text.lines().filter_map(HostKeyLine::parse).any(|entry| entry.names(token));
        plain || (text.contains("|1|") && listed_hashed(file, token))
    })
}

fn listed_hashed(file: &Path, token: &str) -> bool {
    let mut ask = Command::new("ssh-keygen");
    ask.args(["-F", token, "-f"]).arg(file);
    let status = ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// One line `hosts kind key`, without marker and comment.
struct HostKeyLine<'a> {
    hosts: &'a str,
    kind: &'a str,
    key: &'a str,
}

impl<'a> HostKeyLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (hosts, kind, key) = (words.next()?, words.next()?, words.next()?);
        let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
        let sound = !hosts.starts_with(['#', '@']) && key.len() > 16 && key.bytes().all(base64);
        sound.then_some(Self { hosts, kind, key })
    }

    fn names(&self, token: &str) -> bool {
        let mut named = false;
        for pattern in self.hosts.split(',') {
            match pattern.strip_prefix('!') {
                Some(pattern) if matches(pattern, token) => return false,
                Some(_) => {}
                None => named |= matches(pattern, token),
            }
        }
        named
    }
}

/// The keys marked `@revoked`, which are refused for every host.
fn revoked(text: &str) -> HashSet<&str> {
    let marked = text.lines().filter_map(|line| line.trim_start().strip_prefix("@revoked"));
    marked.flat_map(str::split_whitespace).collect()
}

/// Whether a pattern with `*` and `?` matches, ignoring case, as in OpenSSH.
fn matches(pattern: &str, text: &str) -> bool {
    let fold = |text: &str| text.bytes().map(|c| c.to_ascii_lowercase()).collect::<Vec<u8>>();
    let (pattern, text) = (fold(pattern), fold(text));
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The fingerprint `SHA256:…` in OpenSSH's form.
pub fn fingerprint(sha256: &[u8; 32]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIabc";

    #[test]
    fn a8_only_lines_about_the_host_are_kept_and_patterns_are_written_out() {
        let text = format!(
            "# note\nh.example,10.0.0.1 ssh-ed25519 {KEY} me@x\n*.example,!bad.example ssh-rsa {KEY}RSA\n\
             other ssh-rsa {KEY}\n|1|c2FsdA==|aGFzaA== ssh-rsa {KEY}H\n@cert-authority * ssh-rsa {KEY}\nbroken\n"
        );
        assert_eq!(
            relevant_lines(&text, "h.example"),
            format!(
                "h.example ssh-ed25519 {KEY}\nh.example ssh-rsa {KEY}RSA\n|1|c2FsdA==|aGFzaA== ssh-rsa {KEY}H\n"
            )
        );
        assert!(!relevant_lines(&text, "bad.example").contains("bad.example"));
        let port = format!("[h]:2222 ssh-ed25519 {KEY}\nh ssh-ed25519 {KEY}22\n");
        assert_eq!(relevant_lines(&port, &host_token("h", 2222)), format!("[h]:2222 ssh-ed25519 {KEY}\n"));
    }

    #[test]
    fn a8_a_revoked_key_is_not_known() {
        let text = format!("h ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}\n");
        assert_eq!(relevant_lines(&text, "h"), "");
    }

    #[test]
    fn a_fingerprint_reads_as_openssh_writes_it() {
        let mut bytes = [0u8; 32];
        bytes[0] = 0xff;
        bytes[31] = 0x01;
        assert_eq!(fingerprint(&bytes), "SHA256:/wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE");
    }
}
