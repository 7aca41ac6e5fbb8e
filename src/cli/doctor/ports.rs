//! Whether the ports an app needs are free or held by what is ours: an instance of the app, or the front.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::finding::Finding;
use crate::{
    config::settings::{AppSettings, FrontSettings, Listen, Settings},
    process::ports::{Holder, holders, listeners},
    rules::ids::Color,
};

/// The ports of the app's instances and, with the builtin front, the public one.
pub fn check(settings: &Settings, app: &AppSettings) -> Vec<Finding> {
    let state = settings.daemon.state_dir.join(app.name.as_str());
    let instance = |holder: &Holder| works_in(holder.pid, &state);
    let each = |color| (0..app.instances).map(move |index| app.address_at(color, index));
    let own = Color::ALL.into_iter().flat_map(each).filter_map(|address| address.port());
    let mut found: Vec<_> = own.map(|port| port_of(app, port, &instance)).collect();
    found.extend(sockets(app));
    if let FrontSettings::Builtin { listen } = &app.front {
        found.push(port_of(app, listen.port(), &is_front));
    }
    found
}

/// Where the app's sockets are to be; a directory that is missing is made at the next start.
fn sockets(app: &AppSettings) -> Option<Finding> {
    let Listen::Sockets(sockets) = &app.listen else { return None };
    let (name, directory) = (&app.name, sockets.directory.display());
    let Ok(meta) = std::fs::metadata(&sockets.directory) else {
        return Some(Finding::ok(format!("{name}: {directory} will be made for the app's sockets")));
    };
    if meta.is_dir() && meta.mode() & 0o001 != 0 {
        return Some(Finding::ok(format!("{name}: the app's sockets are in {directory}")));
    }
    let what = format!("{name}: {directory}, where the app's sockets are, lets nobody else pass");
    Some(Finding::fail(what, "the next `bgd deploy` opens it; or `chmod 755` it now"))
}

fn port_of(app: &AppSettings, port: u16, is_ours: &dyn Fn(&Holder) -> bool) -> Finding {
    match held(port) {
        Ok(Held::Free) => Finding::ok(format!("{}: port {port} is free", app.name)),
        Ok(Held::Unseen) => Finding::warn(
            format!("{}: port {port} is held by a process that this user can't see", app.name),
            "run this as root to see whose it is",
        ),
        Ok(Held::By(holders)) => match holders.iter().find(|holder| !is_ours(holder)) {
            None => Finding::ok(format!("{}: port {port} is held by our own process", app.name)),
            Some(other) => Finding::fail(
                format!("{}: port {port} is held by pid {} ({})", app.name, other.pid, other.command),
                "end it, or give the app another port",
            ),
        },
        Err(error) => Finding::warn(
            format!("{}: port {port} can't be looked at: {error}", app.name),
            "is /proc mounted?",
        ),
    }
}

enum Held {
    Free,
    Unseen,
    By(Vec<Holder>),
}

fn held(port: u16) -> io::Result<Held> {
    let inodes: Vec<_> = listeners(port)?.iter().map(|listener| listener.inode).collect();
    if inodes.is_empty() {
        return Ok(Held::Free);
    }
    let holders = holders(&inodes)?;
    Ok(if holders.is_empty() { Held::Unseen } else { Held::By(holders) })
}

/// Instances run in their release directory.
fn works_in(pid: i32, state: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(state))
}

/// The front is this program in another role; another build of it after an upgrade. The daemon keeps the public socket
/// open beside it, for the next front.
fn is_front(holder: &Holder) -> bool {
    let Ok(bytes) = fs::read(format!("/proc/{}/cmdline", holder.pid)) else { return false };
    let mut words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let own = std::env::current_exe().ok().and_then(|exe| exe.file_name().map(ToOwned::to_owned));
    program.file_name().map(ToOwned::to_owned) == own && words.any(|word| word == "front" || word == "daemon")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

    use super::*;
    use crate::cli::doctor::{finding::Level, fixture};

    #[test]
    fn d1_a_stranger_on_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let found = port_of(&app, port, &|_| false);
        assert_eq!(found.level, Level::Fail);
        assert!(found.what.contains(&format!("pid {}", std::process::id())), "{found:?}");
        assert_eq!(port_of(&app, port, &|holder| works_in(holder.pid, Path::new("/"))).level, Level::Ok);
        // A port that no other test gets, and that nobody listens on.
        let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let free = getsockname::<SockaddrIn>(held.as_raw_fd()).unwrap().port();
        assert_eq!(port_of(&app, free, &|_| false).level, Level::Ok);
    }
}
