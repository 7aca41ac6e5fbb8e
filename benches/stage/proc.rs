//! What the kernel says of a process: memory and time used.

use std::{fs, path::PathBuf};

use super::Res;
pub use super::shared::processes::children;

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Its share of what is resident, shared pages divided among those that share them.
    pub pss: u64,
    /// What would come back if it ended.
    pub unique: u64,
}

impl Memory {
    /// Of one process.
    pub fn of(pid: u32) -> Res<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let unique = field("Private_Clean") + field("Private_Dirty") + field("Private_Hugetlb");
        Ok(Self { rss: field("Rss"), pss: field("Pss"), unique })
    }

    /// Of several together.
    pub fn sum(pids: &[u32]) -> Res<Self> {
        let mut all = Self::default();
        for pid in pids {
            let one = Self::of(*pid)?;
            all = Self { rss: all.rss + one.rss, pss: all.pss + one.pss, unique: all.unique + one.unique };
        }
        Ok(all)
    }
}

/// What a process holds that may leak.
#[derive(Debug, Clone, Copy, Default)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in KiB.
    pub rss: u64,
}

impl Holdings {
    /// Of one process.
    pub fn of(pid: u32) -> Res<Self> {
        let count =
            |what: &str| Ok::<_, std::io::Error>(fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
        Ok(Self { descriptors: count("fd")?, threads: count("task")?, rss: Memory::of(pid)?.rss })
    }
}

/// KiB as MiB, for people.
pub fn mib(kib: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let kib = kib as f64;
    format!("{:.2} MiB", kib / 1024.0)
}

/// Processor time used so far, in milliseconds; the kernel counts in steps of 10.
pub fn cpu_ms(pid: u32) -> Res<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok((ticks(11) + ticks(12)) * 10)
}

/// Processor time used so far by a process and by those of its children that it has waited for, in milliseconds.
pub fn cpu_with_children_ms(pid: u32) -> Res<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok((11..15).map(ticks).sum::<u64>() * 10)
}

/// Processor time that the threads of these processes have used so far, in seconds, to the nanosecond: what 10 ms steps
/// can't show. Threads that ended are not in it.
pub fn run_seconds(pids: &[u32]) -> f64 {
    let of_thread = |path: PathBuf| {
        fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
    };
    let of = |pid: &u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let all: u64 = pids.iter().flat_map(of).filter_map(|task| of_thread(task.path())).sum();
    std::time::Duration::from_nanos(all).as_secs_f64()
}

/// A process and its children.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = children(pid);
    all.push(pid);
    all
}

/// The role of a `bgd` process: its first argument.
pub fn role(pid: u32) -> Option<String> {
    let bytes = fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).ok()?;
    bytes.split(|byte| *byte == 0).nth(1).map(|word| String::from_utf8_lossy(word).into_owned())
}
