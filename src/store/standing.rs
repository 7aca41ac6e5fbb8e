//! Checks that the record's files are still the open ones. Somebody may delete or replace them while the daemon runs,
//! and later writes would be lost with the process. Runs before each write, and now and then between writes: the
//! record is then rewritten from the open connection or, where that is damaged, from the states in memory (N12).

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rusqlite::{Connection, params};

use super::{Store, StoreError, Unusable, Writer, aside, journal, move_aside, record::EventRecord, sql};
use crate::rules::{time::Time, words::EventKind};

/// Mode of the record's files: the output of failed apps is for operators, not for every user of the host.
const MODE: u32 = 0o640;
/// Suffixes of the files beside the database.
pub(super) const LOGS: [&str; 2] = ["-wal", "-shm"];

/// A file's identity (device, inode) and content (size, mtime with nanoseconds), which a foreign write changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileMark {
    file: (u64, u64),
    content: (u64, i64, i64),
}

/// Marks of the files after our last write; `None` where a file was missing.
#[derive(Debug, Default)]
pub(super) struct Marks {
    database: Option<FileMark>,
    logs: [Option<FileMark>; 2],
}

/// How the files at the path differ from the open ones. The open database is whole in all cases but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileChange {
    Deleted,
    Replaced,
    /// The database is in place, but the open log is not.
    Parted,
    /// The file is the open one, but somebody else may have written to it.
    Overwritten,
}

/// The writer's state besides its connection.
#[derive(Debug, Default)]
pub(super) struct WriterState {
    pub marks: Marks,
    /// The last recorded state (JSON) of each app, with its time in milliseconds.
    pub states: BTreeMap<String, (String, u64)>,
    /// The time that a caller passed last: this module reads no clock.
    pub latest: Time,
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::Parted => "parted from its log",
            Self::Overwritten => "overwritten",
        })
    }
}

impl FileMark {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            content: (found.size(), found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Marks {
    /// Takes new marks after a write. The caller holds the writer's lock.
    pub fn renew(&mut self, path: &Path) {
        self.database = FileMark::of(path);
        for (mark, log) in self.logs.iter_mut().zip(LOGS) {
            *mark = FileMark::of(&aside(path, log));
        }
    }

    fn compare(&self, path: &Path) -> Option<FileChange> {
        let now = FileMark::of(path);
        let same = |before: Option<FileMark>, now: Option<FileMark>| match (before, now) {
            (None, _) => true,
            (Some(before), now) => now.is_some_and(|now| now.file == before.file),
        };
        let logs = self.logs.iter().zip(LOGS).all(|(mark, log)| same(*mark, FileMark::of(&aside(path, log))));
        match (same(self.database, now), logs) {
            (false, _) if now.is_none() => Some(FileChange::Deleted),
            (false, _) => Some(FileChange::Replaced),
            (true, false) => Some(FileChange::Parted),
            (true, true) if self.database.is_some() && self.database != now => Some(FileChange::Overwritten),
            (true, true) => None,
        }
    }
}

/// Sets `MODE` on the database and its logs. Called before SQLite opens the database, because SQLite gives its logs
/// the mode that the database has then. Files of an older bgd are repaired as well.
pub(super) fn close_to_others(path: &Path) {
    let made = fs::OpenOptions::new().append(true).create(true).mode(MODE).open(path);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let all =
        path.parent().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    let ours = all.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(name));
    let closed = made.map(drop).and_then(|()| {
        ours.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .try_for_each(|entry| fs::set_permissions(entry.path(), Permissions::from_mode(MODE)))
    });
    if let Err(err) = closed {
        tracing::warn!(path = %path.display(), %err, "the record's mode could not be set");
    }
}

impl Store {
    /// Checks that the open files are still at the record's path, and rewrites the record where they are not.
    ///
    /// # Errors
    /// When rewriting fails: later writes would be lost.
    pub fn keep_in_place(&self, now: Time) -> Result<(), StoreError> {
        let mut writer = self.lock_writer();
        writer.kept.latest = now;
        self.stand(&mut writer)
    }

