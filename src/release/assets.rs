//! Files of former releases that browsers still ask for: hard links below `<app>/assets`, which a front asks once the
//! live release has no such file. Links are made before a release gets traffic, and removed after a deploy. No file is
//! ever put over another one, and the release itself is never touched: an app that reads its own manifest reads its own.
//!
//! `.kept/<release>` lists the files of a release, a line each; `.kept/<release>.left` tells by its time since when the
//! release is no longer live. Both are hidden from visitors by their directory's dot.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};

use crate::{
    command::Places,
    config::settings::{Assets, AssetsKept},
    os::own_file::{OwnFile, forgive_missing},
    release::{BuildError, error::failed, tree::Dir, walk::Walk},
    rules::ids::ReleaseId,
};

/// The directory of the lists.
const LISTS: &str = ".kept";
const LEFT: &str = "left";

/// Keeps the files of a release from now on; a release that is kept already costs one look.
///
/// # Errors
/// A file or directory that can't be read or made; what was linked until then stays.
pub fn keep_assets(places: &Places, assets: &Assets, release: &ReleaseId) -> Result<(), BuildError> {
    let lists = places.assets().join(LISTS);
    let list = lists.join(release.as_str());
    if list.exists() {
        return Ok(());
    }
    fs::create_dir_all(&lists).map_err(failed("create directory", &lists))?;
    let to = Dir::open(&places.assets())?;
    let mut kept = Vec::new();
    if let Some(from) = Dir::open(&places.release(release))?.descend(&assets.dir)? {
        link_all(&from, &to, &mut kept)?;
    }
    let temporary = lists.join(format!("{release}.new"));
    let file = OwnFile { path: &list, temporary: &temporary, mode: 0o600 };
    let write = |out: &mut File| io::Write::write_all(out, &kept.join(&b'\n'));
    file.replace(write).map_err(failed("write", &list))
}

/// Links all regular files, and notes their paths; hidden ones and links are left out.
fn link_all(from: &Dir, to: &Dir, kept: &mut Vec<Vec<u8>>) -> Result<(), BuildError> {
    let mut walk = Walk::from(from)?;
    let mut levels = vec![(PathBuf::new(), walk.here().names()?)];
    while let Some((here, left)) = levels.last_mut() {
        let Some(name) = left.pop() else {
            levels.pop();
            walk.leave()?;
            continue;
        };
        let below = here.join(&name);
        let Some(meta) = walk.here().stat(&name)? else { continue };
        if name.as_bytes().starts_with(b".") || name.as_bytes().contains(&b'\n') {
            continue;
        }
        if meta.is_dir() {
            walk.enter(&name)?;
            levels.push((below, walk.here().names()?));
        } else if meta.is_file() {
            let parent = to.descend_or_create(here, None)?;
            link((walk.here(), &name), &parent)?;
            kept.push(below.into_os_string().into_vec());
        }
    }
    Ok(())
}

/// Links one file, or copies it where another file system or the kernel does not let it be linked. A file that is there
/// already stays as it is.
fn link((from, name): (&Dir, &OsStr), to: &Dir) -> Result<(), BuildError> {
    let (source, made) = (from.at(name), to.at(name));
    match linkat(AT_FDCWD, &source, AT_FDCWD, &made, AtFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::EXDEV | Errno::EPERM | Errno::EMLINK) => copy((from, name), to),
        Err(errno) => Err(failed("link", &to.shown(name))(errno.into())),
    }
}

/// Copies under a hidden name first, so that nobody is sent half of a file.
fn copy((from, name): (&Dir, &OsStr), to: &Dir) -> Result<(), BuildError> {
    let mut hidden = OsString::from(".new.");
    hidden.push(name);
    let (new, made) = (to.at(&hidden), to.at(name));
    let copied = fs::copy(from.at(name), &new).and_then(|_| {
        let meta = fs::metadata(from.at(name))?;
        File::options().write(true).open(&new)?.set_modified(meta.modified()?)?;
        match linkat(AT_FDCWD, &new, AT_FDCWD, &made, AtFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => fs::remove_file(&new),
            // A file system without hard links: nobody else writes there.
            Err(_) => fs::rename(&new, &made),
        }
    });
    copied.map_err(failed("copy", &to.shown(name)))
}

