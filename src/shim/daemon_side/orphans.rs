//! What is done when a shim was killed: its processes live on without it, reparented to init. They are found
//! by the identity of the main process, its descendants and session, and by bgd's own variables in their
//! environment, and ended with signals through pidfds. A process that cleared its environment *and* left the main
//! process's tree *and* session can't be told from a stranger, and a stranger is never touched.

use std::{
    collections::BTreeSet,
    fs, io,
    time::{Duration, Instant},
};

use crate::{
    os::{
        ended::ended,
        process::{Process, Stat},
        tree,
    },
    shim::record::{MARKS, Record},
};

/// Between two looks at /proc while waiting for orphans to go: nothing reports the end of a stranger's child.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The same while nobody asked them to go.
const LOOK_SLOWLY: Duration = Duration::from_secs(1);

/// After this long KILL is said to have failed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Generations above a process that are looked at.
const DEPTH: usize = 4096;

/// How the end of orphans came out.
pub(super) struct Ended {
    pub killed: bool,
    /// Those that KILL did not end.
    pub left: Vec<Process>,
}

/// How to end them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The app's signal, its grace, then KILL.
    Polite,
    /// KILL.
    Now,
}

/// All living processes of a dead shim; none if it was of another boot.
pub(super) async fn living(record: &Record) -> io::Result<Vec<Process>> {
    let record = record.clone();
    tokio::task::spawn_blocking(move || read_living(&record)).await.map_err(io::Error::other)?
}

fn read_living(record: &Record) -> io::Result<Vec<Process>> {
    if !record.of_this_boot() {
        return Ok(Vec::new());
    }
    let all = tree::snapshot()?;
    let main = record.main.filter(|main| main.is_alive());
    let roots: BTreeSet<i32> =
        all.iter().filter(|stat| is_ours(record, main, stat)).map(|stat| stat.pid).collect();
    let ours = all.iter().filter(|stat| roots.contains(&stat.pid)).chain(tree::below(&all, &roots));
    Ok(ours.filter(|stat| stat.alive()).map(Stat::process).collect())
}

/// The session counts only while its leader lives: its number can't be another's then.
fn is_ours(record: &Record, main: Option<Process>, stat: &Stat) -> bool {
    let by_main = main.is_some_and(|main| stat.process() == main || stat.session == main.pid);
    by_main || is_marked(stat.pid, record)
}

/// The process has the environment of what this shim ran, and nobody else looks after it: the next shim of the
/// same release gives the same environment.
pub(super) fn is_marked(pid: i32, record: &Record) -> bool {
    let Some(stat) = Stat::read(pid).filter(|stat| stat.start >= record.shim.start) else { return false };
    // Unreadable is another user's, so not ours.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    !record.marks.is_empty() && has_marks(&environment, record) && !is_looked_after(stat, record)
}

fn has_marks(environment: &[u8], record: &Record) -> bool {
    let value = |name: &str| {
        let mut pairs = environment.split(|c| *c == 0);
        pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    MARKS.iter().all(|name| value(name) == record.marks.get(*name).map(String::as_bytes))
}

/// Below a living shim of the app, or started by this very process (a probe).
fn is_looked_after(stat: Stat, record: &Record) -> bool {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut at = Some(stat);
    // A chain that is longer is a loop made by pids changing hands while we read.
    for _ in 0..DEPTH {
        let Some(parent) = at.map(|stat| stat.parent).filter(|parent| *parent > 1) else { return false };
        if parent == me || is_shim(parent, record) {
            return true;
        }
        at = Stat::read(parent);
    }
    false
}

/// By the words that every shim is started with.
fn is_shim(pid: i32, record: &Record) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|c| *c == 0).skip(1);
    words.next() == Some(b"shim") && words.next() == Some(record.app.as_str().as_bytes())
}

/// Resolves when the main process is gone. Cancel-safe.
pub(super) async fn main_gone(record: &Record) -> io::Result<()> {
    match record.main.filter(|_| record.of_this_boot()) {
        Some(main) => gone(main).await,
        None => all_gone(record).await,
    }
}

async fn gone(one: Process) -> io::Result<()> {
    match one.pidfd()? {
        Some(pidfd) => ended(pidfd).await,
        None => Ok(()),
    }
}

/// Resolves when nothing is left. Cancel-safe.
pub(super) async fn all_gone(record: &Record) -> io::Result<()> {
    let mut seen = BTreeSet::new();
    while !look(record, &mut seen).await?.is_empty() {
        tokio::time::sleep(LOOK_SLOWLY).await;
    }
    Ok(())
}

/// Ends them all. `known` are further processes that were seen below the shim while it lived.
pub(super) async fn end(record: &Record, known: &[Process], manner: Manner) -> io::Result<Ended> {
    let begun = Instant::now();
    let grace = match manner {
        Manner::Polite => Duration::from_millis(record.grace_ms),
        Manner::Now => Duration::ZERO,
    };
    let mut seen: BTreeSet<Process> = known.iter().copied().collect();
    let mut asked = BTreeSet::new();
    let mut killed = false;
    loop {
        let left = look(record, &mut seen).await?;
        let spent = begun.elapsed();
        if left.is_empty() || spent >= grace + KILL_LIMIT {
            return Ok(Ended { killed, left });
        }
        if spent >= grace {
            killed = true;
            send(&left, libc::SIGKILL)?;
        } else {
            let new = polite_targets(record, &left).into_iter().filter(|one| asked.insert(*one));
            let new: Vec<_> = new.collect();
            send(&new, record.stop_signal)?;
            send(&new, libc::SIGCONT)?;
        }
        tokio::time::sleep(LOOK_AGAIN.min(grace.saturating_sub(spent)).max(Duration::from_millis(5))).await;
    }
}

/// As a shim does it: the main process, or the topmost of those left when it is gone.
fn polite_targets(record: &Record, left: &[Process]) -> Vec<Process> {
    if let Some(main) = record.main.filter(|main| left.contains(main)) {
        return vec![main];
    }
    let below_another =
        |one: &Process| Stat::read(one.pid).is_some_and(|stat| left.iter().any(|up| up.pid == stat.parent));
    left.iter().copied().filter(|one| !below_another(one)).collect()
}

/// One that refuses us (setuid, when we are not root) is reported as left in the end.
fn send(to: &[Process], signal: i32) -> io::Result<()> {
    for one in to {
        match one.signal(signal) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Those that live now. Whoever was once recognised stays ours, by identity: when the main process is gone,
/// its session no longer proves anything.
async fn look(record: &Record, seen: &mut BTreeSet<Process>) -> io::Result<Vec<Process>> {
    seen.extend(living(record).await?);
    seen.retain(|one| one.is_alive());
    Ok(seen.iter().copied().collect())
}
