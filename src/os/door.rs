//! A listening unix socket and its path. It can listen again when the file is gone: a runtime directory may be wiped
//! while its processes live, and without a socket nobody could reach them. Used by the shim too, so it needs no
//! runtime.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
    stat::{Mode, fchmod},
};

use super::own_file::{forgive_missing, make_folder};

/// The path of a socket, and the modes to create it with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub path: &'a Path,
    /// Mode of the socket: who may connect.
    pub mode: u32,
    /// Mode of its directory, if that has to be made.
    pub folder_mode: u32,
}

/// A listening socket's path, with the file that this process bound there.
#[derive(Debug)]
pub(crate) struct Door {
    path: PathBuf,
    file: (u64, u64),
}

impl Name<'_> {
    /// Listens at the path, non-blocking. A socket or file left there is removed first.
    pub(crate) fn listen(self) -> io::Result<(Door, UnixListener)> {
        self.make_folder()?;
        forgive_missing(fs::remove_file(self.path))?;
        let listener = self.bound(self.path)?;
        Ok((Door::at(self.path)?, listener))
    }

    /// Listens in place of a process that still listens there: clients are served by one or the other.
    pub(crate) fn take_over(self) -> io::Result<(Door, UnixListener)> {
        self.make_folder()?;
        let mut beside = self.path.to_owned().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        forgive_missing(fs::remove_file(&beside))?;
        let listener = self.bound(&beside)?;
        fs::rename(&beside, self.path)?;
        Ok((Door::at(self.path)?, listener))
    }

    fn make_folder(self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| make_folder(folder, self.folder_mode))
    }

    fn bound(self, path: &Path) -> io::Result<UnixListener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // The file gets the socket's mode at the bind, less the umask: at no moment may others connect.
        fchmod(&fd, Mode::from_bits_truncate(self.mode))?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))?;
        listen(&fd, Backlog::MAXCONN)?;
        Ok(UnixListener::from(fd))
    }
}

impl Door {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: file(path)? })
    }

    /// Whether the path leads to this socket.
    pub(crate) fn is_in_place(&self) -> bool {
        file(&self.path).is_ok_and(|now| now == self.file)
    }

    /// Whether nothing is at the path.
    pub(crate) fn is_missing(&self) -> bool {
        file(&self.path).is_err_and(|err| err.kind() == io::ErrorKind::NotFound)
    }

    /// Removes the file, unless another socket has replaced it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if self.is_in_place() { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

fn file(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_has_its_mode_and_knows_whether_it_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/bgd.sock");
        let name = Name { path: &path, mode: 0o600, folder_mode: 0o700 };
        let (door, _listener) = name.listen().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(door.is_in_place() && UnixStream::connect(&path).is_ok());
        let (heir, _listener) = name.take_over().unwrap();
        assert!(heir.is_in_place() && !door.is_in_place() && !door.is_missing());
        door.remove().unwrap();
        assert!(heir.is_in_place());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(heir.is_missing());
        assert!(name.listen().unwrap().0.is_in_place());
    }
}
