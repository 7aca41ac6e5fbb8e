//! The logs behind `bgd logs`: which files, and their lines, each with its instance where a color has several. Used
//! by the daemon, and by the command itself when there is no daemon. The lines of several instances are not in a
//! common order, because they carry no times.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    refusal::refusal,
    wire::{Exit, Refusal},
};
use crate::{
    rules::{
        ids::{Color, CronName, WorkerName},
        workers::WorkerSlot,
    },
    shim::{
        Role, Slot,
        logs::{Follow, tail},
    },
};

/// Between two looks at logs that have nothing new: fast enough for eyes, nothing for the machine.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOutput {
    path: PathBuf,
    /// The number that prefixes each line; `None` when there is only one log.
    instance: Option<u16>,
}

impl LogOutput {
    /// A log whose lines get no prefix, because there is no other.
    pub fn single(path: PathBuf) -> Self {
        Self { path, instance: None }
    }

    fn lines(&self, bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let line = |line: &str| match self.instance {
            Some(instance) => format!("[{instance}] {line}"),
            None => line.to_owned(),
        };
        text.lines().map(line).collect()
    }
}

/// The logs of all `number` instances of a color, or of the `wanted` one, counted from 1.
///
/// # Errors
/// When there is no such instance.
pub fn of_color(
    logs: &Path,
    (color, number): (Color, u16),
    wanted: Option<u16>,
) -> Result<Vec<LogOutput>, Refusal> {
    of_instances((color.as_str(), number), wanted, |index| {
        logs.join(format!("{}.log", Slot { color, index }))
    })
}

fn of_instances(
    (of, number): (&str, u16),
    wanted: Option<u16>,
    path: impl Fn(u16) -> PathBuf,
) -> Result<Vec<LogOutput>, Refusal> {
    match wanted {
        Some(one) if (1..=number).contains(&one) => Ok(vec![LogOutput::single(path(one - 1))]),
        Some(one) => {
            let message = format!("there is no instance {one}: {of} has {number}");
            Err(refusal(Exit::Usage, message, Some("bgd status")))
        }
        None if number == 1 => Ok(vec![LogOutput::single(path(0))]),
        None => Ok((0..number).map(|at| LogOutput { path: path(at), instance: Some(at + 1) }).collect()),
    }
}

/// The logs of all `number` instances of a worker, or of the `wanted` one, counted from 1.
///
/// # Errors
/// When there is no such instance.
pub fn of_worker(
    logs: &Path,
    (name, number): (&WorkerName, u16),
    wanted: Option<u16>,
) -> Result<Vec<LogOutput>, Refusal> {
    let path = |index| logs.join(format!("worker-{}.log", WorkerSlot { name: name.clone(), index }));
    of_instances((&format!("worker {name}"), number), wanted, path)
}

/// The log of a schedule's runs.
pub fn of_cron(logs: &Path, name: &CronName) -> LogOutput {
    LogOutput::single(logs.join(format!("{}.log", Role::Cron(name.clone()))))
}

/// The last `lines` lines of each log; a missing file counts as empty.
///
/// # Errors
/// Which log could not be read, and why.
pub fn last(logs: &[LogOutput], lines: usize) -> Result<Vec<String>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    for log in logs {
        match tail(&log.path, lines) {
            Ok(bytes) => found.extend(log.lines(&bytes)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err((log.path.clone(), err)),
        }
    }
    Ok(found)
}

/// Follows some logs: their last lines first, then everything that is written.
#[derive(Debug)]
pub struct LogStream(Vec<(LogOutput, Follow)>);

impl LogStream {
    /// Begins with the last `lines` lines of each.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn new(logs: &[LogOutput], lines: usize) -> io::Result<Self> {
        let each = logs.iter().map(|log| Ok((log.clone(), Follow::new(&log.path, lines)?)));
        each.collect::<io::Result<_>>().map(Self)
    }

    /// Whether these are the logs that are followed.
    pub fn is_of(&self, logs: &[LogOutput]) -> bool {
        self.0.iter().map(|(log, _)| log).eq(logs)
    }

    /// The next lines, at least one; waits until there are. Cancel-safe: it waits only between reads.
    ///
    /// # Errors
    /// When one can't be read.
    pub async fn next(&mut self) -> io::Result<Vec<String>> {
        loop {
            let lines = self.ready()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The lines that were written since; none if there are none.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn ready(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for (log, follow) in &mut self.0 {
            lines.extend(log.lines(&follow.poll()?));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_line_tells_its_instance_where_there_are_several() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("green.log"), "one\ntwo\n").unwrap();
        std::fs::write(dir.path().join("green.3.log"), "three\n").unwrap();
        let logs = |number, wanted| of_color(dir.path(), (Color::Green, number), wanted);
        let last = |number, wanted, lines| last(&logs(number, wanted).unwrap(), lines).unwrap();
        assert_eq!(last(1, None, 9), ["one", "two"]);
        assert_eq!(last(3, None, 1), ["[1] two", "[3] three"]);
        assert_eq!(last(3, Some(3), 9), ["three"]);
        for wrong in [0, 4] {
            assert!(logs(3, Some(wrong)).unwrap_err().message.contains("green has 3"));
        }
        let all = logs(3, None).unwrap();
        let mut following = LogStream::new(&all, 1).unwrap();
        assert!(following.is_of(&all) && !following.is_of(&all[..1]));
        assert_eq!(following.next().await.unwrap(), ["[1] two", "[3] three"]);
        std::fs::write(dir.path().join("green.2.log"), "late\n").unwrap();
        assert_eq!(following.next().await.unwrap(), ["[2] late"]);
    }
}
