//! The directories of releases: lists them, tells which are complete, and removes one.
//!
//! A release counts only with its marker `releases/.<id>.complete`, written after its files are on disk and
//! removed before they are: a half-made or half-removed one is never a release, whatever happened. The marker
//! lies beside the directory, out of the app's reach, and holds the full commit. Only directories named like
//! a release, right below `releases/`, are ever deleted.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use crate::{
    command::Places,
    os::own_file::OwnFile,
    release::{BuildError, error::failed, in_use::InUse, space::sync_filesystem, tree::Dir},
    rules::ids::{CommitId, ReleaseId},
};

/// The end of the name of a directory that is being removed.
const REMOVING: &str = ".removing";
/// The end of the name of a marker.
const COMPLETE: &str = ".complete";

/// Whether a release can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usability {
    /// The directory does not exist.
    Absent,
    /// Checkout, preparation or build did not end.
    HalfMade,
    /// Built, and on disk.
    Complete(CommitId),
}

/// A release directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseDir {
    pub release: ReleaseId,
    /// The counter in its name; a higher one is newer, even if the time in its name is earlier.
    pub seq: u64,
    /// Whether it can be used; never [`Usability::Absent`].
    pub standing: Usability,
}

/// Marks a release as built, after all its files are on disk.
///
/// # Errors
/// [`BuildError::Io`]; the release is then still half made.
pub fn mark_complete(places: &Places, release: &ReleaseId, commit: &CommitId) -> Result<(), BuildError> {
    sync_filesystem(&places.release(release))?;
    let dir = places.releases();
    let marker = dir.join(marker(release));
    let temporary = dir.join(format!(".{release}.new"));
    let file = OwnFile { path: &marker, temporary: &temporary, mode: 0o666 };
    file.replace(|file| writeln!(file, "{commit}")).map_err(failed("mark complete", &marker))
}

/// Whether a release can be used.
///
/// # Errors
/// [`BuildError::Io`]
pub fn standing(places: &Places, release: &ReleaseId) -> Result<Usability, BuildError> {
    let releases = places.releases();
    if !releases.exists() {
        return Ok(Usability::Absent);
    }
    match Dir::open(&releases)?.stat(OsStr::new(release.as_str()))? {
        Some(meta) if meta.is_dir() => standing_by_marker(&places.releases().join(marker(release))),
        _ => Ok(Usability::Absent),
    }
}

fn standing_by_marker(marker: &Path) -> Result<Usability, BuildError> {
    let mut text = String::new();
    let read = File::open(marker).and_then(|file| file.take(64).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim_end().parse().map_or(Usability::HalfMade, Usability::Complete)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Usability::HalfMade),
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Usability::HalfMade),
        Err(error) => Err(failed("read", marker)(error)),
    }
}

/// All release directories, oldest first. Anything else in `releases/` is left out.
///
/// # Errors
/// [`BuildError::Io`]; an app without a `releases` directory has no releases.
pub fn list_releases(places: &Places) -> Result<Vec<ReleaseDir>, BuildError> {
    let mut found = Vec::new();
    for name in names(places)? {
        let Some(release) = name.to_str().and_then(|name| name.parse::<ReleaseId>().ok()) else { continue };
        match standing(places, &release)? {
            Usability::Absent => {}
            standing => found.push(ReleaseDir { seq: seq(&release), release, standing }),
        }
    }
    found.sort_by(|a, b| (a.seq, &a.release).cmp(&(b.seq, &b.release)));
    Ok(found)
}

fn names(places: &Places) -> Result<Vec<OsString>, BuildError> {
    let dir = places.releases();
    match fs::symlink_metadata(&dir) {
        Ok(_) => Dir::open(&dir)?.names(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("inspect", &dir)(error)),
    }
}

fn seq(release: &ReleaseId) -> u64 {
    release.as_str().split('-').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Removes a release, half made or complete. It is not an error if the release is gone already.
///
/// # Errors
/// [`BuildError::InUse`] naming the processes or mounts that still use it (nothing is touched then),
/// [`BuildError::Symlink`] or [`BuildError::NotDirectory`] if something else has its name, or [`BuildError::Io`]; a
/// directory that was removed only in part does not count as a release, and [`forget_leftovers`] removes the rest.
pub fn remove_release(places: &Places, release: &ReleaseId) -> Result<(), BuildError> {
    Removal::at(places).remove(release)
}

/// Removes any number of releases after one look at the processes of the host.
#[derive(Debug)]
pub struct Removal<'a> {
    places: &'a Places,
    in_use: Option<InUse>,
}

impl<'a> Removal<'a> {
    /// Prepares removals; nothing is removed yet.
    pub fn at(places: &'a Places) -> Self {
        Self { places, in_use: None }
    }

