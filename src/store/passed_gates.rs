//! The closed gates that a deploy by hand passed.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::rules::{ids::DeployId, words::GateKind};

pub(super) fn keep(
    connection: &Connection,
    deploy: DeployId,
    kinds: &[GateKind],
) -> Result<(), rusqlite::Error> {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let sql = "INSERT OR REPLACE INTO passed_gates (deploy, kinds) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![deploy.0, words.join(" ")]).map(drop)
}

pub(super) fn of(connection: &Connection, deploy: DeployId) -> Result<Vec<GateKind>, rusqlite::Error> {
    // A record of version 1, which this process may only read.
    if !connection.table_exists(None, "passed_gates")? {
        return Ok(Vec::new());
    }
    let sql = "SELECT kinds FROM passed_gates WHERE deploy = ?1";
    let words: Option<String> =
        connection.prepare_cached(sql)?.query_row(params![deploy.0], |row| row.get(0)).optional()?;
    Ok(words.iter().flat_map(|words| words.split(' ')).filter_map(|word| word.parse().ok()).collect())
}
