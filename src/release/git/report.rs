//! The worker's voice: lines on stdout, progress throttled. Only the worker's first thread speaks.

use std::{
    cell::Cell,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{
    error::Stage,
    wire::{self, Line, Progress},
};

/// Between two progress lines of one stage: often enough for every limit, seldom enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Where progress goes.
#[derive(Default)]
pub struct Reporter {
    last: Cell<Option<(Instant, Stage)>>,
}

impl Reporter {
    /// Reports progress, unless this stage was reported a moment ago.
    pub fn progress(&self, progress: Progress) {
        let now = Instant::now();
        let fresh = |(at, stage)| stage == progress.stage && now.duration_since(at) < PAUSE;
        if self.last.get().is_some_and(fresh) {
            return;
        }
        self.last.set(Some((now, progress.stage)));
        self.line(&Line::Progress(progress));
    }

    /// The begin of a stage.
    pub fn stage(&self, stage: Stage) {
        self.progress(Progress::at(stage));
    }

    /// One line to the daemon. Without a daemon to read it the worker has no reason to live.
    pub fn line(&self, line: &Line) {
        self.last.set(self.last.get().filter(|_| matches!(line, Line::Progress(_))));
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
