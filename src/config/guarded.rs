//! Reads only regular files of a plausible size: a pipe would block for ever without a writer, and a device may be
//! endless. Used for the configuration and for the files that it names.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is not a regular file, or larger.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let unfit =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("not a file of at most {}", size(most)));
    // With O_NONBLOCK, opening a pipe does not wait for a writer; for a regular file it has no effect.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > most {
        return Err(unfit());
    }
    let mut bytes = Vec::new();
    // Some files (in /proc) report a size of 0 but have content.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most { Err(unfit()) } else { Ok(bytes) }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_a_sensible_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "text").unwrap();
        std::fs::write(path("large"), [b'x'; 2049]).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path("good"), 2048).unwrap(), b"text");
        for unfit in
            [path("large"), path("pipe"), dir.path().to_owned(), "/dev/zero".into(), "/dev/null".into()]
        {
            let err = read(&unfit, 2048).unwrap_err();
            assert_eq!(err.to_string(), "not a file of at most 2 KiB", "{}", unfit.display());
        }
        assert_eq!(read(&path("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
