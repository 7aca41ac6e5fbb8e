//! The process tree below a shim, read from /proc. Because the shim is a child subreaper, every descendant stays below
//! it, even after setsid or a double fork. The shim uses it to end a tree, the daemon to list the processes of an
//! instance. Signals only verified descendants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use super::process::{Process, Stat};

/// Rounds of stopping new processes before a tree is killed; a fork bomb stands still after a few.
const FREEZE_ROUNDS: usize = 50;

/// Longest chain of parents, in processes: a longer one is a loop, made by pids that are reused while we read.
const DEPTH: usize = 4096;

/// Every process visible now.
pub(crate) fn snapshot() -> io::Result<Vec<Stat>> {
    Ok(pids()?.filter_map(Stat::read).collect())
}

/// The pids of all processes visible now.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// All descendants of `root`, without it and without zombies.
pub(crate) fn descendants(root: i32) -> io::Result<Vec<Process>> {
    let below = walk(root)?;
    Ok(below.iter().filter(|stat| stat.alive()).map(Stat::process).collect())
}

/// The living children of `root`: processes that it started, and orphans that were reparented to it.
pub(crate) fn tops(root: i32) -> io::Result<Vec<Process>> {
    Ok(children(root)?.iter().filter(|stat| stat.alive()).map(Stat::process).collect())
}

/// The processes of `all` that descend from one of `roots`, without the roots.
pub(crate) fn below<'a>(all: &'a [Stat], roots: &BTreeSet<i32>) -> Vec<&'a Stat> {
    let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut seen = roots.clone();
    let mut open: Vec<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.pid) {
                found.push(*child);
                open.push(child.pid);
            }
        }
    }
    found
}

/// Whether `pid` descends from `root`.
pub(crate) fn is_below(pid: i32, root: i32) -> bool {
    let mut at = pid;
    for _ in 0..DEPTH {
        match Stat::read(at) {
            Some(stat) if stat.parent == root => return true,
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => return false,
        }
    }
    false
}

/// Sends a signal to one process if it still is a descendant of `root`; `Ok(false)` when it is not.
pub(crate) fn signal(root: i32, one: Process, signal: i32) -> io::Result<bool> {
    one.signal_if(signal, |_| is_below(one.pid, root))
}

/// Sends KILL to all visible descendants. Stops them first, until no new one appears: a stopped process can't fork.
/// The caller repeats this until it has no child left.
pub(crate) fn kill_all(root: i32) -> io::Result<()> {
    let mut frozen = BTreeSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let new: Vec<_> = walk(root)?.iter().map(Stat::process).filter(|one| frozen.insert(*one)).collect();
        if new.is_empty() {
            break;
        }
        new.into_iter().for_each(|one| try_signal(root, one, libc::SIGSTOP));
    }
    frozen.into_iter().for_each(|one| try_signal(root, one, libc::SIGKILL));
    Ok(())
}

/// Ignores a refusal (a setuid program, when we are not root), which must not keep us from ending the others; the
/// survivors show in the tree and are reported from there.
fn try_signal(root: i32, one: Process, number: i32) {
    let _refused = signal(root, one, number);
}

/// Descendants including zombies.
fn walk(root: i32) -> io::Result<Vec<Stat>> {
    let mut seen = BTreeSet::from([root]);
    let mut open = vec![root];
    let mut found = Vec::new();
    while let Some(pid) = open.pop() {
        let children = match listed_children(pid) {
            Ok(children) => children,
            Err(_) if pid != root => continue,
            Err(_) => return Ok(below(&snapshot()?, &BTreeSet::from([root])).into_iter().copied().collect()),
        };
        for child in children {
            if let Some(stat) = Stat::read(child).filter(|_| seen.insert(child)) {
                found.push(stat);
                open.push(child);
            }
        }
    }
    Ok(found)
}

/// The children of a process, zombies included.
pub(crate) fn children(pid: i32) -> io::Result<Vec<Stat>> {
    match listed_children(pid) {
        Ok(children) => Ok(children.into_iter().filter_map(Stat::read).collect()),
        Err(_) => Ok(snapshot()?.into_iter().filter(|stat| stat.parent == pid).collect()),
    }
}

/// The kernel's own list of children, where it keeps one: fast enough to outrun a forking tree.
fn listed_children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let list = fs::read_to_string(task?.path().join("children"))?;
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32) -> Stat {
        Stat { pid, state: b'S', parent, session: pid, threads: 1, start: 1 }
    }

    #[test]
    fn only_what_descends_from_the_roots_is_found_and_loops_end() {
        let all = [stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1), stat(6, 7), stat(7, 6)];
        let pids = |roots: &[i32]| {
            below(&all, &roots.iter().copied().collect()).iter().map(|s| s.pid).collect::<BTreeSet<_>>()
        };
        assert_eq!(pids(&[2]), BTreeSet::from([3, 4]));
        assert_eq!(pids(&[6]), BTreeSet::from([7]));
        assert_eq!(pids(&[9]), BTreeSet::new());
    }

    #[test]
    fn a_child_is_below_this_process_and_pid_1_is_not() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_below(pid, me));
        assert!(!is_below(1, me));
        assert!(descendants(me).unwrap().iter().any(|one| one.pid == pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_below(pid, me));
    }
}
