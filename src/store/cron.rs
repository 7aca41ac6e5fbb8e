//! The runs of schedules: up to which time each schedule is decided, and a row for each due time that was run, skipped
//! or missed. A run is recorded before its process starts, so that no due time is run twice.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    Store, StoreError,
    column::{parsed, parsed_option},
    sql,
};
use crate::rules::{
    calendar::Schedule,
    ids::{AppName, CronName, CronRunId, ReleaseId},
    time::Time,
    words::CronOutcome,
};

/// Rows kept for each schedule; beyond that the oldest go.
const KEPT: u32 = 100;

/// One due time of a schedule, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronRow {
    pub id: CronRunId,
    pub name: CronName,
    /// The release that was live.
    pub release: Option<ReleaseId>,
    pub due: Time,
    /// `None` until its process is known to have started.
    pub started: Option<Time>,
    /// `None` while it runs.
    pub finished: Option<Time>,
    /// While it runs: `ended` once bgd has told it to end.
    pub outcome: Option<CronOutcome>,
    /// Its exit code; of a signal 128 and its number.
    pub exit: Option<i32>,
}

/// A due time to be recorded.
#[derive(Debug, Clone)]
pub struct CronDue<'a> {
    pub app: &'a AppName,
    pub name: &'a CronName,
    /// The release that is live.
    pub release: &'a ReleaseId,
    pub due: Time,
}

/// Up to which time a schedule is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronMark {
    /// The schedule that it belongs to, with its zone.
    pub schedule: String,
    pub handled: Time,
}

impl CronMark {
    /// The mark of a schedule.
    pub fn new(schedule: &Schedule, handled: Time) -> Self {
        Self { schedule: format!("{} {}", schedule.text(), schedule.zone()), handled }
    }
}

impl Store {
    /// Up to which times the schedules of an app are decided.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn cron_marks(&self, app: &AppName) -> Result<BTreeMap<CronName, CronMark>, StoreError> {
        self.reading_cron(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT name, schedule, handled FROM cron_mark WHERE app = ?1")?;
            let mark = |row: &Row<'_>| {
                Ok((parsed(row, 0)?, CronMark { schedule: row.get(1)?, handled: Time(row.get(2)?) }))
            };
            statement.query_map(params![app.as_str()], mark)?.collect()
        })
    }

    /// Records up to which time a schedule is decided. Not flushed: after a power cut the times since then are missed.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn mark_cron(&self, app: &AppName, name: &CronName, mark: &CronMark) -> Result<(), StoreError> {
        self.write_unflushed("recording the time of a schedule", |tx| write_mark(tx, (app, name), mark))
    }

    /// Records a run that is about to start, flushed, together with the mark of its schedule; without one the run was
    /// asked for by hand. `None`: this due time was run before.
    ///
    /// # Errors
    /// When it could not be written; nothing may start then.
    pub fn begin_cron(
        &self,
        due: &CronDue<'_>,
        mark: Option<&CronMark>,
    ) -> Result<Option<CronRunId>, StoreError> {
        self.write(|writer| {
            let mut write = || -> Result<Option<CronRunId>, rusqlite::Error> {
                let tx = writer.connection.transaction()?;
                if let Some(mark) = mark {
                    write_mark(&tx, (due.app, due.name), mark)?;
                }
                let begun = insert(&tx, due, None)?;
                tx.commit()?;
                Ok(begun)
            };
            write().map_err(sql("recording a scheduled run"))
        })
    }

    /// Records a due time that was skipped or missed, together with the mark of its schedule.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn pass_cron(
        &self,
        due: &CronDue<'_>,
        (outcome, now): (CronOutcome, Time),
        mark: &CronMark,
    ) -> Result<(), StoreError> {
        self.write_unflushed("recording a scheduled time", |tx| {
            write_mark(tx, (due.app, due.name), mark)?;
            insert(tx, due, Some((outcome, now)))?;
            trim(tx, (due.app, due.name))
        })
    }

    /// Records that the process of a run has started.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn start_cron(&self, id: CronRunId, now: Time) -> Result<(), StoreError> {
        self.write_unflushed("recording a scheduled run", |tx| {
            tx.execute("UPDATE cron_run SET started = ?2 WHERE id = ?1", params![id.0, now.0]).map(drop)
        })
    }

    /// Records that bgd ends a run, before it does.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn ending_cron(&self, id: CronRunId) -> Result<(), StoreError> {
        self.write_unflushed("recording the end of a scheduled run", |tx| {
            tx.execute(
                "UPDATE cron_run SET outcome = ?2 WHERE id = ?1 AND finished IS NULL",
                params![id.0, CronOutcome::Ended.as_str()],
            )
            .map(drop)
        })
    }

    /// Records how a run ended; one that bgd told to end stays `ended`. Answers with the outcome in the record.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn end_cron(
        &self,
        (app, name, id): (&AppName, &CronName, CronRunId),
        (outcome, exit, now): (CronOutcome, Option<i32>, Time),
    ) -> Result<CronOutcome, StoreError> {
        self.write_unflushed("recording the end of a scheduled run", |tx| {
            tx.execute(
                "UPDATE cron_run SET outcome = coalesce(outcome, ?2), exit = ?3, finished = ?4 WHERE id = ?1",
                params![id.0, outcome.as_str(), exit, now.0],
            )?;
            let written = tx.query_row("SELECT outcome FROM cron_run WHERE id = ?1", params![id.0], |row| {
                parsed_option(row, 0)
            });
            trim(tx, (app, name))?;
            Ok(written.optional()?.flatten().unwrap_or(outcome))
        })
    }

    /// The runs that have not ended.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn unfinished_crons(&self, app: &AppName) -> Result<Vec<CronRow>, StoreError> {
        self.cron_rows("finished IS NULL", app)
    }

    /// What came last of each schedule.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn last_crons(&self, app: &AppName) -> Result<BTreeMap<CronName, CronRow>, StoreError> {
        let newest =
            "id IN (SELECT max(id) FROM cron_run WHERE app = ?1 AND finished IS NOT NULL GROUP BY name)";
        Ok(self.cron_rows(newest, app)?.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    fn cron_rows(&self, which: &str, app: &AppName) -> Result<Vec<CronRow>, StoreError> {
        self.reading_cron(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT id, name, release, due, started, finished, outcome, exit FROM cron_run
                 WHERE app = ?1 AND {which} ORDER BY id"
            ))?;
            statement.query_map(params![app.as_str()], row)?.collect()
        })
    }

    /// Reads from tables that a record of an older bgd lacks until a newer daemon has opened it.
    fn reading_cron<T: Default>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let connection = self.read();
        let there =
            || connection.prepare_cached("SELECT 1 FROM sqlite_master WHERE name = 'cron_run'")?.exists([]);
        match there() {
            Ok(true) => read(&connection),
            Ok(false) => Ok(T::default()),
            Err(err) => Err(err),
        }
        .map_err(sql("reading the schedules"))
    }
}

