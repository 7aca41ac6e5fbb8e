//! Where everything of one app lies below the state directory. Used by the engine and the rest of `build`;
//! the only file that knows the names of these directories.

use std::{
    fs::{DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    build::{BuildError, error::failed, owner::Owner},
    config::template::Values,
    rules::ids::{AppName, ReleaseId},
};

/// The directories of one app: `<state_dir>/<app>/{mirror.git,releases,shared,logs,run}`.
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
    /// Releases and shared files are reachable by the app's user; logs and run files are bgd's own.
    ///
    /// # Errors
    /// [`BuildError::Io`] naming the directory that could not be made.
    pub fn create(&self) -> Result<(), BuildError> {
        let open = [self.app.clone(), self.releases(), self.shared()];
        let own = [self.logs(), self.run()];
        for (dirs, mode) in [(&open[..], 0o755), (&own[..], 0o750)] {
            for dir in dirs {
                create_dir(dir, mode)?;
            }
        }
        Ok(())
    }

    /// Lets the app's user make the mirror and releases; git and builds run as that user.
    ///
    /// # Errors
    /// An unknown user, another user than bgd's own without root, or a directory that can't be given away.
    pub fn give_to(&self, user: Option<&str>) -> Result<(), BuildError> {
        let Some(owner) = Owner::of(user)? else { return Ok(()) };
        for dir in [self.app.clone(), self.releases(), self.shared()] {
            std::os::unix::fs::chown(&dir, Some(owner.uid), Some(owner.gid))
                .map_err(failed("give away", &dir))?;
        }
        Ok(())
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

    /// What all releases share.
    pub fn shared(&self) -> PathBuf {
        self.app.join("shared")
    }

    /// Logs of builds and instances.
    pub fn logs(&self) -> PathBuf {
        self.app.join("logs")
    }

    /// Sockets and status files of shims.
    pub fn run(&self) -> PathBuf {
        self.app.join("run")
    }
}

fn create_dir(dir: &Path, mode: u32) -> Result<(), BuildError> {
    let made = DirBuilder::new().mode(mode).create(dir);
    match made {
        // The umask of whoever started bgd must not shut the app's user out.
        Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(mode))
            .map_err(failed("set the mode of", dir)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(failed("create directory", dir)(error)),
    }
}

/// One release of an app at one color: what placeholders, environment and directories depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The directories of the app.
    pub places: Places,
    /// Release, commit, color and port.
    pub values: Values,
}

impl Context {
    /// The directory of this release.
    pub fn release_dir(&self) -> PathBuf {
        self.places.release(&self.values.release)
    }
}
