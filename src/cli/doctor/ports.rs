//! Whether the ports an app needs are free or held by what is ours: an instance of the app, or the front.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, TcpListener},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::User;

use super::{acting::Acting, finding::Finding};
use crate::{
    config::settings::{AppSettings, FrontSettings, Listen, Settings},
    front,
    os::{
        holders::{Holder, holders},
        tcp,
    },
    rules::ids::Color,
};

/// The ports of the app's instances and, with the builtin front, the public one.
pub fn check(settings: &Settings, app: &AppSettings, acting: &Acting) -> Vec<Finding> {
    let range = Range::of_this_host();
    let state = settings.daemon.state_dir.join(app.name.as_str());
    let instance = |holder: &Holder| works_in(holder.pid, &state);
    let each = |color| (0..app.instances).map(move |index| app.address_at(color, index));
    let own = Color::ALL.into_iter().flat_map(each).filter_map(|address| address.port());
    let own: Vec<u16> = own.collect();
    let mut found: Vec<_> = own.iter().map(|port| port_of(app, *port, &instance)).collect();
    let low = own.iter().copied().find(|port| *port < range.first_free);
    found.extend(low.filter(|_| !may_bind_low(app, acting)).map(|port| too_low(app, port, &range)));
    let taken = own.iter().copied().find(|port| range.outgoing.contains(port));
    found.extend(taken.map(|port| outgoing(app, port, &range)));
    found.extend(sockets(app));
    if let FrontSettings::Builtin { listen, .. } = &app.front {
        let runtime = &settings.daemon.runtime_dir;
        let held = port_of(app, listen.port(), &|holder| is_front(holder, runtime));
        if listen.port() < range.first_free && !acting.binds_any_port && held.what.ends_with("is free") {
            found.push(front_too_low(app, listen.port(), &range));
        } else if let Err(error) = TcpListener::bind((listen.ip(), 0)) {
            found.push(not_of_this_host(app, listen.ip(), &error));
        } else {
            found.push(held);
        }
    }
    found
}

/// How this host assigns ports.
struct Range {
    /// The lowest port that users other than root may listen on.
    first_free: u16,
    /// The ports that the kernel uses for outgoing connections.
    outgoing: RangeInclusive<u16>,
}

impl Range {
    fn of_this_host() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u16>>()
        };
        let outgoing = match read("ip_local_port_range")[..] {
            [first, last] => first..=last,
            _ => 32_768..=60_999,
        };
        Self { first_free: read("ip_unprivileged_port_start").first().copied().unwrap_or(1024), outgoing }
    }
}

/// Whether the app may listen below the first free port: an app has all of root's rights, or none of them.
fn may_bind_low(app: &AppSettings, acting: &Acting) -> bool {
    match &app.user {
        Some(name) => User::from_name(name).ok().flatten().is_some_and(|user| user.uid.is_root()),
        None => acting.is_root,
    }
}

fn too_low(app: &AppSettings, port: u16, range: &Range) -> Finding {
    let (name, first) = (&app.name, range.first_free);
    Finding::fail(
        format!("{name}: port {port} is below {first}, where only root may listen, and the app is not root"),
        format!("ports = [9501, 9502], or others from {first} on; what visitors see is the front's port"),
    )
}

fn front_too_low(app: &AppSettings, port: u16, range: &Range) -> Finding {
    let (name, first) = (&app.name, range.first_free);
    Finding::fail(
        format!("{name}: front.listen has port {port}, and this user may not listen below {first}"),
        "run bgd as root, or with AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit, or listen on a higher port",
    )
}

/// The finding for an address on which no port can be bound, not even one chosen by the kernel.
fn not_of_this_host(app: &AppSettings, ip: IpAddr, error: &io::Error) -> Finding {
    Finding::fail(
        format!("{}: front.listen has {ip}, where this host can't listen: {error}", app.name),
        "`ip address` shows the addresses of this host; 0.0.0.0 is all of them",
    )
}

fn outgoing(app: &AppSettings, port: u16, range: &Range) -> Finding {
    let (first, last) = (range.outgoing.start(), range.outgoing.end());
    Finding::warn(
        format!(
            "{}: port {port} is one of those that the kernel takes for outgoing connections ({first} to {last}): a \
             start may find it taken",
            app.name
        ),
        format!("choose ports below {first}"),
    )
}

/// Checks the directory of the app's sockets; a missing one is made at the next start.
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
                match front::kind_of(&other.command) {
                    Some(name) => format!("write front.type = \"{name}\" to stay behind it, or another port"),
                    None => "end it, or give the app another port".to_owned(),
                },
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
    let inodes: BTreeSet<u64> = tcp::listening(port)?.iter().map(|listener| listener.inode).collect();
    if inodes.is_empty() {
        return Ok(Held::Free);
    }
    let holders = holders(&inodes)?;
    Ok(if holders.is_empty() { Held::Unseen } else { Held::By(holders) })
}

/// Whether the process is an instance of ours: these run in their release directory.
fn works_in(pid: i32, state: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(state))
}

/// Whether the process is our front, which is this program (after an upgrade, another build) in another role, or the
/// daemon, which keeps the public socket open for the next front.
fn is_front(holder: &Holder, runtime: &Path) -> bool {
    let Ok(bytes) = fs::read(format!("/proc/{}/cmdline", holder.pid)) else { return false };
    let mut words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let own = std::env::current_exe().ok().and_then(|exe| exe.file_name().map(ToOwned::to_owned));
    // Another bgd on this host has another runtime directory, and its front is a stranger here.
    let is_ours = |word: String| word == "daemon" || Path::new(&word).starts_with(runtime);
    program.file_name().map(ToOwned::to_owned) == own && words.any(is_ours)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture};

    #[test]
    fn n8_a_port_that_this_user_may_not_have_is_said_with_what_helps() {
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let range = Range { first_free: 1024, outgoing: 32_768..=60_999 };
        let acting = |is_root| Acting { pid: None, path: String::new(), binds_any_port: is_root, is_root };
        assert!(may_bind_low(&app, &acting(true)) && !may_bind_low(&app, &acting(false)));
        let nobody = AppSettings { user: Some("nobody".to_owned()), ..(*app).clone() };
        assert!(!may_bind_low(&nobody, &acting(true)));
        for found in [too_low(&app, 81, &range), front_too_low(&app, 81, &range)] {
            assert!(found.level == Level::Fail && found.what.contains("below 1024"), "{found:?}");
        }
        let elsewhere = "192.0.2.1".parse().unwrap();
        let error = TcpListener::bind((elsewhere, 0)).unwrap_err();
        assert!(
            not_of_this_host(&app, elsewhere, &error)
                .what
                .contains("192.0.2.1, where this host can't listen")
        );
        assert_eq!(outgoing(&app, 40_000, &range).level, Level::Warn);
        assert!(Range::of_this_host().outgoing.start() > &0);
    }

    #[test]
    fn d1_a_stranger_on_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let found = port_of(&app, port, &|_| false);
        assert_eq!(found.level, Level::Fail);
        assert!(found.what.contains(&format!("pid {}", std::process::id())), "{found:?}");
        assert_eq!(port_of(&app, port, &|holder| works_in(holder.pid, Path::new("/"))).level, Level::Ok);
        // A port that no other test gets, and that is bound without a listener.
        let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let free = getsockname::<SockaddrIn>(held.as_raw_fd()).unwrap().port();
        assert_eq!(port_of(&app, free, &|_| false).level, Level::Ok);
    }
}
