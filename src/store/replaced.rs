//! Which deploys took the place of another release on its port, because the front could not be moved: in a table beside
//! the schema, as `meter` has it and for the same reasons.

use rusqlite::{Connection, OptionalExtension, params};

use crate::rules::ids::DeployId;

/// Makes the table where there is none.
pub(super) fn make_table(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch("CREATE TABLE IF NOT EXISTS replaced (deploy INTEGER PRIMARY KEY) STRICT;")
}

/// The deploy did.
pub(super) fn keep(connection: &Connection, deploy: DeployId) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR IGNORE INTO replaced (deploy) VALUES (?1)";
    connection.prepare_cached(sql)?.execute(params![deploy.0]).map(drop)
}

/// Whether the deploy did; never in a record that no newer bgd has opened for writing yet.
pub(super) fn is(connection: &Connection, deploy: DeployId) -> Result<bool, rusqlite::Error> {
    let known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'replaced'";
    if connection.prepare_cached(known)?.query_row([], |_| Ok(())).optional()?.is_none() {
        return Ok(false);
    }
    let sql = "SELECT 1 FROM replaced WHERE deploy = ?1";
    Ok(connection.prepare_cached(sql)?.query_row(params![deploy.0], |_| Ok(())).optional()?.is_some())
}
