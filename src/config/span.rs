//! Places in the files of the configuration.

use std::{fmt, sync::Arc};

/// The place of a key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// The file, as the caller named it.
    pub file: Arc<str>,
    /// Line, counted from 1.
    pub line: u32,
    /// Dotted path of the key; empty for the root of a file.
    pub key: String,
}

impl Span {
    /// The place of a key below this one.
    pub fn key(&self, name: &str, line: u32) -> Self {
        let bare = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let name = match !name.is_empty() && name.bytes().all(bare) {
            true => name.to_owned(),
            false => format!("{name:?}"),
        };
        let key = if self.key.is_empty() { name } else { format!("{}.{name}", self.key) };
        Self { file: Arc::clone(&self.file), line, key }
    }

    /// The place of an absent key below this one, which has this one's line.
    pub fn absent(&self, name: &str) -> Self {
        self.key(name, self.line)
    }

    /// The place of an element of the list at this place.
    pub fn element(&self, index: usize, line: u32) -> Self {
        Self { file: Arc::clone(&self.file), line, key: format!("{}[{index}]", self.key) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.key, self.file, self.line)
    }
}