    /// [`Store::keep_in_place`] for a caller that holds the writer's lock, at the time passed last.
    pub(super) fn stand(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let now = writer.kept.latest;
        let Some(how) = writer.kept.marks.compare(&self.path) else { return Ok(()) };
        if how == FileChange::Overwritten && self.is_as_known(writer) {
            // Somebody else only checkpointed the log into the database.
            writer.kept.marks.renew(&self.path);
            return Ok(());
        }
        self.write_anew(writer, how)
            .map_err(|source| StoreError::Rewrite { path: self.path.clone(), source })?;
        let text = format!("the record was {how} while bgd ran, and is written anew from what is known");
        tracing::error!(path = %self.path.display(), %how, "the record was not where it was; written anew");
        journal::insert_event(&writer.connection, EventRecord::new(EventKind::RecordReplaced, now, &text))
            .map_err(sql("recording that the record was replaced"))?;
        writer.kept.marks.renew(&self.path);
        Ok(())
    }

    /// Whether the file holds the states in memory. Reads through a new connection: the writer's caches pages.
    fn is_as_known(&self, writer: &Writer) -> bool {
        let states = || -> Result<BTreeMap<String, (String, u64)>, rusqlite::Error> {
            let fresh = Self::connect_reader(&self.path)?;
            if is_sound(&fresh)? { read_states(&fresh) } else { Ok(BTreeMap::new()) }
        };
        states().is_ok_and(|states| states == writer.kept.states)
    }

    fn write_anew(&self, writer: &mut Writer, how: FileChange) -> io::Result<()> {
        let copy = aside(&self.path, ".anew");
        let copied = copy_whole(&writer.connection, &copy).unwrap_or_else(|err| {
            tracing::error!(%err, "the record that is open can't be copied; its history is lost");
            false
        });
        if how != FileChange::Parted && self.path.symlink_metadata().is_ok() {
            move_aside(&self.path, writer.kept.latest).map_err(io::Error::other)?;
        }
        if copied {
            fs::rename(&copy, &self.path)?;
        }
        // Close the old connections before the new one opens: the last connection of a database deletes its log by
        // name.
        let mut reader = self.read();
        for connection in [&mut writer.connection, &mut *reader] {
            *connection = Connection::open_in_memory().map_err(io::Error::other)?;
        }
        for log in LOGS {
            remove_if_any(&aside(&self.path, log))?;
        }
        close_to_others(&self.path);
        let opened = Self::connect(&self.path).map_err(Unusable::into_source).map_err(io::Error::other)?;
        *reader = Self::connect_reader(&self.path).map_err(io::Error::other)?;
        writer.connection = opened;
        if how == FileChange::Overwritten || !copied {
            write_states(&writer.connection, &writer.kept.states).map_err(io::Error::other)?;
        }
        fs::File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

/// Copies everything that a connection sees into a new database; false, and no file, when the copy is not sound.
fn copy_whole(connection: &Connection, to: &Path) -> io::Result<bool> {
    remove_if_any(to)?;
    fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(to)?;
    let name = to.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    connection.execute("VACUUM INTO ?1", params![name]).map_err(io::Error::other)?;
    fs::File::open(to)?.sync_all()?;
    let sound = Connection::open(to).and_then(|copy| is_sound(&copy)).map_err(io::Error::other)?;
    if !sound {
        fs::remove_file(to)?;
    }
    Ok(sound)
}

fn is_sound(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(said == "ok")
}

fn remove_if_any(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The state (JSON) of each app with its time in milliseconds, by name.
pub(super) fn read_states(
    connection: &Connection,
) -> Result<BTreeMap<String, (String, u64)>, rusqlite::Error> {
    connection
        .prepare("SELECT name, state, changed FROM app")?
        .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?
        .collect()
}

fn write_states(
    connection: &Connection,
    states: &BTreeMap<String, (String, u64)>,
) -> Result<(), rusqlite::Error> {
    for (name, (state, changed)) in states {
        connection.execute(
            "INSERT OR REPLACE INTO app (name, state, changed) VALUES (?1, ?2, ?3)",
            params![name, state, changed],
        )?;
    }
    Ok(())
}
