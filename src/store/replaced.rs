//! The deploys that took over another release's port, because the front could not be moved.

use rusqlite::{Connection, params};

use crate::rules::ids::DeployId;

pub(super) fn keep(connection: &Connection, deploy: DeployId) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR IGNORE INTO replaced (deploy) VALUES (?1)";
    connection.prepare_cached(sql)?.execute(params![deploy.0]).map(drop)
}

pub(super) fn is(connection: &Connection, deploy: DeployId) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT 1 FROM replaced WHERE deploy = ?1";
    connection.prepare_cached(sql)?.exists(params![deploy.0])
}
