//! `[daemon]`: bgd's own directories, and the users that may control it.

use std::path::{Path, PathBuf};

use crate::{
    config::{
        judge::Judge,
        parse::Surroundings,
        read::{Given, Written},
        span::Span,
    },
    rules::ids::AppName,
};

table! {
    /// `[daemon]`.
    RawDaemon {
        state_dir: String,
        runtime_dir: String,
        operators: Vec<Written<String>>,
        readers: Vec<Written<String>>,
    }
}

/// bgd's directories, and the users and groups with access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Persistent directory: database, mirrors, releases, logs.
    pub state_dir: PathBuf,
    /// Directory that a reboot may empty: sockets and the lock.
    pub runtime_dir: PathBuf,
    /// The users and groups that may act through the control socket; `None`: everyone who can open it.
    pub operators: Option<Vec<Principal>>,
    /// The users and groups that may only read through it.
    pub readers: Vec<Principal>,
}

/// A user or group of this host, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// One user.
    User(String),
    /// All members of a group; written with `@`.
    Group(String),
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => f.pad(name),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}

pub(in crate::config) const ROOT_STATE_DIR: &str = "/var/lib/bgd";
pub(in crate::config) const ROOT_RUNTIME_DIR: &str = "/run/bgd";
/// Runtime directory below the state directory, for a normal user without `$XDG_RUNTIME_DIR`. Not in `/tmp`, where
/// another user could create the name first.
const RUNTIME_BELOW_STATE: &str = "run";

/// The file name of the control socket. Its whole path must fit into a socket address.
const SOCKET: &str = "bgd.sock";
/// Longest path of a socket in bytes, without the final NUL.
const LONGEST_SOCKET: usize = 107;

/// Checks `[daemon]`, with the defaults of the current user.
pub(in crate::config) fn daemon(
    judge: &mut Judge<'_>,
    raw: &RawDaemon,
    surroundings: &Surroundings,
) -> DaemonSettings {
    let state_dir = judge.host_path(&raw.state_dir).unwrap_or_else(|| surroundings.state_dir.clone());
    let runtime_dir = judge
        .host_path(&raw.runtime_dir)
        .or_else(|| surroundings.runtime_dir.clone())
        .unwrap_or_else(|| state_dir.join(RUNTIME_BELOW_STATE));
    let at = raw.runtime_dir.span().cloned().unwrap_or_else(|| raw.at.absent("runtime_dir"));
    socket_fits(judge, &runtime_dir, &at);
    let operators = raw.operators.value().map(|_| principals(judge, &raw.operators));
    DaemonSettings { state_dir, runtime_dir, operators, readers: principals(judge, &raw.readers) }
}

/// Parses the names of users and groups; does not check that they exist on this host.
pub(super) fn principals(judge: &mut Judge<'_>, given: &Given<Vec<Written<String>>>) -> Vec<Principal> {
    let all = given.value().map_or(&[][..], |written| &written.value);
    all.iter().filter_map(|one| principal(judge, one)).collect()
}

fn principal(judge: &mut Judge<'_>, written: &Written<String>) -> Option<Principal> {
    let group = written.value.strip_prefix('@');
    let name = group.unwrap_or(&written.value);
    let strange = |c: char| c.is_whitespace() || c.is_control() || "@,:/".contains(c);
    if name.is_empty() || name.contains(strange) || name.starts_with('-') {
        let what = format!("is not a user or group name: {:?}", written.value);
        judge.notes.error(&written.at, what, "a user such as \"anna\", or a group with @ such as \"@ops\"");
        return None;
    }
    let name = name.to_owned();
    Some(if group.is_some() { Principal::Group(name) } else { Principal::User(name) })
}

/// Notes a conflict with the app's directory in the state directory, which has the app's name.
pub(in crate::config) fn has_own_directory(
    judge: &mut Judge<'_>,
    (name, at): (&AppName, &Span),
    daemon: &DaemonSettings,
) {
    if daemon.runtime_dir.starts_with(daemon.state_dir.join(name.as_str())) {
        let what = format!("its directory would be daemon.runtime_dir: {}", daemon.runtime_dir.display());
        judge.notes.error(at, what, "give the app another name, or set daemon.runtime_dir");
    }
}

fn socket_fits(judge: &mut Judge<'_>, runtime_dir: &Path, at: &Span) {
    let length = runtime_dir.join(SOCKET).as_os_str().len();
    if length > LONGEST_SOCKET {
        let what =
            format!("too long for a socket in it: {length} bytes with /{SOCKET}, at most {LONGEST_SOCKET}");
        judge.notes.error(at, what, "choose a shorter directory, such as /run/bgd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, tests::*};

    const WRONG: &[Wrong] = &[
        ("[daemon]\noperators = [\"an na\"]", "5 daemon.operators[0]", "is not a user or group name"),
        ("[daemon]\nreaders = [\"@\"]", "5 daemon.readers[0]", "is not a user or group name"),
        ("[daemon]\nstate_dir = \"\"", "5 daemon.state_dir", "is empty"),
        ("[daemon]\nruntime_dir = \"~/run\"", "5 daemon.runtime_dir", "`~` is not expanded"),
        ("[daemon]\nruntime = \"/run\"", "5 daemon.runtime", "unknown key"),
        ("[[daemon]]", "4 daemon", "expected a table, found a list"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn without_a_runtime_directory_it_lies_below_the_state_directory_and_a_socket_fits_into_it() {
        let nowhere = Surroundings { runtime_dir: None, ..surroundings() };
        let text = with("[daemon]\nstate_dir = \"state\"");
        let daemon = parse(&source("bgd.toml", &text), &[], &nowhere).unwrap().settings.daemon;
        assert_eq!(daemon.state_dir, PathBuf::from("/etc/bgd/state"));
        assert_eq!(daemon.runtime_dir, PathBuf::from("/etc/bgd/state/run"));
        let long = with(&format!("[daemon]\nruntime_dir = \"/{}\"", "x".repeat(99)));
        assert!(
            errors(&long)[0].contains("too long for a socket in it: 109 bytes with /bgd.sock, at most 107")
        );
    }
}
