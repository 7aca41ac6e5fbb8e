//! Paths of a former release in what is copied from it. Virtual environments and the programs that package managers
//! put beside their packages name the directory that they were made in; copied as they are, a new release would run
//! the former one's code until that is pruned, and then not start. Used by `copy`, for the cache alone.
//!
//! Looked at are small text files in directories of programs, files that name paths by their nature, and symlinks.
//! Anything else keeps every byte.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{command::Places, release::tree::Dir, rules::ids::ReleaseId};

/// Scripts that start programs are a few lines; what is larger was not written to be moved.
const LARGEST: u64 = 1 << 20;
/// Directories of programs, of virtual environments, node, composer and bundler, and of bundler's settings.
const PROGRAMS: [&[u8]; 5] = [b"bin", b".bin", b"sbin", b"exe", b".bundle"];
/// Names of files that hold the path of an environment or a package.
const TELLING: [&[u8]; 2] = [b"pyvenv.cfg", b"direct_url.json"];
/// Ends of such names: packages that were installed from the release itself.
const TELLING_ENDS: [&[u8]; 3] = [b".pth", b".egg-link", b"_finder.py"];

/// Rewrites paths into any former release so that they lead to a new one.
#[derive(Debug)]
pub(super) struct PathRewriter {
    /// The directory of releases as configured and, if different, without symlinks, as a shell sees it; each ends with
    /// a slash.
    releases: Vec<Vec<u8>>,
    to: ReleaseId,
}

impl PathRewriter {
    /// Makes paths into any release lead to this one.
    pub(super) fn to(places: &Places, release: &ReleaseId) -> Self {
        let releases = places.releases();
        let mut all = vec![releases.clone()];
        all.extend(releases.canonicalize().ok().filter(|real| *real != releases));
        let with_slash = |path: PathBuf| [path.into_os_string().into_vec(), b"/".to_vec()].concat();
        Self { releases: all.into_iter().map(with_slash).collect(), to: release.clone() }
    }

    /// Whether a file may name the release that it was made in.
    pub(super) fn concerns(&self, dir: &Dir, name: &OsStr, meta: &Metadata) -> bool {
        let (dir, name) = (dir.path().file_name().unwrap_or_default().as_bytes(), name.as_bytes());
        let telling = TELLING.contains(&name) || TELLING_ENDS.iter().any(|end| name.ends_with(end));
        meta.len() <= LARGEST && (telling || PROGRAMS.contains(&dir))
    }

    /// Copies a file, with the paths changed if it is text.
    pub(super) fn copy(&self, source: &mut File, made: &mut File) -> io::Result<u64> {
        let mut text = Vec::new();
        source.take(LARGEST).read_to_end(&mut text)?;
        // A file that grew meanwhile is not a text that starts a program.
        let whole = (text.len() as u64) < LARGEST;
        if let Some(changed) = self.changed(&text).filter(|_| whole && !text.contains(&0)) {
            text = changed;
        }
        made.write_all(&text)?;
        Ok(text.len() as u64 + io::copy(source, made)?)
    }

    /// The new target of a symlink into a former release; `None` if it leads elsewhere.
    pub(super) fn target(&self, target: &Path) -> Option<PathBuf> {
        self.changed(target.as_os_str().as_bytes()).map(|bytes| OsStr::from_bytes(&bytes).into())
    }

    /// The text with every path into a release changed to the new one; `None` if there is nothing to change.
    fn changed(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        let mut found = false;
        while let Some(at) = rest.iter().position(|byte| *byte == b'/') {
            let (before, path) = rest.split_at(at);
            out.extend_from_slice(before);
            rest = match self.after_release(path) {
                Some((prefix, after)) => {
                    out.extend_from_slice(prefix);
                    out.extend_from_slice(self.to.as_str().as_bytes());
                    found = true;
                    after
                }
                None => {
                    out.push(b'/');
                    &path[1..]
                }
            };
        }
        out.extend_from_slice(rest);
        found.then_some(out)
    }

    /// Splits a path into a release into the directory of releases and what follows the release's name.
    fn after_release<'t>(&self, path: &'t [u8]) -> Option<(&'t [u8], &'t [u8])> {
        let prefix = self.releases.iter().find(|prefix| path.starts_with(prefix))?;
        let (prefix, rest) = path.split_at(prefix.len());
        let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        std::str::from_utf8(name).ok()?.parse::<ReleaseId>().ok()?;
        Some((prefix, after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::fixture::{Fixture, release};

    #[test]
    fn paths_into_any_release_lead_to_the_new_one_and_other_bytes_stay() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let moved = PathRewriter::to(places, &release(12));
        let releases = places.releases();
        let at = |id: &ReleaseId| format!("{}/{id}", releases.display());
        let (one, nine, new) = (at(&release(1)), at(&release(9)), at(&release(12)));
        let changed =
            |text: &str| moved.changed(text.as_bytes()).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(
            changed(&format!("#!{one}/.venv/bin/python\nX=\"{nine}\":/usr/bin")).unwrap(),
            format!("#!{new}/.venv/bin/python\nX=\"{new}\":/usr/bin")
        );
        for kept in ["#!/usr/bin/env python3\n", &format!("{}/notes/x", releases.display()), ""] {
            assert_eq!(changed(kept), None, "{kept}");
        }
        assert_eq!(moved.target(Path::new(&format!("{one}/a"))).unwrap(), Path::new(&format!("{new}/a")));
        assert_eq!(moved.target(Path::new("../a")), None);
    }
}
