//! Writes the output of a command into a capped, rotated file. Called by the shim's loop with the bytes that the pipe
//! held. A missing file or folder is made again, a full disk drops output and counts it; no error here may stop the
//! reading of the pipe.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use super::spec::LogSpec;
use crate::{os::own_file::make_folder, rules::ids::ReleaseId};

/// The log of one command.
pub(super) struct Log {
    spec: LogSpec,
    file: Option<File>,
    /// The last byte written was a line feed (or nothing was written yet).
    line_start: bool,
    dropped: u64,
    unreported: u64,
}

impl Log {
    /// Opens nothing yet.
    pub fn new(spec: LogSpec) -> Self {
        Self { spec, file: None, line_start: true, dropped: 0, unreported: 0 }
    }

    /// Bytes dropped so far because they could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes a mark where the output of a run begins, unless the log is new.
    pub fn begin(&mut self, release: &ReleaseId) {
        let former = fs::metadata(&self.spec.path).map_or(0, |meta| meta.len());
        if former == 0 && fs::symlink_metadata(self.numbered(1)).is_err() {
            return;
        }
        let start = if former == 0 || self.former_ends_a_line() { "" } else { "\n" };
        self.write(format!("{start}{}{release}\n", super::logs::BEGINS).as_bytes());
    }

    fn former_ends_a_line(&self) -> bool {
        let last = || {
            let mut file = File::open(&self.spec.path)?;
            file.seek(SeekFrom::End(-1))?;
            let mut byte = [0];
            file.read_exact(&mut byte).map(|()| byte)
        };
        last().is_ok_and(|byte: [u8; 1]| byte == *b"\n")
    }

    /// Writes or drops all of `output`.
    pub fn write(&mut self, output: &[u8]) {
        let mut rest = output;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.drop_all(rest),
            }
        }
    }

    fn drop_all(&mut self, rest: &[u8]) {
        let count = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        self.dropped = self.dropped.saturating_add(count);
        self.unreported = self.unreported.saturating_add(count);
        self.file = None;
    }

    fn write_some(&mut self, output: &[u8]) -> io::Result<usize> {
        let size = self.current()?;
        if self.unreported > 0 {
            self.report_gap()?;
        }
        let room = usize::try_from(self.spec.max_bytes.saturating_sub(size)).unwrap_or(usize::MAX);
        let cut = cut(output, room, self.line_start && size > 0);
        if cut == 0 && size > 0 {
            self.rotate()?;
            return Ok(0);
        }
        // A cap of 0 means one byte at a time, not none.
        let part = output.get(..cut.max(1)).unwrap_or(output);
        let Some(file) = &mut self.file else { return Ok(0) };
        let written = file.write(part)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.line_start = part.get(written - 1) == Some(&b'\n');
        Ok(written)
    }

    /// Makes sure that the open file is the one at the path, and returns its size. Looks each time: a deleted log is
    /// made again, a log that was rotated by another program is left alone, a truncated one starts at 0.
    fn current(&mut self) -> io::Result<u64> {
        if let Some(file) = &self.file {
            let ours = file.metadata()?;
            match fs::symlink_metadata(&self.spec.path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(named.len()),
                _ => self.file = None,
            }
        }
        if let Some(folder) = self.spec.path.parent() {
            make_folder(folder, 0o750)?;
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let file = file.open(&self.spec.path)?;
        let size = file.metadata()?.len();
        self.file = Some(file);
        Ok(size)
    }

    fn report_gap(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let start = if self.line_start { "" } else { "\n" };
            let bytes = if self.unreported == 1 { "byte" } else { "bytes" };
            let lost = self.unreported;
            file.write_all(
                format!("{start}bgd: {lost} {bytes} of output could not be written\n").as_bytes(),
            )?;
            self.unreported = 0;
            self.line_start = true;
        }
        Ok(())
    }

    /// `<path>.1` is the newest rotated file; the oldest one is overwritten.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        if self.spec.keep == 0 {
            return fs::remove_file(&self.spec.path);
        }
        for number in (1..self.spec.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match fs::rename(&self.spec.path, self.numbered(1)) {
            // Another shim of the same log was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        super::logs::rotated(&self.spec.path, number)
    }
}

/// How many bytes of `output` go into a file with this much room: all, else whole lines, else none if the line can
/// begin in the next file, else as many as fit.
fn cut(output: &[u8], room: usize, can_wait: bool) -> usize {
    if output.len() <= room {
        return output.len();
    }
    let room_for = output.get(..room).unwrap_or(output);
    match room_for.iter().rposition(|c| *c == b'\n') {
        Some(at) => at + 1,
        None if can_wait => 0,
        None => room,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &tempfile::TempDir, max_bytes: u64, keep: u32) -> (Log, PathBuf) {
        let path = dir.path().join("logs/app.log");
        (Log::new(LogSpec { path: path.clone(), max_bytes, keep }), path)
    }

    fn read(path: &std::path::Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn where_a_run_begins_is_marked_behind_former_output_and_on_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let release: ReleaseId = "20261121T101112Z-7-0123456".parse().unwrap();
        let (mut first, path) = log(&dir, 1000, 1);
        first.begin(&release);
        first.write(b"cut off");
        assert_eq!(read(&path), "cut off");
        let (mut second, _) = log(&dir, 1000, 1);
        second.begin(&release);
        second.write(b"new\n");
        let mark = format!("bgd: here begins release {release}\n");
        assert_eq!(read(&path), format!("cut off\n{mark}new\n"));
        log(&dir, 1000, 1).0.begin(&release);
        assert_eq!(read(&path), format!("cut off\n{mark}new\n{mark}"));
    }

    #[test]
    fn h3_files_are_rotated_at_line_ends_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, 10, 2);
        for n in 1..=9 {
            log.write(format!("line{n}\n").as_bytes());
        }
        log.write(b"a\nb\nc\n");
        assert_eq!(read(&path), "c\n");
        assert_eq!(read(&log.numbered(1)), "line9\na\nb\n");
        assert_eq!(read(&log.numbered(2)), "line8\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3);
    }

    #[test]
    fn h3_a_deleted_log_comes_back_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, 100, 1);
        log.write(b"one\n");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        log.write(b"two\n");
        assert_eq!(read(&path), "two\n");
    }

    #[test]
    fn a_line_longer_than_the_cap_is_cut_and_none_kept_means_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, 4, 0);
        log.write(b"0123456789");
        assert_eq!(read(&path), "89");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_cap_of_nothing_still_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = log(&dir, 0, 1);
        log.write(b"ab\n");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn j1_output_on_a_full_disk_is_counted_and_reported_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, 1000, 1);
        fs::create_dir_all(&path).unwrap();
        log.write(b"lost\n");
        assert_eq!(log.dropped(), 5);
        fs::remove_dir(&path).unwrap();
        log.write(b"kept\n");
        assert_eq!(read(&path), "bgd: 5 bytes of output could not be written\nkept\n");
    }
}
