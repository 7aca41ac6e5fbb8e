//! Finds out whether OpenSSH's configuration has settings for a host. Without any, libssh2 connects; with some (an
//! alias, a key, a jump host) the worker runs `ssh` itself, the only program that reads all of that configuration
//! correctly. Used by `transfer` inside the worker.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use nix::unistd::{User, geteuid};

use super::{program::Invocation, remote::SshAddress, text::one_line};

/// Settings that change the destination, the path to it, or the keys.
const LEADING: [&str; 14] = [
    "hostname",
    "port",
    "user",
    "proxyjump",
    "proxycommand",
    "proxyusefdpass",
    "bindaddress",
    "bindinterface",
    "addressfamily",
    "identityagent",
    "identitiesonly",
    "certificatefile",
    "pkcs11provider",
    "identityfile",
];
/// Settings that decide which host keys are trusted.
const KNOWING: [&str; 4] =
    ["userknownhostsfile", "globalknownhostsfile", "hostkeyalias", "knownhostscommand"];
/// The settings of [`LEADING`] that `auth.ssh_key` overrides.
const KEYS: [&str; 4] = ["identityagent", "identitiesonly", "certificatefile", "identityfile"];

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshRoute {
    /// By libssh2.
    Direct {
        /// Added to the error if the connection fails, such as that the configuration can't be read.
        note: Option<String>,
    },
    /// By `ssh`, because the configuration has settings for the host.
    Program {
        /// `ssh` with all arguments before the command that the server runs.
        invocation: Invocation,
        /// The key files that `ssh` tries.
        keys: Vec<PathBuf>,
    },
}

/// The app's own ssh settings; they override OpenSSH's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// The only key to offer.
    pub ssh_key: Option<PathBuf>,
    /// File of trusted host keys.
    pub known_hosts: Option<PathBuf>,
}

/// Cache of the last route, so that a poll runs `ssh -G` only after a configuration file has changed.
#[derive(Default)]
pub struct Routes(RefCell<Option<HostConfig>>);

struct HostConfig {
    address: SshAddress,
    given: SshSettings,
    written: [Option<SystemTime>; 2],
    route: SshRoute,
}

impl Routes {
    /// The route to a host for the user that the worker runs as, whose home is `home`.
    pub fn to(&self, address: &SshAddress, given: &SshSettings, home: &Path) -> SshRoute {
        let files = [home.join(".ssh/config"), PathBuf::from("/etc/ssh/ssh_config")];
        let written = files.map(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok());
        let mut found = self.0.borrow_mut();
        let same = |found: &&HostConfig| {
            found.address == *address && found.given == *given && found.written == written
        };
        if let Some(found) = found.as_ref().filter(same) {
            return found.route.clone();
        }
        let route = route(given, home, address);
        *found = Some(HostConfig {
            address: address.clone(),
            given: given.clone(),
            written,
            route: route.clone(),
        });
        route
    }
}

fn route(given: &SshSettings, home: &Path, address: &SshAddress) -> SshRoute {
    let own = home.join(".ssh/config");
    let Some(ssh) = on_path("ssh") else {
        let note = own.exists().then(|| format!("{} is not read: ssh is not installed", own.display()));
        return SshRoute::Direct { note };
    };
    let base = own_config(home);
    let none = [vec!["-F".into(), "none".into()], destination(address)].concat();
    let with = [base.clone(), destination(address)].concat();
    let (with, without) = match (settings(&ssh, &with, home), settings(&ssh, &none, home)) {
        (Ok(with), Ok(without)) => (with, without),
        (Err(why), _) | (_, Err(why)) => return SshRoute::Direct { note: Some(why) },
    };
    if leads_elsewhere(&with, &without, given) {
        let keys =
            values(&with, "identityfile").map(|value| expanded(value, home)).filter(|file| file.is_file());
        let keys = keys.collect();
        return SshRoute::Program { invocation: invocation(ssh, base, given, home, address), keys };
    }
    let alias = !address.host.contains(['.', ':']) && address.host != "localhost";
    SshRoute::Direct { note: alias.then(|| format!("no Host {} is in {}", address.host, own.display())) }
}

