//! The record against real files: what was committed is there after reopening; what is unusable is moved aside.

use super::{
    record::{EventRecord, MeterRecord},
    *,
};
use crate::rules::{
    app::App,
    event::{Ask, Event, Want},
    ids::{AppName, CommitId, DeployId},
    step::{Answer, Context, Policy, step},
    words::Phase,
};

fn context() -> Context {
    let policy = Policy {
        warmup: false,
        canary: Vec::new(),
        hold_inconclusive: false,
        backup: false,
        watch: Duration::ZERO,
        standby: Duration::ZERO,
        restart: true,
        before_start: false,
        after_live: false,
        after_failed: false,
    };
    Context {
        now: Time(1_000),
        utc: "20261121T101112Z".to_owned(),
        fresh: DeployId(1),
        unrecorded: false,
        policy,
    }
}

fn commit_one_step(store: &Store, app: &AppName) -> App {
    let event = Event::Asked { by: "ann".to_owned(), ask: Ask::Deploy(Want::Tip) };
    let made = step(&App::default(), &event, &context());
    let asked = EventRecord {
        by: "ann".to_owned(),
        uid: Some(7),
        ..EventRecord::new("asked", Time(1_000), "deploy")
    };
    let act = Act { event: asked, began: made.answer.as_ref().and_then(Answer::begun) };
    let commit = Commit {
        app,
        now: Time(1_000),
        event: &event,
        next: &made.next,
        effects: &made.effects,
        notes: &made.notes,
        act: Some(&act),
    };
    let events = store.commit(&commit).unwrap();
    assert_eq!((events[0].kind.as_str(), events[1].kind.as_str()), ("asked", "deploy_started"));
    made.next
}

#[test]
fn a_committed_step_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let app: AppName = "shop".parse().unwrap();
    let (store, opened) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(opened, Opened::Usable);
    let state = commit_one_step(&store, &app);
    drop(store);
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(store.app(&app).unwrap(), Some(state));
    assert_eq!(store.next_deploy().unwrap(), DeployId(2));
    let deploy = &store.history(Some(&app), 10).unwrap()[0];
    assert_eq!((deploy.by.as_str(), deploy.uid, deploy.phase), ("ann", Some(7), Some(Phase::Fetching)));
    let detail = store.detail(DeployId(1)).unwrap().unwrap();
    assert_eq!(detail.events.len(), 2);
    assert_eq!(Store::open_read_only(dir.path()).unwrap().unwrap().events(None, Some(1)).unwrap().len(), 2);
}

#[test]
fn k6_a_damaged_record_is_moved_aside_and_a_new_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bgd.db"), "this is no database, whatever its name says, not at all")
        .unwrap();
    let (store, opened) = Store::open(dir.path(), Time(7)).unwrap();
    let Opened::MovedAside { to, why } = opened else { panic!("not moved aside") };
    assert!(to.exists() && why.contains("damaged"), "{why}");
    assert_eq!(store.next_deploy().unwrap(), DeployId(1));
}

#[test]
fn k6_a_newer_record_is_moved_aside_and_named_as_newer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bgd.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let (_, opened) = Store::open(dir.path(), Time(7)).unwrap();
    assert!(matches!(opened, Opened::MovedAside { why, .. } if why.contains("newer bgd")));
}

#[test]
fn a_file_without_tables_is_no_record_yet() {
    let dir = tempfile::tempdir().unwrap();
    let there = || Store::open_read_only(dir.path()).unwrap().is_some();
    assert!(!there());
    // As the first daemon makes it: an empty file, then a log, then the tables, in one step.
    std::fs::write(dir.path().join("bgd.db"), "").unwrap();
    assert!(!there());
    Connection::open(dir.path().join("bgd.db")).unwrap().pragma_update(None, "journal_mode", "WAL").unwrap();
    assert!(!there());
    drop(Store::open(dir.path(), Time(0)).unwrap());
    assert!(there());
    std::fs::write(dir.path().join("bgd.db"), "this is no database, whatever its name says").unwrap();
    assert!(Store::open_read_only(dir.path()).is_err(), "what can't be read is to be said");
}

#[test]
fn a_stretched_log_has_its_full_size_and_leaves_nothing_in_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let app: AppName = "shop".parse().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    let before = commit_one_step(&store, &app);
    store.stretch_log();
    let log = || std::fs::metadata(dir.path().join("bgd.db-wal")).unwrap().len();
    let full = log();
    assert!(full > 4 << 20, "{full}");
    store.keep_probes(DeployId(1), &["healthy in 1 ms".to_owned()]).unwrap();
    assert_eq!(log(), full, "the log grew again");
    let synchronous: i64 = store.write().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "steps are no longer durable");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'stretch'";
    assert_eq!(store.write().query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    drop(store);
    let (store, opened) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!((opened, store.app(&app).unwrap()), (Opened::Usable, Some(before)));
    assert_eq!(store.detail(DeployId(1)).unwrap().unwrap().probes, ["healthy in 1 ms"]);
}

