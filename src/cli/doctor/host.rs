//! The host itself: directories, disk, users, shells, length of paths. Needs no network; changes nothing.

use std::path::{Path, PathBuf};

use nix::{
    sys::statvfs::statvfs,
    unistd::{AccessFlags, Uid, User, access},
};

use super::finding::Finding;
use crate::{
    cli::offline,
    config::settings::{AppSettings, Settings},
    front::Front,
    os::unix::LONGEST_PATH,
    shim::Limiter,
};

/// Bytes that a socket's path may need below the release directory: EasySwoole's needs 38 (design).
const BELOW_RELEASE: usize = 38;
/// Length of a release's name, `<YYYYMMDDTHHMMSSZ>-<seq>-<short sha>`, with a counter of six digits.
const RELEASE_NAME: usize = 16 + 1 + 6 + 1 + 7;
/// Free bytes. Most releases need less than `warn` with their build; below `fail` a deploy is likely to fail.
const BYTES: Limit = Limit { fail: 200 << 20, warn: 2 << 30 };
/// Free inodes. A checkout of a medium project has some ten thousand files.
const INODES: Limit = Limit { fail: 2_000, warn: 50_000 };

/// The kernel's limit of datagrams queued for each socket, by which the front reports requests. systemd sets 512.
const QUEUE: &str = "/proc/sys/net/unix/max_dgram_qlen";
/// At a thousand requests a second, a busy host may delay bgd's next read by some hundredths of a second.
const SHORTEST_QUEUE: u64 = 64;

/// Files that the daemon has open without any app, with connections to its control socket.
const FILES: usize = 64;
/// Files that it has open for an app while it deploys (measured: 14 at rest, 16 while 91 apps deploy at once).
const FILES_OF_AN_APP: usize = 16;

struct Limit {
    fail: u64,
    warn: u64,
}

/// The checks of the host that do not depend on an app.
pub fn check(settings: &Settings) -> Vec<Finding> {
    let dirs = &settings.daemon;
    let mut found = vec![
        directory("state directory", &dirs.state_dir),
        directory("runtime directory", &dirs.runtime_dir),
        socket(&dirs.runtime_dir.join("bgd.sock")),
    ];
    found.extend(disk(&dirs.state_dir));
    found.extend(open_files(settings));
    found.push(shell());
    found
}

/// Whether all apps can be deployed at once. The daemon raises its limit as far as it may.
fn open_files(settings: &Settings) -> Option<Finding> {
    let daemon = offline::daemon_alive(settings).map(|daemon| daemon.pid);
    let limits = std::fs::read_to_string(match daemon {
        Some(pid) => format!("/proc/{pid}/limits"),
        None => "/proc/self/limits".to_owned(),
    });
    judge_files(hard_limit(&limits.ok()?)?, settings.apps.len())
}

fn hard_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn judge_files(limit: usize, apps: usize) -> Option<Finding> {
    let needed = FILES + apps.saturating_mul(FILES_OF_AN_APP);
    (limit < needed).then(|| {
        let what = format!("open files: the daemon may have {limit}, and {apps} apps need about {needed}");
        Finding::fail(
            what,
            "LimitNOFILE=524288 in the unit (`systemctl edit bgd`), or `ulimit -Hn`; then restart bgd",
        )
    })
}

/// The checks of the host for one app.
pub fn check_app(settings: &Settings, app: &AppSettings, front: &dyn Front) -> Vec<Finding> {
    let mut found: Vec<_> = app.user.iter().map(|name| user(app, name)).collect();
    found.extend(release_path(&settings.daemon.state_dir, app));
    found.extend(limits(app));
    let tells = front.figures().is_none();
    found.extend(queue((app, tells), std::fs::read_to_string(QUEUE).ok().as_deref()));
    found
}

