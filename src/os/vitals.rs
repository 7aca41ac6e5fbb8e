//! Decides whether a silent daemon or front hangs, or lives and is only late: by the kernel's states of its threads
//! and by its pulse, if it has one. Used by `bgd flip` and the daemon before they kill one (promise N2). Only
//! observes.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use super::{
    process::{Process, ThreadState},
    pulse,
};

/// Time between two looks at the threads.
const APART: Duration = Duration::from_millis(100);
/// Looks in one examination: enough that one of them sees a thread that is about to run.
const LOOKS: u32 = 10;
/// A process that computes for this long without a beat is in an endless loop.
const SPINS_FOR: Duration = Duration::from_secs(10);
/// Processor time and waiting time in a second; less is the kernel's own housekeeping.
const NOTHING: Duration = Duration::from_millis(2);

/// The state of a process that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessCondition {
    /// It will never answer.
    Hangs(HangCause),
    /// It will answer later.
    Lives(Delay),
    /// It has ended.
    Gone,
}

/// Why it hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangCause {
    /// Stopped by a signal or a debugger.
    Stopped,
    /// All threads wait for each other, or for an event that does not come.
    Asleep,
    /// It computes in an endless loop.
    Spins,
}

/// Why a living process has not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// More requests than it can answer.
    Flooded,
    /// It waits for a processor.
    Starved,
    /// It waits for a disk or for memory.
    Disk,
}

impl fmt::Display for HangCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "it was stopped by a signal",
            Self::Asleep => "none of its threads runs or waits for anything",
            Self::Spins => "it computes without end",
        })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flooded => "it is busy with other requests",
            Self::Starved => "it waits for a processor",
            Self::Disk => "it waits for a disk or for memory",
        })
    }
}

/// One process under observation.
#[derive(Debug)]
pub struct Patient {
    process: Process,
    since: VitalSample,
}

/// Measurements of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VitalSample {
    at: Instant,
    pulse: Option<u64>,
    /// Processor time of all threads so far.
    ran: Duration,
    /// Time that threads were ready to run but not running.
    waited: Duration,
    stopped: bool,
    /// A thread runs or is ready to run.
    ready: bool,
    /// A thread is in an uninterruptible sleep.
    disk: bool,
}

impl Patient {
    /// Takes the first sample; `None` when the process has ended.
    pub fn watch(process: Process) -> Option<Self> {
        Some(Self { process, since: VitalSample::take(process)? })
    }

    /// Observes the process for a second and decides.
    pub async fn examine(&self) -> ProcessCondition {
        let Some(mut now) = VitalSample::take(self.process) else { return ProcessCondition::Gone };
        for _ in 1..LOOKS {
            tokio::time::sleep(APART).await;
            let Some(next) = VitalSample::take(self.process) else { return ProcessCondition::Gone };
            now = VitalSample { ready: now.ready || next.ready, disk: now.disk || next.disk, ..next };
        }
        judge(&self.since, &now)
    }
}

impl VitalSample {
    fn take(process: Process) -> Option<Self> {
        let pulse = pulse::count(process.pid);
        let mut sample = Self {
            at: Instant::now(),
            pulse,
            ran: Duration::ZERO,
            waited: Duration::ZERO,
            stopped: false,
            ready: false,
            disk: false,
        };
        for thread in fs::read_dir(format!("/proc/{}/task", process.pid)).ok()?.flatten() {
            let state = fs::read(thread.path().join("stat")).ok().and_then(|line| ThreadState::parse(&line));
            sample.stopped |= state == Some(ThreadState::Stopped);
            sample.ready |= state == Some(ThreadState::Ready);
            sample.disk |= state == Some(ThreadState::Uninterruptible);
            let times = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let mut times =
                times.split(' ').map(|time| time.parse().map_or(Duration::ZERO, Duration::from_nanos));
            sample.ran += times.next().unwrap_or_default();
            sample.waited += times.next().unwrap_or_default();
        }
        process.is_alive().then_some(sample)
    }
}

