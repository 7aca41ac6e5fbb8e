//! Writes the states of the servers to disk, for HAProxy's own start: with `load-server-state-from-file` it starts with
//! bgd's last states, even when bgd does not run. Written after each proven route, whole or not at all.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::Haproxy;
use crate::os::{blocking::blocking, errors::chain, own_file::OwnFile};

/// Readable by all, because HAProxy reads the file as its own user.
const MODE: u32 = 0o666;

/// The state file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing the states of haproxy's servers: {path}")]
struct KeepError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Haproxy {
    /// Writes the answer of `show servers state` to `state_file`. The route is in force without that file, so a failure
    /// is only logged.
    pub(super) async fn keep(&self) {
        let Some(path) = self.settings.state_file.clone() else { return };
        let states = match self.socket.ask(&self.states()).await {
            Ok(states) => states,
            Err(err) => {
                tracing::error!(err = %chain(&err), "haproxy's state file is not up to date");
                return;
            }
        };
        let written = blocking(move || replace(&path, &states).map_err(|source| KeepError { path, source }));
        if let Err(err) = written.await {
            tracing::error!(err = %chain(&err), "haproxy's state file is not up to date");
        }
    }
}

/// Replaces a file whole: HAProxy never reads half of it, and after a power cut it is the old or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_file_name(format!(".{}.new", name.display()));
    OwnFile { path, temporary: &temporary, mode: MODE }.replace(|file| file.write_all(text.as_bytes()))
}
