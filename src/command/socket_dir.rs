//! The directory of an app's unix sockets: made before a start, because the runtime directory is empty after a boot,
//! and passable for everybody, because a front's workers run as another user. The app's user owns it and binds its
//! socket there; the directory above is bgd's own, so that no other user can put a link in its place.

use std::{
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use super::{CommandError, error::failed, owner::Owner};
use crate::config::settings::AppSockets;

/// Other users may pass through, not write.
const MODE: u32 = 0o755;

/// Makes the missing directories, and gives the app's own to its user.
///
/// # Errors
/// An unknown user, another user than bgd's own without root, or a directory that can't be made or given away.
pub fn make_socket_dir(sockets: &AppSockets, user: Option<&str>) -> Result<(), CommandError> {
    let directory = &sockets.directory;
    if let Some(above) = directory.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(above)
            .map_err(failed("create directory", above))?;
        own(above)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(directory)
        .map_err(failed("create directory", directory))?;
    let meta = directory.symlink_metadata().map_err(failed("look at", directory))?;
    if !meta.is_dir() {
        let why = std::io::Error::other("something else lies there; remove it");
        return Err(failed("use directory", directory)(why));
    }
    if let Some(owner) = Owner::of(user)?.filter(|owner| !owner.has(&meta)) {
        lchown(directory, Some(owner.uid), Some(owner.gid)).map_err(failed("give away", directory))?;
    }
    open(directory, meta.mode())
}

/// The umask that bgd was started with must not shut the front out.
fn own(directory: &Path) -> Result<(), CommandError> {
    let meta = directory.symlink_metadata().map_err(failed("look at", directory))?;
    open(directory, meta.mode())
}

fn open(directory: &Path, mode: u32) -> Result<(), CommandError> {
    if mode & 0o7777 == MODE {
        return Ok(());
    }
    std::fs::set_permissions(directory, Permissions::from_mode(MODE))
        .map_err(failed("set the mode of", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_made_anew_where_all_of_it_was_wiped_and_is_open_to_pass() {
        let root = tempfile::tempdir().unwrap();
        let sockets = AppSockets { directory: root.path().join("run/a/shop") };
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        for _ in 0..2 {
            make_socket_dir(&sockets, None).unwrap();
            assert_eq!((mode(&sockets.directory), mode(&root.path().join("run/a"))), (0o755, 0o755));
            std::fs::set_permissions(&sockets.directory, Permissions::from_mode(0o700)).unwrap();
        }
        std::fs::remove_dir_all(root.path().join("run")).unwrap();
        make_socket_dir(&sockets, None).unwrap();
        assert!(sockets.directory.is_dir());
    }

    #[test]
    fn something_else_in_its_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (above, elsewhere) = (root.path().join("a"), root.path().join("elsewhere"));
        std::fs::create_dir(&above).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, above.join("shop")).unwrap();
        let refused = make_socket_dir(&AppSockets { directory: above.join("shop") }, None).unwrap_err();
        assert!(refused.to_string().contains("use directory"), "{refused}");
    }
}
