//! Finds the home directory of an app's commands: the user's own if the user may write there, else a directory that
//! bgd keeps for the app. The home of a system user often belongs to root or does not exist (`/var/www`,
//! `/nonexistent`), and package managers want to write there. Used by `environment`, and by `places`, which makes the
//! directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::geteuid,
};

use crate::{
    command::{CommandError, Places, owner},
    os::privilege::Account,
};

/// The home directory of an app's commands that run as `user`; `inherited` is bgd's own `HOME`, for a user without an
/// entry.
pub(super) fn of(user: Option<&str>, places: &Places, inherited: &str) -> Result<PathBuf, CommandError> {
    let entry = match user {
        Some(name) => Some(owner::named(name)?),
        None => owner::own()?,
    };
    let own = entry.as_ref().map_or_else(|| PathBuf::from(inherited), |user| user.dir.clone());
    let account = match &entry {
        Some(user) if !user.uid.is_root() => Account::find(&user.name).map_err(owner::lookup(&user.name))?,
        Some(_) => None,
        // Groups are looked up by name; bgd runs as this user, so the kernel can be asked directly instead.
        None if geteuid().is_root() => None,
        None => return Ok(if is_writable(&own) { own } else { places.home() }),
    };
    Ok(if is_usable(&own, account.as_ref()) { own } else { places.home() })
}

/// Whether a user (`None` is root) may create files in the directory.
fn is_usable(dir: &Path, account: Option<&Account>) -> bool {
    let Ok(meta) = fs::metadata(dir) else { return false };
    let read_only = || statvfs(dir).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    let may = |account: &Account| account.may(&meta, 0o3) && closed_way(account, dir).is_none();
    meta.is_dir() && account.is_none_or(may) && !read_only()
}

/// The first directory on the way down to `path` that a user may not pass; root passes all.
pub(crate) fn closed_way<'p>(account: &Account, path: &'p Path) -> Option<&'p Path> {
    let mut down: Vec<&Path> = path.ancestors().skip(1).collect();
    down.reverse();
    down.into_iter().find(|dir| fs::metadata(dir).is_ok_and(|meta| !account.may(&meta, 0o1)))
}

fn is_writable(dir: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    dir.is_dir() && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::fixture::Fixture;

    #[test]
    fn d6_a_user_whose_home_is_not_its_own_gets_one_that_it_can_write() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        assert_eq!(of(Some("root"), places, "/").unwrap(), Path::new("/root"));
        if !geteuid().is_root() {
            eprintln!("skipped: only root gives a home to another user");
            return;
        }
        // The user's entry says /nonexistent.
        assert_eq!(of(Some("nobody"), places, "/").unwrap(), places.home());
        places.give_to(Some("nobody")).unwrap();
        let account = Account::find("nobody").unwrap().unwrap();
        let made = fs::metadata(places.home()).unwrap();
        assert!(account.may(&made, 0o7));
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&made) & 0o777, 0o700);
    }

    #[test]
    fn a_home_is_usable_where_it_and_the_way_to_it_are_open() {
        use std::os::unix::fs::{PermissionsExt, chown};
        if !geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let nobody = Account::find("nobody").unwrap().unwrap();
        let home = root.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let usable = || is_usable(&home, Some(&nobody));
        assert!(!usable(), "it belongs to root");
        chown(&home, Some(nobody.uid.as_raw()), None).unwrap();
        assert!(!usable(), "the way there is closed");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(usable() && is_usable(&home, None));
        assert!(!is_usable(&root.path().join("gone"), None));
    }
}
