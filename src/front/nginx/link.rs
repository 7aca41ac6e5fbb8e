//! The link that leads nginx to the live socket of an app that listens on unix sockets: nginx follows it at each
//! connection, so a flip is one rename and no reload. Blocking, and small: two links in the directory of the include.
//!
//! ```text
//! .bgd-shop.conf.live ──▶ .bgd-shop.conf.live.7.20261121T101112Z-42-0123456 ──▶ /run/bgd/a/shop/green.sock
//! ```
//! The name in the middle (called the middle below) has generation and release, so that one rename changes the whole
//! route. Where a color has several instances, the middle is a directory with a link to each, and the upstream names
//! them below the link: `.bgd-shop.conf.live-3/1` to `/3`. Another number of instances uses another link, so that every
//! path that nginx looks for exists.
//!
//! Called by `cutover` (which decides when) and `standing`; knows nothing of nginx's processes.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::place::{IncludeFile, PlaceError, at};
use crate::{
    config::settings::{Addresses, MOST_INSTANCES},
    os::{
        link::{renew, repoint},
        own_file::forgive_missing,
    },
    rules::{
        address::Address,
        ids::{Color, Generation, ReleaseId},
        route::Side,
    },
};

/// Tries to read the link: a flip between the two steps of a read makes it fail, but not so often in a row.
const LOOKS: usize = 5;

/// The link of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketLink {
    path: PathBuf,
}

/// A link that was set, its new target and its former one; `from` is `None` where there was no link.
#[derive(Debug)]
pub(super) struct MovedLink {
    link: SocketLink,
    from: Option<PathBuf>,
    to: PathBuf,
}

impl MovedLink {
    /// A link from an interrupted flip, for [`Self::undo`] to remove.
    pub(super) fn leftover(link: SocketLink) -> Option<Self> {
        let to = fs::read_link(&link.path).ok()?;
        Some(Self { link, from: None, to })
    }

    /// Makes the move final: removes the middles of former routes.
    pub(super) fn settle(&self) {
        self.link.sweep(Some(&self.to));
    }

    /// Points the link to its former target, or removes it where there was none.
    pub(super) fn undo(&self) -> Result<(), PlaceError> {
        match &self.from {
            Some(from) => self.link.set(from)?,
            None => {
                forgive_missing(fs::remove_file(&self.link.path)).map_err(at("remove", &self.link.path))?
            }
        }
        self.link.sweep(self.from.as_deref());
        Ok(())
    }
}

/// The target of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lead {
    /// A color of the app, set by bgd.
    Told {
        color: Color,
        /// The route's generation.
        generation: Generation,
        /// The color's release.
        release: ReleaseId,
    },
    /// This path, set by hand.
    ByHand(PathBuf),
    /// Nothing: the link or its middle is missing.
    Nowhere,
}

impl SocketLink {
    /// The link beside an include for this number of sockets.
    pub(super) fn of(place: &IncludeFile, sockets: usize) -> Self {
        let number = if sockets == 1 { String::new() } else { format!("-{sockets}") };
        Self { path: place.beside(&format!("live{number}")) }
    }

    /// The link beside an include of which this path is a part: the link itself, or a path below it.
    pub(super) fn on_the_way(place: &IncludeFile, path: &Path) -> Option<Self> {
        let candidates = [Some(path), path.parent()].into_iter().flatten();
        let mut links = candidates.map(|path| Self { path: path.to_owned() });
        links.find(|link| *link == Self::of(place, number(&link.path)))
    }

    /// The path of the link itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the present target.
    pub(super) fn read(&self, addresses: &Addresses) -> io::Result<Lead> {
        for _ in 0..LOOKS {
            let Some(middle) = forgive(fs::read_link(&self.path))? else { return Ok(Lead::Nowhere) };
            let Some((generation, release)) = self.meaning(&middle) else { return Ok(Lead::ByHand(middle)) };
            let ends = self.path.with_file_name(&middle);
            let end = if number(&self.path) == 1 { ends } else { ends.join("1") };
            let Some(end) = forgive(fs::read_link(end))? else {
                if forgive(fs::read_link(&self.path))?.as_ref() == Some(&middle) {
                    return Ok(Lead::Nowhere);
                }
                continue;
            };
            let color = addresses.color(&Address::Socket(end.clone()));
            return Ok(color.map_or(Lead::ByHand(end), |color| Lead::Told { color, generation, release }));
        }
        Err(io::Error::other("it changes all the time"))
    }

