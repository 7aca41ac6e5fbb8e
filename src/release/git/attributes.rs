//! Applies `.gitattributes` to a file when it is written, as git does: line ends, `$Id$`, encodings. A filter is a
//! program that bgd does not run, so the checkout fails and names it. Used by `checkout` inside the worker, after the
//! attributes files of the commit are written.

use std::path::Path;

use git2::{AttrCheckFlags, AttrValue, Error, Oid, Repository};
use serde::{Deserialize, Serialize};

use super::text::one_line;

/// Filters that change only committed content, not files at checkout; and LFS, which `lfs` handles.
const HARMLESS: [&str; 8] = [
    "lfs",
    "nbstripout",
    "nb-clean",
    "nbstrip",
    "nbstrip_full",
    "strip-notebook-output",
    "jupyternotebook",
    "clean-notebook",
];

/// An attribute that bgd can't apply to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AttributeFault {
    /// `filter=` with this name.
    #[error("it is kept by the filter {0}, which bgd does not run")]
    Filter(String),
    /// `working-tree-encoding=` with an encoding that bgd does not write.
    #[error("bgd does not write the working-tree-encoding {0}")]
    Encoding(String),
    /// The content is not UTF-8, or has characters that the encoding lacks.
    #[error("its content can't be written in the working-tree-encoding {0}")]
    Content(String),
}

impl AttributeFault {
    /// Advice for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Filter(_) => {
                "a release would get what the filter made of the file, such as its ciphertext: take the file out of git and put it into `shared` or `env_file`, or commit it without the filter; then push, or `bgd deploy`"
            }
            Self::Encoding(_) | Self::Content(_) => {
                "commit the file in the encoding that the app needs, without that attribute; then push, or `bgd deploy`"
            }
        }
    }
}

/// Whether an attributes file has an attribute that needs a lookup in [`Attributes`] for each file.
pub fn asks_for_something(attributes: &[u8]) -> bool {
    const WORDS: [&[u8]; 5] = [b"filter=", b"eol=crlf", b"crlf", b"ident", b"working-tree-encoding="];
    let lines = attributes.split(|c| *c == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let words = lines.flat_map(|line| line.split(u8::is_ascii_whitespace).skip(1));
    words
        .filter(|word| *word != b"filter=lfs")
        .any(|word| WORDS.iter().any(|asking| word.starts_with(asking)))
}

/// Looks up attributes in a commit's attributes files, which must already be written.
pub struct Attributes {
    repo: Repository,
}

impl Attributes {
    /// Uses the files below `dir`. libgit2 needs a repository for that, so it opens `mirror`.
    pub fn below(dir: &Path, mirror: &Path) -> Result<Self, Error> {
        let repo = Repository::open_bare(mirror)?;
        repo.set_workdir(dir, false)?;
        Ok(Self { repo })
    }

    /// The treatment of one file of the commit. The outer error is libgit2's, the inner one an unsupported attribute.
    pub fn of(&self, path: &Path) -> Result<Result<Treatment, AttributeFault>, Error> {
        if let Some(name) = self.text(path, "filter")?.filter(|name| !HARMLESS.contains(&name.as_str())) {
            return Ok(Err(AttributeFault::Filter(name)));
        }
        let name = self.text(path, "working-tree-encoding")?;
        let encoding = match name.filter(|name| !same_name(name, "UTF-8")) {
            Some(name) => match Encoding::named(&name) {
                Some(encoding) => Some((encoding, name)),
                None => return Ok(Err(AttributeFault::Encoding(name))),
            },
            None => None,
        };
        let ident = self.value(path, "ident")? == AttrValue::True;
        Ok(Ok(Treatment { crlf: self.crlf(path)?, ident, encoding }))
    }

    fn crlf(&self, path: &Path) -> Result<Option<Crlf>, Error> {
        if self.text(path, "eol")?.as_deref() != Some("crlf") {
            return Ok(None);
        }
        let former = self.value(path, "crlf")?;
        Ok(match self.value(path, "text")? {
            AttrValue::False => None,
            AttrValue::String("auto") => Some(Crlf::IfText),
            AttrValue::Unspecified if former == AttrValue::False => None,
            _ => Some(Crlf::Always),
        })
    }

    fn value(&self, path: &Path, name: &str) -> Result<AttrValue<'_>, Error> {
        self.repo.get_attr_bytes(path, name, AttrCheckFlags::FILE_THEN_INDEX).map(AttrValue::from_bytes)
    }

    fn text(&self, path: &Path, name: &str) -> Result<Option<String>, Error> {
        Ok(match self.value(path, name)? {
            AttrValue::String(text) => Some(one_line(text.as_bytes())),
            AttrValue::Bytes(bytes) => Some(one_line(bytes)),
            AttrValue::True | AttrValue::False | AttrValue::Unspecified => None,
        })
    }
}

