//! The front's log file: warnings and errors, one line each, never more than a few a second, never larger
//! than a limit. A file that was moved or deleted comes back. Nothing here may stop traffic: a line that
//! can't be written is lost.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines within one [`WINDOW`].
const LINES: u32 = 20;
/// The unit of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes after which the file becomes `<name>.1` and a new one is begun.
const LARGEST: u64 = 1024 * 1024;

/// The front's log file.
pub(super) struct Journal {
    path: PathBuf,
    rate: Mutex<Rate>,
}

struct Rate {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl Journal {
    /// Lines go to `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, rate: Mutex::new(Rate { since: Instant::now(), written: 0, suppressed: 0 }) }
    }

    /// Something healed or will heal by itself.
    pub(super) fn warn(&self, message: fmt::Arguments<'_>) {
        self.line("WARN", message);
    }

    /// Something a person may want to know later.
    pub(super) fn info(&self, message: fmt::Arguments<'_>) {
        self.line("INFO", message);
    }

    fn line(&self, level: &str, message: fmt::Arguments<'_>) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.since.elapsed() >= WINDOW {
            let suppressed = rate.suppressed;
            *rate = Rate { since: Instant::now(), written: 0, suppressed: 0 };
            if suppressed > 0 {
                let lines = if suppressed == 1 { "line" } else { "lines" };
                self.write("WARN", format_args!("{suppressed} {lines} left out"));
            }
        }
        if rate.written == LINES {
            rate.suppressed += 1;
            return;
        }
        rate.written += 1;
        self.write(level, message);
    }

    fn write(&self, level: &str, message: fmt::Arguments<'_>) {
        let at = jiff::Timestamp::now();
        let line = format!("{at:.3} {level} {}\n", message.to_string().replace('\n', " "));
        // No one is left to be told about an error here.
        let _lost = self.open().and_then(|mut file| file.write_all(line.as_bytes()));
    }

    /// Opened anew for each line: few lines come, and a deleted file is back with the next one.
    fn open(&self) -> std::io::Result<File> {
        let append = || OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path);
        let file = append()?;
        if file.metadata()?.size() < LARGEST {
            return Ok(file);
        }
        let mut former = self.path.clone().into_os_string();
        former.push(".1");
        std::fs::rename(&self.path, former)?;
        append()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_a_deleted_file_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("front.log");
        let journal = Journal::new(path.clone());
        for number in 0..1000 {
            journal.warn(format_args!("line {number}\nof two"));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!((20..=60).contains(&text.lines().count()), "{text}");
        assert!(text.contains("line 0 of two"));
        std::fs::remove_file(&path).unwrap();
        Journal::new(path.clone()).info(format_args!("again"));
        assert!(std::fs::read_to_string(&path).unwrap().contains("INFO again"));
    }
}
