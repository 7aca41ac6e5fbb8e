//! What a process may pass and read, by the mode bits of directories and files: its user and groups in effect. Used to
//! find out before a flip whether the process of a front can reach what it shall serve. Access lists and security
//! modules may say otherwise.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The user id and group ids of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reader {
    pub uid: u32,
    pub groups: Vec<u32>,
}

impl Reader {
    /// Those of a process; `None` once it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
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
    pub fn is_shut_out_of(&self, way: &Path) -> Option<PathBuf> {
        let mut all: Vec<&Path> = way.ancestors().collect();
        all.reverse();
        let shut = |directory: &&Path| fs::metadata(directory).is_ok_and(|it| !self.may_pass(&it));
        all.into_iter().find(shut).map(Path::to_owned)
    }

    /// Whether the user may go through a directory.
    pub fn may_pass(&self, directory: &fs::Metadata) -> bool {
        self.has(directory, 0o1)
    }

    /// Whether the user may read a file.
    pub fn may_read(&self, file: &fs::Metadata) -> bool {
        self.has(file, 0o4)
    }

    fn has(&self, meta: &fs::Metadata, bit: u32) -> bool {
        if self.uid == 0 {
            return true;
        }
        let shift = if meta.uid() == self.uid {
            6
        } else if self.groups.contains(&meta.gid()) {
            3
        } else {
            0
        };
        meta.mode() & (bit << shift) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_process_of_another_user_needs_every_directory_open() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/shop");
        fs::create_dir_all(&inner).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o755);
        let stranger = Reader { uid: 4_000_000_001, groups: vec![4_000_000_001] };
        let shut_out = |way: &Path| stranger.is_shut_out_of(way).filter(|at| at.starts_with(dir.path()));
        assert_eq!(shut_out(&inner), None);
        assert_eq!(shut_out(&inner.join("not/there/yet")), None);
        mode(&dir.path().join("a"), 0o750);
        assert_eq!(shut_out(&inner), stranger.is_shut_out_of(&inner));
        assert!(stranger.is_shut_out_of(&inner).is_some());
        let own = Reader::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.is_shut_out_of(&inner), None);
    }

    #[test]
    fn who_may_read_a_file_goes_by_the_bits_of_owner_group_or_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            file.path().metadata().unwrap()
        };
        let (uid, gid) = (set(0o600).uid(), set(0o600).gid());
        let stranger = Reader { uid: 4_000_000_001, groups: vec![4_000_000_001] };
        let member = Reader { groups: vec![gid], ..stranger.clone() };
        assert!(!stranger.may_read(&set(0o640)) && stranger.may_read(&set(0o604)));
        assert!(member.may_read(&set(0o640)) && !member.may_read(&set(0o604)));
        let owner = Reader { uid, groups: Vec::new() };
        assert!(owner.may_read(&set(0o400)) && (uid == 0 || !owner.may_read(&set(0o044))));
    }
}