/// Whether a file's lines end with CR LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crlf {
    Always,
    /// Only if the content is text with plain line ends.
    IfText,
}

/// The changes to a file's content at checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Treatment {
    crlf: Option<Crlf>,
    ident: bool,
    encoding: Option<(Encoding, String)>,
}

impl Treatment {
    /// The content as git writes it; `None` if nothing changes.
    pub fn applied(&self, content: &[u8], oid: Oid) -> Result<Option<Vec<u8>>, AttributeFault> {
        let mut changed = None;
        if self.ident {
            changed = with_ident(content, oid);
        }
        if let Some(crlf) = self.crlf {
            let current = changed.as_deref().unwrap_or(content);
            changed = with_crlf(current, crlf).or(changed);
        }
        if let Some((encoding, name)) = &self.encoding {
            let current = changed.as_deref().unwrap_or(content);
            let encoded = std::str::from_utf8(current).ok().and_then(|text| encoding.encoded(text));
            changed = Some(encoded.ok_or_else(|| AttributeFault::Content(name.clone()))?);
        }
        Ok(changed)
    }
}

/// Replaces `$Id$` and `$Id: …$` (on one line) by the blob's id, except where another version control system wrote it.
fn with_ident(content: &[u8], oid: Oid) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = content;
    let mut found = false;
    while let Some(at) = rest.windows(3).position(|part| part == b"$Id") {
        let (before, behind) = rest.split_at(at);
        out.extend_from_slice(before);
        match ident_length(behind) {
            Some(length) => {
                out.extend_from_slice(format!("$Id: {oid} $").as_bytes());
                rest = &behind[length..];
                found = true;
            }
            None => {
                out.extend_from_slice(&behind[..3]);
                rest = &behind[3..];
            }
        }
    }
    out.extend_from_slice(rest);
    found.then_some(out)
}

fn ident_length(text: &[u8]) -> Option<usize> {
    if text.get(3) == Some(&b'$') {
        return Some(4);
    }
    let inner = text.strip_prefix(b"$Id:")?;
    let end = inner.iter().position(|c| matches!(c, b'$' | b'\n')).filter(|end| inner[*end] == b'$')?;
    let words = inner[..end].trim_ascii();
    (!words.contains(&b' ')).then_some(4 + end + 1)
}

fn with_crlf(content: &[u8], crlf: Crlf) -> Option<Vec<u8>> {
    if crlf == Crlf::IfText && !is_plain_text(content) {
        return None;
    }
    let mut out = Vec::with_capacity(content.len() + content.len() / 32);
    let mut before = 0;
    for byte in content {
        if *byte == b'\n' && before != b'\r' {
            out.push(b'\r');
        }
        out.push(*byte);
        before = *byte;
    }
    (out.len() != content.len()).then_some(out)
}