    /// Removes a release as [`remove_release`] does.
    ///
    /// # Errors
    /// Those of [`remove_release`].
    pub fn remove(&mut self, release: &ReleaseId) -> Result<(), BuildError> {
        let dir = Dir::open(&self.places.releases())?;
        let name = OsStr::new(release.as_str());
        if dir.stat(name)?.is_none() {
            return dir.remove(OsStr::new(&marker(release)));
        }
        // Fails for a symlink and for anything that is not a directory.
        drop(dir.child(name)?);
        self.refuse_if_in_use(name, release)?;
        dir.remove(OsStr::new(&marker(release)))?;
        let removing = format!(".{release}{REMOVING}");
        let removing = OsStr::new(&removing);
        dir.remove(removing)?;
        match fs::rename(dir.at(name), dir.at(removing)) {
            // Another removal was quicker.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(failed("remove", &self.places.release(release)))?,
        }
        // Processes that still run as the app's user must not fill it while it is emptied.
        dir.seal(removing)?;
        dir.remove(removing)
    }

    fn refuse_if_in_use(&mut self, name: &OsStr, release: &ReleaseId) -> Result<(), BuildError> {
        let in_use = match self.in_use.take() {
            Some(in_use) => in_use,
            None => InUse::look(&self.places.releases())?,
        };
        let occupants = self.in_use.insert(in_use).of(name).to_vec();
        if occupants.is_empty() {
            Ok(())
        } else {
            Err(BuildError::InUse { release: release.clone(), occupants })
        }
    }
}

