//! The directories of one app below the state directory. Used by the engine and by `command`; the only file that knows
//! their names.

use std::{
    fs::{DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use nix::unistd::{getegid, geteuid};

use crate::{
    command::{CommandError, error::failed, home, owner::Owner},
    config::template::Values,
    rules::ids::{AppName, ReleaseId},
};

/// The directories of one app: `<state_dir>/<app>/{mirror.git,releases,shared,assets,home,logs,run}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    app: PathBuf,
}

impl Places {
    /// The places of an app; creates nothing.
    pub fn new(state_dir: &Path, app: &AppName) -> Self {
        Self { app: state_dir.join(app.as_str()) }
    }

    /// Creates the directories that are missing (not the mirror, which git makes).
    ///
    /// Releases and shared files are reachable by the app's user; logs and run files are bgd's own. All but the
    /// shared one belong to bgd: an app that may rename its `logs` may have root write where it likes.
    ///
    /// # Errors
    /// [`CommandError::Io`] with the directory that could not be made, or that another user made.
    pub fn create(&self) -> Result<(), CommandError> {
        let open = [self.app.clone(), self.releases(), self.shared()];
        let own = [self.logs(), self.run()];
        for (dirs, mode) in [(&open[..], 0o755), (&own[..], 0o750)] {
            for dir in dirs {
                create_dir(dir, mode)?;
                if *dir != self.shared() {
                    take_back(dir)?;
                }
            }
        }
        Ok(())
    }

    /// Lets the app's user write the shared files, and makes it a home where it needs one; the mirror and each release
    /// are given away when they are made.
    ///
    /// # Errors
    /// An unknown user, another user than bgd's own without root, or a directory that can't be made or given away.
    pub fn give_to(&self, user: Option<&str>) -> Result<(), CommandError> {
        let owner = Owner::of(user)?;
        if let Some(owner) = owner {
            give(&self.shared(), owner)?;
        }
        let inherited = std::env::var("HOME").unwrap_or_default();
        let home = home::of(user, self, &inherited)?;
        if home != self.home() {
            return Ok(());
        }
        create_dir(&home, 0o700)?;
        owner.map_or(Ok(()), |owner| give(&home, owner))
    }

    /// The home directory that the app's commands get.
    ///
    /// # Errors
    /// A user that can't be looked up.
    pub fn home_for(&self, user: Option<&str>) -> Result<PathBuf, CommandError> {
        home::of(user, self, &std::env::var("HOME").unwrap_or_default())
    }

    /// `<state_dir>/<app>`
    pub fn app(&self) -> &Path {
        &self.app
    }

    /// The bare mirror of the remote.
    pub fn mirror(&self) -> PathBuf {
        self.app.join("mirror.git")
    }

    /// The directory of all releases.
    pub fn releases(&self) -> PathBuf {
        self.app.join("releases")
    }

    /// The directory of one release.
    pub fn release(&self, release: &ReleaseId) -> PathBuf {
        self.app.join("releases").join(release.as_str())
    }

    /// The directory of the files that all releases share.
    pub fn shared(&self) -> PathBuf {
        self.app.join("shared")
    }

    /// The home directory of an app whose user has none that it may write to.
    pub fn home(&self) -> PathBuf {
        self.app.join("home")
    }

    /// The files of former releases that are still asked for.
    pub fn assets(&self) -> PathBuf {
        self.app.join("assets")
    }

    /// The link to the directory of a static site's live release.
    pub fn live(&self) -> PathBuf {
        self.app.join("live")
    }

    /// Logs of builds and instances.
    pub fn logs(&self) -> PathBuf {
        self.app.join("logs")
    }

    /// The log of a hook, of all its runs with one release.
    pub fn hook_log(&self, name: &str, release: &ReleaseId) -> PathBuf {
        self.logs().join(format!("hook-{name}-{release}.log"))
    }

    /// The log of a task's run with one release.
    pub fn task_log(&self, name: &str, release: &ReleaseId) -> PathBuf {
        self.logs().join(format!("task-{name}-{release}.log"))
    }

    /// The file that says that a task was begun with one release.
    pub fn task_claim(&self, name: &str, release: &ReleaseId) -> PathBuf {
        self.run().join(format!("task-{name}-{release}.begun"))
    }

    /// Sockets and status files of shims.
    pub fn run(&self) -> PathBuf {
        self.app.join("run")
    }
}

fn give(dir: &Path, owner: Owner) -> Result<(), CommandError> {
    std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid)).map_err(failed("give away", dir))
}

