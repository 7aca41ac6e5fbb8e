//! The unix sockets of an app's instances, around a start: makes the directory, removes a stale file, opens a listening
//! socket to the front's workers, and detects an instance whose socket file was removed. Does nothing for an app on
//! ports.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
    slice,
    time::Duration,
};

use tokio::time::sleep;

use super::Instances;
use crate::{
    command::{self, command_failure, failure},
    config::settings::Listen,
    os::{errors::chain, unix},
    rules::{
        address::Address,
        words::{Failure, Nature, Phase},
    },
    shim::{Handle, Slot},
};

/// Mode of a socket: every process that may pass the directory may connect, as to a port of 127.0.0.1.
const MODE: u32 = 0o666;

/// The wait before the second look at an instance that does not listen yet; doubles with each look, up to the last.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(500);

impl Instances {
    /// Makes the socket's directory, and removes the file of an earlier instance. Call it only when nothing listens
    /// there.
    pub(crate) fn clear_socket(&self, slot: Slot) -> Result<(), Failure> {
        let Listen::Sockets(sockets) = &self.settings.listen else { return Ok(()) };
        let address = self.settings.address_at(slot.color, slot.index);
        let Some(path) = address.socket() else { return Ok(()) };
        let phase = Phase::Starting;
        command::make_socket_dir(sockets, self.settings.user.as_deref())
            .map_err(|err| command_failure(phase, &err))?;
        match fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                let cause = format!(
                    "can't remove what lies where the app's socket belongs: {}: {err}",
                    path.display()
                );
                Err(Failure {
                    hint: Some("remove it, then `bgd deploy`".to_owned()),
                    ..failure(phase, Nature::Transient, cause)
                })
            }
            _ => Ok(()),
        }
    }

    /// Lets the front's workers connect, which run as another user.
    pub(crate) fn open_socket(&self, address: &Address) -> Result<(), Failure> {
        let Some(path) = address.socket() else { return Ok(()) };
        open_to_all(path).map_err(|err| {
            let cause = format!("can't let the front connect to socket {}: {err}", path.display());
            let hint = format!("give it mode {MODE:o} in the app, or run bgd as root or as the app's user");
            Failure { hint: Some(hint), ..failure(Phase::Probing, Nature::Transient, cause) }
        })
    }

    /// Opens the socket as soon as the instance listens: one that is started again serves before any probe.
    pub(crate) fn open_when_it_listens(&self, handle: &Handle, slot: Slot) {
        let address = self.settings.address_at(slot.color, slot.index);
        let Some(path) = address.socket().map(Path::to_owned) else { return };
        let (app, handle) = (self.settings.name.clone(), handle.clone());
        tokio::spawn(async move {
            // Both arms are cancel-safe: `ended` consumes nothing, and a look that is dropped has changed nothing.
            tokio::select! {
                _ended = handle.ended() => return,
                () = listens(&handle, &address) => {}
            }
            if let Err(err) = open_to_all(&path) {
                tracing::error!(%app, path = %path.display(), err = %chain(&err), "the front can't connect to the instance");
            }
        });
    }

    /// Ends an instance whose socket was removed, so that it is started again like any that died.
    pub(crate) async fn end_if_cut_off(&self, slot: Slot) {
        let Some(handle) = self.known.at(slot).filter(|_| self.is_cut_off(slot)) else { return };
        let (app, color) = (&self.settings.name, slot.color);
        tracing::error!(%app, %color, release = %handle.release(), "the instance's socket was removed: it is started anew");
        if let Err(err) = handle.stop().await {
            tracing::warn!(%app, %color, err = %chain(&err), "an instance without its socket was not ended");
        }
    }

    /// Whether an instance listens on a socket that can't be reached any more: its file was removed, perhaps with the
    /// whole runtime directory, and only a new start brings it back.
    pub(crate) fn is_cut_off(&self, slot: Slot) -> bool {
        let address = self.settings.address_at(slot.color, slot.index);
        let Some(path) = address.socket() else { return false };
        let gone = fs::symlink_metadata(path).is_err_and(|err| err.kind() == io::ErrorKind::NotFound);
        gone && unix::listening(path).is_ok_and(|all| !all.is_empty())
    }
}

/// Returns when the instance listens on the address.
async fn listens(handle: &Handle, address: &Address) {
    let mut pause = FIRST_LOOK;
    while !matches!(handle.listens_on(slice::from_ref(address)), Ok(Some(_))) {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Opens the socket to all. The app owns the directory and may put a link there at any time, so the file that was
/// checked is the one that is changed.
fn open_to_all(path: &Path) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let found = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = found.metadata()?;
    if !meta.file_type().is_socket() {
        return Err(io::Error::other("it is not a socket"));
    }
    if meta.mode() & MODE == MODE {
        return Ok(());
    }
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    fs::set_permissions(itself, fs::Permissions::from_mode(MODE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_opened_to_all_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link, file) = (dir.path().join("s"), dir.path().join("l"), dir.path().join("f"));
        let _listener = UnixListener::bind(&socket).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert!(open_to_all(&link).is_err());
        assert_eq!(mode(&socket), 0o600);
        open_to_all(&socket).unwrap();
        assert_eq!(mode(&socket), 0o666);
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(open_to_all(&file).is_err());
        assert_eq!(mode(&file), 0o600);
    }
}
