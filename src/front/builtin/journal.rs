//! The front's log file: warnings and errors, one line each, never more than a few a second, never larger than a limit.
//! The file stays open, so that a process that is out of descriptors can still log; a moved or deleted file is created
//! again. Nothing here may stop traffic: a line that can't be written is lost.

use std::{
    fmt,
    fs::{File, Metadata, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most lines within one [`WINDOW`].
const LINES: u32 = 20;
/// The unit of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes after which the file becomes `<name>.1` and a new one is begun.
const LARGEST: u64 = 1024 * 1024;

/// The front's log file.
pub(super) struct Journal {
    path: PathBuf,
    rate: Mutex<LogRate>,
}

struct LogRate {
    since: Instant,
    written: u32,
    suppressed: u64,
    file: Option<File>,
}

impl LogRate {
    fn new(file: Option<File>) -> Self {
        Self { since: Instant::now(), written: 0, suppressed: 0, file }
    }
}

impl Journal {
    /// A journal that appends to `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        let file = open(&path).ok();
        Self { path, rate: Mutex::new(LogRate::new(file)) }
    }

    /// Logs a fault that healed or will heal by itself.
    pub(super) fn warn(&self, message: fmt::Arguments<'_>) {
        self.line("WARN", message);
    }

    /// Logs an event that an operator may want to know later.
    pub(super) fn info(&self, message: fmt::Arguments<'_>) {
        self.line("INFO", message);
    }

    fn line(&self, level: &str, message: fmt::Arguments<'_>) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.since.elapsed() >= WINDOW {
            let suppressed = rate.suppressed;
            *rate = LogRate::new(rate.file.take());
            if suppressed > 0 {
                let lines = if suppressed == 1 { "line" } else { "lines" };
                self.write(&mut rate.file, "WARN", format_args!("{suppressed} {lines} left out"));
            }
        }
        if rate.written == LINES {
            rate.suppressed += 1;
            return;
        }
        rate.written += 1;
        self.write(&mut rate.file, level, message);
    }

    fn write(&self, file: &mut Option<File>, level: &str, message: fmt::Arguments<'_>) {
        let at = jiff::Timestamp::now();
        let line = format!("{at:.3} {level} {}\n", message.to_string().replace('\n', " "));
        // There is nowhere left to report an error.
        let _lost = self.current(file).map(|mut file| file.write_all(line.as_bytes()));
    }

    /// The file at `path`, opened again after it was moved, deleted or grown too large; the former file while no new
    /// one can be opened.
    fn current<'a>(&self, file: &'a mut Option<File>) -> Option<&'a File> {
        let opened = file.as_ref().and_then(|file| file.metadata().ok());
        let named = std::fs::symlink_metadata(&self.path).ok();
        let is_named = |it: &Metadata| {
            named.as_ref().is_some_and(|named| (named.dev(), named.ino()) == (it.dev(), it.ino()))
        };
        let stays = opened.as_ref().filter(|opened| is_named(opened));
        if stays.is_some_and(|opened| opened.size() >= LARGEST) {
            let mut former = self.path.clone().into_os_string();
            former.push(".1");
            std::fs::rename(&self.path, former).ok()?;
        }
        if stays.is_none_or(|opened| opened.size() >= LARGEST)
            && let Ok(anew) = open(&self.path)
        {
            *file = Some(anew);
        }
        file.as_ref()
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
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
        let journal = Journal::new(path.clone());
        std::fs::remove_file(&path).unwrap();
        journal.info(format_args!("again"));
        assert!(std::fs::read_to_string(&path).unwrap().contains("INFO again"));
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        journal.info(format_args!("and again"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_large_file_gives_way_to_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("front.log");
        std::fs::write(&path, vec![b'x'; LARGEST as usize]).unwrap();
        Journal::new(path.clone()).info(format_args!("new"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(std::fs::metadata(dir.path().join("front.log.1")).unwrap().size(), LARGEST);
    }
}
