//! The tip at which each app's branch was last accepted. Where only signed commits or fast-forwards are allowed, the
//! next tip must descend from it. Kept here as well as in the mirror, because a mirror may be deleted. Written after
//! each fetch of the branch.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, column::parsed, sql};
use crate::rules::ids::{AppName, CommitId};

impl Store {
    /// The tip accepted last; `None` when it belongs to another `line` (a branch of a remote).
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

    /// Replaces the accepted tip. Not flushed: the step that follows flushes both, so that a deploy waits for one
    /// flush only. If a power cut comes before, the branch is fetched again.
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