/// Removes the files that only releases have which are no longer asked for. `fate` tells of a release whether it is
/// needed as it is (live, or being made), was live, or never was.
///
/// # Errors
/// The first file or list that could not be read or removed.
pub fn prune_assets(
    places: &Places,
    assets: &Assets,
    fate: impl Fn(&ReleaseId) -> AssetsOf,
) -> Result<(), BuildError> {
    let root = places.assets();
    let lists = root.join(LISTS);
    if !lists.is_dir() {
        return Ok(());
    }
    let (mut kept, mut former) = (Vec::new(), Vec::new());
    for release in listed(&lists)? {
        let left = lists.join(format!("{release}.{LEFT}"));
        match fate(&release) {
            AssetsOf::Needed => {
                forgive_missing(fs::remove_file(&left)).map_err(failed("remove", &left))?;
                kept.push(release);
            }
            AssetsOf::NeverLive if !left.exists() => {}
            AssetsOf::NeverLive | AssetsOf::WasLive => former.push((left_at(&left)?, release)),
        }
    }
    former.sort_by(|a, b| b.cmp(a));
    let now = SystemTime::now();
    let young = |since: SystemTime, most: Duration| now.duration_since(since).unwrap_or_default() < most;
    kept.extend(former.into_iter().enumerate().filter_map(|(at, (since, release))| {
        let stays = match assets.keep {
            AssetsKept::Releases(most) => at < most.get(),
            AssetsKept::For(most) => young(since, most),
        };
        stays.then_some(release)
    }));
    remove_all_but(&root, &kept)
}

/// What a release's files are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssetsOf {
    /// It is live, or on its way to be.
    Needed,
    /// It was live.
    WasLive,
    /// It never was, or nobody knows it any more.
    NeverLive,
}

