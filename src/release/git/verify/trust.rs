//! The keys that the operator trusts. The daemon reads them for each fetch and sends them to the worker: a changed file
//! takes effect at the next fetch, and only bgd's user must be able to read it. Used by `worker` and by `bgd doctor`.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::settings::{Verify, VerifyRange},
    release::git::error::{ErrorCause, GitError},
};

/// Bytes: room for thousands of keys. A longer file can't be a list of keys.
const LONGEST: u64 = 1 << 20;

/// The trusted keys, and the commits that they must have signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// allowed_signers file for SSH signatures.
    pub signers: Option<TrustFile>,
    /// Keyring for GPG signatures.
    pub keyring: Option<TrustFile>,
    /// The commits that must be signed.
    pub range: VerifyRange,
}

/// A file of keys, and its content when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Trust {
    /// Reads the files named in the settings. Blocks as long as the file system does.
    ///
    /// # Errors
    /// If a file can't be read, or has no key in it and so could never verify a commit.
    pub fn read(verify: &Verify) -> Result<Self, GitError> {
        let signers = verify.signers.as_deref().map(|path| TrustFile::read(path, no_signers)).transpose()?;
        let keyring = verify.keyring.as_deref().map(|path| TrustFile::read(path, no_keyring)).transpose()?;
        Ok(Self { signers, keyring, range: verify.range })
    }

    /// The files, for messages.
    pub fn lists(&self) -> String {
        let all = self.signers.iter().chain(&self.keyring);
        all.map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(" and ")
    }
}

impl TrustFile {
    fn read(path: &Path, flaw: fn(&[u8]) -> Option<&'static str>) -> Result<Self, GitError> {
        let failed = |cause: &dyn std::fmt::Display| GitError::Signers {
            path: path.to_owned(),
            cause: ErrorCause::new(cause),
        };
        let bytes = content(path).map_err(|err| failed(&err))?;
        match flaw(&bytes) {
            Some(flaw) => Err(failed(&flaw)),
            None => Ok(Self { path: path.to_owned(), bytes }),
        }
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening: opening a pipe without a writer would block for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("longer than {LONGEST} bytes")));
    }
    Ok(bytes)
}

fn no_signers(bytes: &[u8]) -> Option<&'static str> {
    let mut lines = bytes.split(|c| *c == b'\n').map(<[u8]>::trim_ascii);
    let keys = lines.any(|line| !line.is_empty() && !line.starts_with(b"#"));
    (!keys).then_some("no key is in it")
}

fn no_keyring(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [] => Some("no key is in it"),
        [b'-', ..] => Some("it is armored text: write it by `gpg --export` without `--armor`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(dir: &Path) -> Verify {
        Verify { signers: Some(dir.join("signers")), keyring: None, range: VerifyRange::Tip }
    }

    #[test]
    fn a_list_without_a_key_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "# nobody\n\n"] {
            fs::write(dir.path().join("signers"), text).unwrap();
            let err = Trust::read(&verify(dir.path())).unwrap_err();
            assert!(err.to_string().contains("signers"), "{err}");
        }
        fs::write(dir.path().join("signers"), "ann ssh-ed25519 AAAA\n").unwrap();
        assert_eq!(Trust::read(&verify(dir.path())).unwrap().signers.unwrap().bytes.len(), 21);
        assert!(no_keyring(b"-----BEGIN PGP PUBLIC KEY BLOCK-----").is_some());
        assert!(no_keyring(b"\x98\x33").is_none());
    }

    #[test]
    fn a_list_that_is_missing_no_file_or_endless_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Trust::read(&verify(dir.path())), Err(GitError::Signers { .. })));
        fs::create_dir(dir.path().join("signers")).unwrap();
        assert!(matches!(Trust::read(&verify(dir.path())), Err(GitError::Signers { .. })));
        let endless = Verify { signers: Some("/dev/zero".into()), ..verify(dir.path()) };
        assert!(matches!(Trust::read(&endless), Err(GitError::Signers { .. })));
    }
}
