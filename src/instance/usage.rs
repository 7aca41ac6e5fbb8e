//! What instances use of the host, and what the host has free, read by sysinfo when somebody asks. Called by the
//! engine on a blocking thread; nothing is kept between two calls.

use std::{collections::BTreeMap, io, time::Duration};

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::os::tree;

/// The memory and processor time of a process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory of all processes, in bytes. Pages that they share count once for each.
    pub memory_bytes: u64,
    /// Processor time that the living processes have used since each of them started.
    pub cpu: Duration,
}

/// The usage of what runs below each of these shims, by the shim's pid; a shim below which nothing runs is left out.
///
/// # Errors
/// When /proc can't be read.
pub fn below(shims: &[i32]) -> io::Result<BTreeMap<i32, Usage>> {
    let mut trees = BTreeMap::new();
    for shim in shims {
        let pids = tree::descendants(*shim)?.into_iter().filter_map(|one| u32::try_from(one.pid).ok());
        trees.insert(*shim, pids.map(Pid::from_u32).collect::<Vec<_>>());
    }
    let all: Vec<Pid> = trees.values().flatten().copied().collect();
    let mut system = System::new().map_err(io::Error::other)?;
    let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&all), true, wanted);
    let sums = trees.iter().filter_map(|(shim, pids)| Some((*shim, sum(&system, pids)?)));
    Ok(sums.collect())
}

fn sum(system: &System, pids: &[Pid]) -> Option<Usage> {
    pids.iter().filter_map(|pid| system.process(*pid)).fold(None, |sum, process| {
        let sum: Usage = sum.unwrap_or_default();
        Some(Usage {
            memory_bytes: sum.memory_bytes + process.memory(),
            cpu: sum.cpu + Duration::from_millis(process.accumulated_cpu_time()),
        })
    })
}

/// Memory in bytes that can be had without swapping: the kernel's MemAvailable, or what the cgroup of a container
/// leaves, whichever is less.
///
/// # Errors
/// When sysinfo can't read the host.
pub fn free_memory() -> io::Result<u64> {
    let mut system = System::new().map_err(io::Error::other)?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Ok(system.available_memory().min(group))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_tree_is_the_sum_of_its_processes() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).expect("both sleep");
        let shell = i32::try_from(child.id()).unwrap();
        let whole = below(&[shell]).unwrap();
        let each: Vec<i32> = tree::descendants(shell).unwrap().into_iter().map(|one| one.pid).collect();
        for pid in &each {
            assert!(below(&[*pid]).unwrap().is_empty(), "nothing runs below a sleep");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::SIGKILL).unwrap();
        }
        child.wait().unwrap();
        assert_eq!(each.len(), 2);
        assert!(whole[&shell].memory_bytes > 200 << 10, "{whole:?}");
        assert!(below(&[shell]).unwrap().is_empty(), "a shim that is gone uses nothing");
    }

    #[test]
    fn free_memory_is_less_than_the_host_has() {
        let mut system = System::new().unwrap();
        system.refresh_memory();
        let free = free_memory().unwrap();
        assert!(free > 0 && free < system.total_memory(), "{free}");
    }
}
