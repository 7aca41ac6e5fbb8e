//! Reading: states, history, events. Used by the daemon, and by commands that run without it.

use rusqlite::{OptionalExtension, Row, params};

use super::{
    Store, StoreError,
    column::{lines, parsed, parsed_option},
    meter, passed_gates,
    record::{DeployDetail, DeployRecord, EventRecord, StepRecord},
    replaced, sql, task,
};
use crate::rules::{
    app::{App, Release},
    ids::{AppName, DeployId},
    time::{Stamp, Time},
    words::{EventKind, Fate},
};

const DEPLOY_COLUMNS: &str = "id, app, kind, asked_by, revision, subject, author, release, color, outcome, phase, \
                              error, hint, started, finished, asked_uid";

impl Store {
    /// The journaled state of an app.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn app(&self, app: &AppName) -> Result<Option<App>, StoreError> {
        let state: Option<String> = self
            .read()
            .query_row("SELECT state FROM app WHERE name = ?1", params![app.as_str()], |row| row.get(0))
            .optional()
            .map_err(sql("reading an app's state"))?;
        state
            .map(|text| {
                super::former::state(&text)
                    .map_err(|source| StoreError::State { app: app.as_str().to_owned(), source })
            })
            .transpose()
    }

    /// The next deploy's number: one above the highest.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn next_deploy(&self) -> Result<DeployId, StoreError> {
        self.read()
            .query_row("SELECT coalesce(max(id), 0) + 1 FROM deploy", [], |row| row.get(0).map(DeployId))
            .map_err(sql("reading the deploy counter"))
    }

    /// Deploys, newest first. Counters order them, since the wall clock may be set back: the deploys of one app by
    /// their number; those of all apps by the sequence number of the event that they began with, because a number may
    /// be taken long before. A deploy whose events are trimmed counts as older than all others.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn history(&self, app: Option<&AppName>, limit: u32) -> Result<Vec<DeployRecord>, StoreError> {
        let query = format!(
            "SELECT {DEPLOY_COLUMNS} FROM deploy
             LEFT JOIN (SELECT deploy AS begun, min(seq) AS at FROM event
                        WHERE ?1 IS NULL AND kind IN ('deploy_started', 'deploy_queued') GROUP BY deploy)
             ON begun = id
             WHERE (?1 IS NULL OR app = ?1) ORDER BY at DESC, id DESC LIMIT ?2"
        );
        self.deploys(&query, params![app.map(AppName::as_str), limit])
    }

    /// One deploy's summary.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn deploy(&self, id: DeployId) -> Result<Option<DeployRecord>, StoreError> {
        let query = format!("SELECT {DEPLOY_COLUMNS} FROM deploy WHERE id = ?1");
        Ok(self.deploys(&query, params![id.0])?.pop())
    }

    /// The deploy of an app that ended last: by the order of the events, since the wall clock may be set back, and by
    /// the clock only where the events are trimmed.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn last_ended(&self, app: &AppName) -> Result<Option<DeployRecord>, StoreError> {
        let query = format!(
            "SELECT {DEPLOY_COLUMNS} FROM deploy WHERE app = ?1 AND outcome IS NOT NULL
             ORDER BY id IS (SELECT deploy FROM event WHERE app = ?1 AND kind IN ('deploy_ended', 'deploy_superseded')
                             ORDER BY seq DESC LIMIT 1) DESC, finished DESC, id DESC LIMIT 1"
        );
        Ok(self.deploys(&query, params![app.as_str()])?.pop())
    }

    /// One deploy with its steps, probe answers, log tail and events.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn detail(&self, id: DeployId) -> Result<Option<DeployDetail>, StoreError> {
        let Some(deploy) = self.deploy(id)? else { return Ok(None) };
        let (log_tail, probes) = self
            .read()
            .query_row("SELECT log_tail, probes FROM deploy WHERE id = ?1", params![id.0], |row| {
                Ok((lines(row, 0)?, lines(row, 1)?))
            })
            .map_err(sql("reading a deploy's last words"))?;
        let events = self.events_where("deploy = ?1 ORDER BY seq", params![id.0])?;
        let tasks = task::of_deploy(&self.read(), id).map_err(sql("reading a deploy's tasks"))?;
        Ok(Some(DeployDetail { deploy, log_tail, probes, events, tasks }))
    }

    /// Events with a higher number than `since`, oldest first; without `since` the last 20.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn events(&self, app: Option<&AppName>, since: Option<u64>) -> Result<Vec<EventRecord>, StoreError> {
        let app = app.map(AppName::as_str);
        match since {
            Some(since) => self.events_where(
                "(?1 IS NULL OR app = ?1) AND seq > ?2 ORDER BY seq LIMIT 1000",
                params![app, since],
            ),
            None => self.events_where(
                "seq IN (SELECT seq FROM event WHERE (?1 IS NULL OR app = ?1) ORDER BY seq DESC LIMIT 20)
                 ORDER BY seq",
                params![app],
            ),
        }
    }

    /// All recorded releases of an app with their fates, newest first.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn releases(&self, app: &AppName) -> Result<Vec<(Release, Fate)>, StoreError> {
        let connection = self.read();
        let mut statement = connection
            .prepare_cached(
                "SELECT id, revision, subject, author, verdict FROM release WHERE app = ?1 ORDER BY deploy DESC",
            )
            .map_err(sql("reading releases"))?;
        statement
            .query_map(params![app.as_str()], |row| {
                let release = Release {
                    id: parsed(row, 0)?,
                    commit: parsed(row, 1)?,
                    subject: row.get(2)?,
                    author: row.get(3)?,
                };
                Ok((release, parsed(row, 4)?))
            })
            .and_then(Iterator::collect)
            .map_err(sql("reading releases"))
    }

    fn deploys(&self, query: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<DeployRecord>, StoreError> {
        let connection = self.read();
        let read = || -> Result<Vec<DeployRecord>, rusqlite::Error> {
            let mut statement = connection.prepare_cached(query)?;
            let mut deploys: Vec<DeployRecord> =
                statement.query_map(params, deploy_row)?.collect::<Result<_, _>>()?;
            let mut steps =
                connection.prepare_cached("SELECT name, ms FROM step WHERE deploy = ?1 ORDER BY seq")?;
            for deploy in &mut deploys {
                deploy.meter = meter::reading(&connection, deploy.id)?;
                deploy.replaced = replaced::is(&connection, deploy.id)?;
                deploy.passed_gates = passed_gates::of(&connection, deploy.id)?;
                deploy.steps = steps
                    .query_map(params![deploy.id.0], |row| {
                        Ok(StepRecord { name: row.get(0)?, ms: row.get(1)? })
                    })?
                    .collect::<Result<_, _>>()?;
            }
            Ok(deploys)
        };
        read().map_err(sql("reading deploys"))
    }

    fn events_where(
        &self,
        condition: &str,
        params: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<EventRecord>, StoreError> {
        let connection = self.read();
        let read = || -> Result<Vec<EventRecord>, rusqlite::Error> {
            connection
                .prepare_cached(&format!(
                    "SELECT seq, at, app, deploy, kind, caused_by, text, uid FROM event WHERE {condition}"
                ))?
                .query_map(params, event_row)?
                .collect()
        };
        read().map_err(sql("reading events"))
    }
}

fn event_row(row: &Row<'_>) -> Result<EventRecord, rusqlite::Error> {
    Ok(EventRecord {
        seq: row.get(0)?,
        at: Stamp(Time(row.get(1)?)),
        app: parsed_option(row, 2)?,
        deploy: row.get::<_, Option<u64>>(3)?.map(DeployId),
        kind: row.get::<_, String>(4)?.parse().unwrap_or(EventKind::Unknown),
        by: row.get(5)?,
        text: row.get(6)?,
        uid: row.get(7)?,
    })
}

fn deploy_row(row: &Row<'_>) -> Result<DeployRecord, rusqlite::Error> {
    Ok(DeployRecord {
        id: DeployId(row.get(0)?),
        app: parsed(row, 1)?,
        kind: parsed(row, 2)?,
        by: row.get(3)?,
        commit: parsed_option(row, 4)?,
        subject: row.get(5)?,
        author: row.get(6)?,
        release: parsed_option(row, 7)?,
        color: parsed_option(row, 8)?,
        outcome: parsed_option(row, 9)?,
        phase: parsed_option(row, 10)?,
        error: row.get(11)?,
        hint: row.get(12)?,
        started_at: Stamp(Time(row.get(13)?)),
        finished_at: row.get::<_, Option<u64>>(14)?.map(|at| Stamp(Time(at))),
        steps: Vec::new(),
        meter: None,
        replaced: false,
        passed_gates: Vec::new(),
        uid: row.get(15)?,
    })
}
