//! The daemon's sign of life: a counter that its runtime raises once a second, in memory that a process with the right
//! to signal the daemon can read. Not a file: it costs no disk and is gone with the process. Written by the daemon,
//! read by `vitals`.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// The descriptor's name in /proc.
const NAME: &std::ffi::CStr = c"bgd-pulse";
/// Time between two beats; a daemon that does not answer a flip is observed for longer.
const BEAT: Duration = Duration::from_secs(1);

/// Raises the counter for as long as the runtime runs its tasks.
///
/// # Errors
/// When the memory or the descriptor can't be had.
pub fn start() -> io::Result<()> {
    let file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?);
    tokio::spawn(async move {
        let mut turn = tokio::time::interval(BEAT);
        for count in 1_u64.. {
            turn.tick().await;
            if let Err(err) = file.write_all_at(&count.to_ne_bytes(), 0) {
                tracing::warn!(%err, "no more signs of life can be given");
                return;
            }
        }
    });
    Ok(())
}

/// The counter of a process; `None` when it has none or this process may not read it.
pub(super) fn count(pid: i32) -> Option<u64> {
    let mut bytes = [0; 8];
    File::open(find(pid)?).ok()?.read_exact_at(&mut bytes, 0).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

fn find(pid: i32) -> Option<PathBuf> {
    let named = |path: &Path| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_str().and_then(|text| text.strip_prefix("/memfd:")?.split(' ').next().map(str::to_owned))
    };
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let wanted = NAME.to_str().ok();
    all.map(|entry| entry.path()).find(|path| named(path).as_deref() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn n2_a_runtime_that_takes_turns_has_a_pulse_that_others_can_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        start().unwrap();
        let beaten = async {
            while count(own).is_none_or(|count| count < 2) {
                tokio::time::sleep(BEAT / 10).await;
            }
        };
        tokio::time::timeout(BEAT * 30, beaten).await.unwrap();
        assert_eq!(count(1), None, "init has none");
    }
}