/// Git's heuristic: no NUL, no CR, and few unprintable bytes.
fn is_plain_text(content: &[u8]) -> bool {
    // Ignores the end-of-file mark of DOS (0x1A).
    let body = content.strip_suffix(b"\x1a").unwrap_or(content);
    let odd = |c: &&u8| matches!(**c, 0..=7 | 11 | 14..=26 | 28..=31 | 127);
    let breaks = body.iter().filter(|c| **c == b'\n').count();
    let odd = body.iter().filter(odd).count();
    !body.contains(&0) && !body.contains(&b'\r') && (body.len() - odd - breaks) >> 7 >= odd
}

/// An encoding that bgd can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf16 { big: bool, mark: bool },
    Utf32 { big: bool, mark: bool },
    Latin1,
}

impl Encoding {
    fn named(name: &str) -> Option<Self> {
        let (wide, rest) = [("UTF-16", false), ("UTF-32", true), ("UTF16", false), ("UTF32", true)]
            .iter()
            .find_map(|(prefix, wide)| Some((*wide, strip(name, prefix)?)))
            .map_or((None, name), |(wide, rest)| (Some(wide), rest));
        let Some(wide) = wide else {
            let latin =
                ["ISO-8859-1", "ISO8859-1", "LATIN1", "LATIN-1"].iter().any(|known| same_name(known, name));
            return latin.then_some(Self::Latin1);
        };
        let (big, mark) = match rest.to_ascii_uppercase().as_str() {
            // The C library chooses little-endian with a mark on the machines that bgd supports.
            "" | "LE-BOM" => (false, true),
            "BE-BOM" => (true, true),
            "LE" => (false, false),
            "BE" => (true, false),
            _ => return None,
        };
        Some(if wide { Self::Utf32 { big, mark } } else { Self::Utf16 { big, mark } })
    }

    /// The text in this encoding; `None` if the encoding lacks a character.
    fn encoded(self, text: &str) -> Option<Vec<u8>> {
        let marked = |mark: bool| mark.then_some('\u{feff}').into_iter().chain(text.chars());
        match self {
            Self::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect(),
            Self::Utf16 { big, mark } => {
                let text: String = marked(mark).collect();
                let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
                Some(text.encode_utf16().flat_map(bytes).collect())
            }
            Self::Utf32 { big, mark } => {
                let bytes = |c| if big { u32::from(c).to_be_bytes() } else { u32::from(c).to_le_bytes() };
                Some(marked(mark).flat_map(bytes).collect())
            }
        }
    }
}

fn strip<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.get(..prefix.len()).filter(|begin| begin.eq_ignore_ascii_case(prefix)).map(|_| &name[prefix.len()..])
}

fn same_name(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.replace('-', "").to_ascii_uppercase();
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_attributes_need_no_look_at_each_file() {
        for quiet in [
            "* text=auto\n",
            "*.bin filter=lfs diff=lfs -text\n",
            "# x filter=y\n",
            "*.png binary\n*.sh eol=lf\n",
        ] {
            assert!(!asks_for_something(quiet.as_bytes()), "{quiet}");
        }
        for asking in [
            "secret filter=git-crypt\n",
            "*.bat eol=crlf\n",
            "*.c ident\n",
            "[attr]s filter=x\n",
            "a working-tree-encoding=UTF-16\n",
        ] {
            assert!(asks_for_something(asking.as_bytes()), "{asking}");
        }
    }

    #[test]
    fn encodings_are_found_by_their_names() {
        assert_eq!(Encoding::named("utf-16le-bom"), Some(Encoding::Utf16 { big: false, mark: true }));
        assert_eq!(Encoding::named("UTF-16BE").unwrap().encoded("ä").unwrap(), [0, 0xe4]);
        assert_eq!(Encoding::named("latin-1").unwrap().encoded("ä").unwrap(), [0xe4]);
        assert_eq!(Encoding::named("latin-1").unwrap().encoded("€"), None);
        assert_eq!(Encoding::named("SHIFT-JIS"), None);
    }
}
