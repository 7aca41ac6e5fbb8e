//! Finds bgd's file on disk, and replaces it whole. A symlink stays a symlink (its target is written), a
//! bind-mounted file is refused (a rename over it can't work, and a write into it would not be whole). Blocking;
//! the cutover calls it off the runtime's threads. Does not interpret the text.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::unistd::{AccessFlags, Gid, Uid, eaccess, fchown};

use crate::os::{
    link::LinkError,
    own_file::{OwnFile, forgive_missing},
};

/// Why the file can't be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The directory is missing, or the path can't be resolved.
    #[error("can't find the directory of {path}")]
    NoDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Replacing a file needs write permission on its directory.
    #[error("can't write in {directory}, where bgd's file is")]
    NotWritable {
        /// The directory of the file, symlinks followed.
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The path is a directory, a device or a pipe.
    #[error("not a regular file: {path}")]
    NotAFile {
        /// The file, symlinks followed.
        path: PathBuf,
    },
    /// A mount point can't be replaced by a rename.
    #[error("{path} is bind-mounted, so it can't be replaced whole: mount its directory instead")]
    BindMounted {
        /// The file, symlinks followed.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error("can't read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// One step of replacing or removing failed; the old file is as it was.
    #[error("can't {step} {path}")]
    Write {
        /// The failed step, a verb for the message.
        step: &'static str,
        /// The file or directory of that step.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A chain of symlinks longer than this is a loop (the kernel's own limit).
const MOST_LINKS: usize = 40;
/// Mode of a new file: administrators may read it; nginx's workers do not need to.
const NEW_MODE: u32 = 0o644;

/// Mode that only the owner and root may read; nginx's master usually runs as root.
const PRIVATE_MODE: u32 = 0o600;
/// The kept text for a place where there was no file.
const NOTHING: &str = "# bgd: there was no file\n";

/// The state of the file before a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormerFile {
    /// No file.
    Nothing,
    /// A file with this text.
    Text(String),
}

/// Who may read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// As the former file's mode allows; everybody for a new file.
    Everybody,
    /// Only the owner, because the text has a secret.
    Owner,
}

impl Audience {
    /// The new mode of a file whose mode was `before`.
    fn mode(self, before: u32) -> u32 {
        match self {
            Self::Everybody => before,
            Self::Owner => before & PRIVATE_MODE,
        }
    }
}

/// The file's path with symlinks followed, which is read, and replaced by a rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IncludeFile {
    path: PathBuf,
    directory: PathBuf,
}

impl IncludeFile {
    /// Resolves symlinks, including one whose target does not exist yet.
    pub(super) fn find(configured: &Path) -> Result<Self, PlaceError> {
        let lost = |source| PlaceError::NoDirectory { path: configured.to_owned(), source };
        let mut path = configured.to_owned();
        for _ in 0..MOST_LINKS {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(lost)?;
            let name = path.file_name().ok_or_else(|| lost(io::ErrorKind::InvalidInput.into()))?;
            let whole = directory.join(name);
            match fs::read_link(&whole) {
                Ok(target) => path = directory.join(target),
                Err(_) => return Ok(Self { path: whole, directory }),
            }
        }
        Err(lost(io::Error::from_raw_os_error(libc::ELOOP)))
    }

    /// The path of the file, symlinks followed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`IncludeFile::replace`] can work, without touching anything.
    pub(super) fn check(&self) -> Result<(), PlaceError> {
        match fs::symlink_metadata(&self.path) {
            Ok(meta) if !meta.is_file() => return Err(PlaceError::NotAFile { path: self.path.clone() }),
            Ok(_) if is_mount_point(&self.path) => {
                return Err(PlaceError::BindMounted { path: self.path.clone() });
            }
            Ok(_) | Err(_) => {}
        }
        eaccess(&self.directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| {
            PlaceError::NotWritable { directory: self.directory.clone(), source: errno.into() }
        })
    }

