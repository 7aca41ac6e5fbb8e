//! The daemon's handle of a shim: ask, wait, end, forget. Used by the engine. Each call finds out anew whether the
//! shim answers, has ended (its record has the exit), or was killed (its processes are then orphans and are handled by
//! pid). Holds no connection and no lock.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    client,
    orphans::{self, Manner},
    status::{Main, Overseer, ShimError, ShimStatus, Stopped},
};
use crate::{
    os::{holders::held_by, process::Process, tcp, tree},
    process::ports,
    rules::{
        address::Address,
        ids::{AppName, ReleaseId},
        time::{Stamp, Time},
    },
    shim::{
        record::{CommandExit, DUE_AT, Record, now_ms},
        relay::STANDS_IN,
        spec::Role,
        wire::{ShimReport, ShimRequest},
    },
};

/// Attempts to reach a shim that lives but does not answer; each wakes it and waits a little longer.
const ATTEMPTS: u32 = 4;

/// Pause after the first attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Beyond its grace a shim has this long to say how an end came out: its own 10 s for KILL, and some.
const STOP_ALLOWANCE: Duration = Duration::from_secs(15);

/// Time between attempts of a wait whose shim lives but can't be reached.
const WAIT_AGAIN: Duration = Duration::from_secs(1);

/// One shim and its command.
#[derive(Debug, Clone)]
pub struct Handle(Arc<HandleInner>);

#[derive(Debug)]
struct HandleInner {
    /// The record when the handle was made; only its constant fields are used.
    record: Record,
    path: PathBuf,
}

/// The result of contacting a shim.
enum Contact {
    Answer(ShimReport),
    Ended(Record),
    Orphaned(Record),
}

impl Handle {
    pub(super) fn new(record: Record, path: PathBuf) -> Self {
        Self(Arc::new(HandleInner { record, path }))
    }

    /// The app it belongs to.
    pub fn app(&self) -> &AppName {
        &self.0.record.app
    }

    /// The purpose of its command.
    pub fn role(&self) -> &Role {
        &self.0.record.role
    }

    /// The release it runs.
    pub fn release(&self) -> &ReleaseId {
        &self.0.record.release
    }

    /// Whether it is a relay in the place of an instance.
    pub fn stands_in(&self) -> bool {
        self.0.record.marks.get("BGD_EVENT").is_some_and(|event| event == STANDS_IN)
    }

    /// The due time of a scheduled run.
    pub fn due(&self) -> Option<Time> {
        let due: Stamp = self.0.record.marks.get(DUE_AT)?.parse().ok()?;
        Some(due.0)
    }

    /// Number of instances that its color was started with.
    pub fn siblings(&self) -> u16 {
        self.0.record.siblings
    }

    /// Its short id, unique on this host.
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// The current log file.
    pub fn log(&self) -> &Path {
        &self.0.record.log
    }

    /// The shim's own pid.
    pub fn shim_pid(&self) -> i32 {
        self.0.record.shim.pid
    }

    /// The main process; if the command went into the background, the oldest process that it left. `None` while it is
    /// being started, and when no process of it is known to live. Reads /proc and does not wait for the shim.
    pub fn main_pid(&self) -> Option<i32> {
        let main = self.main()?;
        let record = &self.0.record;
        if record.of_this_boot() && main.is_alive() {
            return Some(main.pid);
        }
        if !record.shim_alive() {
            return None;
        }
        // Without /proc no process is known to live.
        let left = tree::tops(record.shim.pid).unwrap_or_default();
        left.into_iter().min_by_key(|one| (one.start, one.pid)).map(|one| one.pid)
    }

    /// The main process of the record. A handle made before the shim had started its command (by a bgd that was
    /// killed) reads it from the file.
    fn main(&self) -> Option<Process> {
        let later = || Record::load(&self.0.path).ok().flatten()?.main;
        self.0.record.main.or_else(later)
    }

