//! The runs of tasks and hooks: one row for each in a deploy. Runs of tasks are written with the step that starts or
//! ends them; those of hooks by themselves, when they end.

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    Store, StoreError,
    column::{json, lines, parsed, parsed_option},
    record::{LastRun, TaskRecord},
    sql, step,
};
use crate::rules::{
    deploy::{Deploy, Release},
    effect::Note,
    ids::{AppName, DeployId, ReleaseId, TaskName},
    step::Noted,
    task::Ran,
    time::{Stamp, Time},
};

/// The run of a hook.
#[derive(Debug, Clone)]
pub struct HookRun {
    pub deploy: DeployId,
    pub release: ReleaseId,
    /// The name of the hook.
    pub name: String,
}

/// What a log of a task or hook belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOf {
    pub release: ReleaseId,
    /// Whether it is a hook.
    pub hook: bool,
}

impl HookRun {
    fn begun(&self) -> Begun<'_> {
        let Self { deploy, release, name } = self;
        Begun { deploy: *deploy, name, moment: name, release, hook: true }
    }
}

impl Store {
    /// Records that a hook runs. Not flushed: nothing depends on it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn begin_hook(&self, app: &AppName, run: &HookRun, now: Time) -> Result<(), StoreError> {
        self.write_unflushed("recording the run of a hook", |tx| {
            let key = params![run.deploy.0, run.name];
            tx.execute("DELETE FROM task WHERE deploy = ?1 AND name = ?2 AND hook", key)?;
            begin(tx, app, (&run.begun(), now))
        })
    }

    /// Records the end of a hook and its step. Not flushed: nothing depends on it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn end_hook(&self, run: &HookRun, ran: &Ran, at: (Time, Duration)) -> Result<(), StoreError> {
        self.write_unflushed("recording the end of a hook", |tx| end(tx, (&run.begun(), ran), at))
    }

    /// The last ended run of each task, by name.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn last_runs(&self, app: &AppName) -> Result<BTreeMap<TaskName, LastRun>, StoreError> {
        let connection = self.read();
        let read = || -> Result<BTreeMap<TaskName, LastRun>, rusqlite::Error> {
            if !is_there(&connection)? {
                return Ok(BTreeMap::new());
            }
            let mut statement = connection.prepare_cached(
                "SELECT task.name, task.deploy, deploy.revision, task.outcome, task.exit, deploy.asked_by, task.started,
                   task.finished
                 FROM task JOIN deploy ON deploy.id = task.deploy WHERE task.seq IN (
                   SELECT max(seq) FROM task WHERE app = ?1 AND NOT hook AND outcome IS NOT NULL GROUP BY name)",
            )?;
            statement.query_map(params![app.as_str()], |row| Ok((parsed(row, 0)?, last_run(row)?)))?.collect()
        };
        read().map_err(sql("reading the tasks"))
    }

    /// The newest run of a task or else of a hook of this name, in this deploy or in any; `None` if there was none.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn newest_run(
        &self,
        app: &AppName,
        (name, deploy): (&str, Option<DeployId>),
    ) -> Result<Option<RunOf>, StoreError> {
        let connection = self.read();
        let read = || -> Result<Option<RunOf>, rusqlite::Error> {
            if !is_there(&connection)? {
                return Ok(None);
            }
            connection
                .prepare_cached(
                    "SELECT release, hook FROM task WHERE app = ?1 AND name = ?2 AND (?3 IS NULL OR deploy = ?3)
                     ORDER BY hook, seq DESC LIMIT 1",
                )?
                .query_row(params![app.as_str(), name, deploy.map(|id| id.0)], |row| {
                    Ok(RunOf { release: parsed(row, 0)?, hook: row.get(1)? })
                })
                .optional()
        };
        read().map_err(sql("reading the tasks"))
    }
}

