//! Checks whether nginx's workers can reach the sockets of an app: they run as a user of their own, perhaps with
//! another root directory, and must pass every directory on the way. Checked before a build, because after a flip
//! nginx would answer 502 to everybody.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Nginx, NginxError, link::SocketLink, master, place::IncludeFile};
use crate::os::process::Process;
use crate::rules::ids::Color;

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
            let Some(who) = Who::of(worker) else { continue };
            if let Some(directory) = ways.iter().find_map(|way| who.is_shut_out_of(way)) {
                return Err(NginxError::ShutOut { directory, uid: who.uid });
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

/// The user id and group ids of a process.
struct Who {
    uid: u32,
    groups: Vec<u32>,
}

impl Who {
    fn of(worker: Process) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", worker.pid)).ok()?;
        let numbers = |key: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        // The second number is the one in effect.
        let uid = *numbers("Uid:").get(1)?;
        let groups = numbers("Gid:").get(1).copied().into_iter().chain(numbers("Groups:")).collect();
        Some(Self { uid, groups })
    }

    /// The first directory on the way that the user may not pass. A missing directory counts as passed, because bgd
    /// makes it later.
    fn is_shut_out_of(&self, way: &Path) -> Option<PathBuf> {
        let mut all: Vec<&Path> = way.ancestors().collect();
        all.reverse();
        let shut = |directory: &&Path| fs::metadata(directory).is_ok_and(|it| !self.may_pass(&it));
        all.into_iter().find(shut).map(Path::to_owned)
    }

    fn may_pass(&self, directory: &fs::Metadata) -> bool {
        if self.uid == 0 {
            return true;
        }
        let bit = if directory.uid() == self.uid {
            0o100
        } else if self.groups.contains(&directory.gid()) {
            0o010
        } else {
            0o001
        };
        directory.mode() & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_worker_of_another_user_needs_every_directory_open() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/shop");
        fs::create_dir_all(&inner).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o755);
        let stranger = Who { uid: 4_000_000_001, groups: vec![4_000_000_001] };
        let shut_out = |way: &Path| stranger.is_shut_out_of(way).filter(|at| at.starts_with(dir.path()));
        assert_eq!(shut_out(&inner), None);
        assert_eq!(shut_out(&inner.join("not/there/yet")), None);
        mode(&dir.path().join("a"), 0o750);
        assert_eq!(shut_out(&inner), stranger.is_shut_out_of(&inner));
        assert!(stranger.is_shut_out_of(&inner).is_some());
        let own = Who::of(Process::of(std::process::id().cast_signed()).unwrap()).unwrap();
        assert_eq!(own.is_shut_out_of(&inner), None);
    }
}