#[test]
fn who_asked_is_kept_with_the_event_and_the_deploy_that_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    let unasked = EventRecord::new("asked", Time(2), "flip");
    let asked = EventRecord { uid: Some(1000), ..unasked.clone() };
    store.log(unasked).unwrap();
    store.log_act(asked).unwrap();
    let uids: Vec<_> = store.events(None, None).unwrap().iter().map(|event| event.uid).collect();
    assert_eq!(uids, [None, Some(1000)]);
}

#[test]
fn history_over_all_apps_is_by_begin_and_of_one_app_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    // An idle app keeps its next number; and the clock went back before deploy 5.
    let rows = [(1, "shop", 10), (2, "zine", 90), (3, "shop", 50), (4, "shop", 70), (5, "shop", 60)];
    for (id, app, started) in rows {
        let row = format!("VALUES ({id}, '{app}', 'push', 'poller', {started})");
        let insert = format!("INSERT INTO deploy (id, app, kind, asked_by, started) {row}");
        store.write().execute_batch(&insert).unwrap();
    }
    let ids = |app: Option<&str>, limit| {
        let app = app.map(|app| app.parse::<AppName>().unwrap());
        let found = store.history(app.as_ref(), limit).unwrap();
        found.iter().map(|deploy| deploy.id.0).collect::<Vec<_>>()
    };
    assert_eq!(ids(None, 10), [2, 4, 5, 3, 1]);
    assert_eq!(ids(None, 2), [2, 4]);
    assert_eq!(ids(Some("shop"), 10), [5, 4, 3, 1]);
}

#[test]
fn what_a_flip_cost_is_kept_with_its_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let app: AppName = "shop".parse().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    commit_one_step(&store, &app);
    assert_eq!(store.deploy(DeployId(1)).unwrap().unwrap().meter, None);
    let meter = MeterRecord { requests: 57, lost: 1, longest_gap_ms: 230 };
    store.keep_meter(DeployId(1), &meter).unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(store.history(Some(&app), 10).unwrap()[0].meter, Some(meter));
    assert_eq!(store.detail(DeployId(1)).unwrap().unwrap().deploy.meter, Some(meter));
}

#[test]
fn a_record_from_before_flips_were_measured_loads_and_takes_measurements_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("bgd.db")).unwrap();
    old.pragma_update(None, "journal_mode", "WAL").unwrap();
    old.execute_batch(journal::SCHEMA_1).unwrap();
    old.execute_batch(
        "INSERT INTO deploy (id, app, kind, asked_by, outcome, started, finished)
         VALUES (7, 'shop', 'push', 'poller', 'live', 1000, 2000)",
    )
    .unwrap();
    drop(old);
    let meter_of = |store: &Store| {
        let deploys = store.history(None, 10).unwrap();
        assert_eq!((deploys.len(), deploys[0].id), (1, DeployId(7)));
        deploys[0].meter
    };
    // A command without the daemon reads it as it is.
    assert_eq!(meter_of(&Store::open_read_only(dir.path()).unwrap().unwrap()), None);
    let (store, opened) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!((opened, meter_of(&store)), (Opened::Usable, None));
    let meter = MeterRecord { requests: 9, lost: 0, longest_gap_ms: 101 };
    store.keep_meter(DeployId(7), &meter).unwrap();
    assert_eq!(meter_of(&store), Some(meter));
}

#[test]
fn a5_the_accepted_tip_is_kept_over_a_reopening_and_belongs_to_one_branch_of_one_remote() {
    let dir = tempfile::tempdir().unwrap();
    let app: AppName = "shop".parse().unwrap();
    let [one, two]: [CommitId; 2] = ["1", "2"].map(|digit| digit.repeat(40).parse().unwrap());
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(store.accepted(&app, "main\nr").unwrap(), None);
    store.accept(&app, "main\nr", &one).unwrap();
    store.accept(&app, "main\nr", &two).unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(store.accepted(&app, "main\nr").unwrap(), Some(two));
    assert_eq!(store.accepted(&app, "dev\nr").unwrap(), None);
    assert_eq!(store.accepted(&"other".parse().unwrap(), "main\nr").unwrap(), None);
}
