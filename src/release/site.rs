//! The health check of a static site: whether the directory is there and the front can read all that is in it. Called
//! before the traffic moves to the release, and from time to time while it is live. Changes nothing.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    config::settings::StaticSite,
    os::reader::Reader,
    release::{BuildError, tree::Dir, walk::Walk},
};

/// Why a release can't be served as a static site.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("the release has no directory {}", dir.display())]
    NoDirectory {
        /// `static.dir`.
        dir: PathBuf,
    },
    #[error("the release's directory {} is empty", dir.display())]
    Empty {
        /// `static.dir`.
        dir: PathBuf,
    },
    #[error("the release has no file {} in {}", fallback.display(), dir.display())]
    NoFallback {
        /// `static.fallback`.
        fallback: PathBuf,
        /// `static.dir`.
        dir: PathBuf,
    },
    /// The front's user may not pass a directory or read a file.
    #[error("the front (uid {uid}) may not {} {}", if *passes { "pass" } else { "read" }, path.display())]
    Closed {
        path: PathBuf,
        uid: u32,
        /// Whether it is a directory that is passed, or a file that is read.
        passes: bool,
    },
    #[error("the link {} leads out of what is served, to {}", path.display(), to.display())]
    LeadsOut {
        path: PathBuf,
        /// Where it ends, all links followed.
        to: PathBuf,
    },
    #[error("can't look at {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tree(#[from] BuildError),
}

impl SiteError {
    /// The next action for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDirectory { .. } | Self::Empty { .. } => {
                "`static.dir` names what the build makes: correct it or the build, then push or `bgd deploy`"
            }
            Self::NoFallback { .. } => {
                "`static.fallback` is relative to `static.dir`; correct it, then `bgd deploy`"
            }
            Self::Closed { .. } => "have the build open it: `chmod -R o+rX`, or a `umask 022` before it",
            Self::LeadsOut { .. } => "put the file itself there, or name it in `shared`",
            Self::Look { .. } | Self::Tree(_) => "look at the release's directory, then `bgd deploy`",
        }
    }

    /// Whether the same commit may be served later without any change to it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Look { .. } => true,
            Self::Tree(err) => err.is_transient(),
            Self::NoDirectory { .. }
            | Self::Empty { .. }
            | Self::NoFallback { .. }
            | Self::Closed { .. }
            | Self::LeadsOut { .. } => false,
        }
    }
}

/// A release as a static site.
#[derive(Debug, Clone, Copy)]
pub struct SiteOf<'a> {
    pub site: &'a StaticSite,
    /// The directory of the release.
    pub release: &'a Path,
    /// The only directory outside of the site to which its links may lead.
    pub shared: &'a Path,
}

impl SiteOf<'_> {
    /// Whether the directory is there, with its fallback: quick enough to be asked again and again.
    ///
    /// # Errors
    /// [`SiteError::NoDirectory`], [`SiteError::NoFallback`].
    pub fn is_there(&self) -> Result<(), SiteError> {
        let dir = self.release.join(&self.site.dir);
        if !dir.is_dir() {
            return Err(SiteError::NoDirectory { dir: self.shown() });
        }
        match &self.site.fallback {
            Some(fallback) if !dir.join(fallback).is_file() => {
                Err(SiteError::NoFallback { fallback: fallback.clone(), dir: self.shown() })
            }
            _ => Ok(()),
        }
    }

    /// Whether each of these readers may read all of the site, and none of its links leads out of it.
    ///
    /// # Errors
    /// The first obstacle.
    pub fn check(&self, readers: &[Reader]) -> Result<(), SiteError> {
        self.is_there()?;
        let dir = self.release.join(&self.site.dir);
        for reader in readers {
            if let Some(path) = reader.is_shut_out_of(&dir) {
                return Err(SiteError::Closed { path, uid: reader.uid, passes: true });
            }
        }
        let top = Dir::open(self.release)?.descend(&self.site.dir)?;
        let top = top.ok_or_else(|| SiteError::NoDirectory { dir: self.shown() })?;
        let real = |path: &Path| fs::canonicalize(path).map_err(looked_at(path));
        let within = [real(&dir)?, fs::canonicalize(self.shared).unwrap_or_else(|_| self.shared.to_owned())];
        self.walk(&top, (readers, &within))
    }

    fn walk(&self, top: &Dir, (readers, within): (&[Reader], &[PathBuf])) -> Result<(), SiteError> {
        let mut walk = Walk::from(top)?;
        let mut levels: Vec<Vec<OsString>> = vec![walk.here().names()?];
        if levels[0].is_empty() {
            return Err(SiteError::Empty { dir: self.shown() });
        }
        while let Some(left) = levels.last_mut() {
            let Some(name) = left.pop() else {
                levels.pop();
                walk.leave()?;
                continue;
            };
            let here = walk.here();
            let Some(meta) = here.stat(&name)? else { continue };
            let path = here.shown(&name);
            if meta.is_symlink() {
                ends_within(&here.at(&name), &path, within)?;
                continue;
            }
            let is_dir = meta.is_dir();
            let may =
                |reader: &&Reader| !if is_dir { reader.may_pass(&meta) } else { reader.may_read(&meta) };
            if let Some(reader) = readers.iter().find(may) {
                return Err(SiteError::Closed { path, uid: reader.uid, passes: is_dir });
            }
            if is_dir {
                walk.enter(&name)?;
                levels.push(walk.here().names()?);
            }
        }
        Ok(())
    }

    fn shown(&self) -> PathBuf {
        match self.site.dir.as_os_str().is_empty() {
            true => ".".into(),
            false => self.site.dir.clone(),
        }
    }
}

