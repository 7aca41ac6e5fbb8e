//! The configuration texts of each app as last loaded. By them an app that was removed from the files is still shown
//! and ended. They contain the values of `env`, so they are as closed to other users as the rest of the record.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, sql};
use crate::rules::ids::AppName;

impl Store {
    /// The configuration texts of an app; `None` when it was never configured.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn configured(&self, app: &AppName) -> Result<Option<String>, StoreError> {
        self.read()
            .query_row("SELECT texts FROM configured WHERE app = ?1", params![app.as_str()], |row| row.get(0))
            .optional()
            .map_err(sql("reading how an app was configured"))
    }

    /// The texts of all apps ever configured, the last changed first.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn all_configured(&self) -> Result<Vec<(AppName, String)>, StoreError> {
        let failed = sql("reading how the apps were configured");
        let reader = self.read();
        let mut all =
            reader.prepare("SELECT app, texts FROM configured ORDER BY rowid DESC").map_err(&failed)?;
        let rows = all.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).map_err(&failed)?;
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(&failed)?;
        Ok(rows.into_iter().filter_map(|(app, texts)| Some((app.parse().ok()?, texts))).collect())
    }

    /// Records the texts if they differ from the recorded ones.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn keep_configured(&self, app: &AppName, texts: &str) -> Result<(), StoreError> {
        if self.configured(app)?.as_deref() == Some(texts) {
            return Ok(());
        }
        self.write_unflushed("recording how an app is configured", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO configured (app, texts) VALUES (?1, ?2)",
                params![app.as_str(), texts],
            )
        })
        .map(drop)
    }
}
