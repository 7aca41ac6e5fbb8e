//! Reads the logs that shims write: the last lines of a rotated log, and new output as it comes, across rotation,
//! truncation and deletion. Called by the engine (log tails) and for `bgd logs`. Never writes.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes of one step back in the search for line ends.
const BLOCK: u64 = 64 * 1024;

/// Most bytes that a tail returns, however long its lines are.
const MAX_TAIL: u64 = 1 << 20;

/// Rotated files read at most; no log keeps more.
const MAX_ROTATED: u32 = 1000;

/// Time between two looks at a log without news: fast enough for eyes, cheap for the machine.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Prefix of the line that a shim writes where the output of another run begins.
pub(crate) const BEGINS: &str = "bgd: here begins release ";

/// The name of a rotated file: `<path>.1` is the newest.
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The last `lines` lines of a log and its rotated files, at most 1 MiB. Empty without a log.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut current = open(path)?;
    let size = current.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))?;
    tail_before(path, current.as_mut().map(|file| (file, size)), lines)
}

/// The last lines, of the newest run only.
pub fn tail_of_run(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut text = tail(path, lines)?;
    let starts = text.windows(BEGINS.len()).enumerate().rev();
    let mut marks =
        starts.filter(|(at, part)| *part == BEGINS.as_bytes() && (*at == 0 || text[at - 1] == b'\n'));
    let Some((mark, _)) = marks.next() else { return Ok(text) };
    let end = text[mark..].iter().position(|c| *c == b'\n').map_or(text.len(), |length| mark + length + 1);
    Ok(text.split_off(end))
}

/// The last lines that end before a position of the current file.
fn tail_before(path: &Path, current: Option<(&mut File, u64)>, lines: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some((file, end)) = current {
        read_back(file, end, &mut text, lines)?;
    }
    for number in 1..=MAX_ROTATED {
        if is_enough(&text, lines) {
            break;
        }
        let Some(mut file) = open(&rotated(path, number))? else { break };
        let end = file.metadata()?.len();
        read_back(&mut file, end, &mut text, lines)?;
    }
    let from = start_of_last(&text, lines);
    Ok(text.split_off(from))
}

/// Prepends the bytes before `end` to `text`, block by block, until there are enough lines.
fn read_back(file: &mut File, end: u64, text: &mut Vec<u8>, lines: usize) -> io::Result<()> {
    let mut end = end;
    while end > 0 && !is_enough(text, lines) {
        let begin = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        Read::take(&mut *file, end - begin).read_to_end(&mut block)?;
        block.append(text);
        *text = block;
        end = begin;
    }
    Ok(())
}

fn is_enough(text: &[u8], lines: usize) -> bool {
    // One line end more than lines: the one before the first.
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    bytes >= MAX_TAIL || text.iter().filter(|c| **c == b'\n').count() > lines
}

fn start_of_last(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return text.len();
    }
    let ends = body.iter().enumerate().rev().filter(|(_, c)| **c == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// A reader of the bytes that are appended to a log from now on.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    /// The file was renamed: once it is read to its end, the next one follows.
    superseded: bool,
    /// The tail, which is returned first.
    first: Vec<u8>,
}

