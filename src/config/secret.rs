//! Secrets in files of their own, read when needed and never stored.

use std::{io, path::PathBuf};

use super::{guarded, settings::PreviewSettings};

/// Bytes of the whole file, of which only the first line is used.
const LARGEST: u64 = 64 << 10;

/// Why a secret can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Its first line is not a valid secret. The message never shows it.
    #[error("the first line of {} is not a secret of 16 to 200 letters, digits, `-` and `_`", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

impl PreviewSettings {
    /// Reads the secret from its file.
    ///
    /// # Errors
    /// If the file can't be read, or its first line has a wrong length or a character that needs quotes in a front.
    pub fn secret(&self) -> Result<String, SecretError> {
        let path = || self.secret_file.clone();
        let bytes = guarded::read(&self.secret_file, LARGEST)
            .map_err(|source| SecretError::Read { path: path(), source })?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().next().unwrap_or_default().trim();
        let plain = line.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if plain && (16..=200).contains(&line.len()) {
            Ok(line.to_owned())
        } else {
            Err(SecretError::Unfit { path: path() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_a_secret_is_long_and_plain_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        let preview = PreviewSettings { header: "X".to_owned(), cookie: "x".to_owned(), secret_file };
        assert!(matches!(preview.secret(), Err(SecretError::Read { .. })));
        for (text, fits) in [
            ("0123456789abcdef\n", true),
            ("  A-long_secret-of-letters \nsecond line", true),
            ("short", false),
            ("sixteen $letters and more", false),
            ("", false),
        ] {
            std::fs::write(&preview.secret_file, text).unwrap();
            assert_eq!(preview.secret().is_ok(), fits, "{text}");
        }
        std::fs::write(&preview.secret_file, "tooshort").unwrap();
        assert!(!preview.secret().unwrap_err().to_string().contains("tooshort"));
    }
}