/// The runs of one deploy, in the order of their starts.
pub(super) fn of_deploy(
    connection: &Connection,
    deploy: DeployId,
) -> Result<Vec<TaskRecord>, rusqlite::Error> {
    if !is_there(connection)? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(
        "SELECT name, moment, outcome, exit, started, finished, try, tail FROM task WHERE deploy = ?1 ORDER BY seq",
    )?;
    statement
        .query_map(params![deploy.0], |row| {
            let (started, finished): (u64, Option<u64>) = (row.get(4)?, row.get(5)?);
            Ok(TaskRecord {
                name: row.get(0)?,
                when: row.get(1)?,
                outcome: parsed_option(row, 2)?,
                exit: row.get(3)?,
                ms: finished.map(|at| at.saturating_sub(started)),
                attempt: row.get(6)?,
                host: None,
                tail: lines(row, 7)?,
            })
        })?
        .collect()
}

/// Writes what a note says of a task.
pub(super) fn write(
    tx: &Transaction<'_>,
    (app, now): (&AppName, Time),
    noted: &Noted,
) -> Result<(), rusqlite::Error> {
    let (Some(Deploy { id, .. }), Some(Release { id: release, .. })) = (&noted.deploy, &noted.release) else {
        return Ok(());
    };
    match &noted.note {
        Note::TaskStarted { task, when } => {
            let row = Begun { deploy: *id, name: task.as_str(), moment: when.as_str(), release, hook: false };
            begin(tx, app, (&row, now))
        }
        Note::TaskEnded { task, when, ran, took } => {
            let row = Begun { deploy: *id, name: task.as_str(), moment: when.as_str(), release, hook: false };
            end(tx, (&row, ran), (now, *took))
        }
        _ => Ok(()),
    }
}

/// Empties the recorded output of a release's runs, when its logs are removed too.
pub(super) fn forget_output(
    connection: &Connection,
    app: &AppName,
    release: &ReleaseId,
) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("UPDATE task SET tail = '[]' WHERE app = ?1 AND release = ?2")?
        .execute(params![app.as_str(), release.as_str()])
        .map(drop)
}

/// The row of a run.
struct Begun<'a> {
    deploy: DeployId,
    name: &'a str,
    moment: &'a str,
    release: &'a ReleaseId,
    hook: bool,
}

fn begin(tx: &Connection, app: &AppName, (row, started): (&Begun<'_>, Time)) -> Result<(), rusqlite::Error> {
    // A deploy may come to a task again, after a restart of bgd.
    tx.prepare_cached(
        "INSERT OR IGNORE INTO task (app, deploy, name, hook, moment, release, try, started)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7)",
    )?
    .execute(params![
        app.as_str(),
        row.deploy.0,
        row.name,
        row.hook,
        row.moment,
        row.release.as_str(),
        started.0
    ])
    .map(drop)
}

/// Ends the run, and writes its step.
fn end(
    tx: &Connection,
    (row, ran): (&Begun<'_>, &Ran),
    (ended, took): (Time, Duration),
) -> Result<(), rusqlite::Error> {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tx.prepare_cached(
        "UPDATE task SET outcome = ?4, exit = ?5, try = ?6, tail = ?7, started = ?8, finished = ?9
         WHERE deploy = ?1 AND name = ?2 AND hook = ?3",
    )?
    .execute(params![
        row.deploy.0,
        row.name,
        row.hook,
        ran.outcome.as_str(),
        ran.exit,
        ran.attempt,
        json(&ran.tail),
        ended.0.saturating_sub(ms),
        ended.0
    ])?;
    let name = format!("{}:{}", if row.hook { "hook" } else { "task" }, row.name);
    step::insert(tx, row.deploy, (&name, ms))
}

fn last_run(row: &Row<'_>) -> Result<LastRun, rusqlite::Error> {
    Ok(LastRun {
        deploy: DeployId(row.get(1)?),
        commit: parsed_option(row, 2)?,
        outcome: parsed(row, 3)?,
        exit: row.get(4)?,
        by: row.get(5)?,
        started_at: Stamp(Time(row.get(6)?)),
        finished_at: row.get::<_, Option<u64>>(7)?.map(|at| Stamp(Time(at))),
    })
}

/// False in a record of the bgd before, which a command reads before a newer daemon has opened it.
fn is_there(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.prepare_cached("SELECT 1 FROM sqlite_master WHERE name = 'task'")?.exists([])
}
