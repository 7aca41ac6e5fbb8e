//! Reading a file that somebody named: a regular one, and of a size that is meant. A pipe would wait for ever for its
//! writer, a device may have no end. Used for the configuration and for the files that it names.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is something else, or larger.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let unfit =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("not a file of at most {}", size(most)));
    // So that opening a pipe waits for nobody; reading a regular file does not change by it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > most {
        return Err(unfit());
    }
    let mut bytes = Vec::new();
    // Some say that they are empty and are not.
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