/// Warns when the front reports each request and the host's queue is too short for that.
fn queue((app, tells): (&AppSettings, bool), length: Option<&str>) -> Option<Finding> {
    let length: u64 = length?.trim().parse().ok()?;
    (app.counts_traffic() && tells && length < SHORTEST_QUEUE).then(|| {
        let what = format!(
            "{}: {length} requests at most wait to be counted: of a busy front some are missed, and shares and errors \
             are those of the rest",
            app.name
        );
        Finding::warn(what, "sysctl -w net.unix.max_dgram_qlen=512, then start the daemon anew")
    })
}

fn limits(app: &AppSettings) -> Option<Finding> {
    app.limits.any().then(|| match Limiter::default().obstacle() {
        None => Finding::ok(format!("limits of {}: systemd and cgroup v2 can keep them", app.name)),
        Some(why) => Finding::fail(
            format!("limits of {} can't be kept: {why}", app.name),
            "take `limits` out, or run bgd where systemd and cgroup v2 are",
        ),
    })
}

fn directory(label: &str, dir: &Path) -> Finding {
    let Some(there) = nearest(dir) else {
        return Finding::fail(format!("{label}: nothing of {} exists", dir.display()), "correct the path");
    };
    let (shown, below) = (dir.display(), there.display());
    if !there.is_dir() {
        return Finding::fail(
            format!("{label}: {below} is not a directory"),
            "move it away, or correct the path",
        );
    }
    match access(&there, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if there == dir => Finding::ok(format!("{label}: {shown} is writable")),
        Ok(()) => Finding::ok(format!("{label}: {shown} will be made")),
        Err(errno) => Finding::fail(
            format!("{label}: {below} is not writable for this user: {}", errno.desc()),
            "run this as the user of the daemon, or give it the directory",
        ),
    }
}

/// The path, or the first of its parents that exists.
fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).map(Path::to_owned)
}

fn socket(path: &Path) -> Finding {
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Finding::ok(format!("control socket: {}", path.display()));
    }
    Finding::fail(
        format!(
            "control socket: {} has {length} bytes, and a socket's path at most {LONGEST_PATH}",
            path.display()
        ),
        "set a shorter daemon.runtime_dir",
    )
}

fn disk(dir: &Path) -> Vec<Finding> {
    let Some(there) = nearest(dir) else { return Vec::new() };
    let stat = match statvfs(&there) {
        Ok(stat) => stat,
        Err(errno) => {
            let what = format!("disk: can't be asked at {}: {}", there.display(), errno.desc());
            return vec![Finding::warn(what, "check the mount")];
        }
    };
    let bytes = stat.blocks_available().saturating_mul(stat.fragment_size());
    let mut found = vec![room("disk", bytes, &BYTES, &size(bytes), &there)];
    // Some file systems have no fixed number of inodes, and say 0.
    if stat.files() > 0 {
        let inodes = stat.files_available();
        found.push(room("inodes", inodes, &INODES, &inodes.to_string(), &there));
    }
    found
}

fn room(label: &str, left: u64, limit: &Limit, shown: &str, at: &Path) -> Finding {
    let what = format!("{label}: {shown} left at {}", at.display());
    let hint = "make room; a lower `keep` keeps fewer releases";
    match left {
        _ if left < limit.fail => Finding::fail(what, hint),
        _ if left < limit.warn => Finding::warn(what, hint),
        _ => Finding::ok(what),
    }
}

fn size(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 30;
    match tenths {
        0..10 => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} GiB", tenths / 10, tenths % 10),
    }
}

/// Whether a program is in the `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| access(&dir.join(program), AccessFlags::X_OK).is_ok())
}

fn shell() -> Finding {
    if is_installed("bash") {
        return Finding::ok("shell: bash is there for builds");
    }
    Finding::warn(
        "shell: bash is missing, builds run by `sh -e`, where `false | tee log` succeeds",
        "install bash",
    )
}

