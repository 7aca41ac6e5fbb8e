//! What the kernel says of processes.

use std::fs;

/// Dead, reaped or not. A first thread that has ended while others have not yet is not dead: nobody can wait
/// for it.
pub fn is_gone(pid: u32) -> bool {
    let alone = fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1);
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => alone && stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}