    /// Parses generation and release from a middle's name; `None` for a name that is not a middle of this link.
    fn meaning(&self, middle: &Path) -> Option<(Generation, ReleaseId)> {
        let name = middle.to_str()?.strip_prefix(self.name().as_str())?.strip_prefix('.')?;
        let (generation, release) = name.split_once('.')?;
        Some((Generation(generation.parse().ok()?), release.parse().ok()?))
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The time of the last move.
    pub(super) fn moved(&self) -> Option<SystemTime> {
        fs::symlink_metadata(&self.path).ok()?.modified().ok()
    }

    /// Points the link to the instances of this side: each connection after the rename reaches one of them. `None` when
    /// the side has no sockets.
    pub(super) fn point(&self, to: &Side, generation: Generation) -> Result<Option<MovedLink>, PlaceError> {
        let sockets: Vec<&Path> = to.addresses.iter().filter_map(Address::socket).collect();
        let middle = PathBuf::from(format!("{}.{generation}.{}", self.name(), to.release));
        let path = self.path.with_file_name(&middle);
        match sockets.as_slice() {
            [] => return Ok(None),
            [socket] => renew(&path, socket)?,
            several => renew_all(&path, several)?,
        }
        let from = fs::read_link(&self.path).ok();
        self.set(&middle)?;
        Ok(Some(MovedLink { link: self.clone(), from, to: middle }))
    }

    /// Points the link to this middle by one rename, and syncs the directory.
    fn set(&self, middle: &Path) -> Result<(), PlaceError> {
        let new = self.path.with_file_name(format!("{}.new", self.name()));
        Ok(repoint(&self.path, &new, middle)?)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Removes the middles of other routes than `keep`; one that can't be removed is harmless.
    fn sweep(&self, keep: Option<&Path>) {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        for entry in entries {
            let name = PathBuf::from(entry.file_name());
            if keep != Some(&name) && self.meaning(&name).is_some() {
                let _stays = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
            }
        }
    }
}

/// The paths by which an upstream names a link: the link itself, or one path below it for each instance.
pub(super) fn ways(link: &Path) -> Vec<PathBuf> {
    match number(link) {
        1 => vec![link.to_owned()],
        several => (1..=several).map(|at| link.join(at.to_string())).collect(),
    }
}

/// The number of sockets that a link leads to, by its name.
fn number(link: &Path) -> usize {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let said = name.rsplit_once(".live-").and_then(|(_, number)| number.parse::<u16>().ok());
    said.filter(|number| *number <= MOST_INSTANCES).map_or(1, usize::from)
}

/// Makes a directory at `path` with a link to each target; nginx's workers may pass it.
fn renew_all(path: &Path, targets: &[&Path]) -> Result<(), PlaceError> {
    let links: Vec<_> = (1..).zip(targets).map(|(at, target)| (path.join(at.to_string()), *target)).collect();
    if links.iter().all(|(link, target)| fs::read_link(link).is_ok_and(|now| now == *target)) {
        return Ok(());
    }
    forgive_missing(fs::remove_dir_all(path)).map_err(at("remove", path))?;
    fs::create_dir(path).map_err(at("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(at("open", path))?;
    for (link, target) in links {
        symlink(target, &link).map_err(at("write", &link))?;
    }
    fs::File::open(path).and_then(|open| open.sync_all()).map_err(at("sync", path))
}

/// Turns the errors for a missing file, or one that is not a link, into `None`.
fn forgive(read: io::Result<PathBuf>) -> io::Result<Option<PathBuf>> {
    match read {
        Ok(path) => Ok(Some(path)),
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(color: Color, release: &str) -> Side {
        let address = Address::Socket(format!("/run/a/shop/{color}.sock").into());
        Side { color, addresses: vec![address], release: release.parse().unwrap(), directory: None }
    }

    fn addresses() -> Addresses {
        let of = |color| Address::Socket(format!("/run/a/shop/{color}.sock").into());
        Addresses { blue: of(Color::Blue), green: of(Color::Green), each: 1 }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_link_tells_color_generation_and_release_and_leaves_nothing_of_former_routes() {
        let dir = tempfile::tempdir().unwrap();
        let link = SocketLink::of(&IncludeFile::find(&dir.path().join("bgd-shop.conf")).unwrap(), 1);
        assert_eq!(link.read(&addresses()).unwrap(), Lead::Nowhere);
        // Left by a power cut between the two steps of a flip.
        symlink("elsewhere", dir.path().join(".bgd-shop.conf.live.new")).unwrap();
        for (generation, color, release) in
            [(7, Color::Blue, "20261121T101112Z-1-0123456"), (8, Color::Green, "20261121T101112Z-2-0123456")]
        {
            let moved = link.point(&side(color, release), Generation(generation)).unwrap();
            moved.unwrap().settle();
            let release: ReleaseId = release.parse().unwrap();
            let told = Lead::Told { color, generation: Generation(generation), release };
            assert_eq!(link.read(&addresses()).unwrap(), told);
            let socket = fs::read_link(dir.path().join(fs::read_link(link.path()).unwrap())).unwrap();
            assert_eq!(socket, Path::new(&format!("/run/a/shop/{color}.sock")));
        }
        let expected = [".bgd-shop.conf.live", ".bgd-shop.conf.live.8.20261121T101112Z-2-0123456"];
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn n3_a_link_that_is_undone_leads_where_it_led_or_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let link = SocketLink::of(&IncludeFile::find(&dir.path().join("a.conf")).unwrap(), 1);
        let point = |color, release: &str, generation| {
            link.point(&side(color, release), Generation(generation)).unwrap().unwrap()
        };
        point(Color::Blue, "20261121T101112Z-1-0123456", 1).undo().unwrap();
        assert!(names(dir.path()).is_empty());
        point(Color::Blue, "20261121T101112Z-1-0123456", 1).settle();
        let before = (names(dir.path()), link.read(&addresses()).unwrap());
        point(Color::Green, "20261121T101112Z-2-0123456", 2).undo().unwrap();
        assert_eq!((names(dir.path()), link.read(&addresses()).unwrap()), before);
    }

    #[test]
    fn of_several_instances_all_are_behind_one_link_that_moves_them_together() {
        let dir = tempfile::tempdir().unwrap();
        let place = IncludeFile::find(&dir.path().join("bgd-shop.conf")).unwrap();
        let link = SocketLink::of(&place, 3);
        let all = Addresses { each: 3, ..addresses() };
        for (generation, color) in [(7, Color::Blue), (8, Color::Green), (8, Color::Green)] {
            let three =
                Side { addresses: all.all(color).collect(), ..side(color, "20261121T101112Z-1-0123456") };
            let moved = link.point(&three, Generation(generation)).unwrap();
            moved.unwrap().settle();
            let ends: Vec<_> = ways(link.path()).iter().map(|way| fs::read_link(way).unwrap()).collect();
            let expected = ["", ".2", ".3"].map(|number| format!("/run/a/shop/{color}{number}.sock"));
            assert!(ends.iter().map(|end| end.to_str().unwrap()).eq(&expected), "{ends:?}");
            let told = Lead::Told { color, generation: Generation(generation), release: three.release };
            assert_eq!(link.read(&all).unwrap(), told);
        }
        let expected = [".bgd-shop.conf.live-3", ".bgd-shop.conf.live-3.8.20261121T101112Z-1-0123456"];
        assert_eq!(names(dir.path()), expected);
        let mode = fs::metadata(link.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "whatever the umask");
        for (path, found) in [
            (link.path().join("2"), Some(&link)),
            (link.path().to_owned(), Some(&link)),
            (dir.path().join("x"), None),
        ] {
            assert_eq!(SocketLink::on_the_way(&place, &path).as_ref(), found, "{path:?}");
        }
        let single = SocketLink::of(&place, 1);
        assert_eq!(SocketLink::on_the_way(&place, single.path()), Some(single.clone()));
        assert_eq!(ways(single.path()), [single.path()]);
    }

    #[test]
    fn f3_what_a_hand_did_to_a_link_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let link = SocketLink::of(&IncludeFile::find(&dir.path().join("a.conf")).unwrap(), 1);
        symlink("/run/a/shop/green.sock", link.path()).unwrap();
        assert_eq!(link.read(&addresses()).unwrap(), Lead::ByHand("/run/a/shop/green.sock".into()));
        link.point(&side(Color::Blue, "20261121T101112Z-1-0123456"), Generation(1)).unwrap();
        fs::remove_file(dir.path().join(".a.conf.live.1.20261121T101112Z-1-0123456")).unwrap();
        assert_eq!(link.read(&addresses()).unwrap(), Lead::Nowhere);
        fs::remove_file(link.path()).unwrap();
        fs::write(link.path(), "a file").unwrap();
        assert_eq!(link.read(&addresses()).unwrap(), Lead::Nowhere);
    }
}
