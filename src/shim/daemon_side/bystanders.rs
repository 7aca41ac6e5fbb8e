//! Processes with very many open descriptors, recorded before an instance starts. Reading their descriptors costs more
//! the busier the host is. A process that has not run since can't have got a socket that did not exist then, so
//! `listening` skips it. Recorded by the engine before a start.

use std::{collections::BTreeMap, fs, io};

use crate::os::{
    process::{Process, Stat},
    tree::pids,
};

/// Descriptors from which on the check whether a process ran is cheaper than reading its descriptors.
const MANY: u64 = 256;
/// The check of one thread costs as much as reading this many descriptors.
const A_THREAD: u64 = 16;

/// Per thread, how often and how long it has run: the bytes of its schedstat.
type Runs = BTreeMap<i32, Vec<u8>>;

/// The recorded processes by pid, each with the run times of its threads.
#[derive(Debug, Default)]
pub struct Bystanders(BTreeMap<i32, (Process, Runs)>);

impl Bystanders {
    /// Records the processes of the whole host.
    pub fn now() -> io::Result<Self> {
        let kernel_counts = descriptors_counted("self").is_some();
        let found = pids()?.filter_map(|pid| {
            let number = if kernel_counts { descriptors_counted(pid) } else { descriptor_slots(pid) };
            let number = number.filter(|number| *number >= MANY)?;
            let stat = Stat::read(pid).filter(|stat| number >= stat.threads.saturating_mul(A_THREAD))?;
            Some((pid, (stat.process(), runs(pid)?)))
        });
        Ok(Self(found.collect()))
    }

    /// Whether the process is recorded and none of its threads has run since.
    pub(super) fn slept(&self, pid: i32) -> bool {
        let Some((process, then)) = self.0.get(&pid) else { return false };
        Process::of(pid) == Some(*process) && runs(pid).is_some_and(|now| now == *then)
    }
}

/// The number of open descriptors; `None` before Linux 6.2, for a process without any, and without the right to look.
fn descriptors_counted(pid: impl std::fmt::Display) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/fd")).ok().map(|about| about.len()).filter(|number| *number > 0)
}

/// An upper bound of the number of open descriptors.
fn descriptor_slots(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("FDSize:"))?.trim().parse().ok()
}

/// The run times of a process's threads. `None` if a thread runs right now, because the kernel's figures are then
/// slightly old, or if the kernel does not have them.
fn runs(pid: i32) -> Option<Runs> {
    let mut found = Runs::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = task.ok()?.path();
        let thread = path.file_name()?.to_str()?.parse().ok()?;
        let told = fs::read(path.join("schedstat")).ok()?;
        let stat = Stat::read_at(&path.join("stat"))?;
        if stat.state == b'R' || told.starts_with(b"0 0 0") {
            return None;
        }
        found.insert(thread, told);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn n10_a_process_with_many_descriptors_is_passed_over_only_for_as_long_as_it_sleeps() {
        let open = "import sys; kept = [open('/dev/null') for _ in range(600)]\nfor line in sys.stdin: print(line, flush=True)";
        let python =
            Command::new("python3").args(["-c", open]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut python) = python else {
            println!("skipped: no python3 to hold descriptors");
            return;
        };
        let pid = i32::try_from(python.id()).unwrap();
        let mut input = python.stdin.take().unwrap();
        let mut output = BufReader::new(python.stdout.take().unwrap()).lines();
        let mut talk = || {
            writeln!(input, "go on").unwrap();
            output.next().unwrap().unwrap();
            output.next().unwrap().unwrap();
        };
        talk();
        // It may still be on its way to sleep.
        let before = loop {
            let now = Bystanders::now().unwrap();
            if now.slept(pid) {
                break now;
            }
        };
        assert!(before.slept(pid));
        assert!(!before.slept(i32::try_from(std::process::id()).unwrap()), "few descriptors: looked through");
        talk();
        assert!(!before.slept(pid), "it ran");
        assert!(!Bystanders::default().slept(pid), "nothing is known of it");
        python.kill().unwrap();
        python.wait().unwrap();
        assert!(!before.slept(pid), "it is gone");
    }
}