/// Arguments that name the user's configuration. OpenSSH takes the home directory from the user database, not from
/// HOME, so `-F` is needed where the two differ.
fn own_config(home: &Path) -> Vec<OsString> {
    let real = User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    let own = home.join(".ssh/config");
    if real.as_deref() != Some(home) && own.exists() {
        vec!["-F".into(), own.into_os_string()]
    } else {
        Vec::new()
    }
}

fn destination(address: &SshAddress) -> Vec<OsString> {
    let user = address.user.as_ref().map(|user| [OsString::from("-l"), user.into()]);
    let port = address.port.map(|port| [OsString::from("-p"), port.to_string().into()]);
    let flags = user.into_iter().chain(port).flatten();
    flags.chain(["--".into(), OsString::from(&address.host)]).collect()
}

/// The output of `ssh -G`: one name and value per line.
fn settings(ssh: &OsStr, args: &[OsString], home: &Path) -> Result<String, String> {
    let mut command = Command::new(ssh);
    command.arg("-G").args(args).env("HOME", home).stdin(Stdio::null());
    let output = command.output().map_err(|err| format!("ssh -G: {err}"))?;
    if !output.status.success() {
        let last = String::from_utf8_lossy(&output.stderr);
        let last = last.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("ssh -G: {}", one_line(last.as_bytes())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.split_once(' ').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

fn leads_elsewhere(with: &str, without: &str, given: &SshSettings) -> bool {
    let overridden = |name: &&&str| given.ssh_key.is_some() && KEYS.contains(name);
    let knowing = KNOWING.iter().filter(|_| given.known_hosts.is_none());
    LEADING.iter().filter(|name| !overridden(name)).chain(knowing).any(|name| {
        let all = |text| values(text, name).map(str::to_owned).collect::<BTreeSet<_>>();
        all(with) != all(without)
    })
}

fn invocation(
    ssh: OsString,
    mut args: Vec<OsString>,
    given: &SshSettings,
    home: &Path,
    address: &SshAddress,
) -> Invocation {
    // Nobody can answer a prompt, and an unknown host key is never accepted.
    let mut options =
        vec!["BatchMode=yes", "StrictHostKeyChecking=yes", "ControlMaster=no", "ConnectTimeout=15"]
            .into_iter()
            .map(OsString::from)
            .collect::<Vec<_>>();
    let option = |name: &str, path: &Path| {
        let mut text = OsString::from(format!("{name}="));
        text.push(path);
        text
    };
    if let Some(key) = &given.ssh_key {
        options.extend([option("IdentityFile", key), "IdentitiesOnly=yes".into()]);
    }
    if let Some(hosts) = &given.known_hosts {
        options.extend([option("UserKnownHostsFile", hosts), "GlobalKnownHostsFile=/dev/null".into()]);
    }
    args.extend(options.into_iter().flat_map(|option| [OsString::from("-o"), option]));
    args.push("-T".into());
    args.extend(destination(address));
    args.push(format!("git-upload-pack {}", quoted(&address.path)).into());
    Invocation { program: ssh, args, env: vec![("HOME".into(), home.into())] }
}

/// The path quoted for the server's shell, by git's rules.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

fn expanded(path: &str, home: &Path) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

/// A program on the worker's PATH.
pub fn on_path(name: &str) -> Option<OsString> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.map(PathBuf::into_os_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_elsewhere_has_ssh_run() {
        let without = "host h\nuser me\nhostname h\nport 22\nidentityfile ~/.ssh/id_rsa\nhashknownhosts no\n";
        let given = SshSettings::default();
        assert!(!leads_elsewhere(
            &without.replace("hashknownhosts no", "hashknownhosts yes"),
            without,
            &given
        ));
        assert!(leads_elsewhere(&without.replace("hostname h", "hostname x"), without, &given));
        assert!(leads_elsewhere(&format!("{without}proxyjump gate\n"), without, &given));
        let key = without.replace("id_rsa", "deploy");
        assert!(leads_elsewhere(&key, without, &given));
        let named = SshSettings { ssh_key: Some("/k".into()), ..given };
        assert!(!leads_elsewhere(&key, without, &named), "auth.ssh_key counts");
    }

    #[test]
    fn a_path_is_quoted_for_the_shell_of_the_server() {
        assert_eq!(quoted("/a b/it's!"), "'/a b/it'\\''s'\\!''");
    }
}
