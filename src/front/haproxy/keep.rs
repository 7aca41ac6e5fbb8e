//! The states of the servers on disk, for HAProxy's own start: with `load-server-state-from-file` it comes up as bgd
//! left it, also when bgd does not run. Written after each proven route, whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::Haproxy;
use crate::os::errors::chain;

/// Why the states could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("writing the states of haproxy's servers: {path}")]
struct KeepError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Haproxy {
    /// Keeps HAProxy's states, in its own words, where `state_file` says. What HAProxy does now is in force without
    /// it, so a failure is said and fails nothing.
    pub(super) async fn keep(&self) {
        let Some(path) = self.settings.state_file.clone() else { return };
        let states = match self.socket.ask(&self.states()).await {
            Ok(states) => states,
            Err(err) => {
                tracing::error!(err = %chain(&err), "haproxy's state file is not up to date");
                return;
            }
        };
        let written = tokio::task::spawn_blocking(move || {
            replace(&path, &states).map_err(|source| KeepError { path, source })
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::error!(err = %chain(&err), "haproxy's state file is not up to date"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// By a rename, so that HAProxy never reads half of it; after a power cut it is the old or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let temporary = dir.join(format!(".{}.new", name.display()));
    match fs::remove_file(&temporary) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    // Never through a link that somebody else put there.
    let mut file = File::create_new(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.state");
        for text in ["1\nold\n", "1\n"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none/shop.state"), "").is_err());
    }
}
