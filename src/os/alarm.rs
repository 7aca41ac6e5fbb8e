//! Waits for a time of the wall clock. The kernel's timer follows the clock: it also ends when the clock is set, and
//! comes at once after the host has slept past it. Between that nothing wakes up.

use std::{io, os::fd::OwnedFd, time::Duration};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Resolves at `time`, given since the Unix epoch, or earlier when the clock is set. Cancel-safe.
///
/// # Errors
/// When the kernel gives no timer.
pub(crate) async fn at(time: Duration) -> io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    // A time of zero would disarm the timer.
    let time = TimeSpec::from_duration(time.max(Duration::from_nanos(1)));
    timer.set(Expiration::OneShot(time), flags)?;
    // SAFETY: the descriptor is owned, stays the same and is open for as long as it is registered.
    let timer = unsafe { AsyncFd::register_with_interest(OwnedFd::from(timer), Interest::READABLE) }?;
    timer.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn it_comes_at_its_time_and_at_once_for_a_time_that_is_over() {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        at(Duration::ZERO).await.unwrap();
        at(now() - Duration::from_secs(60)).await.unwrap();
        let soon = now() + Duration::from_millis(50);
        at(soon).await.unwrap();
        assert!(now() >= soon, "{:?} before {soon:?}", soon - now());
    }
}