    /// The text, or `None` when there is no file.
    pub(super) fn read(&self) -> Result<Option<String>, PlaceError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PlaceError::Read { path: self.path.clone(), source }),
        }
    }

    /// When the file was last written, replaced or renamed, by any program.
    pub(super) fn changed(&self) -> Option<SystemTime> {
        let meta = fs::metadata(&self.path).ok()?;
        let (seconds, nanos) = (u64::try_from(meta.ctime()).ok()?, u64::try_from(meta.ctime_nsec()).ok()?);
        Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos))
    }

    /// Replaces the file whole and durably: at every instant, also after a power cut, it is the old or the
    /// new. On a full disk an existing file is written over instead, in the block it already has: a flip must
    /// work there too, and a file this small is written in one piece.
    pub(super) fn replace(&self, text: &str, audience: Audience) -> Result<(), PlaceError> {
        self.check()?;
        match self.write_whole(&self.path, text, audience) {
            Err(PlaceError::Write { source, .. }) if is_full(&source) && self.path.exists() => {
                tracing::warn!(path = %self.path.display(), "disk full: writing over bgd's nginx file");
                // A second name of the same file would be written over with it.
                self.forget();
                self.write_over(text, audience)
            }
            other => other,
        }
    }

    /// Keeps the old text beside the file, under a name that nginx does not read, for going back after a crash. Where
    /// the file has that text, a second link to it is kept, so that it comes back with its mode, owner and bytes. If
    /// that fails (a full disk), the flip goes on, and bgd has the old text only in memory.
    pub(super) fn keep(&self, old: Option<&str>, audience: Audience) {
        let text = old.unwrap_or(NOTHING);
        let is_kept = self.kept_text().is_some_and(|kept| kept == text);
        if is_kept || (self.read().is_ok_and(|now| now.as_deref() == old && old.is_some()) && self.link()) {
            return;
        }
        if let Err(err) = self.write_whole(&self.beside("old"), text, audience) {
            tracing::warn!(path = %self.path.display(), err = %err, "no copy of bgd's nginx file kept");
        }
    }

    /// Gives the file a second name by a hard link; returns whether that worked.
    fn link(&self) -> bool {
        let temp = self.beside("new");
        let named = forgive_missing(fs::remove_file(&temp))
            .and_then(|()| fs::hard_link(&self.path, &temp))
            .and_then(|()| fs::rename(&temp, self.beside("old")));
        named.and_then(|()| self.sync_directory()).is_ok()
    }

    /// The state that was kept last; `None` when there is none.
    pub(super) fn kept(&self) -> Option<FormerFile> {
        self.kept_text()
            .map(|text| if text == NOTHING { FormerFile::Nothing } else { FormerFile::Text(text) })
    }

    fn kept_text(&self) -> Option<String> {
        let bytes = fs::read(self.beside("old")).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Puts a text back: the kept file itself where it has that text.
    pub(super) fn bring_back(&self, text: &str, audience: Audience) -> Result<(), PlaceError> {
        let is_kept = self.kept_text().is_some_and(|kept| kept == text);
        if is_kept && fs::rename(self.beside("old"), &self.path).is_ok() {
            return self.sync_directory().map_err(at("sync", &self.directory));
        }
        self.replace(text, audience)
    }

    /// Drops the kept text. One that stays behind is harmless: it only counts while nginx has it in force.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.beside("old"));
    }

    fn write_whole(&self, path: &Path, text: &str, audience: Audience) -> Result<(), PlaceError> {
        let new = OwnFile { path, temporary: &self.beside("new"), mode: audience.mode(NEW_MODE) };
        new.replace(|file| self.fill(file, text, audience)).map_err(at("write", path))
    }

    fn write_over(&self, text: &str, audience: Audience) -> Result<(), PlaceError> {
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).open(&self.path)?;
            let before = file.metadata()?.permissions().mode();
            file.set_permissions(fs::Permissions::from_mode(audience.mode(before)))?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        };
        write().map_err(at("write over", &self.path))
    }

    /// Removes the file durably.
    pub(super) fn remove(&self) -> Result<(), PlaceError> {
        forgive_missing(fs::remove_file(&self.path))
            .and_then(|()| self.sync_directory())
            .map_err(at("remove", &self.path))
    }

    /// A path beside the file that neither `*.conf` nor `*` matches: globs skip names that begin with a dot.
    pub(super) fn beside(&self, what: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.directory.join(format!(".{name}.{what}"))
    }

    /// Writes the text, and sets mode and owner of the file that the new one replaces.
    fn fill(&self, new: &mut fs::File, text: &str, audience: Audience) -> io::Result<()> {
        new.write_all(text.as_bytes())?;
        let Ok(before) = fs::metadata(&self.path) else { return Ok(()) };
        new.set_permissions(fs::Permissions::from_mode(audience.mode(before.permissions().mode())))?;
        let meta = new.metadata()?;
        if (meta.uid(), meta.gid()) != (before.uid(), before.gid()) {
            // Only root may give files away; without it the new owner is bgd's user, as for any editor.
            let _ = fchown(new, Some(Uid::from_raw(before.uid())), Some(Gid::from_raw(before.gid())));
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }
}

