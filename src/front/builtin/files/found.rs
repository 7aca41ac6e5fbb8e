//! The file for a path: looks in the live release, then among former releases' files, then for the page for what is
//! missing. Blocking. A file is opened so that no link leads out of the directory, whatever happens to it meanwhile; only
//! a link to the app's shared files may.

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hyper::{HeaderMap, header::ACCEPT_ENCODING};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::asked::Asked;
use crate::rules::route::{FilesServed, FormerFiles};

/// The page of a directory.
const INDEX: &str = "index.html";
/// The page for what is missing, by which many static sites call it.
const MISSING: &str = "404.html";
/// Files that a build compressed beforehand, best first: the coding and the ending of their names.
const CODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];
/// Tries to open a file while its directories are renamed.
const TRIES: usize = 4;

/// The result of a look.
pub(super) enum Found {
    File(Box<Open>),
    /// A directory that was asked for without a slash at the end.
    Directory,
    /// No file; with the site's own page for that.
    Missing(Option<Box<Open>>),
    /// No file where files of former releases would be.
    NoAsset,
}

/// An open file, and how it is sent.
pub(super) struct Open {
    pub(super) file: File,
    /// In bytes.
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    /// The strong entity tag, with its quotes: another one for each file, also of equal size and time.
    pub(super) tag: String,
    pub(super) content_type: String,
    /// How it is compressed.
    pub(super) coding: Option<&'static str>,
    /// Whether another client may get another coding.
    pub(super) varies: bool,
}

/// A file of a former release that may be there.
#[derive(Debug, Clone)]
pub(in crate::front::builtin) struct Place {
    directory: PathBuf,
    relative: PathBuf,
}

impl Place {
    pub(super) fn former(former: &FormerFiles, asked: &Asked) -> Option<Self> {
        Some(Self { directory: former.directory.clone(), relative: asked.below(&former.url)? })
    }

    pub(super) fn open(&self, headers: &HeaderMap) -> Option<Open> {
        let file = open_below(&self.directory, &self.relative, None)?;
        self.file(file, headers, None)
    }

    /// Prepares an open file; `None` if it is not a regular one.
    fn file(&self, file: File, headers: &HeaderMap, shared: Option<&Path>) -> Option<Open> {
        let plain = Open::of(file, &self.relative)?;
        let other = |(coding, ending): &(&'static str, &'static str)| {
            let mut name = self.relative.as_os_str().to_owned();
            name.push(format!(".{ending}"));
            let file = open_below(&self.directory, Path::new(&name), shared)?;
            Some(Open { coding: Some(coding), varies: true, ..Open::of(file, &self.relative)? })
        };
        let mut others = CODINGS.iter().filter_map(other).peekable();
        let varies = others.peek().is_some();
        let accepted = others.find(|open| open.coding.is_some_and(|coding| accepts(headers, coding)));
        Some(accepted.unwrap_or(Open { varies, ..plain }))
    }
}

impl Open {
    fn of(file: File, name: &Path) -> Option<Self> {
        let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let seconds = u64::try_from(meta.mtime()).unwrap_or_default();
        Some(Self {
            size: meta.len(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            tag: format!("\"{:x}-{:x}.{:x}-{:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()),
            content_type: content_type(name),
            coding: None,
            varies: false,
            file,
        })
    }
}

/// Looks for a path in a site.
pub(super) fn in_site(
    asked: &Asked,
    headers: &HeaderMap,
    (directory, files): (&Path, &FilesServed),
) -> Found {
    let shared = files.shared.as_deref();
    let at = |relative: PathBuf| Place { directory: directory.to_owned(), relative };
    let open = |place: Place| {
        let file = open_below(&place.directory, &place.relative, shared)?;
        place.file(file, headers, shared)
    };
    let relative = asked.relative();
    let found = open_below(directory, &relative, shared);
    let is_dir = found.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|meta| meta.is_dir());
    let file = match found {
        Some(_) if is_dir => open(at(relative.join(INDEX))),
        Some(file) if !asked.is_directory => at(relative).file(file, headers, shared),
        Some(_) | None => None,
    };
    match file {
        Some(_) if is_dir && !asked.is_directory => return Found::Directory,
        Some(file) => return Found::File(Box::new(file)),
        None => {}
    }
    if let Some(place) = files.former.as_ref().and_then(|former| Place::former(former, asked)) {
        return place.open(headers).map_or(Found::NoAsset, |open| Found::File(Box::new(open)));
    }
    let fallback = files.fallback.clone().filter(|_| !asked.is_like_a_file());
    match fallback.and_then(|page| open(at(page))) {
        Some(page) => Found::File(Box::new(page)),
        None => Found::Missing(open(at(MISSING.into())).map(Box::new)),
    }
}

/// Opens a file or directory below `root`; `None` where there is none, or where a link leads out.
fn open_below(root: &Path, relative: &Path, shared: Option<&Path>) -> Option<File> {
    let name = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    match beneath(root, name, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => Some(file),
        Err(err) if err.kind() == io::ErrorKind::CrossesDevices || is_unknown(&err) => {
            through_link(&root.join(name), [Some(root), shared])
        }
        Err(_) => None,
    }
}

/// Opens what a path with links leads to, where that is below one of the directories.
fn through_link(path: &Path, within: [Option<&Path>; 2]) -> Option<File> {
    let end = fs::canonicalize(path).ok()?;
    within.into_iter().flatten().find_map(|directory| {
        let directory = fs::canonicalize(directory).ok()?;
        let rest = end.strip_prefix(&directory).ok()?;
        let name = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        match beneath(&directory, name, ResolveFlags::NO_SYMLINKS) {
            // A kernel without `openat2`: the way was without links a moment ago.
            Err(err) if is_unknown(&err) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
                rustix::fs::open(directory.join(rest), flags, Mode::empty()).map(File::from).ok()
            }
            opened => opened.ok(),
        }
    })
}

fn beneath(root: &Path, name: &Path, how: ResolveFlags) -> io::Result<File> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, directory, Mode::empty())?;
    // Without NONBLOCK a pipe would hold the thread until somebody writes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    for _ in 0..TRIES {
        match openat2(&root, name, flags, Mode::empty(), how) {
            Err(rustix::io::Errno::AGAIN) => {}
            opened => return Ok(opened?.into()),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// Whether the kernel, or what filters its calls, does not know `openat2`.
fn is_unknown(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// Whether a client takes this coding.
fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|part| {
        let mut words = part.split(';').map(str::trim);
        let named = words.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let none = |word: &str| word.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0);
        named && !words.any(none)
    })
}

fn content_type(name: &Path) -> String {
    let guess = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    match guess {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        "application/javascript" => "text/javascript; charset=utf-8".to_owned(),
        other if name.extension().is_some_and(|extension| extension.as_bytes() == b"webmanifest") => {
            if other == "application/octet-stream" {
                "application/manifest+json".to_owned()
            } else {
                other.to_owned()
            }
        }
        other => other.to_owned(),
    }
}
