//! The tables of the record. A change here needs a new version, and a step in `Store::connect` from the one before.

/// The schema's number in `PRAGMA user_version`, which is 0 in an empty file.
pub(super) const VERSION: i64 = 2;

/// Makes the tables of version 1.
pub(super) const TABLES: &str = "
BEGIN IMMEDIATE;
CREATE TABLE app (name TEXT PRIMARY KEY, state TEXT NOT NULL, changed INTEGER NOT NULL) STRICT;
CREATE TABLE journal (seq INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL, at INTEGER NOT NULL,
  event TEXT NOT NULL, effects TEXT NOT NULL) STRICT;
CREATE INDEX journal_app ON journal (app, seq);
CREATE TABLE deploy (id INTEGER PRIMARY KEY, app TEXT NOT NULL, kind TEXT NOT NULL, asked_by TEXT NOT NULL,
  asked_uid INTEGER, revision TEXT, subject TEXT, author TEXT, release TEXT, color TEXT, outcome TEXT, phase TEXT,
  error TEXT, hint TEXT, log_tail TEXT NOT NULL DEFAULT '[]', probes TEXT NOT NULL DEFAULT '[]',
  started INTEGER NOT NULL, finished INTEGER) STRICT;
CREATE INDEX deploy_app ON deploy (app, id);
CREATE TABLE step (deploy INTEGER NOT NULL, seq INTEGER NOT NULL, name TEXT NOT NULL, ms INTEGER NOT NULL,
  PRIMARY KEY (deploy, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE release (id TEXT NOT NULL, app TEXT NOT NULL, deploy INTEGER NOT NULL, revision TEXT NOT NULL,
  subject TEXT NOT NULL, author TEXT NOT NULL, verdict TEXT NOT NULL, PRIMARY KEY (app, id)) STRICT;
CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, app TEXT, deploy INTEGER,
  kind TEXT NOT NULL, caused_by TEXT NOT NULL, uid INTEGER, text TEXT NOT NULL) STRICT;
CREATE TABLE hold (app TEXT PRIMARY KEY, placed_by TEXT NOT NULL, reason TEXT NOT NULL, since INTEGER NOT NULL)
  STRICT;
CREATE TABLE accepted (app TEXT PRIMARY KEY, line TEXT NOT NULL, revision TEXT NOT NULL) STRICT;
CREATE TABLE configured (app TEXT PRIMARY KEY, texts TEXT NOT NULL) STRICT;
CREATE TABLE meter (deploy INTEGER PRIMARY KEY, requests INTEGER NOT NULL, lost INTEGER NOT NULL,
  longest_gap_ms INTEGER NOT NULL) STRICT;
CREATE TABLE replaced (deploy INTEGER PRIMARY KEY) STRICT;
PRAGMA user_version = 1;
COMMIT;
";

/// Makes the tables that version 2 adds to version 1.
///
/// `task`: the runs of tasks and hooks, one row for each in a deploy; a hook that runs again in the same deploy
/// replaces its row.
/// `cron_mark`: up to which time each schedule is decided. `cron_run`: one row for each due time.
pub(super) const ADDED_BY_2: &str = "
BEGIN IMMEDIATE;
CREATE TABLE passed_gates (deploy INTEGER PRIMARY KEY, kinds TEXT NOT NULL) STRICT;
CREATE TABLE cron_mark (app TEXT NOT NULL, name TEXT NOT NULL, schedule TEXT NOT NULL, handled INTEGER NOT NULL,
  PRIMARY KEY (app, name)) STRICT, WITHOUT ROWID;
CREATE TABLE cron_run (id INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL, name TEXT NOT NULL, release TEXT,
  due INTEGER NOT NULL, started INTEGER, finished INTEGER, outcome TEXT, exit INTEGER,
  UNIQUE (app, name, due)) STRICT;
CREATE TABLE task (seq INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL, deploy INTEGER NOT NULL,
  name TEXT NOT NULL, hook INTEGER NOT NULL, moment TEXT NOT NULL, release TEXT NOT NULL, try INTEGER NOT NULL,
  outcome TEXT, exit INTEGER, tail TEXT NOT NULL DEFAULT '[]', started INTEGER NOT NULL, finished INTEGER,
  UNIQUE (deploy, name, hook)) STRICT;
CREATE INDEX task_name ON task (app, name, seq);
PRAGMA user_version = 2;
COMMIT;
";