/// A link to nothing is harmless: it is answered with 404.
fn ends_within(link: &Path, path: &Path, within: &[PathBuf]) -> Result<(), SiteError> {
    let Ok(to) = fs::canonicalize(link) else { return Ok(()) };
    match within.iter().any(|dir| to.starts_with(dir)) {
        true => Ok(()),
        false => Err(SiteError::LeadsOut { path: path.to_owned(), to }),
    }
}

fn looked_at(path: &Path) -> impl FnOnce(io::Error) -> SiteError {
    let path = path.to_owned();
    move |source| SiteError::Look { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::os::errors::chain;

    struct Tree {
        root: tempfile::TempDir,
        site: StaticSite,
    }

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir_all(root.path().join("release")).unwrap();
            fs::create_dir_all(root.path().join("shared/dist")).unwrap();
            Self { root, site: StaticSite { dir: "dist".into(), fallback: None } }
        }

        fn write(&self, path: &str) {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }

        fn said(&self, readers: &[Reader]) -> String {
            let (release, shared) = (self.root.path().join("release"), self.root.path().join("shared/dist"));
            let of = SiteOf { site: &self.site, release: &release, shared: &shared };
            let said = of.check(readers).map_or_else(|err| chain(&err), |()| "ok".to_owned());
            said.replace(self.root.path().to_str().unwrap(), "")
        }
    }

    #[test]
    fn what_is_missing_is_said_in_a_sentence() {
        let mut tree = Tree::new();
        assert_eq!(tree.said(&[]), "the release has no directory dist");
        fs::create_dir(tree.root.path().join("release/dist")).unwrap();
        assert_eq!(tree.said(&[]), "the release's directory dist is empty");
        tree.write("release/dist/a/b/index.html");
        assert_eq!(tree.said(&[]), "ok");
        tree.site.fallback = Some("index.html".into());
        assert_eq!(tree.said(&[]), "the release has no file index.html in dist");
        tree.site = StaticSite { dir: PathBuf::new(), fallback: None };
        assert_eq!(tree.said(&[]), "ok");
    }

    #[test]
    fn what_the_front_may_not_read_is_named_with_its_user() {
        let tree = Tree::new();
        tree.write("release/dist/a/page.html");
        let mode = |path: &str, mode| {
            fs::set_permissions(tree.root.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        let stranger = [Reader { uid: 4_000_000_001, groups: vec![4_000_000_001] }];
        for path in ["release", "release/dist", "release/dist/a"] {
            mode(path, 0o755);
        }
        mode("release/dist/a/page.html", 0o644);
        if tree.said(&stranger) != "ok" {
            return eprintln!("not run: the directory for temporary files is closed to others");
        }
        mode("release/dist/a/page.html", 0o640);
        let said = "the front (uid 4000000001) may not read /release/dist/a/page.html";
        assert_eq!(tree.said(&stranger), said);
        mode("release/dist/a", 0o750);
        assert_eq!(tree.said(&stranger), "the front (uid 4000000001) may not pass /release/dist/a");
        mode("release/dist", 0o700);
        assert_eq!(tree.said(&stranger), "the front (uid 4000000001) may not pass /release/dist");
    }

    #[test]
    fn a_link_may_lead_within_the_site_and_to_shared_files_and_nowhere_else() {
        let tree = Tree::new();
        tree.write("release/dist/index.html");
        tree.write("shared/dist/uploads/a.png");
        tree.write("release/secret");
        let link = |to: &str, name: &str| {
            symlink(tree.root.path().join(to), tree.root.path().join("release/dist").join(name)).unwrap()
        };
        link("shared/dist/uploads", "uploads");
        link("release/dist/index.html", "home.html");
        link("nothing/there", "broken");
        assert_eq!(tree.said(&[]), "ok");
        link("release/secret", "out");
        let said = tree.said(&[]);
        assert!(said.starts_with("the link /release/dist/out leads out of what is served, to "), "{said}");
    }
}