/// Finishes removals that a crash or an error cut short, and returns their releases. Called at the start and with each
/// prune.
///
/// # Errors
/// The first error; the others are tried all the same.
pub fn forget_leftovers(places: &Places) -> Result<Vec<ReleaseId>, BuildError> {
    let (mut removal, mut done, mut first) = (Removal::at(places), Vec::new(), None);
    for name in names(places)? {
        let Some(release) = removing(&name) else { continue };
        let removed = removal
            .refuse_if_in_use(&name, &release)
            .and_then(|()| Dir::open(&places.releases())?.remove(&name));
        match removed {
            Ok(()) => done.push(release),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    first.map_or(Ok(done), Err)
}

/// The release of a directory whose removal has begun.
fn removing(name: &OsStr) -> Option<ReleaseId> {
    name.to_str()?.strip_prefix('.')?.strip_suffix(REMOVING)?.parse().ok()
}

fn marker(release: &ReleaseId) -> String {
    format!(".{release}{COMPLETE}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::fs::{PermissionsExt, symlink},
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::{
        command::fixture::{Fixture, commit, release},
        release::free_space,
    };

    #[test]
    fn b10_a_release_without_its_marker_is_half_made() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        assert_eq!(standing(places, &fixture.previous).unwrap(), Usability::HalfMade);
        mark_complete(places, &fixture.previous, &commit()).unwrap();
        assert_eq!(standing(places, &fixture.previous).unwrap(), Usability::Complete(commit()));
        assert_eq!(standing(places, &release(9)).unwrap(), Usability::Absent);
        assert!(mark_complete(places, &release(9), &commit()).is_err());
        fs::write(places.releases().join(marker(&release(2))), "torn").unwrap();
        assert_eq!(standing(places, &release(2)).unwrap(), Usability::HalfMade);
    }

    #[test]
    fn b8_releases_are_listed_by_their_counter_and_strangers_left_out() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let newer = ReleaseId::new("20200101T000000Z", 10, &commit());
        fs::create_dir(places.release(&newer)).unwrap();
        fs::create_dir(places.releases().join("notes")).unwrap();
        symlink("/", places.releases().join(release(3).as_str())).unwrap();
        mark_complete(places, &newer, &commit()).unwrap();
        let found = list_releases(places).unwrap();
        assert_eq!(found.iter().map(|found| found.seq).collect::<Vec<_>>(), [1, 2, 10]);
        assert_eq!(found[2].standing, Usability::Complete(commit()));
        let nothing = crate::command::Places::new(Path::new("/does/not/exist"), &fixture.app.name);
        assert_eq!(list_releases(&nothing).unwrap(), []);
    }

    #[test]
    fn i1_only_a_directory_that_bgd_made_is_removed_and_never_through_a_symlink() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        symlink(outside.path(), places.release(&release(3))).unwrap();
        fs::write(places.release(&release(4)), "a file").unwrap();
        assert!(matches!(remove_release(places, &release(3)), Err(BuildError::Symlink { .. })));
        assert!(matches!(remove_release(places, &release(4)), Err(BuildError::NotDirectory { .. })));
        remove_release(places, &release(5)).unwrap();
        symlink(outside.path(), places.release(&release(2)).join("out")).unwrap();
        remove_release(places, &release(2)).unwrap();
        assert!(outside.path().join("kept").exists());
        assert!(places.release(&release(3)).is_symlink());
    }

    #[test]
    fn a_release_goes_with_its_marker_and_its_read_only_directories() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let dir = places.release(&fixture.previous);
        fixture.write(dir.join("mod/cache/a"), "a");
        for path in ["mod/cache", "mod"] {
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o555)).unwrap();
        }
        fs::set_permissions(dir.join("mod/cache"), fs::Permissions::from_mode(0o000)).unwrap();
        mark_complete(places, &fixture.previous, &commit()).unwrap();
        remove_release(places, &fixture.previous).unwrap();
        let left: Vec<_> = fs::read_dir(places.releases()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [release(2).as_str()]);
    }

    /// Directories nested so deep that no path reaches the last one.
    fn nest(dir: &Path, depth: usize) {
        let mut here = File::open(dir).unwrap();
        for _ in 0..depth {
            nix::sys::stat::mkdirat(&here, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            let below =
                nix::fcntl::openat(&here, "d", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
            here = below.unwrap().into();
        }
        let last = format!("/proc/self/fd/{}/last", std::os::fd::AsRawFd::as_raw_fd(&here));
        fs::write(last, "x").unwrap();
    }

    #[test]
    fn j2_a_tree_of_any_depth_is_removed_with_a_small_stack_and_few_descriptors() {
        // A disk takes a minute for so many levels.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let places = Places::new(root.path(), &"shop".parse().unwrap());
        places.create().unwrap();
        let dir = places.release(&release(1));
        for (name, depth) in [("", 20_000), ("beside", 100)] {
            fs::create_dir_all(dir.join(name)).unwrap();
            nest(&dir.join(name), depth);
        }
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(256 << 10);
            small.spawn_scoped(scope, || remove_release(&places, &release(1)).unwrap()).unwrap();
        });
        assert_eq!(fs::read_dir(places.releases()).unwrap().count(), 0);
    }

    #[test]
    fn j2_what_can_not_be_removed_is_named_and_the_rest_goes() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let dir = places.release(&fixture.previous);
        fixture.write(dir.join("a/kept/x"), "x");
        fixture.write(dir.join("b/c"), "x");
        let held = dir.join("a/kept");
        let mounted =
            nix::mount::mount(Some(&held), &held, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>);
        if mounted.is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        let error = Dir::open(&places.releases()).unwrap().remove(OsStr::new(fixture.previous.as_str()));
        let seen = (held.join("x").exists(), dir.join("b").exists());
        nix::mount::umount(&held).unwrap();
        assert_eq!(seen, (true, false));
        assert_eq!(error.unwrap_err().to_string(), format!("can't remove {}", held.display()));
        remove_release(places, &fixture.previous).unwrap();
    }

    #[test]
    fn a_removal_cut_short_is_ended_later() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let half = places.releases().join(format!(".{}{REMOVING}", release(7)));
        fixture.write(half.join("a/b"), "x");
        let foreign = places.releases().join(".keep.removing");
        fs::create_dir(&foreign).unwrap();
        assert_eq!(forget_leftovers(places).unwrap(), [release(7)]);
        assert!(!half.exists() && foreign.exists());
    }

    /// Runs a shell until dropped, after it has said that it is ready.
    struct Running(Child);

    impl Running {
        fn shell(line: &str, dir: &Path) -> Self {
            let mut child = Command::new("/bin/sh")
                .args(["-c", &format!("{line}; echo ready; read wait")])
                .current_dir(dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
            Self(child)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn j3_a_release_in_use_is_not_removed_and_who_uses_it_is_said() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let dir = places.release(&fixture.previous);
        fixture.write(dir.join("sub/data"), "x");
        fs::create_dir(places.releases().join(format!("{}-other", fixture.previous))).unwrap();
        mark_complete(places, &fixture.previous, &commit()).unwrap();
        let cases = [("cd sub", dir.clone(), "working directory"), ("exec 3<$0", "/".into(), "open file")];
        for (line, cwd, holds) in cases {
            let line = line.replace("$0", &dir.join("sub/data").display().to_string());
            let running = Running::shell(&line, &cwd);
            let error = remove_release(places, &fixture.previous).unwrap_err();
            let said = format!("sh (pid {}, {holds})", running.0.id());
            assert!(error.to_string().ends_with(&said), "{error}");
            assert_eq!(standing(places, &fixture.previous).unwrap(), Usability::Complete(commit()));
        }
        fs::copy("/bin/sh", dir.join("own")).unwrap();
        let mut own = Command::new(dir.join("own")).stdin(Stdio::piped()).current_dir("/").spawn().unwrap();
        assert!(remove_release(places, &fixture.previous).unwrap_err().to_string().contains("executable"));
        drop(own.stdin.take());
        own.wait().unwrap();
        remove_release(places, &fixture.previous).unwrap();
    }

    #[test]
    fn j3_a_library_that_an_app_has_only_mapped_is_in_use() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let Some(at) =
            maps.lines().find_map(|line| Some(&line[line.find('/')?..]).filter(|at| at.contains("libgcc_s")))
        else {
            eprintln!("skipped: no library to map");
            return;
        };
        let library = places.release(&fixture.previous).join("own.so");
        fs::copy(at, &library).unwrap();
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo ready; read wait"])
            .env("LD_PRELOAD", &library)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let running = Running(child);
        let error = remove_release(places, &fixture.previous).unwrap_err().to_string();
        assert!(error.ends_with(&format!("sh (pid {}, mapped file)", running.0.id())), "{error}");
        drop(running);
        remove_release(places, &fixture.previous).unwrap();
    }

    #[test]
    fn j1_free_space_is_measured() {
        let fixture = Fixture::new();
        let space = free_space(&fixture.context.places).unwrap();
        assert!(space.bytes > 0 && space.inodes != Some(0), "{space:?}");
    }
}
