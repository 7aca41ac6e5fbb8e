//! Reads what nginx's master wrote into its error log since a given moment: only there nginx says why it refused a
//! reload. bgd finds the log through the master's own stderr (nginx points it there), which works with any
//! configuration, but needs permission; without it there are no lines.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use crate::os::process::Process;

/// Most bytes read: a busy log may grow much during one flip, and its newest part matters.
const READ_CAP: u64 = 256 * 1024;
const MOST_LINES: usize = 20;

/// A position in the master's log.
#[derive(Debug)]
pub(super) struct LogPosition {
    path: PathBuf,
    offset: u64,
    master: Process,
}

impl LogPosition {
    /// The present end of the log; `None` if there is no log file that bgd may read.
    pub(super) fn now(master: Process) -> Option<Self> {
        let path = std::fs::read_link(format!("/proc/{}/fd/2", master.pid)).ok()?;
        let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        File::open(&path).ok()?;
        Some(Self { path, offset: meta.len(), master })
    }

    /// The master's error lines since then, oldest first.
    pub(super) fn complaints(&self) -> Vec<String> {
        let lines = complaints(&self.since(), self.master.pid);
        let skipped = lines.len().saturating_sub(MOST_LINES);
        lines.into_iter().skip(skipped).collect()
    }

    /// Whether nginx has given up its new configuration for good.
    pub(super) fn is_rejected(&self) -> bool {
        self.complaints().iter().any(|line| is_final(line))
    }

    fn since(&self) -> String {
        let read = || {
            let mut file = File::open(&self.path)?;
            let len = file.metadata()?.len();
            // Shorter than before: the log was rotated, so all of it is new.
            let from = if len < self.offset { 0 } else { self.offset };
            file.seek(SeekFrom::Start(from.max(len.saturating_sub(READ_CAP))))?;
            let mut bytes = Vec::new();
            file.take(READ_CAP).read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        // The log is only quoted; a failure to read it must not change the result of a flip.
        read().unwrap_or_default()
    }
}

/// Error lines of the master (`pid#tid:`), without those of its workers.
fn complaints(text: &str, master: i32) -> Vec<String> {
    let tag = format!(" {master}#");
    let grave = ["[emerg]", "[alert]", "[crit]"];
    text.lines()
        .filter(|line| grave.iter().any(|level| line.contains(level)) && line.contains(&tag))
        .map(str::to_owned)
        .collect()
}

/// Whether the line ends a reload: every `[emerg]` does, except a failed bind, which nginx tries five times.
fn is_final(line: &str) -> bool {
    line.contains("[emerg]") && !line.contains("bind() to ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026/11/21 08:05:35 [notice] 23#23: reconfiguring\n\
        2026/11/21 08:05:35 [emerg] 23#23: bind() to 127.0.0.1:1 failed (98: Address already in use)\n\
        2026/11/21 08:05:35 [emerg] 24#24: of another process\n\
        2026/11/21 08:05:36 [error] 23#23: everyday\n";

    #[test]
    fn only_the_masters_grave_lines_count() {
        let lines = complaints(LOG, 23);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("bind() to"));
    }

    #[test]
    fn a_bind_that_is_tried_again_is_not_the_end_yet() {
        assert!(!is_final(&complaints(LOG, 23)[0]));
        assert!(is_final("2026/11/21 08:05:37 [emerg] 23#23: still could not bind()"));
        assert!(is_final("2026/11/21 08:05:37 [emerg] 23#23: open() \"/x\" failed (2: No such file)"));
    }
}
