//! Who asks, and with what right: the peer's credentials from the kernel, checked against `[daemon] operators` and
//! `readers`. Used by `server` for each connection; decides, and neither answers nor records.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    unistd::{Gid, Group, User, getegid, geteuid},
};
use tokio::net::UnixStream;

use super::{
    refusal::refusal,
    wire::{EventRecord, Exit, Refusal, Request},
};
use crate::{
    config::settings::{DaemonSettings, Principal},
    rules::{ids::AppName, words::EventKind},
    store::clock,
};

/// Most groups that a process can have: the kernel's limit.
const GROUPS: usize = 65_536;
/// `/proc/PID/loginuid` of a process that nobody logged in for.
const NO_LOGIN: u32 = u32::MAX;

/// The peer's credentials from the kernel. Without names, since a name service may be slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    groups: Vec<u32>,
    pid: Option<i32>,
}

impl Caller {
    /// Asks the kernel; what the client says about itself counts for nothing.
    ///
    /// # Errors
    /// When the kernel can't say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary(stream)?;
        groups.push(credentials.gid());
        Ok(Self { uid: credentials.uid(), groups, pid: credentials.pid() })
    }

    /// Looks up its names, which may wait for a name service.
    pub fn peer(self) -> Peer {
        let login = self.pid.and_then(login_of).filter(|login| *login != self.uid).map(name_of);
        Peer { name: name_of(self.uid), login, caller: self }
    }
}

/// A caller with its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The user's name where the system knows one, else such as `uid 1000`.
    pub name: String,
    /// The user who logged in before becoming another one (sudo), where the kernel records it.
    pub login: Option<String>,
    /// The ids; only these decide about rights.
    pub caller: Caller,
}

impl Peer {
    /// `anna (uid 1000)`.
    pub fn described(&self) -> String {
        if self.name.starts_with("uid ") {
            self.name.clone()
        } else {
            format!("{} (uid {})", self.name, self.caller.uid)
        }
    }

    /// An event caused by this peer, with its uid and, after sudo, the user who logged in.
    pub fn event(&self, kind: EventKind, text: &str) -> EventRecord {
        let login = self.login.as_deref().map(|login| format!(" (logged in as {login})")).unwrap_or_default();
        let event = EventRecord::new(kind, clock::now(), &format!("{text}{login}"));
        EventRecord { by: self.name.clone(), uid: Some(self.caller.uid), ..event }
    }
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(uid.into());
    user.ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// The login uid of a process. For the record only, never for a decision: the pid may have been reused.
fn login_of(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

/// The supplementary groups that the peer had when it connected.
fn supplementary(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * 4).map_err(io::Error::other)?;
        // SAFETY: the buffer is ours and has at least `bytes` bytes; the kernel writes gids and their size in bytes.
        let got = unsafe {
            let buffer = groups.as_mut_ptr().cast::<c_void>();
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                buffer,
                &raw mut bytes,
            )
        };
        let count = usize::try_from(bytes).map_err(io::Error::other)? / 4;
        match Errno::result(got) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // Too small; the kernel has said how many there are.
            Err(Errno::ERANGE) if groups.len() < GROUPS => groups.resize(count.max(groups.len() * 2), 0),
            // The kernel or sandbox lacks the option. Without supplementary groups a caller has fewer rights, never
            // more.
            Err(Errno::ENOPROTOOPT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The right that a request needs, or that a peer has. Ordered: the right to act includes the right to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nothing at all.
    None,
    /// Reads what bgd says about the apps: status, history, show, why, events.
    Read,
    /// Changes something, or reads what apps print or know: logs, and exec with its secrets.
    Act,
}

/// Who may do what, resolved when the daemon starts.
#[derive(Debug)]
pub struct Access {
    own: u32,
    /// `None`: nothing is configured, and the mode of the socket decides.
    circles: Option<Circles>,
}

#[derive(Debug)]
struct Circles {
    operators: Circle,
    readers: Circle,
}

/// Users and groups, and how to name them in a refusal.
#[derive(Debug, Default)]
struct Circle {
    users: Vec<u32>,
    groups: Vec<u32>,
    words: String,
}

impl Access {
    /// Resolves the configured names. One that this host does not know gives nobody a right, and is logged.
    pub fn new(settings: &DaemonSettings) -> Self {
        let circles = (settings.operators.is_some() || !settings.readers.is_empty()).then(|| Circles {
            operators: match &settings.operators {
                Some(named) => Circle::of(named),
                None => Circle::of_socket(),
            },
            readers: Circle::of(&settings.readers),
        });
        Self { own: geteuid().as_raw(), circles }
    }

