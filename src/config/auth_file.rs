//! Reads and checks the files named in `auth`: a private key that bgd can use without a prompt, a token, or the
//! certificates of an authority. Used by `load` for the files named in a configuration, and by git.

use std::{fs::File, io, io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Bytes: more than any key, token or bundle of authorities has.
const LARGEST: u64 = 4 << 20;

/// Why a file named in `auth` can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// It has no bytes, or only blanks.
    #[error("is empty")]
    Empty,
    /// With a byte order mark, which some editors write.
    #[error("is UTF-16 text")]
    Utf16,
    /// An encrypted key, in any format.
    #[error("is a key with a passphrase")]
    Passphrase,
    /// The public half of a key pair, which belongs on the server.
    #[error("is a public key")]
    PublicKey,
    /// A signed public key, of ssh or TLS.
    #[error("is a certificate, not a key")]
    Certificate,
    /// A `.ppk` file.
    #[error("is a key in PuTTY's format")]
    Putty,
    /// A FIDO key, whose private half is in a device.
    #[error("is the handle of a hardware key (sk)")]
    Hardware,
    /// A key file that was encoded once more.
    #[error("is a key in base64")]
    Base64,
    /// A key on one line, with a literal `\n` for each line end.
    #[error("is a key with \\n in place of line ends")]
    EscapedLines,
    #[error("is a key of ssh's protocol 1")]
    Ssh1,
    /// Today's servers refuse DSA.
    #[error("is a DSA key")]
    Dsa,
    /// A key that is truncated or mistyped.
    #[error("is a damaged key")]
    Damaged,
    /// The text is not a private key of any known form.
    #[error("holds no private key")]
    NoKey,
    /// Several words; a token is one.
    #[error("holds more than a token")]
    NoToken,
    /// A URL with a user name, as in git's credential store.
    #[error("holds a user name beside the token")]
    UserAndToken,
    /// The text has no PEM block of a certificate.
    #[error("holds no certificate in PEM form")]
    NoCertificate,
}

impl FileFault {
    /// Advice for the operator.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Empty => "write the key or token into it",
            Self::Utf16 => "save it as plain ASCII or UTF-8",
            Self::Passphrase => {
                "nobody is there to type it: make a deploy key without one (`ssh-keygen -p -N '' -f FILE` takes it off), or load the key into an ssh agent and leave `auth.ssh_key` out"
            }
            Self::PublicKey => "name the private key: mostly the file beside it without .pub",
            Self::Certificate => "name the private key itself",
            Self::Putty => "convert it: `puttygen FILE -O private-openssh -o NEWFILE`",
            Self::Hardware => {
                "it needs a person who touches the device: make a deploy key, `ssh-keygen -t ed25519 -N ''`"
            }
            Self::Base64 => "decode it first: `base64 -d`",
            Self::EscapedLines => "write real line ends: `printf '%b'`",
            Self::Ssh1 | Self::Dsa => "servers refuse it: make a new one, `ssh-keygen -t ed25519 -N ''`",
            Self::Damaged => "copy it again, all lines; `ssh-keygen -y -f FILE` reads a whole one",
            Self::NoKey => "name a private key, as `ssh-keygen -t ed25519 -N ''` makes it",
            Self::NoToken => "write the token alone, on one line",
            Self::UserAndToken => {
                "write the token alone; the user name goes into the URL: https://USER@host/path.git"
            }
            Self::NoCertificate => {
                "write the authority's certificate in PEM form; `openssl x509 -inform der -in FILE` converts it"
            }
        }
    }
}

