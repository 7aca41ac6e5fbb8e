//! The tip that each app's branch was last accepted at, which the next has to go on from where only signed commits or
//! fast-forwards are taken. Beside the mirror's own memory, because a mirror may be deleted, and beside the schema, as
//! `meter` is: an older bgd reads the rest as before. Written by the interpreter after each fetch of the branch.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, read::parsed, sql};
use crate::rules::ids::{AppName, CommitId};

/// Makes the table where there is none.
pub(super) fn make_table(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS accepted (app TEXT PRIMARY KEY, line TEXT NOT NULL, revision TEXT NOT NULL) STRICT;",
    )
}

impl Store {
    /// The tip accepted last, if it is of this line: a branch of a remote.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn accepted(&self, app: &AppName, line: &str) -> Result<Option<CommitId>, StoreError> {
        self.read()
            .query_row(
                "SELECT revision FROM accepted WHERE app = ?1 AND line = ?2",
                params![app.as_str(), line],
                |row| parsed(row, 0),
            )
            .optional()
            .map_err(sql("reading where the branch was accepted"))
    }

    /// Keeps the accepted tip in place of the one before. The step that follows flushes it: a deploy waits for one
    /// flush, and one that a power cut undid is fetched again.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn accept(&self, app: &AppName, line: &str, tip: &CommitId) -> Result<(), StoreError> {
        self.write_unflushed("recording where the branch was accepted", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO accepted (app, line, revision) VALUES (?1, ?2, ?3)",
                params![app.as_str(), line, tip.as_str()],
            )
        })
        .map(drop)
    }
}