    /// When the command was exec'd.
    pub fn started_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.record.started_ms)
    }

    /// How long the command has run, by the boot clock, which can't be set; zero while it is not known to run.
    pub fn age(&self) -> Duration {
        self.main().map_or(Duration::ZERO, Process::age)
    }

    /// Sort key by time of start: right even when the wall clock was set back in between.
    pub(super) fn order(&self) -> (bool, u64, SystemTime) {
        let record = &self.0.record;
        (record.of_this_boot(), record.shim.start, self.started_at())
    }

    /// Whether it was started in this boot of the host.
    pub fn of_this_boot(&self) -> bool {
        self.0.record.of_this_boot()
    }

    /// Whether its shim lives, so that the whole tree is below it.
    pub(super) fn overseen(&self) -> bool {
        self.0.record.shim_alive()
    }

    /// Whether `pid` is in the tree now. Reads /proc and does not wait for the shim.
    pub fn owns(&self, pid: i32) -> bool {
        let record = &self.0.record;
        if record.shim_alive() {
            return tree::is_below(pid, record.shim.pid);
        }
        record.of_this_boot()
            && (orphans::is_marked(pid, record)
                || record.main.is_some_and(|main| {
                    main.is_alive() && (pid == main.pid || tree::is_below(pid, main.pid))
                }))
    }

    /// The first of these addresses that a process of the tree listens at, even if another process does too. Reads
    /// /proc and does not wait for the shim.
    pub fn listens_on(&self, places: &[Address]) -> io::Result<Option<Address>> {
        let listeners = ports::listening_at_any(places)?;
        let sockets: BTreeSet<u64> = listeners.iter().map(|(_, inode)| *inode).collect();
        if sockets.is_empty() {
            return Ok(None);
        }
        let held = self.sockets_of_tree(&sockets)?;
        let found = listeners.into_iter().find(|(_, inode)| held.contains_key(inode));
        Ok(found.map(|(place, _)| place))
    }

    /// Tells a relay to listen with sockets of its own; see `relay`.
    pub fn part(&self) -> io::Result<()> {
        self.main().map_or(Ok(()), |main| main.signal(libc::SIGUSR1).map(drop))
    }

    /// Whether a process of the tree has a client's connection open at the port; always false for a unix socket. Reads
    /// /proc and does not wait for the shim.
    pub fn has_clients_at(&self, address: &Address) -> io::Result<bool> {
        let Some(port) = address.port() else { return Ok(false) };
        let open: BTreeSet<u64> = tcp::connections(port)?.into_iter().map(|one| one.inode).collect();
        let tree = tree::descendants(self.0.record.shim.pid)?;
        Ok(!open.is_empty() && tree.iter().any(|one| !held_by(one.pid, &open).is_empty()))
    }

    /// The present status; returns within seconds, whatever the app does.
    pub async fn status(&self) -> Result<ShimStatus, ShimError> {
        match self.reach(ShimRequest::Status).await? {
            Contact::Answer(report) => Ok(ShimStatus::of(report)),
            Contact::Ended(record) => Ok(ShimStatus::ended(&record)),
            Contact::Orphaned(record) => {
                let living = orphans::living(&record).await.map_err(|e| self.trouble(e))?;
                if living.is_empty() {
                    return Ok(ShimStatus::ended(&record));
                }
                let runs = record.exit.is_none() && record.main.is_none_or(|main| main.is_alive());
                let exited = Main::Exited(record.exit.unwrap_or(CommandExit::UNKNOWN));
                Ok(ShimStatus {
                    main: if runs { Main::Running } else { exited },
                    tree: living.into_iter().map(|one| one.pid).collect(),
                    // The exit of the main process is unknown. It hardly went into the background, so its rest counts
                    // as ending.
                    ending: record.ending || (!runs && record.exit.is_none()),
                    ends_by_ms: record.ends_by_ms,
                    quieted: record.quieted,
                    dropped: 0,
                    overseer: Overseer::Lost,
                })
            }
        }
    }

    /// Resolves when the main command has exited; its last output is in the log by then. Several may wait.
    /// Cancel-safe: nothing is consumed.
    pub async fn exited(&self) -> CommandExit {
        self.wait(ShimRequest::WaitExit).await
    }

    /// Resolves when no descendant is left, with the exit of the main command. Cancel-safe.
    pub async fn ended(&self) -> CommandExit {
        self.wait(ShimRequest::WaitEnd).await
    }

    async fn wait(&self, request: ShimRequest) -> CommandExit {
        loop {
            let record = match self.reach(request).await {
                Ok(Contact::Answer(report)) => Some(report.record),
                Ok(Contact::Ended(record)) => Some(record),
                Ok(Contact::Orphaned(record)) => {
                    let gone = match request {
                        ShimRequest::WaitExit if record.exit.is_some() => Ok(()),
                        ShimRequest::WaitExit => orphans::main_gone(&record).await,
                        _ => orphans::all_gone(&record).await,
                    };
                    gone.is_ok().then_some(record)
                }
                Err(_) => None,
            };
            match record {
                Some(record) => return record.exit.unwrap_or(CommandExit::UNKNOWN),
                // The shim lives and can't be asked: its command is not over, so waiting is right.
                None => tokio::time::sleep(WAIT_AGAIN).await,
            }
        }
    }

    /// Ends the whole tree: polite request, grace, KILL. Resolves when no descendant is left. Repeating it
    /// is harmless, and dropping it does not call the stop off.
    pub async fn stop(&self) -> Result<Stopped, ShimError> {
        self.end(Manner::Polite).await
    }

    /// Tells a worker once to take no new work. A worker whose shim was killed is not told: the signal is known to the
    /// shim alone. Returns whether it was told.
    pub async fn quiet(&self) -> Result<bool, ShimError> {
        Ok(match self.reach(ShimRequest::Quiet).await? {
            Contact::Answer(report) => report.record.quieted,
            Contact::Ended(_) | Contact::Orphaned(_) => false,
        })
    }

    /// Time from the polite request to KILL.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.0.record.grace_ms)
    }

    /// When the command was exec'd, in milliseconds since the epoch.
    pub fn started_ms(&self) -> u64 {
        self.0.record.started_ms
    }

    /// The newest state file; `None` when it is forgotten or can't be read.
    pub(crate) fn last_record(&self) -> Option<Record> {
        Record::load(&self.0.path).ok().flatten()
    }

    /// KILLs the whole tree. Resolves when no descendant is left.
    pub async fn kill(&self) -> Result<Stopped, ShimError> {
        self.end(Manner::Now).await
    }

    async fn end(&self, manner: Manner) -> Result<Stopped, ShimError> {
        match self.reach(ShimRequest::Status).await {
            Ok(Contact::Ended(record)) => return Ok(Stopped::of(&record)),
            Ok(Contact::Orphaned(record)) => return self.end_orphans(record, manner).await,
            Ok(Contact::Answer(_)) => {}
            // The shim hangs: end its processes without it.
            Err(_) => return self.end_without_shim(manner).await,
        }
        let (request, grace) = match manner {
            Manner::Polite => (ShimRequest::Stop, Duration::from_millis(self.0.record.grace_ms)),
            Manner::Now => (ShimRequest::Kill, Duration::ZERO),
        };
        match tokio::time::timeout(grace + STOP_ALLOWANCE, self.reach(request)).await {
            Ok(Ok(Contact::Answer(report))) if report.record.ended_ms.is_some() => {
                Ok(Stopped::of(&report.record))
            }
            Ok(Ok(Contact::Answer(report))) => Err(self.not_ended(report.tree)),
            Ok(Ok(Contact::Ended(record))) => Ok(Stopped::of(&record)),
            Ok(Ok(Contact::Orphaned(record))) => self.end_orphans(record, manner).await,
            Ok(Err(_)) | Err(_) => self.end_without_shim(Manner::Now).await,
        }
    }

    /// Kills the shim before its processes, so that it can't revive in the middle; those seen below it are remembered.
    async fn end_without_shim(&self, manner: Manner) -> Result<Stopped, ShimError> {
        let shim = self.0.record.shim;
        let known = tree::descendants(shim.pid).map_err(|e| self.trouble(e))?;
        if self.0.record.shim_alive() {
            shim.signal(libc::SIGKILL).map_err(|e| self.trouble(e))?;
        }
        let ended = orphans::end(&self.0.record, &known, manner).await.map_err(|e| self.trouble(e))?;
        self.outcome(&self.0.record, ended)
    }

    async fn end_orphans(&self, record: Record, manner: Manner) -> Result<Stopped, ShimError> {
        if manner == Manner::Polite {
            self.note_told(&record);
        }
        let ended = orphans::end(&record, &[], manner).await.map_err(|e| self.trouble(e))?;
        self.outcome(&record, ended)
    }

    /// Writes the deadline in place of the dead shim, so that a new bgd keeps to it.
    fn note_told(&self, record: &Record) {
        if record.ends_by_ms.is_some() || record.main.is_none_or(|main| !main.is_alive()) {
            return;
        }
        let ends_by_ms = Some(now_ms().saturating_add(record.grace_ms));
        let told = Record { ends_by_ms, ending: true, ..record.clone() };
        if let Err(err) = told.save(&self.0.path) {
            tracing::warn!(app = %self.app(), role = %self.role(), %err, "the deadline of an end was not recorded");
        }
    }

    fn outcome(&self, record: &Record, ended: orphans::EndedOrphans) -> Result<Stopped, ShimError> {
        if ended.left.is_empty() {
            Ok(Stopped { killed: ended.killed, ..Stopped::of(record) })
        } else {
            Err(self.not_ended(ended.left.iter().map(|one| one.pid).collect()))
        }
    }

    /// Removes the state file and socket of a shim that has ended.
    pub async fn forget(&self) -> Result<(), ShimError> {
        match self.reach(ShimRequest::Status).await? {
            Contact::Answer(report) if report.record.ended_ms.is_none() => {
                return Err(self.still_running(self.shim_pid()));
            }
            Contact::Answer(_) => drop(self.reach(ShimRequest::Forget).await?),
            Contact::Ended(_) => {}
            Contact::Orphaned(record) => {
                if let Some(one) = orphans::living(&record).await.map_err(|e| self.trouble(e))?.first() {
                    return Err(self.still_running(one.pid));
                }
            }
        }
        let temp = self.0.path.with_file_name(format!(".{}.tmp", self.id()));
        [&self.0.record.socket, &temp, &self.0.path].into_iter().try_for_each(|path| remove(path))
    }

    /// Asks the shim, or finds out why it can't be asked. USR1 makes a living shim bind a missing socket again; CONT
    /// wakes a shim that was stopped.
    async fn reach(&self, request: ShimRequest) -> Result<Contact, ShimError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 0;
        loop {
            let source = match client::ask(&self.0.record, request).await {
                Ok(report) => return Ok(Contact::Answer(report)),
                Err(error) => error,
            };
            if let Some(contact) = self.without_shim()? {
                return Ok(contact);
            }
            // A shim that is silent for a whole second is not merely starting or being woken.
            attempt += if source.kind() == io::ErrorKind::TimedOut { ATTEMPTS / 2 } else { 1 };
            if attempt >= ATTEMPTS {
                return Err(self.unreachable(source));
            }
            for signal in [libc::SIGUSR1, libc::SIGCONT] {
                self.0.record.shim.signal(signal).map_err(|e| self.unreachable(e))?;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Reads the record of a shim that is gone; `None` while it lives. Order matters: check first whether it lives,
    /// then read, because a shim writes the end before it exits.
    fn without_shim(&self) -> Result<Option<Contact>, ShimError> {
        let lives = self.0.record.shim_alive();
        let path = &self.0.path;
        let written =
            Record::load(path).map_err(|source| ShimError::StateFile { path: path.clone(), source })?;
        let forgotten = written.is_none() && self.is_forgotten();
        let record = written.unwrap_or_else(|| self.0.record.clone());
        Ok(match (record.ended_ms, lives) {
            (None, true) => None,
            (None, false) if !forgotten => Some(Contact::Orphaned(record)),
            (Some(_), _) | (None, false) => Some(Contact::Ended(record)),
        })
    }

    /// Whether the shim was forgotten, which removes its files and only follows its end: then no search of all
    /// processes is needed. A killed shim leaves its socket, so it does not count as forgotten.
    fn is_forgotten(&self) -> bool {
        let record = &self.0.record;
        let gone =
            |path: &Path| path.symlink_metadata().is_err_and(|err| err.kind() == io::ErrorKind::NotFound);
        gone(&record.socket) && !record.main.is_some_and(Process::is_alive)
    }

    fn unreachable(&self, source: io::Error) -> ShimError {
        ShimError::Unreachable {
            app: self.app().clone(),
            role: self.role().clone(),
            pid: self.shim_pid(),
            source,
        }
    }

    fn not_ended(&self, pids: Vec<i32>) -> ShimError {
        ShimError::NotEnded { app: self.app().clone(), role: self.role().clone(), pids }
    }

    fn still_running(&self, pid: i32) -> ShimError {
        ShimError::StillRunning { app: self.app().clone(), role: self.role().clone(), pid }
    }

    fn trouble(&self, source: io::Error) -> ShimError {
        ShimError::Processes { app: self.app().clone(), role: self.role().clone(), source }
    }
}

fn remove(path: &Path) -> Result<(), ShimError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ShimError::StateFile { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::record::tests::sample;

    #[test]
    fn a_handle_made_before_the_command_ran_learns_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let handle = Handle::new(sample(), path.clone());
        assert_eq!((handle.main_pid(), handle.age()), (None, Duration::ZERO));
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        Record { main: Some(own), ..sample() }.save(&path).unwrap();
        assert_eq!(handle.main_pid(), Some(own.pid));
        assert!(handle.age() > Duration::ZERO);
    }
}