/// Reads a regular file of at most the size that a key, a token or certificates can have.
///
/// # Errors
/// If it can't be read, is not a regular file, or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening: opening a pipe without a writer would block for ever.
    let found = std::fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() || found.len() > LARGEST {
        return Err(io::Error::other("not a file of at most 4 MiB"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A private key in the form that libssh2 reads: plain line ends, and one at the end.
///
/// # Errors
/// If the file has no key that can be used without a prompt.
pub fn private_key(bytes: &[u8]) -> Result<String, FileFault> {
    let text = text(bytes)?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    if let Some(fault) = obvious(&text, &lines) {
        return Err(fault);
    }
    let begin = lines.iter().position(|line| line.starts_with("-----BEGIN ")).ok_or(FileFault::NoKey)?;
    let kind = lines[begin].trim_matches('-').trim_start_matches("BEGIN ").trim();
    let end = format!("-----END {kind}-----");
    let end = lines.iter().position(|line| *line == end);
    match kind {
        "ENCRYPTED PRIVATE KEY" => return Err(FileFault::Passphrase),
        "DSA PRIVATE KEY" => return Err(FileFault::Dsa),
        _ if kind.ends_with("CERTIFICATE") => return Err(FileFault::Certificate),
        _ if kind.ends_with("PUBLIC KEY") => return Err(FileFault::PublicKey),
        _ if !kind.ends_with("PRIVATE KEY") => return Err(FileFault::NoKey),
        _ => {}
    }
    if lines[begin..].iter().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) {
        return Err(FileFault::Passphrase);
    }
    let end = end.filter(|end| *end > begin + 1).ok_or(FileFault::Damaged)?;
    let body: String = lines[begin + 1..end].concat();
    let body = STANDARD.decode(body).map_err(|_| FileFault::Damaged)?;
    if kind == "OPENSSH PRIVATE KEY" {
        openssh(&body)?;
    }
    Ok(lines[begin..=end].join("\n") + "\n")
}

/// The faults that are visible without parsing.
fn obvious(text: &str, lines: &[&str]) -> Option<FileFault> {
    const PUBLIC: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    let first = lines.iter().find(|line| !line.is_empty())?;
    let word = first.split_whitespace().next().unwrap_or_default();
    if PUBLIC.iter().any(|kind| word.starts_with(kind)) {
        let signed = word.contains("-cert-v01@");
        return Some(if signed { FileFault::Certificate } else { FileFault::PublicKey });
    }
    if first.starts_with("---- BEGIN SSH2 PUBLIC KEY") {
        return Some(FileFault::PublicKey);
    }
    if first.starts_with("PuTTY-User-Key-File-") {
        return Some(FileFault::Putty);
    }
    if first.starts_with("SSH PRIVATE KEY FILE FORMAT") {
        return Some(FileFault::Ssh1);
    }
    // "-----BEGIN" in base64.
    if first.starts_with("LS0tLS1CRUdJT") {
        return Some(FileFault::Base64);
    }
    let escaped = lines.iter().filter(|line| !line.is_empty()).count() == 1 && text.contains("\\n");
    (escaped && text.contains("PRIVATE KEY")).then_some(FileFault::EscapedLines)
}

/// Checks the head of OpenSSH's own format: a magic word, the cipher, its key derivation, and the public key.
fn openssh(body: &[u8]) -> Result<(), FileFault> {
    let mut rest = body.strip_prefix(b"openssh-key-v1\0").ok_or(FileFault::Damaged)?;
    let cipher = string(&mut rest)?;
    string(&mut rest)?;
    string(&mut rest)?;
    rest = rest.get(4..).ok_or(FileFault::Damaged)?;
    let mut public = string(&mut rest)?;
    let kind = string(&mut public)?;
    // The private half; a truncated one is shorter than its length field.
    string(&mut rest)?;
    if kind.starts_with(b"sk-") {
        return Err(FileFault::Hardware);
    }
    if cipher != b"none" {
        return Err(FileFault::Passphrase);
    }
    if kind == b"ssh-dss" { Err(FileFault::Dsa) } else { Ok(()) }
}

/// A string of the ssh protocol: its length in four bytes, then its bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FileFault> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(FileFault::Damaged)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FileFault::Damaged)?;
    let (string, after) = after.split_at_checked(length).ok_or(FileFault::Damaged)?;
    *rest = after;
    Ok(string)
}

/// A token: one word.
///
/// # Errors
/// If the file is empty, or has more than one word.
pub fn token(bytes: &[u8]) -> Result<String, FileFault> {
    let text = text(bytes)?;
    let token = text.trim();
    if token.contains(char::is_whitespace) {
        return Err(FileFault::NoToken);
    }
    if token.contains("://") {
        return Err(FileFault::UserAndToken);
    }
    Ok(token.to_owned())
}

/// Checks that the file has a certificate in PEM form; does not parse it.
///
/// # Errors
/// If there is none.
pub fn certificates(bytes: &[u8]) -> Result<(), FileFault> {
    let text = match text(bytes) {
        Err(FileFault::NoKey) => return Err(FileFault::NoCertificate),
        text => text?,
    };
    let named = ["-----BEGIN CERTIFICATE-----", "-----BEGIN TRUSTED CERTIFICATE-----"];
    let found = named.iter().any(|line| text.contains(line));
    found.then_some(()).ok_or(FileFault::NoCertificate)
}

/// The text without a byte order mark.
fn text(bytes: &[u8]) -> Result<String, FileFault> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(FileFault::Utf16);
    }
    if bytes.trim_ascii().is_empty() {
        return Err(FileFault::Empty);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| FileFault::NoKey)?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(kind: &str, body: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(body))
    }

    fn openssh_key(cipher: &str, kind: &str) -> Vec<u8> {
        let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let parts = [
            b"openssh-key-v1\0".to_vec(),
            string(cipher.as_bytes()),
            string(b"none"),
            string(b""),
            1u32.to_be_bytes().to_vec(),
            string(&string(kind.as_bytes())),
            string(b"private"),
        ];
        parts.concat()
    }

    #[test]
    fn a6_whatever_is_no_key_for_a_daemon_is_called_by_its_name() {
        let good = pem("OPENSSH PRIVATE KEY", &openssh_key("none", "ssh-ed25519"));
        let cut = &openssh_key("none", "ssh-ed25519")[..40];
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for (text, fault) in [
            (" \n", FileFault::Empty),
            ("ssh-ed25519 AAAA me@x\n", FileFault::PublicKey),
            ("ssh-ed25519-cert-v01@openssh.com AAAA me@x\n", FileFault::Certificate),
            ("---- BEGIN SSH2 PUBLIC KEY ----\n", FileFault::PublicKey),
            (&pem("PUBLIC KEY", b"x"), FileFault::PublicKey),
            (&pem("CERTIFICATE", b"x"), FileFault::Certificate),
            ("PuTTY-User-Key-File-3: ssh-ed25519\n", FileFault::Putty),
            ("SSH PRIVATE KEY FILE FORMAT 1.1\n", FileFault::Ssh1),
            (&pem("DSA PRIVATE KEY", b"x"), FileFault::Dsa),
            (&pem("ENCRYPTED PRIVATE KEY", b"x"), FileFault::Passphrase),
            (encrypted, FileFault::Passphrase),
            (&pem("OPENSSH PRIVATE KEY", &openssh_key("aes256-ctr", "ssh-ed25519")), FileFault::Passphrase),
            (
                &pem("OPENSSH PRIVATE KEY", &openssh_key("none", "sk-ssh-ed25519@openssh.com")),
                FileFault::Hardware,
            ),
            (&pem("OPENSSH PRIVATE KEY", cut), FileFault::Damaged),
            (&good.replace("-----END", ""), FileFault::Damaged),
            (&STANDARD.encode(&good), FileFault::Base64),
            (&good.replace('\n', "\\n"), FileFault::EscapedLines),
            ("password: hunter2\n", FileFault::NoKey),
        ] {
            assert_eq!(private_key(text.as_bytes()), Err(fault), "{text}");
            assert!(!fault.hint().is_empty());
        }
        assert_eq!(private_key(b"\xff\xfe-\0-\0"), Err(FileFault::Utf16));
        assert_eq!(private_key(b"\x00\x9f\x92"), Err(FileFault::NoKey));
    }

    #[test]
    fn a6_a_key_is_read_whatever_its_line_ends_are() {
        let good = pem("OPENSSH PRIVATE KEY", &openssh_key("none", "ssh-ed25519"));
        for text in [
            good.clone(),
            good.replace('\n', "\r\n"),
            good.trim_end().to_owned(),
            format!("\u{feff}# my key\n  {}", good.replace('\n', "\n  ")),
        ] {
            assert_eq!(private_key(text.as_bytes()).as_ref(), Ok(&good), "{text:?}");
        }
        assert!(private_key(pem("PRIVATE KEY", b"x").as_bytes()).is_ok());
        assert!(private_key(pem("RSA PRIVATE KEY", b"x").as_bytes()).is_ok());
    }

    #[test]
    fn a6_a_token_is_one_word() {
        assert_eq!(token(b"\xef\xbb\xbfglpat-x\r\n"), Ok("glpat-x".to_owned()));
        assert_eq!(token(b"\n"), Err(FileFault::Empty));
        assert_eq!(token(b"a token\n"), Err(FileFault::NoToken));
        assert_eq!(token(b"one\ntwo\n"), Err(FileFault::NoToken));
        assert_eq!(token(b"https://me:tok@host\n"), Err(FileFault::UserAndToken));
    }

    #[test]
    fn certificates_are_pem() {
        assert_eq!(certificates(pem("CERTIFICATE", b"x").as_bytes()), Ok(()));
        assert_eq!(certificates(b"\x30\x82\x01\x0a"), Err(FileFault::NoCertificate));
        assert_eq!(certificates(b"\x30\x82\xff\x0a"), Err(FileFault::NoCertificate));
        assert_eq!(certificates(b""), Err(FileFault::Empty));
    }
}