    /// The mode of the socket: closed to strangers where it decides, open to all where credentials do.
    pub fn socket_mode(&self) -> u32 {
        if self.circles.is_some() { 0o666 } else { 0o660 }
    }

    /// The right of a caller.
    pub fn right_of(&self, caller: &Caller) -> Right {
        match &self.circles {
            None => Right::Act,
            Some(_) if self.is_first(caller) => Right::Act,
            Some(circles) if circles.operators.has(caller) => Right::Act,
            Some(circles) if circles.readers.has(caller) => Right::Read,
            Some(_) => Right::None,
        }
    }

    /// Root, and the user that the daemon runs as.
    pub fn is_first(&self, caller: &Caller) -> bool {
        caller.uid == 0 || caller.uid == self.own
    }

    /// The refusal of a caller who may do nothing.
    pub fn no_entry(&self, caller: &Caller) -> Refusal {
        let message = format!("not permitted for uid {}, who may not use bgd here", caller.uid);
        let hint = format!(
            "ask root or one of: {}; or add this user to `operators` in [daemon] and restart bgd",
            self.operators()
        );
        refusal(Exit::NotPermitted, message, Some(&hint))
    }

    fn operators(&self) -> &str {
        self.circles.as_ref().map_or("", |circles| circles.operators.words.as_str())
    }

    /// Lets a request pass, or says who asked, for what, and who may.
    ///
    /// # Errors
    /// When the peer lacks the right.
    pub fn admit(&self, peer: &Peer, request: &Request) -> Result<(), Refusal> {
        if self.right_of(&peer.caller) >= needed(request) {
            return Ok(());
        }
        let may = "may read only (status, history, show, why, events)";
        let message = format!("{} is not permitted for {}, who {may}", request.verb(), peer.described());
        let hint = format!(
            "ask root or one of: {}; or add {} to `operators` in [daemon] and restart bgd",
            self.operators(),
            peer.name
        );
        Err(refusal(Exit::NotPermitted, message, Some(&hint)))
    }
}

impl Access {
    /// Lets an operator give a release more traffic, if the app leaves that to everybody or to this one.
    ///
    /// # Errors
    /// When the app names approvers and the peer is not one of them, nor root, nor the daemon's own user.
    pub fn approve(&self, peer: &Peer, (app, approvers): (&AppName, &[Principal])) -> Result<(), Refusal> {
        if approvers.is_empty() || self.is_first(&peer.caller) {
            return Ok(());
        }
        let circle = Circle::of(approvers);
        if circle.has(&peer.caller) {
            return Ok(());
        }
        let message =
            format!("promote is not permitted for {}, who is not an approver of {app}", peer.described());
        let hint = format!("ask root or one of: {}; `canary.approvers` names them", circle.words);
        Err(refusal(Exit::NotPermitted, message, Some(&hint)))
    }
}

impl Circle {
    fn of(named: &[Principal]) -> Self {
        let mut circle = Self::default();
        let mut words = Vec::new();
        for principal in named {
            match circle.add(principal) {
                Ok(Some(())) => {}
                Ok(None) => {
                    tracing::warn!(name = %principal, "[daemon] names somebody that this host does not know")
                }
                Err(err) => {
                    tracing::error!(name = %principal, %err, "[daemon] names somebody who can't be looked up")
                }
            }
            words.push(principal.to_string());
        }
        circle.words = if words.is_empty() { "nobody else".to_owned() } else { words.join(", ") };
        circle
    }

    /// `None` when there is no such user or group.
    fn add(&mut self, principal: &Principal) -> nix::Result<Option<()>> {
        Ok(match principal {
            Principal::User(name) => User::from_name(name)?.map(|user| self.users.push(user.uid.as_raw())),
            Principal::Group(name) => {
                Group::from_name(name)?.map(|group| self.groups.push(group.gid.as_raw()))
            }
        })
    }

    /// The members of the socket's group, who are the operators where none are named.
    fn of_socket() -> Self {
        let gid: Gid = getegid();
        let name = Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
        Self { users: Vec::new(), groups: vec![gid.as_raw()], words: format!("@{name}") }
    }

