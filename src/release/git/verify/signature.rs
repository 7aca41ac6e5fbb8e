//! Splits a raw commit object into its signature and the signed bytes. Stricter than git, and does not use libgit2,
//! which looks for the header in the message as well and stops at a NUL: the bytes that are verified must be those
//! that are deployed. Pure.

/// Longest header in bytes. A signature has some hundred bytes, or a few KiB with certificates.
const LONGEST: usize = 64 << 10;
const HEADER: &[u8] = b"gpgsig";
/// The signature over the SHA-256 form of the commit. Git excludes it from the signed bytes, and so does bgd.
const HEADER_SHA256: &[u8] = b"gpgsig-sha256";

/// The kind of key that signed a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// SSH key (`gpg.format = ssh`).
    Ssh,
    /// GPG key (`gpg.format = openpgp`).
    Gpg,
}

/// A signature and the bytes it signs.
#[derive(Debug, PartialEq, Eq)]
pub struct Signed {
    /// By what.
    pub kind: KeyKind,
    /// The armored signature, without the indentation that git adds to its lines.
    pub signature: Vec<u8>,
    /// The object without the signature.
    pub payload: Vec<u8>,
}

/// A commit that can't be split, or whose signature is of an unknown kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("its headers are not those of a commit")]
    Headers,
    #[error("it has more than one signature")]
    Several,
    #[error("its signature is longer than {LONGEST} bytes")]
    Huge,
    #[error("it is signed with an X.509 certificate, which bgd can't check")]
    X509,
    #[error("its signature is neither of SSH nor of GPG")]
    Unknown,
}

/// Splits an object; `None` if it has no signature.
pub fn split(object: &[u8]) -> Result<Option<Signed>, Malformed> {
    let end = headers_end(object)?;
    let mut payload = Vec::with_capacity(object.len());
    let mut signature: Option<Vec<u8>> = None;
    let mut order = HeaderOrder::default();
    for header in headers(&object[..end]) {
        let name = header.split(|c| matches!(c, b' ' | b'\n')).next().unwrap_or_default();
        order.note(name)?;
        match name {
            HEADER if signature.is_some() => return Err(Malformed::Several),
            HEADER if header.len() > LONGEST => return Err(Malformed::Huge),
            HEADER => signature = Some(unfolded(&header[HEADER.len()..])),
            HEADER_SHA256 => {}
            _ => payload.extend_from_slice(header),
        }
    }
    order.finish()?;
    let Some(signature) = signature else { return Ok(None) };
    payload.extend_from_slice(&object[end..]);
    Ok(Some(Signed { kind: kind(&signature)?, signature, payload }))
}

/// The offset of the empty line that ends the headers.
fn headers_end(object: &[u8]) -> Result<usize, Malformed> {
    let end = object.windows(2).position(|pair| pair == b"\n\n").ok_or(Malformed::Headers)? + 1;
    // C code stops reading at a NUL, so that it would see fewer headers than were signed.
    if object[..end].contains(&0) { Err(Malformed::Headers) } else { Ok(end) }
}

/// The headers, each with its continuation lines, newlines included.
fn headers(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ends = text.iter().enumerate().filter(|(_, c)| **c == b'\n').map(|(at, _)| at + 1);
        let end = ends.into_iter().find(|end| text.get(*end) != Some(&b' '))?;
        let (header, rest) = text.split_at(end);
        text = rest;
        Some(header)
    })
}

/// A header's value, without the space before it and before each continuation line.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let lines = value.split_inclusive(|c| *c == b'\n');
    lines.flat_map(|line| line.strip_prefix(b" ").unwrap_or(line)).copied().collect()
}

fn kind(signature: &[u8]) -> Result<KeyKind, Malformed> {
    match signature {
        _ if signature.starts_with(b"-----BEGIN SSH SIGNATURE-----\n") => Ok(KeyKind::Ssh),
        _ if signature.starts_with(b"-----BEGIN PGP SIGNATURE-----\n") => Ok(KeyKind::Gpg),
        _ if signature.starts_with(b"-----BEGIN SIGNED MESSAGE-----\n") => Err(Malformed::X509),
        _ => Err(Malformed::Unknown),
    }
}