/// The releases that have a list.
fn listed(lists: &Path) -> Result<Vec<ReleaseId>, BuildError> {
    let entries = fs::read_dir(lists).map_err(failed("list", lists))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Since when a release is no longer live; from now on where that was not noted yet.
fn left_at(left: &Path) -> Result<SystemTime, BuildError> {
    let noted = || -> io::Result<SystemTime> {
        let file = File::options().append(true).create(true).open(left)?;
        file.metadata()?.modified()
    };
    noted().map_err(failed("write", left))
}

/// Removes the files of the other releases that none of these has, then their lists: after a crash between the two the
/// next removal ends it.
fn remove_all_but(root: &Path, kept: &[ReleaseId]) -> Result<(), BuildError> {
    let lists = root.join(LISTS);
    let files = |release: &ReleaseId| -> Result<BTreeSet<Vec<u8>>, BuildError> {
        let list = lists.join(release.as_str());
        let text = fs::read(&list).map_err(failed("read", &list))?;
        Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
    };
    let mut needed = BTreeSet::new();
    for release in kept {
        needed.extend(files(release)?);
    }
    for release in listed(&lists)?.iter().filter(|release| !kept.contains(release)) {
        for file in files(release)?.difference(&needed) {
            remove_file(root, Path::new(OsStr::from_bytes(file)))?;
        }
        for name in [release.to_string(), format!("{release}.{LEFT}")] {
            let path = lists.join(name);
            forgive_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes a file, and the directories that it leaves empty.
fn remove_file(root: &Path, file: &Path) -> Result<(), BuildError> {
    let path = root.join(file);
    forgive_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
    for parent in file.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        // One that has other files stays.
        if fs::remove_dir(root.join(parent)).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    struct Host {
        _root: tempfile::TempDir,
        places: Places,
        assets: Assets,
    }

    fn release(number: u64) -> ReleaseId {
        format!("20261121T101112Z-{number}-0123456").parse().unwrap()
    }

    impl Host {
        fn new(keep: AssetsKept) -> Self {
            let root = tempfile::tempdir().unwrap();
            let places = Places::new(root.path(), &"shop".parse().unwrap());
            places.create().unwrap();
            let assets = Assets { dir: "dist/assets".into(), url: "/assets/".to_owned(), keep };
            Self { _root: root, places, assets }
        }

        fn make(&self, number: u64, files: &[(&str, &str)]) {
            for (name, text) in files {
                let path = self.places.release(&release(number)).join("dist/assets").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            keep_assets(&self.places, &self.assets, &release(number)).unwrap();
        }

        /// The release is live, and the ones before it were, but for the failed ones.
        fn live(&self, number: u64, failed: &[u64]) {
            let fate = |id: &ReleaseId| match id.deploy().0 {
                it if it == number => AssetsOf::Needed,
                it if failed.contains(&it) => AssetsOf::NeverLive,
                _ => AssetsOf::WasLive,
            };
            prune_assets(&self.places, &self.assets, fate).unwrap();
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.places.assets().join(name)).ok()
        }
    }

    fn releases(number: usize) -> AssetsKept {
        AssetsKept::Releases(NonZeroUsize::new(number).unwrap())
    }

    #[test]
    fn files_of_the_last_former_releases_stay_and_none_is_put_over_another() {
        let host = Host::new(releases(1));
        host.make(1, &[("js/a.1.js", "one"), ("logo.png", "first"), (".hidden", "x")]);
        host.live(1, &[]);
        host.make(2, &[("js/a.2.js", "two"), ("logo.png", "second")]);
        host.live(2, &[]);
        assert_eq!(
            (host.text("js/a.1.js").as_deref(), host.text("js/a.2.js").as_deref()),
            (Some("one"), Some("two"))
        );
        assert_eq!((host.text("logo.png").as_deref(), host.text(".hidden")), (Some("first"), None));
        let own = host.places.release(&release(2)).join("dist/assets/logo.png");
        assert_eq!(fs::read_to_string(own).unwrap(), "second", "the release is as it was");
        // A release that failed pushes none out, and leaves nothing.
        host.make(3, &[("b/c/a.3.js", "three")]);
        host.live(2, &[3]);
        assert_eq!((host.text("js/a.1.js").as_deref(), host.text("b/c/a.3.js")), (Some("one"), None));
        assert!(!host.places.assets().join("b").exists());
        host.make(4, &[("js/a.4.js", "four")]);
        host.live(4, &[]);
        assert_eq!((host.text("js/a.1.js"), host.text("js/a.2.js").as_deref()), (None, Some("two")));
        assert_eq!(host.text("logo.png").as_deref(), Some("first"), "another release still has it");
    }

    #[test]
    fn a_release_that_is_live_again_counts_from_when_it_leaves_again() {
        let host = Host::new(releases(1));
        for number in 1..=2 {
            host.make(number, &[(&format!("{number}.js"), "x")]);
            host.live(number, &[]);
        }
        host.live(1, &[]);
        host.make(3, &[("3.js", "x")]);
        host.live(3, &[]);
        assert!(host.text("1.js").is_some() && host.text("2.js").is_none(), "it was live last");
    }

    #[test]
    fn files_are_kept_by_age_from_when_their_release_left() {
        let host = Host::new(AssetsKept::For(Duration::from_secs(3600)));
        for number in 1..=3 {
            host.make(number, &[(&format!("{number}.js"), "x")]);
            host.live(number, &[]);
        }
        assert!(host.text("1.js").is_some());
        let left = host.places.assets().join(LISTS).join(format!("{}.{LEFT}", release(1)));
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        File::options().append(true).open(left).unwrap().set_modified(long_ago).unwrap();
        host.live(3, &[]);
        assert_eq!((host.text("1.js"), host.text("2.js").is_some()), (None, true));
    }

    #[test]
    fn a_release_without_the_directory_keeps_nothing_and_a_link_is_not_followed() {
        let host = Host::new(releases(1));
        fs::create_dir_all(host.places.release(&release(1))).unwrap();
        keep_assets(&host.places, &host.assets, &release(1)).unwrap();
        host.live(1, &[]);
        let dir = host.places.release(&release(2)).join("dist/assets");
        fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("x.js")).unwrap();
        keep_assets(&host.places, &host.assets, &release(2)).unwrap();
        assert_eq!(host.text("x.js"), None);
    }
}