    fn has(&self, caller: &Caller) -> bool {
        self.users.contains(&caller.uid) || self.groups.iter().any(|group| caller.groups.contains(group))
    }
}

fn needed(request: &Request) -> Right {
    match request {
        Request::Status { .. }
        | Request::History { .. }
        | Request::Show { .. }
        | Request::Events { .. }
        | Request::Why { .. } => Right::Read,
        Request::Logs { .. }
        | Request::Exec { .. }
        | Request::Deploy { .. }
        | Request::DeployDetached { .. }
        | Request::Flip { .. }
        | Request::Hold { .. }
        | Request::Resume { .. }
        | Request::SetShare { .. }
        | Request::ResumeSteps { .. }
        | Request::NextStep { .. }
        | Request::Promote { .. }
        | Request::Down { .. }
        | Request::Up { .. }
        | Request::RunCron { .. }
        | Request::Poll { .. }
        | Request::Reload => Right::Act,
    }
}

/// The user of this process, for an act without the daemon.
pub fn own_peer() -> Peer {
    let uid = nix::unistd::getuid().as_raw();
    Caller { uid, groups: Vec::new(), pid: Some(std::process::id().cast_signed()) }.peer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, groups: &[u32]) -> Caller {
        Caller { uid, groups: groups.to_vec(), pid: None }
    }

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { name: format!("uid {uid}"), login: None, caller: caller(uid, groups) }
    }

    fn access(operators: &[u32], readers: &[u32]) -> Access {
        let circle = |groups: &[u32]| Circle { groups: groups.to_vec(), ..Circle::default() };
        let circles = Some(Circles { operators: circle(operators), readers: circle(readers) });
        Access { own: 500, circles }
    }

    #[test]
    fn approvers_promote_and_other_operators_do_not() {
        let access = access(&[10], &[]);
        let shop: AppName = "shop".parse().unwrap();
        let root = [Principal::User("root".to_owned())];
        assert_eq!(access.approve(&peer(1, &[10]), (&shop, &[])), Ok(()));
        assert_eq!(access.approve(&peer(0, &[]), (&shop, &root)), Ok(()));
        let refused = access.approve(&peer(1, &[10]), (&shop, &root)).unwrap_err();
        assert_eq!(refused.exit, Exit::NotPermitted);
        assert_eq!(refused.hint.as_deref(), Some("ask root or one of: root; `canary.approvers` names them"));
    }

    #[test]
    fn root_bgd_and_operators_act_readers_read_and_others_do_nothing() {
        let access = access(&[10], &[20]);
        for (who, right) in [
            (caller(0, &[]), Right::Act),
            (caller(500, &[]), Right::Act),
            (caller(1, &[7, 10]), Right::Act),
            (caller(1, &[10, 20]), Right::Act),
            (caller(1, &[20]), Right::Read),
            (caller(1, &[7]), Right::None),
            (caller(1, &[]), Right::None),
        ] {
            assert_eq!(access.right_of(&who), right, "{who:?}");
        }
        assert_eq!(access.socket_mode(), 0o666);
    }

    #[test]
    fn without_lists_the_mode_of_the_socket_decides() {
        let access = Access { own: 500, circles: None };
        assert_eq!((access.right_of(&caller(1, &[])), access.socket_mode()), (Right::Act, 0o660));
    }

    #[test]
    fn what_apps_say_or_know_is_not_for_readers() {
        let access = access(&[], &[20]);
        let logs = Request::Logs {
            app: None,
            lines: 1,
            follow: false,
            source: super::super::wire::LogSource::Live,
            instance: None,
        };
        for refused in [
            Request::Exec { app: None, worker: None },
            logs,
            Request::Reload,
            Request::Flip { app: None, force: false },
        ] {
            let refusal = access.admit(&peer(1, &[20]), &refused).unwrap_err();
            assert_eq!(refusal.exit, Exit::NotPermitted);
            assert!(refusal.message.starts_with(refused.verb()), "{}", refusal.message);
        }
        assert_eq!(access.admit(&peer(1, &[20]), &Request::Why { app: None }), Ok(()));
    }

    #[tokio::test]
    async fn the_kernel_says_who_a_peer_is_with_its_groups() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Caller::of(&ours).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        let own = nix::unistd::getgroups().unwrap();
        assert!(own.iter().all(|group| peer.groups.contains(&group.as_raw())), "{peer:?}");
        assert!(peer.groups.contains(&getegid().as_raw()));
    }
}
