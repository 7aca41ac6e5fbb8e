//! Limits of memory, CPU and number of processes. A shim with limits is started in a scope of its own, a control group
//! that systemd makes and keeps. Not below bgd's own group: once that delegates controllers it may hold no process
//! itself, and a restart of the unit would fail. Used by `shims`; the shim asks here whether its scope ran out of
//! memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use tokio::process::Command;

use super::spec::Spec;
use crate::config::settings::Limits;

/// Variables that `systemd-run` needs to find a user's own systemd; no other variable of bgd is passed on.
const BUS: [&str; 2] = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// The program that makes scopes.
#[derive(Debug, Clone)]
pub struct Limiter {
    /// Name or path of `systemd-run`.
    pub program: PathBuf,
    /// A directory that exists if systemd runs this host.
    pub booted: PathBuf,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { program: "systemd-run".into(), booted: "/run/systemd/system".into() }
    }
}

impl Limiter {
    /// Why limits can't be kept on this host; `None` if they can, as far as is known.
    pub fn obstacle(&self) -> Option<String> {
        if !self.booted.exists() {
            return Some(format!("systemd does not run this host ({} is missing)", self.booted.display()));
        }
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let missing = |name: &&&str| !controllers.split_whitespace().any(|one| one == **name);
        let missing: Vec<_> = ["memory", "cpu", "pids"].iter().filter(missing).copied().collect();
        let unified = "/sys/fs/cgroup is not a unified hierarchy (cgroup v2) with";
        (!missing.is_empty()).then(|| format!("{unified} the controllers {}", missing.join(", ")))
    }

    /// The command that becomes `exe` in a scope of its own: same process, same pipes.
    pub(super) fn command(&self, exe: &Path, (id, spec): (&str, &Spec)) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        if !geteuid().is_root() {
            command.arg("--user");
            command.envs(BUS.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        }
        command.args(["--scope", "--quiet", "--collect"]);
        command.arg(format!("--unit=bgd-{}-{id}", spec.app));
        command.arg(format!("--description=bgd: {} of {}", spec.role, spec.app));
        for property in properties(&spec.limits) {
            command.arg(format!("--property={property}"));
        }
        command.arg("--").arg(exe);
        command
    }
}

/// Properties of a scope. With `Delegate`, systemd leaves the rest of the scope alone when one of its processes is
/// killed for memory: ending the tree is the shim's part. No swap, or a memory limit would only make the app slow.
fn properties(limits: &Limits) -> Vec<String> {
    let mut all = vec!["Delegate=yes".to_owned()];
    if let Some(bytes) = limits.memory {
        all.extend([format!("MemoryMax={bytes}"), "MemorySwapMax=0".to_owned()]);
    }
    all.extend(limits.cpu.map(|percent| format!("CPUQuota={percent}%")));
    all.extend(limits.tasks.map(|tasks| format!("TasksMax={tasks}")));
    all
}

/// Whether the kernel has killed a process in this process's own control group for lack of memory.
pub(super) fn has_run_out_of_memory() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(group) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    let events = Path::new("/sys/fs/cgroup").join(group).join("memory.events");
    kills(&fs::read_to_string(events).unwrap_or_default()) > 0
}

fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_not_set_is_not_asked_for() {
        assert_eq!(properties(&Limits::default()), ["Delegate=yes"]);
        let all = Limits { memory: Some(512 << 20), cpu: Some(150), tasks: Some(64) };
        assert_eq!(
            properties(&all),
            ["Delegate=yes", "MemoryMax=536870912", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=64"]
        );
    }

    #[test]
    fn kills_for_memory_are_told_from_mere_pressure() {
        assert_eq!(kills("low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills("low 0\nhigh 9\nmax 31\noom 0\noom_kill 0\n"), 0);
        assert_eq!(kills(""), 0);
    }

    #[test]
    fn a_host_without_systemd_is_said_to_be_one() {
        let limiter = Limiter { booted: "/nonexistent/systemd".into(), ..Limiter::default() };
        assert!(limiter.obstacle().unwrap().contains("/nonexistent/systemd is missing"));
    }
}