/// Judges by the surest sign first, by the weakest last.
fn judge(before: &VitalSample, now: &VitalSample) -> ProcessCondition {
    let window = now.at.saturating_duration_since(before.at);
    let (ran, waited) = (now.ran.saturating_sub(before.ran), now.waited.saturating_sub(before.waited));
    let beats = matches!((before.pulse, now.pulse), (Some(before), Some(now)) if now > before);
    if now.stopped {
        ProcessCondition::Hangs(HangCause::Stopped)
    } else if beats {
        ProcessCondition::Lives(if waited > window / 10 { Delay::Starved } else { Delay::Flooded })
    } else if now.disk {
        ProcessCondition::Lives(Delay::Disk)
    } else if ran > window / 2 && waited < window / 10 {
        if window > SPINS_FOR {
            ProcessCondition::Hangs(HangCause::Spins)
        } else {
            ProcessCondition::Lives(Delay::Flooded)
        }
    } else if now.ready || ran + waited > NOTHING.mul_f64(window.as_secs_f64()) {
        ProcessCondition::Lives(Delay::Starved)
    } else {
        ProcessCondition::Hangs(HangCause::Asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n2_only_a_daemon_that_can_t_get_to_it_hangs() {
        let before = VitalSample {
            at: Instant::now(),
            pulse: Some(7),
            ran: Duration::from_secs(100),
            waited: Duration::from_secs(50),
            stopped: false,
            ready: false,
            disk: false,
        };
        let after = |secs: u64| VitalSample { at: before.at + Duration::from_secs(secs), ..before };
        let later = after(3);
        let more = |time: Duration, millis: u64| time + Duration::from_millis(millis);
        for (now, verdict) in [
            (later, ProcessCondition::Hangs(HangCause::Asleep)),
            (VitalSample { pulse: None, ..later }, ProcessCondition::Hangs(HangCause::Asleep)),
            (
                VitalSample { stopped: true, pulse: Some(9), ..later },
                ProcessCondition::Hangs(HangCause::Stopped),
            ),
            (VitalSample { pulse: Some(8), ..later }, ProcessCondition::Lives(Delay::Flooded)),
            (
                VitalSample { pulse: Some(8), waited: more(before.waited, 2500), ..later },
                ProcessCondition::Lives(Delay::Starved),
            ),
            (VitalSample { disk: true, ..later }, ProcessCondition::Lives(Delay::Disk)),
            (VitalSample { ready: true, ..later }, ProcessCondition::Lives(Delay::Starved)),
            (
                VitalSample { waited: more(before.waited, 2500), ..later },
                ProcessCondition::Lives(Delay::Starved),
            ),
            (VitalSample { ran: more(before.ran, 40), ..later }, ProcessCondition::Lives(Delay::Starved)),
            (
                VitalSample { ran: more(before.ran, 5900), ready: true, ..later },
                ProcessCondition::Lives(Delay::Flooded),
            ),
            (
                VitalSample { ran: more(before.ran, 11_900), ready: true, ..after(12) },
                ProcessCondition::Hangs(HangCause::Spins),
            ),
            (
                VitalSample {
                    ran: more(before.ran, 7000),
                    waited: more(before.waited, 5000),
                    ready: true,
                    ..after(12)
                },
                ProcessCondition::Lives(Delay::Starved),
            ),
        ] {
            assert_eq!(judge(&before, &now), verdict, "{now:?}");
        }
    }

    #[tokio::test]
    async fn n2_a_stopped_process_hangs_and_one_that_has_ended_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id().cast_signed()).unwrap();
        process.signal(libc::SIGSTOP).unwrap();
        let patient = Patient::watch(process).unwrap();
        assert_eq!(patient.examine().await, ProcessCondition::Hangs(HangCause::Stopped));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(patient.examine().await, ProcessCondition::Gone);
    }

    #[tokio::test]
    async fn n2_a_process_that_computes_lives_until_it_has_done_so_for_long() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let patient = Patient::watch(Process::of(child.id().cast_signed()).unwrap()).unwrap();
        let verdict = patient.examine().await;
        assert!(matches!(verdict, ProcessCondition::Lives(Delay::Flooded | Delay::Starved)), "{verdict:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