impl Follow {
    /// Begins with the last `lines` lines, without a gap to the output that follows. Waits for a log that does not
    /// exist yet.
    pub fn new(path: &Path, lines: usize) -> io::Result<Self> {
        let mut file = open(path)?;
        let at = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))?;
        let first = tail_before(path, file.as_mut().map(|file| (file, at)), lines)?;
        Ok(Self { path: path.to_owned(), file, at, superseded: false, first })
    }

    /// The next piece, never empty; waits until there is one. Cancel-safe: it waits only between reads.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let piece = self.poll()?;
            if !piece.is_empty() {
                return Ok(piece);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The bytes available now; empty if there are none.
    pub fn poll(&mut self) -> io::Result<Vec<u8>> {
        if !self.first.is_empty() {
            return Ok(std::mem::take(&mut self.first));
        }
        loop {
            let piece = self.read()?;
            if !piece.is_empty() || !self.turn_over()? {
                return Ok(piece);
            }
        }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        if file.metadata()?.len() < self.at {
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut piece = Vec::new();
        let count = Read::take(&mut *file, BLOCK).read_to_end(&mut piece)?;
        self.at += u64::try_from(count).unwrap_or(0);
        Ok(piece)
    }

    /// At the end of a file: switches to the next file if there is one; returns whether to read again. The writer
    /// never writes to a file that it has renamed, so one more read after seeing that completes it.
    fn turn_over(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            self.file = open(&self.path)?;
            self.at = 0;
            return Ok(self.file.is_some());
        };
        let ours = inode(&file.metadata()?);
        if is_named(&self.path, ours) {
            return Ok(false);
        }
        if !self.superseded {
            self.superseded = true;
            return Ok(true);
        }
        self.superseded = false;
        self.at = 0;
        self.file = open(&self.after(ours))?;
        Ok(self.file.is_some())
    }

    /// The file that followed ours.
    fn after(&self, ours: (u64, u64)) -> PathBuf {
        let number = (1..=MAX_ROTATED)
            .take_while(|number| rotated(&self.path, *number).exists())
            .find(|number| is_named(&rotated(&self.path, *number), ours));
        match number {
            Some(number) if number > 1 => rotated(&self.path, number - 1),
            _ => self.path.clone(),
        }
    }
}

fn inode(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn is_named(path: &Path, ours: (u64, u64)) -> bool {
    fs::metadata(path).is_ok_and(|meta| inode(&meta) == ours)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn append(path: &Path, text: &str) {
        File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn shown(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_tail_reaches_back_into_rotated_files_and_stops_at_the_lines_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        assert_eq!(shown(tail(&path, 3).unwrap()), "");
        append(&rotated(&path, 2), "1\n2\n");
        append(&rotated(&path, 1), "3\n4\n");
        append(&path, "5\n6");
        assert_eq!(shown(tail(&path, 0).unwrap()), "");
        assert_eq!(shown(tail(&path, 1).unwrap()), "6");
        assert_eq!(shown(tail(&path, 4).unwrap()), "3\n4\n5\n6");
        assert_eq!(shown(tail(&path, 99).unwrap()), "1\n2\n3\n4\n5\n6");
    }

    #[test]
    fn n9_the_last_output_is_of_the_newest_run_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        append(&path, "old words\n");
        assert_eq!(shown(tail_of_run(&path, 9).unwrap()), "old words\n");
        append(&path, &format!("{BEGINS}20261121T101112Z-7-0123456\n"));
        assert_eq!(shown(tail_of_run(&path, 9).unwrap()), "");
        append(&path, "new\nwords of bgd: here begins release\nlast");
        assert_eq!(shown(tail_of_run(&path, 9).unwrap()), "new\nwords of bgd: here begins release\nlast");
        assert_eq!(shown(tail_of_run(&path, 1).unwrap()), "last");
    }

    #[test]
    fn a_tail_of_endless_lines_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        append(&path, &"x".repeat(3 << 20));
        assert!(tail(&path, 5).unwrap().len() <= 1 << 20);
    }

    #[test]
    fn following_goes_through_every_file_however_often_it_was_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        append(&path, "old\n1\n");
        let mut follow = Follow::new(&path, 1).unwrap();
        let mut all = shown(follow.poll().unwrap());
        append(&path, "2\n");
        fs::rename(&path, rotated(&path, 2)).unwrap();
        append(&rotated(&path, 1), "3\n");
        append(&path, "4\n");
        for _ in 0..3 {
            all += &shown(follow.poll().unwrap());
        }
        assert_eq!(all, "1\n2\n3\n4\n");
        assert_eq!(shown(follow.poll().unwrap()), "");
    }

    #[test]
    fn following_survives_deletion_and_truncation_and_waits_for_a_log_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut follow = Follow::new(&path, 9).unwrap();
        assert_eq!(shown(follow.poll().unwrap()), "");
        append(&path, "one\n");
        assert_eq!(shown(follow.poll().unwrap()), "one\n");
        File::create(&path).unwrap();
        assert_eq!(shown(follow.poll().unwrap()), "");
        append(&path, "two\n");
        assert_eq!(shown(follow.poll().unwrap()), "two\n");
        fs::remove_file(&path).unwrap();
        append(&path, "three\n");
        assert_eq!(shown(follow.poll().unwrap()), "three\n");
    }
}
