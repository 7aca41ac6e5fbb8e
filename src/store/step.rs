//! The steps of a deploy with their times.

use rusqlite::{Connection, params};

use crate::rules::ids::DeployId;

/// Adds a step to a deploy, behind those that it has.
pub(super) fn insert(
    tx: &Connection,
    deploy: DeployId,
    (name, ms): (&str, u64),
) -> Result<(), rusqlite::Error> {
    tx.prepare_cached(
        "INSERT INTO step (deploy, seq, name, ms)
         VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 FROM step WHERE deploy = ?1), ?2, ?3)",
    )?
    .execute(params![deploy.0, name, ms])
    .map(drop)
}