fn write_mark(
    tx: &Transaction<'_>,
    (app, name): (&AppName, &CronName),
    mark: &CronMark,
) -> Result<(), rusqlite::Error> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO cron_mark (app, name, schedule, handled) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![app.as_str(), name.as_str(), mark.schedule, mark.handled.0])
    .map(drop)
}

/// Inserts the row of a due time, unless it has one.
fn insert(
    tx: &Transaction<'_>,
    due: &CronDue<'_>,
    over: Option<(CronOutcome, Time)>,
) -> Result<Option<CronRunId>, rusqlite::Error> {
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO cron_run (app, name, release, due, outcome, finished)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            due.app.as_str(),
            due.name.as_str(),
            due.release.as_str(),
            due.due.0,
            over.map(|(outcome, _)| outcome.as_str()),
            over.map(|(_, at)| at.0),
        ])?;
    let id = u64::try_from(tx.last_insert_rowid()).unwrap_or(0);
    Ok((inserted > 0).then_some(CronRunId(id)))
}

/// Deletes the oldest rows of a schedule.
fn trim(tx: &Transaction<'_>, (app, name): (&AppName, &CronName)) -> Result<(), rusqlite::Error> {
    tx.prepare_cached(
        "DELETE FROM cron_run WHERE app = ?1 AND name = ?2 AND finished IS NOT NULL AND id NOT IN (
           SELECT id FROM cron_run WHERE app = ?1 AND name = ?2 ORDER BY id DESC LIMIT ?3)",
    )?
    .execute(params![app.as_str(), name.as_str(), KEPT])
    .map(drop)
}

fn row(row: &Row<'_>) -> Result<CronRow, rusqlite::Error> {
    Ok(CronRow {
        id: CronRunId(row.get(0)?),
        name: parsed(row, 1)?,
        release: parsed_option(row, 2)?,
        due: Time(row.get(3)?),
        started: row.get::<_, Option<u64>>(4)?.map(Time),
        finished: row.get::<_, Option<u64>>(5)?.map(Time),
        outcome: parsed_option(row, 6)?,
        exit: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "20261121T101112Z-1-0123456";

    #[test]
    fn a_due_time_is_run_once_and_what_came_of_it_stays_until_newer_rows_push_it_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), Time(1)).unwrap();
        let (app, name): (AppName, CronName) = ("shop".parse().unwrap(), "prune".parse().unwrap());
        let release: ReleaseId = RELEASE.parse().unwrap();
        let due = |at| CronDue { app: &app, name: &name, release: &release, due: Time(at) };
        let mark = |at| CronMark { schedule: "* * * * * UTC".to_owned(), handled: Time(at) };

        let id = store.begin_cron(&due(60), Some(&mark(60))).unwrap().expect("it is the first");
        assert_eq!(store.begin_cron(&due(60), Some(&mark(60))).unwrap(), None, "twice for one due time");
        assert_eq!(store.cron_marks(&app).unwrap()[&name], mark(60));
        store.start_cron(id, Time(61)).unwrap();
        let [running] = &store.unfinished_crons(&app).unwrap()[..] else { panic!("one runs") };
        assert_eq!((running.id, running.started, running.outcome), (id, Some(Time(61)), None));
        assert!(store.last_crons(&app).unwrap().is_empty(), "nothing has ended");

        store.ending_cron(id).unwrap();
        let kept = store.end_cron((&app, &name, id), (CronOutcome::Failed, Some(143), Time(70))).unwrap();
        assert_eq!(kept, CronOutcome::Ended);
        assert!(store.unfinished_crons(&app).unwrap().is_empty());
        for at in 1..=150 {
            store
                .pass_cron(&due(1_000 + at), (CronOutcome::Skipped, Time(2_000)), &mark(1_000 + at))
                .unwrap();
        }
        let last = store.last_crons(&app).unwrap().remove(&name).unwrap();
        assert_eq!((last.due, last.outcome), (Time(1_150), Some(CronOutcome::Skipped)));
        let all: u32 = store.read().query_row("SELECT count(*) FROM cron_run", [], |row| row.get(0)).unwrap();
        assert_eq!(all, KEPT);
    }
}
