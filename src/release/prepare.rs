//! The steps from a checkout to a directory that can be built: owner, cache, shared paths, rewrites.
//! Called by the engine after the checkout and before the build; runs none of the app's commands.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use crate::{
    command::{Owner, ReleaseContext, closed_way, lookup},
    config::settings::AppSettings,
    os::privilege::Account,
    release::{
        BuildError,
        cache::{self, Cached},
        error::failed,
        moved::PathRewriter,
        rewrite,
        shared::{self, Closed},
        tree::Dir,
    },
    rules::ids::ReleaseId,
};

/// The steps taken, for the log of the deploy. Paths are relative to the release, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// Files copied from the previous release.
    pub cached_files: u64,
    /// Bytes copied from the previous release; shared on disk where the file system can.
    pub cached_bytes: u64,
    /// Cache paths that were not copied.
    pub skipped: Vec<Skipped>,
    /// Shared paths that the app's user may not write, with owners.
    pub closed: Vec<Closed>,
    /// Paths linked into `shared`.
    pub linked: Vec<PathBuf>,
    /// Files that were rewritten.
    pub rewritten: Vec<PathBuf>,
}

/// A cache path that was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The path as configured.
    pub path: PathBuf,
    /// The reason, for people.
    pub why: String,
}

/// Prepares the checked-out release of `context` for its build. `previous` is where the cache comes
/// from; `cancel`, once set, ends the work at the next file.
///
/// # Errors
/// Shared files that are missing (before anything is changed), a rewrite that finds nothing, paths that
/// lead out of the release, and system errors. The release is then half made and not to be used.
pub fn prepare(
    app: &AppSettings,
    context: &ReleaseContext,
    previous: Option<&ReleaseId>,
    cancel: &AtomicBool,
) -> Result<Prepared, BuildError> {
    let owner = Owner::of(app.user.as_deref())?;
    refuse_closed_way(app, context)?;
    let release = Dir::open(&context.release_dir())?;
    let store = open_store(&context.places.shared())?;
    shared::check(&app.shared, &release, &store)?;
    let closed = shared::closed_to(app.user.as_deref(), &app.shared, &context.places.shared())?;
    if closed.iter().any(|closed| closed.unreadable) {
        return Err(BuildError::SharedClosed { closed });
    }
    if let Some(owner) = owner {
        release.give_all_to(owner)?;
    }
    let previous = match previous {
        Some(id) => open_previous(&context.places.release(id))?,
        None => None,
    };
    let cached = match &previous {
        Some(previous) => {
            let moved = PathRewriter::to(&context.places, &context.values.release);
            cache::fill(&app.cache, previous, &release, (owner, moved, cancel))?
        }
        None => Cached::default(),
    };
    let linking = shared::Linking { release: &release, store: &store, owner, cancel };
    linking.all(&app.shared, &context.places.shared())?;
    check_dir(app, &context.release_dir())?;
    for change in &app.rewrites {
        rewrite::apply(change, &context.values, &release)?;
    }
    Ok(Prepared {
        cached_files: cached.files,
        cached_bytes: cached.bytes,
        skipped: cached.skipped,
        closed,
        linked: app.shared.clone(),
        rewritten: app.rewrites.iter().map(|change| change.file.clone()).collect(),
    })
}

