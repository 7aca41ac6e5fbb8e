//! The link to the directory of the release that is live, for an app that is a static site: nginx follows it at each
//! request, so that a flip is one rename; for the builtin front, and for people, it tells what is served. Blocking, and
//! small: two links in the directory of the app.
//!
//! ```text
//! live ──▶ .live.7.blue.20261121T101112Z-42-0123456 ──▶ …/releases/20261121T101112Z-42-0123456/dist
//! ```
//! The name in the middle (called the middle below) has generation, color and release, so that one rename changes the
//! whole route and the link alone tells it, also without a record. Called by the fronts; knows none of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    os::{
        link::{LinkError, renew, repoint},
        own_file::forgive_missing,
    },
    rules::{
        ids::{Color, Generation, ReleaseId},
        route::Side,
    },
};

/// The link of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveLink {
    path: PathBuf,
}

/// What the link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedRelease {
    pub color: Color,
    /// The route's generation.
    pub generation: Generation,
    pub release: ReleaseId,
}

impl LiveLink {
    /// The link at this path; makes nothing.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads where the link leads; `None` where there is no link of bgd's, or where it leads to nothing.
    pub fn read(&self) -> Option<LinkedRelease> {
        let middle = fs::read_link(&self.path).ok()?;
        let linked = self.meaning(&middle)?;
        self.path.exists().then_some(linked)
    }

    /// The present middle, for [`LiveLink::back_to`].
    pub fn middle(&self) -> Option<PathBuf> {
        fs::read_link(&self.path).ok()
    }

    /// Points the link to a side's directory by one rename. Middles of former routes stay until [`LiveLink::sweep`].
    ///
    /// # Errors
    /// When the directory of the app can't be written.
    pub fn point(&self, live: &Side, generation: Generation) -> Result<(), LinkError> {
        let Some(directory) = &live.directory else { return Ok(()) };
        let middle = self.middle_of(live.color, generation, &live.release);
        renew(&self.path.with_file_name(&middle), directory)?;
        self.set(&middle)
    }

    /// Points the link to a former middle, or removes it where there was none.
    ///
    /// # Errors
    /// As [`LiveLink::point`].
    pub fn back_to(&self, middle: Option<&Path>) -> Result<(), LinkError> {
        match middle {
            Some(middle) => self.set(middle),
            None => forgive_missing(fs::remove_file(&self.path)).map_err(LinkError::at("remove", &self.path)),
        }
    }

    /// Removes the middles that the link does not lead through; one that can't be removed is harmless.
    pub fn sweep(&self) {
        let present = self.middle();
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        for entry in entries {
            let name = PathBuf::from(entry.file_name());
            if present.as_ref() != Some(&name) && self.meaning(&name).is_some() {
                let _stays = fs::remove_file(entry.path());
            }
        }
    }

    fn set(&self, middle: &Path) -> Result<(), LinkError> {
        let new = self.path.with_file_name(format!("{}new", self.prefix()));
        repoint(&self.path, &new, middle)
    }

    fn middle_of(&self, color: Color, generation: Generation, release: &ReleaseId) -> PathBuf {
        format!("{}{generation}.{color}.{release}", self.prefix()).into()
    }

    /// Parses a middle's name; `None` for a name that is not a middle of this link.
    fn meaning(&self, middle: &Path) -> Option<LinkedRelease> {
        let mut parts = middle.to_str()?.strip_prefix(&self.prefix())?.splitn(3, '.');
        let generation = Generation(parts.next()?.parse().ok()?);
        let color = parts.next()?;
        let color = Color::ALL.into_iter().find(|one| one.as_str() == color)?;
        Some(LinkedRelease { color, generation, release: parts.next()?.parse().ok()? })
    }

    /// The beginning of the middles' names, which no pattern of files matches because of its dot.
    fn prefix(&self) -> String {
        format!(".{}.", self.path.file_name().unwrap_or_default().to_string_lossy())
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn side(dir: &Path, color: Color, release: &str) -> Side {
        let directory = dir.join("releases").join(release).join("dist");
        fs::create_dir_all(&directory).unwrap();
        Side { color, release: release.parse().unwrap(), addresses: Vec::new(), directory: Some(directory) }
    }

    const ONE: &str = "20261121T101112Z-1-0123456";
    const TWO: &str = "20261121T101112Z-2-0123456";

    #[test]
    fn a_link_tells_the_whole_route_and_goes_back_to_where_it_led() {
        let dir = tempfile::tempdir().unwrap();
        let link = LiveLink::at(dir.path().join("live"));
        assert_eq!(link.read(), None);
        // Left by a power cut between the two steps of a flip.
        symlink("elsewhere", dir.path().join(".live.new")).unwrap();
        link.point(&side(dir.path(), Color::Blue, ONE), Generation(7)).unwrap();
        let told = |color, generation, release: &str| {
            Some(LinkedRelease {
                color,
                generation: Generation(generation),
                release: release.parse().unwrap(),
            })
        };
        assert_eq!(link.read(), told(Color::Blue, 7, ONE));
        let before = link.middle();
        link.point(&side(dir.path(), Color::Green, TWO), Generation(8)).unwrap();
        assert_eq!(link.read(), told(Color::Green, 8, TWO));
        assert!(fs::canonicalize(link.path()).unwrap().ends_with(format!("{TWO}/dist")));
        link.back_to(before.as_deref()).unwrap();
        assert_eq!(link.read(), told(Color::Blue, 7, ONE));
        link.sweep();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [&*format!(".live.7.blue.{ONE}"), "live", "releases"]);
        link.back_to(None).unwrap();
        assert_eq!(link.read(), None);
    }

    #[test]
    fn a_link_to_what_is_gone_or_that_somebody_set_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let link = LiveLink::at(dir.path().join("live"));
        link.point(&side(dir.path(), Color::Blue, ONE), Generation(7)).unwrap();
        fs::remove_dir_all(dir.path().join("releases")).unwrap();
        assert_eq!(link.read(), None);
        link.back_to(None).unwrap();
        symlink(dir.path(), link.path()).unwrap();
        assert_eq!(link.read(), None);
    }
}
