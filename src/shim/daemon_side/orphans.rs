//! Looks after the processes of a killed shim, which live on, reparented to init. They are found by the identity of
//! the main process, its descendants and session, and by bgd's own variables in their environment, and ended with
//! signals through pidfds. A process that cleared its environment *and* left the main process's tree *and* session
//! can't be told from a stranger, and a stranger is never signalled.

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
    shim::record::{MARKS, Record, now_ms},
};

/// Time between two looks at /proc after orphans were asked to end: nothing reports the end of a process that is not a
/// child.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Time between two looks at /proc while orphans run on, unasked.
const LOOK_SLOWLY: Duration = Duration::from_secs(1);

/// After this time KILL is reported to have failed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Most ancestors of a process that are looked at.
const DEPTH: usize = 4096;

/// The result of ending orphans.
pub(super) struct EndedOrphans {
    pub killed: bool,
    /// Processes that KILL did not end.
    pub left: Vec<Process>,
}

/// The way to end them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The app's signal, its grace, then KILL.
    Polite,
    /// KILL at once.
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

/// Whether the process is the main one, in its session, or marked by its environment. The session counts only while
/// its leader lives, since its number can't be reused then.
fn is_ours(record: &Record, main: Option<Process>, stat: &Stat) -> bool {
    let by_main = main.is_some_and(|main| stat.process() == main || stat.session == main.pid);
    by_main || is_marked(stat.pid, record)
}

/// Whether the process has the environment of this shim's command and neither a living shim nor this daemon looks
/// after it: the next shim of the same release gives the same environment.
pub(super) fn is_marked(pid: i32, record: &Record) -> bool {
    let Some(stat) = Stat::read(pid).filter(|stat| stat.start >= record.shim.start) else { return false };
    // An unreadable environment is another user's, so not ours.
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

/// Whether the process is below a living shim of the app, or was started by this very process (a probe).
fn is_looked_after(stat: Stat, record: &Record) -> bool {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut at = Some(stat);
    // A longer chain is a loop, made by pids that are reused while we read.
    for _ in 0..DEPTH {
        let Some(parent) = at.map(|stat| stat.parent).filter(|parent| *parent > 1) else { return false };
        if parent == me || is_shim(parent, record) {
            return true;
        }
        at = Stat::read(parent);
    }
    false
}

/// Whether the process is a shim of the app, by the arguments that every shim is started with.
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
pub(super) async fn end(record: &Record, known: &[Process], manner: Manner) -> io::Result<EndedOrphans> {
    let begun = Instant::now();
    let grace = Duration::from_millis(match manner {
        Manner::Polite => {
            let left = record.ends_by_ms.map_or(u64::MAX, |by| by.saturating_sub(now_ms()));
            left.min(record.grace_ms)
        }
        Manner::Now => 0,
    });
    let mut seen: BTreeSet<Process> = known.iter().copied().collect();
    // The shim has sent the signal before it recorded the deadline; some apps take a second one for an order to hurry.
    let told = record.ends_by_ms.is_some();
    let mut asked = BTreeSet::new();
    let mut killed = false;
    loop {
        let left = look(record, &mut seen).await?;
        let spent = begun.elapsed();
        if left.is_empty() || spent >= grace + KILL_LIMIT {
            return Ok(EndedOrphans { killed, left });
        }
        if spent >= grace {
            killed = true;
            send(&left, libc::SIGKILL)?;
        } else if !told {
            let new = polite_targets(record, &left).into_iter().filter(|one| asked.insert(*one));
            let new: Vec<_> = new.collect();
            send(&new, record.stop_signal)?;
            send(&new, libc::SIGCONT)?;
        }
        tokio::time::sleep(LOOK_AGAIN.min(grace.saturating_sub(spent)).max(Duration::from_millis(5))).await;
    }
}

/// The processes that get the polite signal, the same that a shim would choose: the main process, or the topmost of
/// the rest when it is gone.
fn polite_targets(record: &Record, left: &[Process]) -> Vec<Process> {
    if let Some(main) = record.main.filter(|main| left.contains(main)) {
        return vec![main];
    }
    let below_another =
        |one: &Process| Stat::read(one.pid).is_some_and(|stat| left.iter().any(|up| up.pid == stat.parent));
    left.iter().copied().filter(|one| !below_another(one)).collect()
}

/// Sends a signal to each. A process that refuses us (setuid, when we are not root) is reported as left in the end.
fn send(to: &[Process], signal: i32) -> io::Result<()> {
    for one in to {
        match one.signal(signal) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The orphans that live now. A process once recognised stays ours, by identity: when the main process is gone, its
/// session no longer proves anything.
async fn look(record: &Record, seen: &mut BTreeSet<Process>) -> io::Result<Vec<Process>> {
    seen.extend(living(record).await?);
    seen.retain(|one| one.is_alive());
    Ok(seen.iter().copied().collect())
}