impl From<LinkError> for PlaceError {
    fn from(LinkError { step, path, source }: LinkError) -> Self {
        Self::Write { step, path, source }
    }
}

pub(super) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Write { step, path, source }
}

fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether something is mounted on the path. Without a readable mount table it is only noticed when the rename fails
/// (EBUSY).
fn is_mount_point(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| lists(&table, path))
}

/// Whether a mount table has an entry for exactly this path (fifth column, octal escapes).
fn lists(table: &str, path: &Path) -> bool {
    let wanted = path.to_string_lossy();
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| {
        let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
        plain.into_iter().fold(point.to_owned(), |text, (code, c)| text.replace(code, c)) == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn f5_a_file_is_replaced_whole_with_its_mode_and_nothing_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgd-shop.conf");
        let place = IncludeFile::find(&path).unwrap();
        assert_eq!(place.read().unwrap(), None);
        place.replace("one", Audience::Everybody).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.path().join(".bgd-shop.conf.new"), "left by a crash").unwrap();
        place.replace("two", Audience::Everybody).unwrap();
        assert_eq!(place.read().unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        place.remove().unwrap();
        place.remove().unwrap();
        assert_eq!(place.read().unwrap(), None);
    }

    #[test]
    fn a_file_with_a_secret_is_its_owner_s_alone_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgd-shop.conf");
        let place = IncludeFile::find(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        place.replace("secret", Audience::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        place.replace("secret", Audience::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        place.keep(Some("secret"), Audience::Owner);
        assert_eq!(mode(&place.beside("old")), 0o600);
        place.replace("none", Audience::Everybody).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        place.write_over("secret", Audience::Owner).unwrap();
        assert_eq!((mode(&path), place.read().unwrap().as_deref()), (0o600, Some("secret")));
    }

    #[test]
    fn f5_the_temporary_name_matches_no_include_glob() {
        let place =
            IncludeFile { path: "/etc/nginx/conf.d/a.conf".into(), directory: "/etc/nginx/conf.d".into() };
        let temp = place.beside("new");
        assert!(temp.file_name().unwrap().to_string_lossy().starts_with('.'), "{}", temp.display());
        assert_eq!(temp.parent(), Some(Path::new("/etc/nginx/conf.d")));
    }

    #[test]
    fn f11_a_symlink_stays_one_even_when_it_dangles() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link.conf"));
        fs::create_dir(&real).unwrap();
        symlink("real/a.conf", &link).unwrap();
        for text in ["one", "two"] {
            IncludeFile::find(&link).unwrap().replace(text, Audience::Everybody).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(real.join("a.conf")).unwrap(), text);
        }
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(matches!(IncludeFile::find(&dir.path().join("loop")), Err(PlaceError::NoDirectory { .. })));
    }

    #[test]
    fn f11_a_mount_table_is_read_with_its_escapes() {
        let table = "36 35 98:0 /mnt1 /etc/a\\040b.conf rw - ext3 /dev/root rw\n37 35 0:5 / /etc rw - x y rw";
        assert!(lists(table, Path::new("/etc/a b.conf")));
        assert!(lists(table, Path::new("/etc")));
        assert!(!lists(table, Path::new("/etc/a")));
    }

    #[test]
    fn a_directory_in_its_place_or_no_directory_at_all_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let place = IncludeFile::find(&dir.path().join("d")).unwrap();
        assert!(matches!(place.check(), Err(PlaceError::NotAFile { .. })));
        let missing = IncludeFile::find(&dir.path().join("none/a.conf"));
        assert!(matches!(missing, Err(PlaceError::NoDirectory { .. })));
    }
}