fn user(app: &AppSettings, name: &str) -> Finding {
    let label = format!("{}: user {name}", app.name);
    match User::from_name(name) {
        Ok(Some(user)) if Uid::effective().is_root() || Uid::effective() == user.uid => {
            Finding::ok(format!("{label} exists"))
        }
        Ok(Some(_)) => Finding::fail(
            format!("{label} exists, and only root can become it"),
            "run bgd as root, or drop `user`",
        ),
        Ok(None) => Finding::fail(format!("{label} does not exist"), "create it, or correct `user`"),
        Err(errno) => {
            Finding::fail(format!("{label} can't be looked up: {}", errno.desc()), "check nsswitch.conf")
        }
    }
}

/// A finding only when the path of a socket below a release would be too long.
fn release_path(state_dir: &Path, app: &AppSettings) -> Option<Finding> {
    let length = state_dir.join(app.name.as_str()).join("releases").as_os_str().len() + 1 + RELEASE_NAME;
    (length + BELOW_RELEASE > LONGEST_PATH).then(|| {
        Finding::warn(
            format!(
                "{}: release directories have paths of {length} bytes, too long for some apps' sockets",
                app.name
            ),
            format!(
                "a daemon.state_dir shorter by {}",
                match length + BELOW_RELEASE - LONGEST_PATH {
                    1 => "1 byte".to_owned(),
                    more => format!("{more} bytes"),
                }
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture};

    #[test]
    fn a_directory_that_can_be_made_is_fine_and_a_file_in_its_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory("state directory", &dir.path().join("a/b")).level, Level::Ok);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let found = directory("state directory", &dir.path().join("file/b"));
        assert_eq!(found.level, Level::Fail, "{found:?}");
    }

    #[test]
    fn j1_little_room_is_said_before_it_is_none() {
        let at = Path::new("/srv");
        let level = |bytes| room("disk", bytes, &BYTES, "", at).level;
        assert_eq!([level(1 << 20), level(1 << 30), level(3 << 30)], [Level::Fail, Level::Warn, Level::Ok]);
        assert_eq!(size(1_610_612_736), "1.5 GiB");
        assert_eq!(size(10 << 20), "10 MiB");
    }

    #[test]
    fn n8_too_few_open_files_for_the_apps_are_said_before_a_deploy_runs_out_of_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 4096                 files\n";
        assert_eq!(hard_limit(limits), Some(4096));
        assert_eq!(judge_files(1024, 56), None);
        let found = judge_files(1024, 91).unwrap();
        assert_eq!(found.level, Level::Fail, "{found:?}");
    }

    #[test]
    fn a_release_path_too_long_for_sockets_is_noticed() {
        let (settings, app) = fixture::settings(Path::new("/var/lib/bgd"));
        assert_eq!(release_path(&settings.daemon.state_dir, &app), None);
        let long = PathBuf::from(format!("/{}", "x".repeat(60)));
        assert_eq!(release_path(&long, &app).unwrap().level, Level::Warn);
    }

    #[test]
    fn a_short_queue_is_said_where_a_front_tells_of_its_requests() {
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let mut app = (*app).clone();
        app.watch.traffic.max_p95 = Some(30);
        assert_eq!(queue((&app, false), Some("10\n")), None, "a front with sums of its own");
        assert_eq!(queue((&app, true), Some("10\n")).unwrap().level, Level::Warn);
        assert_eq!((queue((&app, true), Some("512\n")), queue((&app, true), None)), (None, None));
        app.watch.traffic.max_p95 = None;
        assert_eq!(queue((&app, true), Some("10\n")), None, "nobody wants to know");
    }

    #[test]
    fn l3_a_user_that_does_not_exist_is_found() {
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        assert_eq!(user(&app, "no-such-user-here").level, Level::Fail);
        let own = User::from_uid(Uid::effective()).unwrap().unwrap();
        assert_eq!(user(&app, &own.name).level, Level::Ok);
    }
}
