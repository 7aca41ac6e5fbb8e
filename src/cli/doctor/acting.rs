//! The process that would deploy: the daemon where it runs, else this one, which then stands for the daemon to come.
//! Its rights and its `PATH` are read from `/proc`, since a service has others than the operator's shell.

use std::{fs, path::PathBuf};

/// `CAP_NET_BIND_SERVICE`: listening below the first free port.
const NET_BIND_SERVICE: u32 = 10;

/// The rights and the `PATH` of that process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// Its pid, where it is the daemon.
    pub pid: Option<u32>,
    pub path: String,
    /// Whether it may listen on any port.
    pub binds_any_port: bool,
    /// Whether it runs as root.
    pub is_root: bool,
}

impl Acting {
    /// Reads them for the daemon with this pid, as far as this user may, else for this process.
    pub fn of(daemon: Option<u32>) -> Self {
        let proc = daemon.map(|pid| PathBuf::from(format!("/proc/{pid}")));
        let own = PathBuf::from("/proc/self");
        let status = proc.iter().chain([&own]).find_map(|dir| fs::read_to_string(dir.join("status")).ok());
        let status = status.unwrap_or_default();
        let environ = proc.and_then(|dir| fs::read(dir.join("environ")).ok());
        let path = environ.as_deref().and_then(path_of);
        Self {
            pid: daemon,
            path: path.or_else(|| std::env::var("PATH").ok()).unwrap_or_default(),
            binds_any_port: has_capability(&status, NET_BIND_SERVICE),
            is_root: field(&status, "Uid:").and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"),
        }
    }
}

fn path_of(environ: &[u8]) -> Option<String> {
    let pair = environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"PATH="))?;
    Some(String::from_utf8_lossy(pair).into_owned())
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn has_capability(status: &str, number: u32) -> bool {
    let bits = field(status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    bits >> number & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_path_are_read_from_proc() {
        let status = "Name:\tbgd\nUid:\t0\t1000\t0\t0\nCapEff:\t0000000000000400\n";
        assert!(has_capability(status, NET_BIND_SERVICE) && !has_capability(status, 12));
        assert!(!has_capability("CapEff:\t0\n", NET_BIND_SERVICE));
        assert_eq!(path_of(b"A=1\0PATH=/opt/bin:/bin\0").as_deref(), Some("/opt/bin:/bin"));
        let me = Acting::of(None);
        assert_eq!(me.is_root, nix::unistd::geteuid().is_root());
        let daemon = Some(std::process::id());
        assert_eq!(Acting::of(daemon), Acting { pid: daemon, ..me });
    }
}
