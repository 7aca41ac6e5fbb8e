//! Passes bytes to a tool as a sealed file in memory, named by its descriptor: no other process can change it, and it
//! leaves nothing on disk. Used by `ssh` and `gpg`.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

/// A sealed file in memory. Programs started during its life inherit it.
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Makes a file with these bytes and seals it.
    pub fn of(bytes: &[u8]) -> io::Result<Self> {
        // Without MFD_CLOEXEC: the tool opens it by its number. The worker starts nothing else meanwhile.
        // Hardened hosts refuse executable memory files (vm.memfd_noexec); kernels before 6.3 do not know the flag.
        let noexec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL) | MFdFlags::MFD_ALLOW_SEALING;
        let made = memfd_create("bgd", noexec).or_else(|errno| match errno {
            Errno::EINVAL => memfd_create("bgd", MFdFlags::MFD_ALLOW_SEALING),
            _ => Err(errno),
        });
        let mut file = File::from(made?);
        file.write_all(bytes)?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self(file.into()))
    }

    /// Its path, valid in this process and in its children.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Opens it again, at its beginning.
    pub fn reader(&self) -> io::Result<File> {
        File::open(self.path())
    }
}
