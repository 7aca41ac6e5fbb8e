//! Who uses a directory, read from `/proc`: working directory, root, executable, open and mapped files of
//! processes, and mounts below it. Called before a release is removed; sees only what bgd's user may see.

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::build::{BuildError, error::failed};

/// Someone who uses a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// Its name as `ps` shows it.
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

/// Everyone who uses a directory or something below it; a process is named once.
///
/// # Errors
/// [`BuildError::Io`] if the directory or `/proc` can't be read. A process that ends meanwhile, or that
/// bgd's user may not look at, is left out.
pub fn occupants(dir: &Path) -> Result<Vec<Occupant>, BuildError> {
    let dir = fs::canonicalize(dir).map_err(failed("inspect", dir))?;
    let proc = Path::new("/proc");
    let mut found = mounts(&dir)?;
    for entry in fs::read_dir(proc).map_err(failed("list", proc))? {
        let entry = entry.map_err(failed("list", proc))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(holds) = held_by(&entry.path(), &dir) {
            found.push(Occupant::Process { pid, name: name_of(&entry.path()), holds });
        }
    }
    Ok(found)
}

fn held_by(process: &Path, dir: &Path) -> Option<&'static str> {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    [("cwd", "working directory"), ("exe", "executable"), ("root", "root directory")]
        .into_iter()
        .find(|(link, _)| below(process.join(link)))
        .map(|(_, holds)| holds)
        .or_else(|| has_open(process, dir).then_some("open file"))
        .or_else(|| has_mapped(process, dir).then_some("mapped file"))
}

fn has_open(process: &Path, dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return false };
    entries.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(dir)))
}

fn has_mapped(process: &Path, dir: &Path) -> bool {
    let Ok(maps) = fs::read(process.join("maps")) else { return false };
    // The sixth field is the path; the five before it hold no slash.
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/').map(|at| &line[at..]);
        path.is_some_and(|path| PathBuf::from(unescaped(path)).starts_with(dir))
    })
}

fn name_of(process: &Path) -> String {
    fs::read(process.join("comm"))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .unwrap_or_default()
}

fn mounts(dir: &Path) -> Result<Vec<Occupant>, BuildError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).map_err(failed("read", table))?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(unescaped(field)))
    });
    Ok(points.filter(|at| at.starts_with(dir)).map(|at| Occupant::Mount { at }).collect())
}

/// The kernel writes blanks and the like as `\040`.
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
        assert!(mounts(at).unwrap().iter().any(|found| found.to_string() == "a mount at /proc"));
    }
}
