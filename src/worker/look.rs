//! The workers that there are, and what it means that one has ended: it left, it was killed at its deadline, it ended by
//! itself after its work, or it died.

use std::time::{Duration, Instant};

use super::{Tries, WorkerNews, Workers, list_failed, short};
use crate::{
    command::tail,
    os::errors::chain,
    rules::{
        backoff,
        ids::ReleaseId,
        words::{EventKind, Failure},
        workers::{Duty, FoundWorker, WorkerSlot},
    },
    shim::{CommandExit, Handle, ShimStatus},
};

/// A worker that ends after each job is started again at most this often.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);
/// Ends with exit code 0 are put on record at most this often.
const BETWEEN_NOTES: Duration = Duration::from_secs(60);

/// A worker whose processes live.
#[derive(Debug)]
pub(super) struct Found {
    pub handle: Handle,
    pub worker: FoundWorker,
    /// The moment of KILL, in milliseconds since the epoch, of a leaving one.
    pub ends_by_ms: Option<u64>,
    /// Its main process failed, and the rest of its processes is being ended.
    pub is_rest: bool,
}

impl Found {
    /// `status` is `None` when it can't be asked: it counts as working.
    pub fn new(handle: Handle, slot: WorkerSlot, status: Option<&ShimStatus>) -> Self {
        let ends_by_ms = status.and_then(|status| status.ends_by_ms);
        let is_rest = ends_by_ms.is_none() && status.is_some_and(|status| status.ending);
        let duty = match status {
            _ if is_rest || ends_by_ms.is_some() => Duty::Leaving,
            Some(status) if status.quieted => Duty::Quiet,
            Some(_) | None => Duty::Working,
        };
        let (id, release) = (handle.id().to_owned(), handle.release().clone());
        Self { worker: FoundWorker { id, slot, release, duty }, handle, ends_by_ms, is_rest }
    }

    pub fn is_leaving(&self) -> bool {
        self.ends_by_ms.is_some()
    }

    pub fn takes_work(&self) -> bool {
        self.worker.duty == Duty::Working
    }
}

impl Workers {
    /// The workers that live. What has ended meanwhile is accounted for and forgotten.
    pub(super) async fn look(&self) -> Result<Vec<Found>, Failure> {
        let shims = self.commands.shims.find(&self.settings.name).await.map_err(|err| list_failed(&err))?;
        let mut found = Vec::new();
        for handle in shims {
            let Some(slot) = handle.role().worker().cloned() else { continue };
            let status = match handle.status().await {
                Ok(status) => status,
                Err(err) => {
                    tracing::warn!(app = %handle.app(), role = %handle.role(), err = %chain(&err), "a worker can't be asked; taken as working");
                    found.push(Found::new(handle, slot, None));
                    continue;
                }
            };
            if status.tree.is_empty() {
                self.has_ended(&handle, &slot, &status);
                self.forget(&handle).await;
            } else {
                found.push(Found::new(handle, slot, Some(&status)));
            }
        }
        Ok(found)
    }

    async fn forget(&self, handle: &Handle) {
        {
            let mut book = self.book();
            book.ends.remove(handle.id());
            book.leaving.remove(handle.id());
        }
        if let Err(err) = handle.forget().await {
            tracing::warn!(app = %handle.app(), role = %handle.role(), err = %chain(&err), "a worker that has ended was not forgotten");
        }
    }

    fn has_ended(&self, handle: &Handle, slot: &WorkerSlot, status: &ShimStatus) {
        let release = handle.release();
        let killed = self.book().killed.remove(handle.id());
        // The host went down: nobody ended it.
        if !handle.of_this_boot() {
            return;
        }
        let record = handle.last_record();
        if status.ends_by_ms.is_some() {
            let killed = killed || record.is_some_and(|record| record.killed);
            return self.has_left(handle, slot, (status, killed));
        }
        let ended_ms = record.and_then(|record| record.ended_ms);
        let uptime = match ended_ms {
            Some(at) => Duration::from_millis(at.saturating_sub(handle.started_ms())),
            None => handle.started_at().elapsed().unwrap_or_default(),
        };
        let exit = status.main.exit().unwrap_or(CommandExit::UNKNOWN);
        if exit.success() {
            self.is_done(slot, release, uptime);
        } else {
            self.has_died((slot, release), uptime, (exit.to_string(), tail(handle.log())));
        }
    }

    fn has_left(&self, handle: &Handle, slot: &WorkerSlot, (status, killed): (&ShimStatus, bool)) {
        let (release, of) = (handle.release(), short(handle.release()));
        if killed {
            let grace = handle.grace().as_secs_f64();
            let text = format!(
                "worker {slot} of {of} was still at work {grace} s after it was told to leave, and was killed"
            );
            self.note(EventKind::WorkerKilled, release, text);
        } else {
            let how = status.main.exit().unwrap_or(CommandExit::UNKNOWN);
            self.note(EventKind::WorkerEnded, release, format!("worker {slot} of {of} has left: {how}"));
        }
        self.book().news.push(WorkerNews::Left(release.clone()));
    }

    /// It ended by itself after its work, as workers do that take one job, or so many.
    fn is_done(&self, slot: &WorkerSlot, release: &ReleaseId, uptime: Duration) {
        let now = Instant::now();
        let pause = BETWEEN_STARTS.saturating_sub(uptime);
        let noted = {
            let mut book = self.book();
            let tries = book.tries.entry((slot.clone(), release.clone())).or_insert_with(Tries::none);
            *tries = Tries {
                attempt: 0,
                restarts: tries.restarts + 1,
                not_before: now + pause,
                how: None,
                ..*tries
            };
            let due = tries.noted.is_none_or(|at| now - at >= BETWEEN_NOTES);
            if due {
                tries.noted = Some(now);
            }
            due
        };
        if noted {
            let of = short(release);
            let text = format!("worker {slot} of {of} ended with exit code 0 and is started again");
            self.note(EventKind::WorkerEnded, release, text);
        }
    }

    /// Counts a death, or a start that failed; the next start comes after a pause.
    pub(super) fn has_died(
        &self,
        (slot, release): (&WorkerSlot, &ReleaseId),
        uptime: Duration,
        (how, last_words): (String, Vec<String>),
    ) {
        let pause = {
            let mut book = self.book();
            let tries = book.tries.entry((slot.clone(), release.clone())).or_insert_with(Tries::none);
            let attempt = backoff::next_attempt(tries.attempt, uptime);
            let pause = backoff::restart_delay(attempt);
            let not_before = Instant::now() + pause;
            let how = Some(how.clone());
            *tries = Tries { attempt, restarts: tries.restarts + 1, not_before, how, noted: tries.noted };
            pause
        };
        let again = match pause.as_secs() {
            0 => "it is started again at once".to_owned(),
            seconds => format!("it is started again in {seconds} s"),
        };
        let of = short(release);
        self.note(EventKind::WorkerDied, release, format!("worker {slot} of {of} died: {how}; {again}"));
        let (worker, release) = (slot.clone(), release.clone());
        self.book().news.push(WorkerNews::Died { worker, release, how, last_words });
    }
}

impl Tries {
    fn none() -> Self {
        Self { attempt: 0, restarts: 0, not_before: Instant::now(), how: None, noted: None }
    }
}
