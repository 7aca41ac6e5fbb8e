//! What flips cost, one row a deploy, in a table beside the schema: a record made before it exists gets it when it is
//! opened, and a bgd that does not know it reads the rest as before. That is why the schema's version stays.

use std::{fs::File, io};

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{Store, StoreError, record::MeterRecord};
use crate::rules::ids::DeployId;

/// Makes the table where there is none.
pub(super) fn make_table(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS meter (deploy INTEGER PRIMARY KEY, requests INTEGER NOT NULL,
           lost INTEGER NOT NULL, longest_gap_ms INTEGER NOT NULL) STRICT;",
    )
}

/// The question for a deploy's row; `None` in a record that no newer bgd has opened for writing yet.
pub(super) fn readings(connection: &Connection) -> Result<Option<CachedStatement<'_>>, rusqlite::Error> {
    let known = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meter'", [], |_| Ok(()))
        .optional()?;
    known
        .map(|()| {
            connection.prepare_cached("SELECT requests, lost, longest_gap_ms FROM meter WHERE deploy = ?1")
        })
        .transpose()
}

/// A deploy's row.
pub(super) fn reading(
    readings: Option<&mut CachedStatement<'_>>,
    deploy: DeployId,
) -> Result<Option<MeterRecord>, rusqlite::Error> {
    let Some(readings) = readings else { return Ok(None) };
    readings
        .query_row(params![deploy.0], |row| {
            Ok(MeterRecord { requests: row.get(0)?, lost: row.get(1)?, longest_gap_ms: row.get(2)? })
        })
        .optional()
}

impl Store {
    /// Keeps what a deploy's flip cost, durably. No step of an app waits for the flush of it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn keep_meter(&self, deploy: DeployId, meter: &MeterRecord) -> Result<(), StoreError> {
        const DOING: &str = "recording what a flip cost";
        self.write_unflushed(DOING, |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO meter (deploy, requests, lost, longest_gap_ms) VALUES (?1, ?2, ?3, ?4)",
                params![deploy.0, meter.requests, meter.lost, meter.longest_gap_ms],
            )
        })?;
        self.flush_log().map_err(|source| StoreError::Flush { source })
    }

    /// What was written without a flush of its own is on the disk when this returns.
    fn flush_log(&self) -> io::Result<()> {
        match File::open(self.reserve.with_file_name("bgd.db-wal")) {
            Ok(log) => log.sync_data(),
            // Put away into the database, which flushes both.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }
}
