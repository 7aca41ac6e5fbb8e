//! SQLite: the record of releases, deploys, events and the journaled state of each app. One connection writes;
//! reading has its own, so that it never waits for a disk that takes seconds to flush a step, and commands without
//! the daemon open theirs. Nothing here decides; a damaged or newer database is moved aside and the daemon goes on
//! with what it sees running (promise K6).

mod accepted;
mod app_record;
pub mod clock;
mod column;
mod configured;
mod cron;
mod former;
mod journal;
mod meter;
mod passed_gates;
mod read;
pub mod record;
mod replaced;
mod schema;
mod sentence;
mod standing;
mod step;
mod task;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use app_record::AppRecord;
pub use cron::{CronDue, CronMark, CronRow};
pub use journal::{Act, Commit};
use rusqlite::{Connection, OpenFlags};
pub use task::{HookRun, RunOf};

use self::standing::WriterState;
use crate::rules::time::Time;

/// Why the record can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be opened.
    #[error("opening the record: {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    /// A damaged or newer file can't be moved aside.
    #[error("moving the unusable record aside: {}", path.display())]
    MoveAside {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The database was deleted or replaced, and can't be rewritten.
    #[error("the record is gone from {}, and can't be written anew", path.display())]
    Rewrite {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A statement failed.
    #[error("{what}")]
    Sql {
        what: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    /// The write-ahead log can't be flushed.
    #[error("flushing the record's log")]
    Flush {
        #[source]
        source: std::io::Error,
    },
    /// A journaled state can't be read.
    #[error("reading the journaled state of {app}")]
    State {
        app: String,
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the disk (or the database's quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Sql { source: rusqlite::Error::SqliteFailure(code, _), .. }
                if code.code == rusqlite::ErrorCode::DiskFull
        )
    }
}

#[derive(Debug)]
pub struct Store {
    /// Locked for microseconds. Dropped before the writer, which as the last connection then checkpoints the log.
    reader: Mutex<Connection>,
    /// Locked while a step is flushed, for seconds on a slow disk: lock it on blocking threads only.
    writer: Mutex<Writer>,
    path: PathBuf,
    reserve: PathBuf,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    kept: WriterState,
}

/// Whether the existing file could be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// An existing record, or one made just now.
    Usable,
    /// The existing file could not be used and was renamed.
    MovedAside {
        /// The old file's new path.
        to: PathBuf,
        why: String,
    },
}

/// Bytes kept aside on the disk and given up when it is full, so that a flip can still be committed
/// (promise I6): a commit of one step needs a few dozen KiB of write-ahead log.
const RESERVE: u64 = 2 << 20;

impl Store {
    /// Opens `<state_dir>/bgd.db`, and makes the tables in a new file. A damaged file, or one of another schema, is
    /// moved aside.
    ///
    /// # Errors
    /// When the directory can't be written, or an unusable file can't be moved aside.
    pub fn open(state_dir: &Path, now: Time) -> Result<(Self, Opened), StoreError> {
        let path = state_dir.join("bgd.db");
        standing::close_to_others(&path);
        let (connection, opened) = match Self::connect(&path) {
            Ok(connection) => (connection, Opened::Usable),
            Err(Unusable::Refused(source)) => return Err(StoreError::Open { path, source }),
            Err(Unusable::Content(why)) => {
                let to = move_aside(&path, now)?;
                standing::close_to_others(&path);
                let connection = Self::connect(&path).map_err(|unusable| StoreError::Open {
                    path: path.clone(),
                    source: unusable.into_source(),
                })?;
                (connection, Opened::MovedAside { to, why })
            }
        };
        let open = |source| StoreError::Open { path: path.clone(), source };
        let reader = Self::connect_reader(&path).map_err(open)?;
        let mut kept = WriterState {
            states: standing::read_states(&reader).map_err(open)?,
            latest: now,
            ..WriterState::default()
        };
        kept.marks.renew(&path);
        let store = Self::on(Writer { connection, kept }, reader, state_dir);
        store.refill_reserve();
        Ok((store, opened))
    }

    /// Grows the write-ahead log to its full size at once, by a transaction that is rolled back: from then on a
    /// commit overwrites allocated blocks, and its flush need not record a new file size, which costs most of its
    /// time. Best effort: without it the log grows to this size by itself.
    pub fn stretch_log(&self) {
        let mut writer = self.lock_writer();
        let stretched = writer.connection.execute_batch(
            "BEGIN IMMEDIATE; CREATE TABLE stretch (bytes BLOB); \
             INSERT INTO stretch VALUES (zeroblob(5242880)); ROLLBACK;",
        );
        if let Err(err) = stretched {
            tracing::debug!(%err, "the log of the record was not stretched");
            // An error may have left the transaction open, or ended it already.
            let _ended = writer.connection.execute_batch("ROLLBACK");
        }
        writer.kept.marks.renew(&self.path);
    }

    /// Opens the record for reading only, for commands that run without the daemon; `None` where none was made yet.
    ///
    /// # Errors
    /// When there is a record and it can't be read.
    pub fn open_read_only(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = state_dir.join("bgd.db");
        if !path.exists() {
            return Ok(None);
        }
        let open = || -> Result<Option<Self>, rusqlite::Error> {
            let reader = Self::connect_reader(&path)?;
            // A daemon that is just starting has made the file, but not yet the tables.
            if reader.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == 0 {
                return Ok(None);
            }
            // This store only reads: SQLite refuses a write through a read-only connection.
            let writer = Writer { connection: Self::connect_reader(&path)?, kept: WriterState::default() };
            Ok(Some(Self::on(writer, reader, state_dir)))
        };
        open().map_err(|source| StoreError::Open { path: path.clone(), source })
    }

    fn on(writer: Writer, reader: Connection, state_dir: &Path) -> Self {
        Self {
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            path: state_dir.join("bgd.db"),
            reserve: state_dir.join("reserve"),
        }
    }

    fn connect_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_millis(500))?;
        connection.pragma_update(None, "cache_size", -128)?;
        Ok(connection)
    }

    fn connect(path: &Path) -> Result<Connection, Unusable> {
        let connection = Connection::open(path).map_err(Unusable::classify)?;
        let set_up = || -> Result<i64, rusqlite::Error> {
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // One fsync a commit: what was promised to an operator survives a power cut.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -512)?;
            let healthy: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if healthy != "ok" {
                return Ok(-1);
            }
            connection.query_row("PRAGMA user_version", [], |row| row.get(0))
        };
        match set_up().map_err(Unusable::classify)? {
            0 => connection
                .execute_batch(schema::TABLES)
                .and_then(|()| connection.execute_batch(schema::ADDED_BY_2))
                .map_err(Unusable::classify)?,
            1 => connection.execute_batch(schema::ADDED_BY_2).map_err(Unusable::classify)?,
            schema::VERSION => {}
            -1 => return Err(Unusable::Content("it is damaged".to_owned())),
            newer => {
                return Err(Unusable::Content(format!(
                    "its schema is {newer}, this bgd knows {}: a newer bgd wrote it",
                    schema::VERSION
                )));
            }
        }
        Ok(connection)
    }

    /// Runs `write` after a check that the open files are at the record's path, where the next daemon looks for them.
    fn write<T>(&self, write: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut writer = self.lock_writer();
        self.stand(&mut writer)?;
        let written = write(&mut writer);
        writer.kept.marks.renew(&self.path);
        written
    }

    fn write_at<T>(
        &self,
        now: Time,
        write: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.lock_writer().kept.latest = now;
        self.write(write)
    }

    /// A poisoned lock is used all the same: the transaction of a writer that panicked is rolled back.
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes the reserve file; true when there was one.
    fn give_up_reserve(&self) -> bool {
        std::fs::remove_file(&self.reserve).is_ok()
    }

    /// Best effort: without a reserve bgd works all the same until the disk is full.
    fn refill_reserve(&self) {
        if self.reserve.exists() {
            return;
        }
        let fill = || -> std::io::Result<()> {
            let file = std::fs::File::create(&self.reserve)?;
            let bytes = libc::off_t::try_from(RESERVE).unwrap_or(0);
            nix::fcntl::posix_fallocate(&file, 0, bytes)?;
            Ok(())
        };
        if let Err(err) = fill() {
            tracing::debug!(path = %self.reserve.display(), %err, "no disk space could be reserved");
            self.give_up_reserve();
        }
    }
}

enum Unusable {
    /// The file can't be opened at all: permissions, a full disk, a lock.
    Refused(rusqlite::Error),
    /// The file opens, but its content is damaged or of another schema.
    Content(String),
}

impl Unusable {
    fn classify(err: rusqlite::Error) -> Self {
        match err.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                Self::Content(format!("it is damaged: {err}"))
            }
            _ => Self::Refused(err),
        }
    }

    fn into_source(self) -> rusqlite::Error {
        match self {
            Self::Refused(err) => err,
            Self::Content(why) => rusqlite::Error::InvalidParameterName(why),
        }
    }
}

fn move_aside(path: &Path, now: Time) -> Result<PathBuf, StoreError> {
    let to = aside(path, &format!(".unusable-{}", now.0));
    std::fs::rename(path, &to).map_err(|source| StoreError::MoveAside { path: path.to_owned(), source })?;
    for log in standing::LOGS {
        // They belong to the old file; a new database must not replay them.
        match std::fs::rename(aside(path, log), aside(path, &format!(".unusable-{}{log}", now.0))) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::MoveAside { path: aside(path, log), source: err });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(to)
}

/// The path with `suffix` appended to its file name.
fn aside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { what, source }
}

#[cfg(test)]
mod tests;
