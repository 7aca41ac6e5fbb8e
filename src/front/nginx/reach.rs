//! Checks whether nginx's workers can reach the sockets of an app: they run as a user of their own, perhaps with
//! another root directory, and must pass every directory on the way. Checked before a build, because after a flip
//! nginx would answer 502 to everybody.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{Nginx, NginxError, link::SocketLink, master, place::IncludeFile};
use crate::{
    os::{process::Process, reader::Reader},
    rules::ids::Color,
};

impl Nginx {
    /// Fails when a worker can't reach the app's sockets or the link to them; an app on ports always passes.
    pub(super) fn within_reach(&self, master: Process, place: &IncludeFile) -> Result<(), NginxError> {
        // The link's directory is the same for each number of instances.
        let link = SocketLink::of(place, 1);
        let sockets = Color::ALL.into_iter().filter_map(|color| self.addresses.of(color).socket());
        let ways: Vec<&Path> = sockets.filter_map(Path::parent).collect();
        if ways.is_empty() {
            return Ok(());
        }
        let ways: BTreeSet<&Path> = ways.into_iter().chain(link.path().parent()).collect();
        for worker in master::workers(master)? {
            let worker = worker.process;
            if has_other_root(worker) {
                return Err(NginxError::OtherRoot { worker: worker.pid });
            }
            let Some(reader) = Reader::of(worker.pid) else { continue };
            if let Some(directory) = ways.iter().find_map(|way| reader.is_shut_out_of(way)) {
                return Err(NginxError::ShutOut { directory, uid: reader.uid });
            }
        }
        Ok(())
    }
}

/// Whether a worker has another root directory than bgd; only root can see that, so it is `false` for other users.
fn has_other_root(worker: Process) -> bool {
    let of = |path: &str| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    of(&format!("/proc/{}/root", worker.pid)).is_some_and(|root| Some(root) != of("/"))
}