/// Refuses a release that the app's user can't reach: the error of a build there would name another cause.
fn refuse_closed_way(app: &AppSettings, context: &ReleaseContext) -> Result<(), BuildError> {
    let Some(user) = app.user.as_deref() else { return Ok(()) };
    let Some(account) = Account::find(user).map_err(lookup(user))? else { return Ok(()) };
    match closed_way(&account, &context.release_dir()) {
        Some(dir) => Err(BuildError::ClosedWay { user: user.to_owned(), dir: dir.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses a `dir` that is missing, or that a link leads out of the release: a build there would write elsewhere.
fn check_dir(app: &AppSettings, release: &Path) -> Result<(), BuildError> {
    let Some(dir) = &app.dir else { return Ok(()) };
    let root = release.canonicalize().map_err(failed("open directory", release))?;
    match root.join(dir).canonicalize() {
        Ok(to) if !to.starts_with(&root) => Err(BuildError::DirOutside { dir: dir.clone(), to }),
        Ok(to) if to.is_dir() => Ok(()),
        Ok(_) | Err(_) => Err(BuildError::DirMissing { dir: dir.clone() }),
    }
}

/// Opens `shared`. It may be a symlink to another disk: only bgd's own user can write to the directory it lies in, so
/// the operator put it there.
fn open_store(path: &Path) -> Result<Dir, BuildError> {
    Dir::open(&path.canonicalize().map_err(failed("open directory", path))?)
}

/// Opens the previous release; `None` if it was removed meanwhile, because a missing cache must not fail a deploy.
fn open_previous(dir: &Path) -> Result<Option<Dir>, BuildError> {
    match dir.symlink_metadata() {
        Ok(_) => Dir::open(dir).map(Some),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::{command::fixture::Fixture, config::settings::Rewrite, release::remove_release};

    fn run(fixture: &Fixture) -> Result<Prepared, BuildError> {
        let previous = Some(&fixture.previous);
        prepare(&fixture.app, &fixture.context, previous, &AtomicBool::new(false))
    }

    fn paths(fixture: &Fixture) -> (PathBuf, PathBuf, PathBuf) {
        let places = &fixture.context.places;
        (places.release(&fixture.previous), fixture.context.release_dir(), places.shared())
    }

    fn text(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_cache_is_a_copy_that_keeps_modes_symlinks_and_times() {
        let mut fixture = Fixture::new();
        let (old, new, _) = paths(&fixture);
        fixture.write(old.join("var/vendor/bin/tool"), "tool");
        fixture.write(old.join("lock.json"), "{}");
        fs::set_permissions(old.join("var/vendor/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(old.join("var/vendor/bin"), fs::Permissions::from_mode(0o555)).unwrap();
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(old.join("var/vendor/bin/tool")).unwrap().set_modified(past).unwrap();
        fs::File::open(old.join("var/vendor/bin")).unwrap().set_modified(past).unwrap();
        symlink("/nowhere", old.join("var/vendor/link")).unwrap();
        nix::unistd::mkfifo(&old.join("var/vendor/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fixture.app.cache = ["var/vendor/", "lock.json", "gone"].map(PathBuf::from).to_vec();

        let done = run(&fixture).unwrap();

        let tool = new.join("var/vendor/bin/tool");
        let meta = tool.metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.modified().unwrap()), (0o755, past));
        let dir = new.join("var/vendor/bin").metadata().unwrap();
        assert_eq!((dir.mode() & 0o7777, dir.modified().unwrap()), (0o555, past));
        assert_eq!(fs::read_link(new.join("var/vendor/link")).unwrap(), Path::new("/nowhere"));
        assert!(!new.join("var/vendor/fifo").exists());
        assert!(old.join("var/vendor/fifo").metadata().unwrap().file_type().is_fifo());
        assert_eq!((done.cached_files, done.cached_bytes), (3, 6));
        assert_eq!(done.skipped[0].path, Path::new("gone"));
        fs::write(&tool, "changed").unwrap();
        assert_eq!(text(old.join("var/vendor/bin/tool")), "tool");
    }

    #[test]
    fn a_cache_of_any_depth_is_copied_and_given_away_with_a_small_stack() {
        let mut fixture = Fixture::new();
        let (old, new, _) = paths(&fixture);
        // As deep as a path can name. The checkout is as deep, and all of it is given away where bgd is root.
        let deep = "d/".repeat(400);
        let [from, to, brought] =
            [old.join("vendor"), new.join("vendor"), new.join("src")].map(|dir| dir.join(&deep));
        for dir in [&from, &brought] {
            fs::create_dir_all(dir).unwrap();
        }
        fixture.write(from.join("a"), "a");
        fixture.app.cache = vec!["vendor".into()];
        fixture.app.user = nix::unistd::geteuid().is_root().then(|| "nobody".to_owned());
        let copied = std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(256 << 10);
            small.spawn_scoped(scope, || run(&fixture).unwrap().cached_files).unwrap().join().unwrap()
        });
        assert_eq!((copied, text(to.join("a")).as_str()), (1, "a"));
        for release in [&fixture.previous, &fixture.context.values.release] {
            remove_release(&fixture.context.places, release).unwrap();
        }
    }

    #[test]
    fn a_virtual_environment_in_the_cache_is_the_new_releases_own() {
        let mut fixture = Fixture::new();
        let (old, new, _) = paths(&fixture);
        let script = format!("#!{}/.venv/bin/python\nprint(1)\n", old.display());
        fixture.write(old.join(".venv/bin/tool"), &script);
        fs::set_permissions(old.join(".venv/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fixture.write(old.join(".venv/pyvenv.cfg"), format!("command = venv {}/.venv\n", old.display()));
        fixture.write(old.join(".venv/lib/x.pth"), format!("{}/src\n", old.display()));
        let binary = [script.as_bytes(), b"\0"].concat();
        fixture.write(old.join(".venv/bin/binary"), &binary);
        fixture.write(old.join(".venv/lib/data"), &script);
        symlink(old.join("lib"), old.join(".venv/lib64")).unwrap();
        symlink("python3", old.join(".venv/bin/python")).unwrap();
        fixture.app.cache = vec![".venv".into()];
        run(&fixture).unwrap();
        let at = |path: &str| text(new.join(".venv").join(path));
        assert_eq!(at("bin/tool"), format!("#!{}/.venv/bin/python\nprint(1)\n", new.display()));
        assert_eq!(new.join(".venv/bin/tool").metadata().unwrap().mode() & 0o777, 0o755);
        assert_eq!(at("pyvenv.cfg"), format!("command = venv {}/.venv\n", new.display()));
        assert_eq!(at("lib/x.pth"), format!("{}/src\n", new.display()));
        assert_eq!(fs::read_link(new.join(".venv/lib64")).unwrap(), new.join("lib"));
        assert_eq!(fs::read_link(new.join(".venv/bin/python")).unwrap(), Path::new("python3"));
        // A file that is not text, or not a program, keeps every byte.
        assert_eq!(fs::read(new.join(".venv/bin/binary")).unwrap(), binary);
        assert_eq!(at("lib/data"), script);
    }

    #[test]
    fn a_sparse_file_of_the_cache_stays_sparse() {
        let mut fixture = Fixture::new();
        let (old, new, _) = paths(&fixture);
        let file = fs::File::create(old.join("db")).unwrap();
        for at in [5 << 30, 9 << 30] {
            std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
        }
        file.set_len(20 << 30).unwrap();
        fixture.app.cache = vec!["db".into()];
        let done = run(&fixture).unwrap();
        let made = fs::File::open(new.join("db")).unwrap();
        let meta = made.metadata().unwrap();
        assert!(done.cached_bytes < 1 << 20 && meta.blocks() < 1 << 12, "{} blocks: {done:?}", meta.blocks());
        assert_eq!(meta.len(), 20 << 30);
        for at in [5 << 30, 9 << 30] {
            let mut found = [0; 5];
            std::os::unix::fs::FileExt::read_exact_at(&made, &mut found, at).unwrap();
            assert_eq!(&found, b"data\0");
        }
    }

    #[test]
    fn l3_a_directory_that_keeps_the_user_from_its_release_is_named_before_the_build() {
        let mut fixture = Fixture::new();
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        fixture.app.user = Some("nobody".to_owned());
        run(&fixture).unwrap();
        fs::set_permissions(fixture.root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let refused = run(&fixture).unwrap_err();
        let dir = fixture.root.path().display();
        assert_eq!(refused.to_string(), format!("user nobody may not pass {dir} to its release"));
        assert!(refused.hint().unwrap().starts_with(&format!("`chmod o+x {dir}`")));
    }

    #[test]
    fn shared_files_that_the_user_may_not_read_are_said_before_anything_is_changed_with_their_owner() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        fixture.write(shared.join(".env"), "KEY=1");
        fixture.write(shared.join("storage/logs/app.log"), "x");
        fixture.app.shared = [".env", "storage"].map(PathBuf::from).to_vec();
        fixture.app.user = Some("nobody".to_owned());
        // Settings that are only to be read, and a directory that is root's.
        let closed = run(&fixture).unwrap().closed;
        assert_eq!(closed[0].path, shared.join("storage"));
        let hint = crate::release::own_hint(&closed).unwrap();
        assert!(hint.contains("belongs to root: `chown -R nobody: "), "{hint}");
        fs::set_permissions(shared.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(new.join(".env")).unwrap();
        let refused = run(&fixture).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("user nobody may not read {} of root", shared.join(".env").display())
        );
        assert!(refused.hint().unwrap().contains("chown"), "{refused:?}");
        assert!(!new.join(".env").exists());
    }

    #[test]
    fn what_the_checkout_brings_wins_over_the_cache() {
        let mut fixture = Fixture::new();
        let (old, new, _) = paths(&fixture);
        fixture.write(old.join("assets/a"), "old");
        fixture.write(old.join("assets/b"), "old");
        fixture.write(old.join("assets/d/x"), "old");
        fixture.write(new.join("assets/a"), "new");
        fixture.write(new.join("assets/d"), "new");
        fixture.app.cache = vec!["assets".into()];
        run(&fixture).unwrap();
        assert_eq!(text(new.join("assets/a")), "new");
        assert_eq!(text(new.join("assets/b")), "old");
        assert_eq!(text(new.join("assets/d")), "new");
    }

    #[test]
    fn a_directory_of_the_app_must_be_one_of_its_commit() {
        let mut fixture = Fixture::new();
        let (_, new, _) = paths(&fixture);
        let outside = tempfile::tempdir().unwrap();
        fixture.write(new.join("services/api/run"), "x");
        symlink("services/api", new.join("near")).unwrap();
        symlink(outside.path(), new.join("services/far")).unwrap();
        for (dir, said) in [
            ("services/api", None),
            ("near", None),
            ("services/none", Some("there is no directory services/none in the commit".to_owned())),
            ("services/api/run", Some("there is no directory services/api/run in the commit".to_owned())),
            (
                "services/far",
                Some(format!(
                    "services/far leads out of the repository, to {}",
                    outside.path().canonicalize().unwrap().display()
                )),
            ),
        ] {
            fixture.app.dir = Some(dir.into());
            assert_eq!(run(&fixture).err().map(|err| err.to_string()), said);
        }
    }

    #[test]
    fn a_cache_is_never_a_reason_to_fail() {
        let mut fixture = Fixture::new();
        let (old, _, _) = paths(&fixture);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), old.join("up")).unwrap();
        fixture.app.cache = vec!["up/secret".into()];
        let done = run(&fixture).unwrap();
        assert!(done.skipped[0].why.contains("is a symlink"), "{done:?}");
        fs::remove_dir_all(&old).unwrap();
        assert_eq!(run(&fixture).unwrap().cached_files, 0);
    }

    #[test]
    fn i3_a_cancelled_preparation_ends() {
        let mut fixture = Fixture::new();
        let (old, _, _) = paths(&fixture);
        fixture.write(old.join("vendor/a"), "a");
        fixture.app.cache = vec!["vendor".into()];
        let previous = Some(&fixture.previous);
        let ended = prepare(&fixture.app, &fixture.context, previous, &AtomicBool::new(true));
        assert!(matches!(ended, Err(BuildError::Cancelled)));
    }

    #[test]
    fn shared_paths_are_linked_and_missing_directories_made() {
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        fixture.write(shared.join(".env"), "KEY=1");
        fixture.app.shared = ["storage/logs", ".env", "conf.d/"].map(PathBuf::from).to_vec();
        run(&fixture).unwrap();
        assert_eq!(text(new.join(".env")), "KEY=1");
        assert_eq!(fs::read_link(new.join("storage/logs")).unwrap(), shared.join("storage/logs"));
        fs::write(new.join("storage/logs/a"), "line").unwrap();
        assert_eq!(text(shared.join("storage/logs/a")), "line");
        assert!(shared.join("conf.d").is_dir());
        // A second run, as after a crash.
        run(&fixture).unwrap();
        assert_eq!(text(shared.join("storage/logs/a")), "line");
    }

    #[test]
    fn all_missing_shared_files_are_said_before_anything_is_changed() {
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        symlink("/nowhere", shared.join("dangling")).unwrap();
        fixture.app.shared = ["storage", ".env", "config/app.php", "dangling"].map(PathBuf::from).to_vec();
        let error = run(&fixture).unwrap_err().to_string();
        let expected = [".env", "config/app.php", "dangling"].map(|path| shared.join(path));
        let [a, b, c] = expected.map(|path| path.display().to_string());
        assert_eq!(error, format!("shared files are missing: {a}, {b}, {c}"));
        assert_eq!(fs::read_dir(new).unwrap().count() + fs::read_dir(shared).unwrap().count(), 1);
    }

    #[test]
    fn the_first_checkout_fills_shared_and_later_ones_give_way() {
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        fixture.write(new.join("storage/.gitkeep"), "first");
        fixture.write(new.join("LICENCE"), "first");
        fixture.app.shared = ["storage", "LICENCE"].map(PathBuf::from).to_vec();
        run(&fixture).unwrap();
        assert_eq!(text(shared.join("storage/.gitkeep")), "first");
        for path in ["storage", "LICENCE"] {
            fs::remove_file(new.join(path)).unwrap();
        }
        fixture.write(new.join("storage/.gitkeep"), "second");
        fixture.write(new.join("LICENCE"), "second");
        run(&fixture).unwrap();
        assert_eq!(text(new.join("storage/.gitkeep")), "first");
        assert_eq!(text(new.join("LICENCE")), "first");
    }

    #[test]
    fn shared_may_lie_on_another_file_system() {
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("skipped: no /dev/shm");
            return;
        };
        fs::remove_dir(&shared).unwrap();
        symlink(elsewhere.path(), &shared).unwrap();
        fixture.write(new.join("a/storage/db"), "first");
        fixture.write(elsewhere.path().join("a/.bgd-new-storage/db"), "torn");
        fixture.app.shared = vec!["a/storage".into()];
        run(&fixture).unwrap();
        assert_eq!(text(new.join("a/storage/db")), "first");
        assert_eq!(text(elsewhere.path().join("a/storage/db")), "first");
        assert_eq!(fs::read_dir(elsewhere.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn no_symlink_leads_out_of_the_release_or_out_of_shared() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("a.txt"), "9501").unwrap();
        let refused = |set: &dyn Fn(&mut Fixture)| {
            let mut fixture = Fixture::new();
            set(&mut fixture);
            let error = run(&fixture).unwrap_err();
            assert!(matches!(error, BuildError::Symlink { .. } | BuildError::Outside { .. }), "{error:?}");
        };
        let rewrite =
            |file: &str| Rewrite { file: file.into(), find: "9501".to_owned(), with: "{port}".to_owned() };
        refused(&|fixture| {
            symlink(outside.path(), paths(fixture).1.join("var")).unwrap();
            fixture.app.shared = vec!["var/storage".into()];
        });
        refused(&|fixture| {
            symlink(outside.path(), paths(fixture).2.join("var")).unwrap();
            fixture.app.shared = vec!["var/storage".into()];
        });
        refused(&|fixture| {
            symlink(outside.path(), paths(fixture).1.join("var")).unwrap();
            fixture.app.rewrites = vec![rewrite("var/a.txt")];
        });
        refused(&|fixture| {
            symlink(outside.path().join("a.txt"), paths(fixture).1.join("a.txt")).unwrap();
            fixture.app.rewrites = vec![rewrite("a.txt")];
        });
        refused(&|fixture| fixture.app.rewrites = vec![rewrite("../a.txt")]);
        refused(&|fixture| fixture.app.shared = vec!["/etc".into()]);
        refused(&|fixture| fixture.app.cache = vec!["a/../..".into()]);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(text(outside.path().join("a.txt")), "9501");
    }

    #[test]
    fn a_symlink_of_the_checkout_gives_way_to_the_shared_path() {
        let mut fixture = Fixture::new();
        let (_, new, shared) = paths(&fixture);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        symlink(outside.path(), new.join("storage")).unwrap();
        fixture.app.shared = vec!["storage".into()];
        run(&fixture).unwrap();
        assert_eq!(fs::read_link(new.join("storage")).unwrap(), shared.join("storage"));
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn rewrites_fill_in_the_port_and_keep_mode_and_other_bytes() {
        let mut fixture = Fixture::new();
        let (_, new, _) = paths(&fixture);
        fixture.write(new.join("bin/dev.php"), b"\xff\0port=9501; again 9501 tail");
        fs::set_permissions(new.join("bin/dev.php"), fs::Permissions::from_mode(0o751)).unwrap();
        let rewrite = |find: &str, with: &str| Rewrite {
            file: "bin/dev.php".into(),
            find: find.to_owned(),
            with: with.to_owned(),
        };
        fixture.app.rewrites = vec![rewrite("9501", "{port}"), rewrite(" tail", "")];
        run(&fixture).unwrap();
        assert_eq!(fs::read(new.join("bin/dev.php")).unwrap(), b"\xff\0port=9502; again 9502");
        assert_eq!(new.join("bin/dev.php").metadata().unwrap().mode() & 0o7777, 0o751);
        let again = run(&fixture).unwrap_err().to_string();
        assert_eq!(again, "nothing to rewrite in bin/dev.php: \"9501\" not found");
        fixture.app.rewrites = vec![Rewrite { file: "no/file".into(), ..rewrite("a", "b") }];
        assert_eq!(run(&fixture).unwrap_err().to_string(), "can't rewrite no/file");
    }

    #[test]
    fn l3_everything_in_the_release_belongs_to_the_user() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut fixture = Fixture::new();
        let (old, new, shared) = paths(&fixture);
        let outside = tempfile::tempdir().unwrap();
        fixture.write(old.join("vendor/deep/a"), "a");
        fixture.write(new.join("src/main"), "x");
        fixture.write(new.join("seed/db"), "x");
        fixture.write(shared.join(".env"), "KEY=1");
        symlink(outside.path(), new.join("src/link")).unwrap();
        fixture.app.user = Some("nobody".to_owned());
        fixture.app.cache = vec!["vendor".into()];
        fixture.app.shared = ["var/log", "seed", ".env"].map(PathBuf::from).to_vec();
        run(&fixture).unwrap();
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
        let uid = |path: PathBuf| fs::symlink_metadata(path).unwrap().uid();
        let given =
            ["", "src", "src/main", "src/link", "vendor/deep", "vendor/deep/a", "var", "var/log", "seed"];
        for path in given {
            assert_eq!(uid(new.join(path)), nobody, "{path}");
        }
        for path in ["var", "var/log", "seed", "seed/db"] {
            assert_eq!(uid(shared.join(path)), nobody, "{path}");
        }
        for path in [outside.path().to_owned(), shared.clone(), shared.join(".env")] {
            assert_eq!(uid(path.clone()), 0, "{path:?}");
        }
        // A name for a file outside must not give that file away.
        fs::write(outside.path().join("foreign"), "x").unwrap();
        fs::hard_link(outside.path().join("foreign"), new.join("src/foreign")).unwrap();
        assert!(matches!(run(&fixture), Err(BuildError::HardLink { .. })));
        assert_eq!(uid(outside.path().join("foreign")), 0);
    }
}
