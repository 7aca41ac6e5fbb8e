//! The measured cost of flips (lost requests, longest gap), one row a deploy.

use std::{fs::File, io};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, record::MeterRecord};
use crate::rules::ids::DeployId;

/// The measured cost of a deploy's flip; `None` where it was not measured.
pub(super) fn reading(
    connection: &Connection,
    deploy: DeployId,
) -> Result<Option<MeterRecord>, rusqlite::Error> {
    let sql = "SELECT requests, lost, longest_gap_ms FROM meter WHERE deploy = ?1";
    connection
        .prepare_cached(sql)?
        .query_row(params![deploy.0], |row| {
            Ok(MeterRecord { requests: row.get(0)?, lost: row.get(1)?, longest_gap_ms: row.get(2)? })
        })
        .optional()
}

impl Store {
    /// Records the cost of a deploy's flip durably, by a flush that no step of an app waits for.
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

    /// Flushes the write-ahead log, and with it everything that was written without a flush.
    fn flush_log(&self) -> io::Result<()> {
        match File::open(self.reserve.with_file_name("bgd.db-wal")) {
            Ok(log) => log.sync_data(),
            // The log was checkpointed into the database, which flushes both.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }
}
