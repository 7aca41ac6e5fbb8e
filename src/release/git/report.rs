//! Writes the worker's lines to stdout and throttles progress. Only the worker's main thread writes.

use std::{
    cell::Cell,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{
    error::GitStep,
    wire::{self, GitProgress, WorkerLine},
};

/// Wait between two progress lines of one stage: short enough for every limit, long enough to cost little.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends progress and answers to the daemon.
#[derive(Default)]
pub struct Reporter {
    last: Cell<Option<(Instant, GitStep)>>,
}

impl Reporter {
    /// Reports progress, unless the stage was reported within [`PAUSE`].
    pub fn progress(&self, progress: GitProgress) {
        let now = Instant::now();
        let fresh = |(at, stage)| stage == progress.stage && now.duration_since(at) < PAUSE;
        if self.last.get().is_some_and(fresh) {
            return;
        }
        self.last.set(Some((now, progress.stage)));
        self.line(&WorkerLine::Progress(progress));
    }

    /// Reports the beginning of a stage.
    pub fn stage(&self, stage: GitStep) {
        self.progress(GitProgress::at(stage));
    }

    /// Writes one line to the daemon. Ends the worker if the daemon can't read it.
    pub fn line(&self, line: &WorkerLine) {
        self.last.set(self.last.get().filter(|_| matches!(line, WorkerLine::Progress(_))));
        let mut out = io::stdout().lock();
        let written = wire::print(line).map_err(io::Error::from).and_then(|text| {
            out.write_all(text.as_bytes())?;
            out.flush()
        });
        if written.is_err() {
            std::process::exit(1);
        }
    }
}
