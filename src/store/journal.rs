//! Writing: one transaction a step, with its event, the next state, its effects, and the rows that its notes become.
//! After a crash either all of it is there, or nothing.

use rusqlite::{Connection, Transaction, params};

use super::{Store, StoreError, Writer, column::json, record::EventRecord, sentence, sql, step};
use crate::rules::{
    app::{App, End},
    effect::{Effect, Note},
    event::Event,
    ids::{AppName, DeployId, ReleaseId},
    step::Noted,
    time::Time,
    words::{DeployKind, Fate, Outcome},
};

/// Journal rows kept per app, for a look at how a state came about.
const JOURNAL_KEPT: u32 = 500;
/// Events kept over all apps.
const EVENTS_KEPT: u64 = 20_000;

/// One step to be recorded.
#[derive(Debug)]
pub struct Commit<'a> {
    pub app: &'a AppName,
    pub now: Time,
    /// The event that the machine handled.
    pub event: &'a Event,
    /// The app's state after the step.
    pub next: &'a App,
    /// The effects that are run once the step is recorded.
    pub effects: &'a [Effect],
    /// The notes that become rows and events.
    pub notes: &'a [Noted],
    /// The operator's act behind this step, if any.
    pub act: Option<&'a Act>,
}

/// One request of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Its event: who asked, and for what.
    pub event: EventRecord,
    /// The deploy that the request started, if any.
    pub began: Option<DeployId>,
}

impl Store {
    /// Writes one step durably and returns its events. With a full disk the reserve is given up once.
    ///
    /// # Errors
    /// When the step could not be written; then none of it was.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<Vec<EventRecord>, StoreError> {
        match self.try_commit(commit) {
            Err(err) if err.is_full() && self.give_up_reserve() => self.try_commit(commit),
            done => done,
        }
    }

    fn try_commit(&self, commit: &Commit<'_>) -> Result<Vec<EventRecord>, StoreError> {
        let state = json(commit.next);
        self.write_at(commit.now, |writer| {
            let tx = writer.connection.transaction().map_err(sql("beginning a step"))?;
            let written = write_step(&tx, commit, &state).map_err(sql("recording a step"))?;
            tx.commit().map_err(sql("committing a step"))?;
            writer.kept.states.insert(commit.app.as_str().to_owned(), (state, commit.now.0));
            Ok(written)
        })
    }

    /// Records an event outside of any app's machine.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn log(&self, event: EventRecord) -> Result<EventRecord, StoreError> {
        self.write_at(event.at.0, |writer| {
            insert_event(&writer.connection, event).map_err(sql("recording an event"))
        })
    }

    /// Records an operator's act that led to no step. Not flushed: nothing depends on it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn log_act(&self, event: EventRecord) -> Result<EventRecord, StoreError> {
        self.write_unflushed("recording an act", |tx| insert_event(tx, event))
    }

    /// Records a deploy's last probe answers, for `bgd show`. Not flushed: the step that follows flushes both, so
    /// that an app that is ready waits for one flush only.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn keep_probes(&self, deploy: DeployId, answers: &[String]) -> Result<(), StoreError> {
        self.write_unflushed("recording probe answers", |tx| {
            tx.execute("UPDATE deploy SET probes = ?2 WHERE id = ?1", params![deploy.0, json(&answers)])
        })
        .map(drop)
    }

    pub(super) fn write_unflushed<T>(
        &self,
        doing: &'static str,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        self.write(|Writer { connection, .. }| {
            connection.pragma_update(None, "synchronous", "NORMAL").map_err(sql(doing))?;
            let written = connection.transaction().and_then(|tx| {
                let value = write(&tx)?;
                tx.commit()?;
                Ok(value)
            });
            connection
                .pragma_update(None, "synchronous", "FULL")
                .map_err(sql("making steps durable again"))?;
            written.map_err(sql(doing))
        })
    }

    /// Deletes the row of a release whose directory is gone.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn forget_release(&self, app: &AppName, release: &ReleaseId) -> Result<(), StoreError> {
        self.write(|Writer { connection, .. }| {
            connection
                .execute(
                    "DELETE FROM release WHERE app = ?1 AND id = ?2",
                    params![app.as_str(), release.as_str()],
                )
                .map_err(sql("forgetting a release"))?;
            super::task::forget_output(connection, app, release).map_err(sql("forgetting a release's output"))
        })
    }

    /// Refills the reserve after the disk was full, and trims events and journal to the numbers kept.
    ///
    /// # Errors
    /// When the trimming failed.
    pub fn tidy(&self) -> Result<(), StoreError> {
        self.refill_reserve();
        self.write(|Writer { connection, .. }| {
            connection
                .execute(
                    "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?1",
                    params![EVENTS_KEPT],
                )
                .map_err(sql("trimming events"))?;
            connection
                .execute(
                    "DELETE FROM journal WHERE seq <= (SELECT max(seq) FROM journal j WHERE j.app = journal.app) - ?1",
                    params![JOURNAL_KEPT],
                )
                .map(drop)
                .map_err(sql("trimming the journal"))
        })
    }
}