fn create_dir(dir: &Path, mode: u32) -> Result<(), CommandError> {
    if is_foreign_link(dir) {
        let why = std::io::Error::other("a symbolic link of another user lies there; remove it");
        return Err(failed("use directory", dir)(why));
    }
    let made = DirBuilder::new().mode(mode).create(dir);
    match made {
        // The umask that bgd was started with must not shut the app's user out.
        Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(mode))
            .map_err(failed("set the mode of", dir)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(failed("create directory", dir)(error)),
    }
}

/// A link that bgd's user made may lead to another disk; a link of another user leads where bgd must not write.
fn is_foreign_link(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok_and(|meta| meta.is_symlink() && meta.uid() != geteuid().as_raw())
}

/// Earlier versions gave some of these directories to the app's user. Without root nothing can be taken back.
fn take_back(dir: &Path) -> Result<(), CommandError> {
    let us = geteuid();
    let meta = dir.symlink_metadata().map_err(failed("look at", dir))?;
    if !us.is_root() || meta.uid() == us.as_raw() {
        return Ok(());
    }
    lchown(dir, Some(us.as_raw()), Some(getegid().as_raw())).map_err(failed("take back", dir))
}

/// One release of an app at one color: what placeholders, environment and directories depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseContext {
    /// The directories of the app.
    pub places: Places,
    /// Release, commit, color and port.
    pub values: Values,
}

impl ReleaseContext {
    /// The directory of this release.
    pub fn release_dir(&self) -> PathBuf {
        self.places.release(&self.values.release)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::User;

    use super::*;

    fn nobody() -> Option<User> {
        let nobody = User::from_name("nobody").unwrap().filter(|_| geteuid().is_root());
        if nobody.is_none() {
            println!("skipped: only root can give a directory to another user, and there has to be one");
        }
        nobody
    }

    #[test]
    fn the_apps_user_can_not_put_another_directory_in_the_place_of_bgds() {
        let Some(nobody) = nobody() else { return };
        let state = tempfile::tempdir().unwrap();
        let places = Places::new(state.path(), &"shop".parse().unwrap());
        places.create().unwrap();
        // An earlier version left them so.
        for dir in [places.app(), &places.releases()] {
            lchown(dir, Some(nobody.uid.as_raw()), None).unwrap();
        }
        places.create().unwrap();
        places.give_to(Some("nobody")).unwrap();
        let owner = |dir: &Path| dir.metadata().unwrap().uid();
        for dir in [places.app(), &places.releases(), &places.logs(), &places.run()] {
            assert_eq!(owner(dir), 0, "{}", dir.display());
        }
        assert_eq!(owner(&places.shared()), nobody.uid.as_raw());
    }

    #[test]
    fn a_link_that_the_apps_user_left_in_place_of_the_logs_is_refused() {
        let Some(nobody) = nobody() else { return };
        let state = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let places = Places::new(state.path(), &"shop".parse().unwrap());
        std::fs::create_dir_all(places.app()).unwrap();
        symlink(elsewhere.path(), places.logs()).unwrap();
        places.create().unwrap();
        lchown(places.logs(), Some(nobody.uid.as_raw()), None).unwrap();
        let refused = places.create().unwrap_err().to_string();
        assert!(refused.contains("logs"), "{refused}");
    }
}
