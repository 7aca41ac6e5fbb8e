//! Files that a deploy needs beside the repository: variables, files shared between releases, and the directories
//! that the app's user passes on the way to its releases.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::finding::Finding;
use crate::{
    command::Places,
    config::{
        env_file,
        settings::{AppSettings, Settings},
    },
    os::errors::chain,
    release,
};

/// Files and directories of one app.
pub fn check(settings: &Settings, app: &AppSettings) -> Vec<Finding> {
    let mut found: Vec<Finding> = variables(app).into_iter().collect();
    let state = settings.daemon.state_dir.join(app.name.as_str());
    found.extend(app.shared.iter().filter_map(|path| shared(app, &state.join("shared"), path)));
    found.extend(closed(app, &state.join("shared")));
    found.extend(way(app, &settings.daemon.state_dir));
    found.extend(home(app, &settings.daemon.state_dir));
    found
}

fn variables(app: &AppSettings) -> Option<Finding> {
    let file = app.env_file.as_ref()?;
    match env_file::read(file) {
        Ok(_) => None,
        Err(error) => Some(Finding::fail(
            format!("{}: {}", app.name, chain(&error)),
            "correct env_file, or the file; the daemon's user has to read it",
        )),
    }
}

/// Warns of a missing shared file, which no deploy makes: it only makes directories, and moves in the files that the
/// repository brings.
fn shared(app: &AppSettings, store: &Path, path: &Path) -> Option<Finding> {
    let is_file = !path.as_os_str().as_bytes().ends_with(b"/")
        && path.file_name().is_some_and(|name| name.as_bytes().contains(&b'.'));
    let place = store.join(path);
    // Only if it certainly does not exist: this user may lack the right to look.
    let absent =
        matches!(fs::symlink_metadata(&place), Err(error) if error.kind() == std::io::ErrorKind::NotFound);
    (is_file && absent).then(|| {
        Finding::warn(
            format!(
                "{}: shared file {} is not there, unless the repository brings it",
                app.name,
                place.display()
            ),
            "put it there before the first deploy; a directory is written with a `/` at its end in `shared`",
        )
    })
}

/// Shared files that the app's user may not read or write.
fn closed(app: &AppSettings, store: &Path) -> Option<Finding> {
    let closed = release::closed_to(app.user.as_deref(), &app.shared, store).ok()?;
    let first = closed.first()?;
    let what = format!("{}: user {} may not write {}", app.name, first.user, first.path.display());
    Some(Finding::warn(what, release::own_hint(&closed)?))
}

/// Says where `HOME` is, when it is not the user's own.
fn home(app: &AppSettings, state_dir: &Path) -> Option<Finding> {
    let places = Places::new(state_dir, &app.name);
    let home = places.home_for(app.user.as_deref()).ok().filter(|home| *home == places.home())?;
    let user = app.user.as_deref().unwrap_or("the daemon's user");
    let what = format!("{}: {user} has no home that it may write to; HOME is {}", app.name, home.display());
    Some(Finding::ok(what))
}

/// Whether the app's user may pass each directory down to its releases.
fn way(app: &AppSettings, state_dir: &Path) -> Option<Finding> {
    let user = User::from_name(app.user.as_deref()?).ok().flatten()?;
    let closed = closed_to(&user, state_dir)?;
    Some(Finding::fail(
        format!("{}: user {} may not pass {} to its releases", app.name, user.name, closed.display()),
        format!("chmod o+x {}, or set daemon.state_dir to a place such as /var/lib/bgd", closed.display()),
    ))
}

/// The first directory on the way down that the user may not enter.
fn closed_to<'p>(user: &User, path: &'p Path) -> Option<&'p Path> {
    if user.uid.is_root() {
        return None;
    }
    let name = std::ffi::CString::new(user.name.as_bytes()).ok()?;
    let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    let mut down: Vec<&Path> = path.ancestors().collect();
    down.reverse();
    down.into_iter().find(|dir| {
        fs::metadata(dir).is_ok_and(|meta| {
            let (owner, group) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
            let bit = match (owner == user.uid, groups.contains(&group)) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            meta.is_dir() && meta.mode() & bit == 0
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture};

    #[test]
    fn n8_a_file_of_variables_that_can_not_be_read_fails_without_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let (_, app) = fixture::settings(dir.path());
        let file = dir.path().join("env");
        let app = AppSettings { env_file: Some(file.clone()), ..(*app).clone() };
        assert_eq!(variables(&app).unwrap().level, Level::Fail);
        fs::write(&file, "A=1\nhunter2\n").unwrap();
        let found = variables(&app).unwrap();
        assert!(found.what.contains("line 2") && !found.what.contains("hunter2"), "{found:?}");
        fs::write(&file, "A=1\n").unwrap();
        assert_eq!(variables(&app), None);
    }

    #[test]
    fn n8_a_shared_file_that_nobody_makes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (_, app) = fixture::settings(dir.path());
        let said = |path: &str| shared(&app, dir.path(), Path::new(path));
        assert!(said(".env").unwrap().what.contains(".env is not there"));
        assert_eq!([said("storage"), said("storage/"), said("conf.d/")], [None, None, None]);
        fs::write(dir.path().join(".env"), "").unwrap();
        assert_eq!(said(".env"), None);
    }

    #[test]
    fn n8_a_directory_that_the_apps_user_may_not_pass_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let stranger = User {
            name: "no-such-user-here".to_owned(),
            uid: Uid::from_raw(4_000_000),
            gid: Gid::from_raw(4_000_000),
            ..User::from_uid(Uid::current()).unwrap().unwrap()
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(closed_to(&stranger, &inner), None);
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(closed_to(&stranger, &inner), Some(dir.path().join("a").as_path()));
    }
}