fn write_step(
    tx: &Transaction<'_>,
    commit: &Commit<'_>,
    state: &str,
) -> Result<Vec<EventRecord>, rusqlite::Error> {
    let app = commit.app.as_str();
    tx.prepare_cached(
        "INSERT INTO app (name, state, changed) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET state = ?2, changed = ?3",
    )?
    .execute(params![app, state, commit.now.0])?;
    tx.prepare_cached("INSERT INTO journal (app, at, event, effects) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![app, commit.now.0, json(commit.event), json(&commit.effects)])?;
    write_hold(tx, commit)?;
    let mut events = Vec::new();
    // The act comes before the events that it led to.
    if let Some(act) = commit.act {
        events.push(insert_event(tx, act.event.clone())?);
    }
    let asked = commit.act.map(|act| act.event.by.as_str());
    for noted in commit.notes {
        write_note(tx, commit, noted)?;
        if let Some(event) = sentence::event(commit.app, commit.now, (noted, asked)) {
            events.push(insert_event(tx, event)?);
        }
    }
    if let Some((act, began)) = commit.act.and_then(|act| Some((act, act.began?))) {
        tx.prepare_cached("UPDATE deploy SET asked_uid = ?2 WHERE id = ?1")?
            .execute(params![began.0, act.event.uid])?;
    }
    Ok(events)
}

fn write_hold(tx: &Transaction<'_>, commit: &Commit<'_>) -> Result<(), rusqlite::Error> {
    let app = commit.app.as_str();
    match &commit.next.hold {
        Some(hold) => tx
            .prepare_cached(
                "INSERT OR REPLACE INTO hold (app, placed_by, reason, since) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![app, hold.by, hold.reason, hold.since.0])?,
        None => tx.prepare_cached("DELETE FROM hold WHERE app = ?1")?.execute(params![app])?,
    };
    Ok(())
}

fn write_note(tx: &Transaction<'_>, commit: &Commit<'_>, noted: &Noted) -> Result<(), rusqlite::Error> {
    match &noted.note {
        Note::Queued(queued) => {
            insert_deploy(tx, commit, (queued.id, DeployKind::Manual, &queued.by))?;
        }
        Note::QueueReplaced(queued) => {
            end_row(tx, queued.id, &End { outcome: Outcome::Superseded, failure: None }, commit.now)?
        }
        Note::DeployStarted => {
            if let Some(deploy) = &noted.deploy {
                insert_deploy(tx, commit, (deploy.id, deploy.kind.word(), &deploy.by))?;
                write_revision(tx, commit, deploy.id)?;
                write_release(tx, commit, noted)?;
            }
        }
        Note::ReleaseNamed => write_release(tx, commit, noted)?,
        Note::PhaseEntered(phase) => {
            if let Some(deploy) = &noted.deploy {
                tx.prepare_cached("UPDATE deploy SET phase = ?2 WHERE id = ?1 AND outcome IS NULL")?
                    .execute(params![deploy.id.0, phase.as_str()])?;
            }
        }
        Note::StepEnded(phase, took) => {
            if let Some(deploy) = &noted.deploy {
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                step::insert(tx, deploy.id, (phase.step(), ms))?;
            }
        }
        Note::TaskStarted { .. } | Note::TaskEnded { .. } => {
            super::task::write(tx, (commit.app, commit.now), noted)?;
        }
        Note::WentLive { release, .. } => {
            tx.prepare_cached("UPDATE release SET verdict = ?3 WHERE app = ?1 AND id = ?2")?
                .execute(params![commit.app.as_str(), release.id.as_str(), Fate::Good.as_str()])?;
        }
        Note::DeployEnded(end) => {
            if let Some(deploy) = &noted.deploy {
                end_row(tx, deploy.id, end, commit.now)?;
                write_served(tx, commit, noted)?;
            }
            if let (Some(release), false) = (&noted.release, end.outcome == Outcome::Live) {
                tx.prepare_cached(
                    // A release that was rolled back was marked good when it went live; that verdict is replaced.
                    "UPDATE release SET verdict = ?3 WHERE app = ?1 AND id = ?2 AND (verdict <> ?4 OR ?5)",
                )?
                .execute(params![
                    commit.app.as_str(),
                    release.id.as_str(),
                    Fate::from(end.outcome).as_str(),
                    Fate::Good.as_str(),
                    end.outcome == Outcome::RolledBack
                ])?;
            }
        }
        Note::Replaced { .. } => {
            if let Some(deploy) = &noted.deploy {
                super::replaced::keep(tx, deploy.id)?;
            }
        }
        Note::GatesPassed(kinds) => {
            if let Some(deploy) = &noted.deploy {
                super::passed_gates::keep(tx, deploy.id, kinds)?;
            }
        }
        Note::ShareChanged(_)
        | Note::Inconclusive(_)
        | Note::Retired { .. }
        | Note::StandInEnded { .. }
        | Note::InstanceDied { .. }
        | Note::InstanceRestarted { .. }
        | Note::RestartFailed(_)
        | Note::HealthChanged { .. }
        | Note::HoldPlaced(_)
        | Note::HoldReleased { .. }
        | Note::GateClosed(_)
        | Note::GateOpened(_)
        | Note::MarkedBad(_)
        | Note::BarrierSet(_)
        | Note::BarrierPassed { .. }
        | Note::TakenDown
        | Note::Contradiction(_)
        | Note::Trouble(_)
        | Note::Ignored(_) => {}
    }
    Ok(())
}

fn insert_deploy(
    tx: &Transaction<'_>,
    commit: &Commit<'_>,
    (id, kind, by): (DeployId, DeployKind, &str),
) -> Result<(), rusqlite::Error> {
    // A queued deploy has its row already.
    tx.prepare_cached(
        "INSERT OR IGNORE INTO deploy (id, app, kind, asked_by, started) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![id.0, commit.app.as_str(), kind.as_str(), by, commit.now.0])
    .map(drop)
}

/// Records the live release with a deploy that named none, because another deploy had made its commit live already.
fn write_served(tx: &Transaction<'_>, commit: &Commit<'_>, noted: &Noted) -> Result<(), rusqlite::Error> {
    let (Some(deploy), Some(release)) = (&noted.deploy, &noted.release) else { return Ok(()) };
    let live = commit.next.live().filter(|live| live.release.id == release.id);
    let Some(color) = live.map(|live| live.color) else { return Ok(()) };
    tx.prepare_cached(
        "UPDATE deploy SET revision = ?2, subject = ?3, author = ?4, release = ?5, color = ?6
         WHERE id = ?1 AND release IS NULL",
    )?
    .execute(params![
        deploy.id.0,
        release.commit.as_str(),
        release.subject,
        release.author,
        release.id.as_str(),
        color.as_str()
    ])
    .map(drop)
}

/// Records the commit of a deploy that starts with a known one, as after a push: history shows it even if the fetch
/// fails.
fn write_revision(
    tx: &Transaction<'_>,
    commit: &Commit<'_>,
    deploy: DeployId,
) -> Result<(), rusqlite::Error> {
    let pipeline = &commit.next.pipeline;
    let Some(revision) = pipeline.commit().filter(|_| pipeline.deploy().is_some_and(|one| one.id == deploy))
    else {
        return Ok(());
    };
    tx.prepare_cached("UPDATE deploy SET revision = ?2 WHERE id = ?1")?
        .execute(params![deploy.0, revision.as_str()])
        .map(drop)
}

fn write_release(tx: &Transaction<'_>, commit: &Commit<'_>, noted: &Noted) -> Result<(), rusqlite::Error> {
    let (Some(deploy), Some(release)) = (&noted.deploy, &noted.release) else { return Ok(()) };
    let color = commit.next.idle_color();
    tx.prepare_cached(
        "UPDATE deploy SET revision = ?2, subject = ?3, author = ?4, release = ?5, color = ?6 WHERE id = ?1",
    )?
    .execute(params![
        deploy.id.0,
        release.commit.as_str(),
        release.subject,
        release.author,
        release.id.as_str(),
        color.as_str()
    ])?;
    tx.prepare_cached(
        "INSERT OR IGNORE INTO release (id, app, deploy, revision, subject, author, verdict)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        release.id.as_str(),
        commit.app.as_str(),
        deploy.id.0,
        release.commit.as_str(),
        release.subject,
        release.author,
        Fate::Making.as_str()
    ])
    .map(drop)
}

fn end_row(tx: &Transaction<'_>, id: DeployId, end: &End, now: Time) -> Result<(), rusqlite::Error> {
    let failure = end.failure.as_ref();
    tx.prepare_cached(
        "UPDATE deploy SET outcome = ?2, phase = ?3, error = ?4, hint = ?5, log_tail = ?6, finished = ?7
         WHERE id = ?1",
    )?
    .execute(params![
        id.0,
        end.outcome.as_str(),
        failure.map(|failure| failure.phase.as_str()),
        failure.map(|failure| failure.cause.as_str()),
        failure.and_then(|failure| failure.hint.as_deref()),
        json(&failure.map(|failure| failure.log_tail.as_slice()).unwrap_or_default()),
        now.0
    ])
    .map(drop)
}

pub(super) fn insert_event(
    connection: &Connection,
    event: EventRecord,
) -> Result<EventRecord, rusqlite::Error> {
    connection
        .prepare_cached(
            "INSERT INTO event (at, app, deploy, kind, caused_by, text, uid) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            event.at.0.0,
            event.app.as_ref().map(AppName::as_str),
            event.deploy.map(|deploy| deploy.0),
            event.kind.as_str(),
            event.by,
            event.text,
            event.uid
        ])?;
    let seq = u64::try_from(connection.last_insert_rowid()).unwrap_or(0);
    Ok(EventRecord { seq, ..event })
}