/// Checks the order of headers: `tree`, any number of `parent`, `author`, `committer`, then only others. Then all
/// readers of the object agree on the tree and the parents that were signed.
#[derive(Default)]
struct HeaderOrder {
    reached: usize,
}

const FIXED: [&[u8]; 4] = [b"tree", b"parent", b"author", b"committer"];

impl HeaderOrder {
    fn note(&mut self, name: &[u8]) -> Result<(), Malformed> {
        let rank = FIXED.iter().position(|fixed| *fixed == name);
        let fits = match rank {
            Some(0) => self.reached == 0,
            Some(1) => self.reached == 1 || self.reached == 2,
            Some(2) => self.reached == 1 || self.reached == 2,
            Some(3) => self.reached == 3,
            Some(_) => false,
            None => self.reached == FIXED.len(),
        };
        self.reached = rank.map_or(self.reached, |rank| rank + 1);
        fits.then_some(()).ok_or(Malformed::Headers)
    }

    fn finish(&self) -> Result<(), Malformed> {
        (self.reached == FIXED.len()).then_some(()).ok_or(Malformed::Headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "tree 1\nparent 2\nparent 3\nauthor a <a> 1 +0\ncommitter c <c> 1 +0\n";
    const SIG: &str = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n";

    fn of(text: &str) -> Result<Option<Signed>, Malformed> {
        split(text.as_bytes())
    }

    #[test]
    fn what_is_signed_is_the_object_without_the_signature() {
        let text = format!("{HEAD}encoding x\n{SIG}other y\n\nsubject\n\nbody\0 after a NUL\n");
        let signed = of(&text).unwrap().unwrap();
        assert_eq!(signed.kind, KeyKind::Ssh);
        assert_eq!(signed.signature, b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n");
        assert_eq!(signed.payload, *text.replace(SIG, "").as_bytes());
    }

    #[test]
    fn a_signature_in_the_message_is_no_signature() {
        assert_eq!(of(&format!("{HEAD}\nsubject\n{SIG}")), Ok(None));
        assert_eq!(of(&format!("{HEAD}\n")), Ok(None));
    }

    #[test]
    fn headers_that_two_readers_could_read_differently_are_refused() {
        let cases = [
            format!("{HEAD}{SIG}{SIG}\nx"),
            format!("{SIG}{HEAD}\nx"),
            format!("tree 1\n{SIG}parent 2\nauthor a\ncommitter c\n\nx"),
            format!("{HEAD}parent 4\n{SIG}\nx"),
            format!("{HEAD}tree 4\n{SIG}\nx"),
            format!("tree 1\ngpgsigparent 2\nauthor a\ncommitter c\n{SIG}\nx"),
            format!("tree 1\nauthor a\n{SIG}\nx"),
            format!("{HEAD}x \0\n{SIG}\nx"),
            format!("{HEAD}{SIG}"),
        ];
        for text in cases {
            let found = of(&text).unwrap_err();
            assert!(matches!(found, Malformed::Headers | Malformed::Several), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_signature_that_is_huge_or_of_another_kind_is_refused() {
        let huge = SIG.replace("AAAA", &"A".repeat(LONGEST));
        assert_eq!(of(&format!("{HEAD}{huge}\nx")), Err(Malformed::Huge));
        let x509 = SIG.replace("SSH SIGNATURE", "SIGNED MESSAGE");
        assert_eq!(of(&format!("{HEAD}{x509}\nx")), Err(Malformed::X509));
        let pgp_message = SIG.replace("SSH SIGNATURE", "PGP MESSAGE");
        assert_eq!(of(&format!("{HEAD}{pgp_message}\nx")), Err(Malformed::Unknown));
        assert_eq!(of(&format!("{HEAD}gpgsig\n\nx")), Err(Malformed::Unknown));
    }
}
