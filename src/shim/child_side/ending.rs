//! How a tree is ended: polite request, grace, then KILL until no descendant is left. A small state machine
//! that the shim's loop drives with "main has exited", "a child is gone" and the passing of time. It decides
//! and signals; it does not reap and does not know of sockets.
//!
//! ```text
//! Idle --ask--> Polite --grace is over--> Killing --> (tree empty: the loop ends the shim)
//!   \-------------kill / time limit---------^
//! ```

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use crate::os::{process::Process, tree};

/// Time between two rounds of KILL while something is left: the kernel needs a moment to end a large tree.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Time between later rounds of KILL, for processes that are stuck in the kernel or may not be signalled.
const KILL_SLOWLY: Duration = Duration::from_secs(1);

/// After this time KILL is reported to have failed; the rounds go on.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The state of a tree's end.
pub(super) struct Ending {
    root: i32,
    signal: i32,
    stage: EndStage,
    killed: bool,
}

enum EndStage {
    Idle,
    Polite { until: Instant, main_asked: bool, asked: BTreeSet<Process>, command: Option<Process> },
    Killing { since: Instant, next: Instant },
}

impl Ending {
    /// The end of the tree below `root`; `signal` is the polite one.
    pub fn new(root: i32, signal: i32) -> Self {
        Self { root, signal, stage: EndStage::Idle, killed: false }
    }

    /// Whether nothing was requested yet.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, EndStage::Idle)
    }

    /// Whether KILL was sent to a living process.
    pub fn killed(&self) -> bool {
        self.killed
    }

    /// Whether KILL has been tried for so long that a waiting client must get an answer.
    pub fn has_failed(&self, now: Instant) -> bool {
        matches!(self.stage, EndStage::Killing { since, .. } if now >= since + KILL_LIMIT)
    }

    /// Begins politely; a repeated request changes nothing. With a stop command running, signals wait.
    pub fn ask(&mut self, grace: Duration, command: Option<Process>) {
        if self.is_idle() {
            let until = Instant::now() + grace;
            self.stage = EndStage::Polite { until, main_asked: false, asked: BTreeSet::new(), command };
        }
    }

    /// Begins to KILL; changes nothing when it has begun already.
    pub fn kill(&mut self) {
        if !matches!(self.stage, EndStage::Killing { .. }) {
            let now = Instant::now();
            self.stage = EndStage::Killing { since: now, next: now };
        }
    }

    /// A child of the shim was reaped; `worked` says whether it exited with 0. A stop command that failed is
    /// replaced by the signal; one that worked leaves the rest to the app.
    pub fn reaped(&mut self, pid: i32, worked: Outcome) {
        if let EndStage::Polite { command, main_asked, .. } = &mut self.stage
            && command.is_some_and(|one| one.pid == pid)
        {
            *command = None;
            *main_asked = matches!(worked, Outcome::Worked);
        }
    }

    /// Does what is due now. `main` is the main process while it lives.
    pub fn advance(&mut self, main: Option<Process>) -> io::Result<()> {
        if matches!(self.stage, EndStage::Polite { until, .. } if Instant::now() >= until) {
            self.kill();
        }
        match &mut self.stage {
            EndStage::Idle | EndStage::Polite { command: Some(_), .. } => Ok(()),
            EndStage::Polite { main_asked, asked, .. } => match main {
                Some(_) if *main_asked => Ok(()),
                Some(main) => {
                    *main_asked = true;
                    asked.insert(main);
                    polite(self.root, main, self.signal)
                }
                // A wrapper died of its own signal, or a daemon left its starter: ask the topmost of the rest. Not
                // their children: a server stops its own workers, in its own way.
                None => {
                    let tops = tree::tops(self.root)?.into_iter();
                    let new: Vec<_> = tops.filter(|one| asked.insert(*one)).collect();
                    new.into_iter().try_for_each(|one| polite(self.root, one, self.signal))
                }
            },
            EndStage::Killing { since, next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + if now < *since + KILL_LIMIT { KILL_AGAIN } else { KILL_SLOWLY };
                    self.killed |= !tree::descendants(self.root)?.is_empty();
                    tree::kill_all(self.root)?;
                }
                Ok(())
            }
        }
    }

    /// When [`Ending::advance`] has to be called next without another event.
    pub fn next(&self) -> Option<Instant> {
        match &self.stage {
            EndStage::Idle => None,
            EndStage::Polite { until, .. } => Some(*until),
            EndStage::Killing { next, .. } => Some(*next),
        }
    }
}

/// How a reaped child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Exit code 0.
    Worked,
    /// Anything else.
    Failed,
}

/// Sends the signal, and CONT so that a stopped process can act on it. A setuid program may refuse us; it will refuse
/// KILL too, and is then reported as left.
fn polite(root: i32, one: Process, signal: i32) -> io::Result<()> {
    for number in [signal, libc::SIGCONT] {
        match tree::signal(root, one, number) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
