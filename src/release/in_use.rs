//! Finds the processes and mounts that use a release, from `/proc`: working directory, root, executable, open and
//! mapped files, and mounts below it. Called before releases are removed; sees only what bgd's user may see.
//!
//! The cost is bounded for each process: one with ten thousand connections must not delay a deploy. A file of a release
//! that a process opened before it began to serve has a low number, and a removed file stays open.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open, readlinkat},
    sys::stat::Mode,
};

use crate::release::{BuildError, error::failed};

/// The most descriptors looked at in each process.
const MOST_FILES: usize = 128;

/// The most ancestors followed; a longer chain is a loop made by reused pids.
const MOST_PARENTS: usize = 64;

/// A user of a release's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    /// A process.
    Process {
        /// Its pid.
        pid: u32,
        /// Its name in `ps`.
        name: String,
        /// How it uses the directory, for example `working directory`.
        holds: &'static str,
    },
    /// Something is mounted there; removing would delete what is mounted.
    Mount {
        /// The mount point.
        at: PathBuf,
    },
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name, holds } => write!(f, "{name} (pid {pid}, {holds})"),
            Self::Mount { at } => write!(f, "a mount at {}", at.display()),
        }
    }
}

/// The users of all releases at one moment: one look at all processes, however many releases are asked about.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// The users by the directory's name.
    by_name: BTreeMap<OsString, Vec<Occupant>>,
}

impl InUse {
    /// Looks at everyone who uses a directory right below `releases`, or something in one; a process is named once
    /// for each.
    ///
    /// # Errors
    /// [`BuildError::Io`] if the directory or `/proc` can't be read. A process that ends meanwhile, or that
    /// bgd's user may not look at, is left out.
    pub(super) fn look(releases: &Path) -> Result<Self, BuildError> {
        let look = InUseFacts {
            owners: owners(releases).map_err(failed("list", releases))?,
            bgd: own_name(),
            releases: fs::canonicalize(releases).map_err(failed("inspect", releases))?,
        };
        let mut found = Self::default();
        for at in mounts(&look.releases)? {
            found.add(look.release_of(&at), &|| Occupant::Mount { at: at.clone() });
        }
        let proc = Path::new("/proc");
        for entry in fs::read_dir(proc).map_err(failed("list", proc))? {
            let entry = entry.map_err(failed("list", proc))?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for (release, holds) in look.held_by(&entry.path()) {
                let process = || Occupant::Process { pid, name: name_of(&entry.path()), holds };
                found.add(Some(release), &process);
            }
        }
        Ok(found)
    }

    /// The users of the directory of this name.
    pub(super) fn of(&self, name: &OsStr) -> &[Occupant] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, release: Option<OsString>, occupant: &dyn Fn() -> Occupant) {
        if let Some(release) = release {
            self.by_name.entry(release).or_default().push(occupant());
        }
    }
}

/// The facts by which a process is matched to a release.
struct InUseFacts {
    /// The directory of releases without symlinks, as the kernel names files.
    releases: PathBuf,
    /// The users that releases belong to.
    owners: BTreeSet<u32>,
    /// The name of bgd's own binary, which shims run as well.
    bgd: OsString,
}

impl InUseFacts {
    /// The release that a path lies in.
    fn release_of(&self, path: &Path) -> Option<OsString> {
        let inside = path.strip_prefix(&self.releases).ok()?;
        inside.components().next().map(|first| first.as_os_str().to_owned())
    }

    /// Whether a process may have mapped files of a release: reading its maps costs the most by far. Of root's
    /// processes, which are most of a host's, only those that bgd started.
    fn may_map(&self, process: &Path, uid: u32) -> bool {
        self.owners.contains(&uid) && (uid != 0 || self.is_below_bgd(process))
    }

    fn is_below_bgd(&self, process: &Path) -> bool {
        let mut parent = parent_of(process);
        for _ in 0..MOST_PARENTS {
            let Some(pid) = parent.filter(|pid| *pid > 1) else { return false };
            let above = PathBuf::from(format!("/proc/{pid}"));
            // An older shim runs a binary that was deleted by an upgrade.
            let exe = fs::read_link(above.join("exe")).unwrap_or_default();
            let name = exe.file_name().unwrap_or_default().as_bytes();
            if name.strip_suffix(b" (deleted)").unwrap_or(name) == self.bgd.as_bytes() {
                return true;
            }
            parent = parent_of(&above);
        }
        false
    }

    /// The releases that a process uses, and how.
    fn held_by(&self, process: &Path) -> BTreeMap<OsString, &'static str> {
        let mut held = BTreeMap::new();
        let mut note = |path: &Path, holds| {
            if let Some(release) = self.release_of(path) {
                held.entry(release).or_insert(holds);
            }
        };
        let dir = open(process, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let Ok(dir) = dir else { return held };
        for (link, holds) in [("exe", "executable"), ("cwd", "working directory"), ("root", "root directory")]
        {
            match readlinkat(&dir, link) {
                Ok(path) => note(Path::new(&path), holds),
                // A kernel thread, a process that is gone, or one that this user may not look at.
                Err(_) => return held,
            }
        }
        for path in open_files(process) {
            note(Path::new(&path), "open file");
        }
        if fs::metadata(process).is_ok_and(|meta| self.may_map(process, meta.uid())) {
            for path in mapped_files(process, &self.releases) {
                note(&path, "mapped file");
            }
        }
        held
    }
}

fn own_name() -> OsString {
    let exe = fs::read_link("/proc/self/exe").unwrap_or_default();
    let name = exe.file_name().unwrap_or_default().as_bytes();
    OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name)).to_owned()
}

fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // After the name, which may hold any character: the state, then the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn owners(releases: &Path) -> io::Result<BTreeSet<u32>> {
    fs::read_dir(releases)?.map(|entry| Ok(fs::symlink_metadata(entry?.path())?.uid())).collect()
}

/// The first [`MOST_FILES`] open files of a process.
fn open_files(process: &Path) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return Vec::new() };
    let Ok(dir) = File::open(process.join("fd")) else { return Vec::new() };
    let names = entries.take(MOST_FILES).flatten().map(|fd| fd.file_name());
    names.filter_map(|name| readlinkat(&dir, name.as_os_str()).ok()).collect()
}

fn mapped_files(process: &Path, below: &Path) -> Vec<PathBuf> {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let lines = maps.split(|byte| *byte == b'\n');
    // The sixth field is the path; the five before it hold no slash.
    let paths = lines.filter_map(|line| line.iter().position(|byte| *byte == b'/').map(|at| &line[at..]));
    let near = |path: &&[u8]| path.starts_with(below.as_os_str().as_bytes()) || path.contains(&b'\\');
    paths.filter(near).map(|path| PathBuf::from(unescaped(path))).collect()
}

fn name_of(process: &Path) -> String {
    fs::read(process.join("comm"))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .unwrap_or_default()
}

fn mounts(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).map_err(failed("read", table))?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(unescaped(field)))
    });
    Ok(points.filter(|at| at.starts_with(dir)).collect())
}

/// Decodes a mount point: the kernel writes blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok())
        });
        match code {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescaped(br"/a\040b\134\012c\9"), "/a b\\\nc\\9");
    }

    #[test]
    fn a_mount_is_an_occupant() {
        let at = Path::new("/proc");
        assert!(mounts(at).unwrap().iter().any(|found| found == at));
        let releases = Path::new("/");
        let found = InUse::look(releases).unwrap();
        assert!(found.of(OsStr::new("proc")).iter().any(|found| found.to_string() == "a mount at /proc"));
    }
}
