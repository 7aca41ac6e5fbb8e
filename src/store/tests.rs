//! The record against real files: what was committed is there after reopening; what is unusable is moved aside.

use super::{
    record::{EventRecord, MeterRecord},
    *,
};
use crate::rules::{
    app::{App, Deploy, Kind},
    effect::Note,
    event::{Ask, Event, Want},
    ids::{AppName, CommitId, DeployId},
    step::{AskReply, Context, Noted, Policy, step},
    words::{EventKind, Phase},
};

fn context() -> Context {
    let policy = Policy { watch: Duration::ZERO, ..Policy::quiet() };
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
        ..EventRecord::new(EventKind::Asked, Time(1_000), "deploy")
    };
    let act = Act { event: asked, began: made.answer.as_ref().and_then(AskReply::begun) };
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
    assert_eq!((events[0].kind, events[1].kind), (EventKind::Asked, EventKind::DeployStarted));
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
    std::fs::write(dir.path().join("bgd.db"), "this is not a database, whatever its name says, not at all")
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
    // The first daemon makes an empty file, then a log, then the tables, in one step.
    std::fs::write(dir.path().join("bgd.db"), "").unwrap();
    assert!(!there());
    Connection::open(dir.path().join("bgd.db")).unwrap().pragma_update(None, "journal_mode", "WAL").unwrap();
    assert!(!there());
    drop(Store::open(dir.path(), Time(0)).unwrap());
    assert!(there());
    std::fs::write(dir.path().join("bgd.db"), "this is not a database, whatever its name says").unwrap();
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
    let synchronous: i64 =
        store.lock_writer().connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "steps are no longer durable");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'stretch'";
    assert_eq!(store.lock_writer().connection.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    drop(store);
    let (store, opened) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!((opened, store.app(&app).unwrap()), (Opened::Usable, Some(before)));
    assert_eq!(store.detail(DeployId(1)).unwrap().unwrap().probes, ["healthy in 1 ms"]);
}

#[test]
fn who_asked_is_kept_with_the_event_and_the_deploy_that_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    let unasked = EventRecord::new(EventKind::Asked, Time(2), "flip");
    let asked = EventRecord { uid: Some(1000), ..unasked.clone() };
    store.log(unasked).unwrap();
    store.log_act(asked).unwrap();
    let uids: Vec<_> = store.events(None, None).unwrap().iter().map(|event| event.uid).collect();
    assert_eq!(uids, [None, Some(1000)]);
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

fn files(dir: &Path) -> [PathBuf; 3] {
    ["bgd.db", "bgd.db-wal", "bgd.db-shm"].map(|name| dir.join(name))
}

/// Copies the files as a killed daemon leaves them: the log is not checkpointed.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (from, to) in files(dir).iter().zip(files(copy.path())).take(2) {
        std::fs::copy(from, to).unwrap();
    }
    copy
}

fn texts(store: &Store) -> Vec<String> {
    store.events(None, Some(0)).unwrap().into_iter().map(|event| event.text).collect()
}

#[test]
fn n12_the_record_and_what_lies_beside_it_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    commit_one_step(&store, &"shop".parse().unwrap());
    assert_eq!(files(dir.path()).map(|file| mode(&file)), [0o640; 3]);
    // Made by an older bgd that was killed.
    let dir = killed(dir.path());
    let old = dir.path().join("bgd.db.unusable-1-wal");
    std::fs::write(&old, "").unwrap();
    for file in files(dir.path()).iter().take(2).chain([&old]) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (_store, _) = Store::open(dir.path(), Time(0)).unwrap();
    assert_eq!(files(dir.path()).map(|file| mode(&file)), [0o640; 3]);
    assert_eq!(mode(&old), 0o640);
}

#[test]
fn n12_a_record_that_is_deleted_or_replaced_while_it_is_open_is_written_anew_with_all_that_is_in_it() {
    let app: AppName = "shop".parse().unwrap();
    let remove = |dir: &Path, which: &[usize]| {
        for at in which {
            std::fs::remove_file(&files(dir)[*at]).unwrap();
        }
    };
    type Harm<'a> = (&'static str, &'a dyn Fn(&Path));
    let harms: [Harm<'_>; 5] = [
        ("deleted", &|dir| remove(dir, &[0, 1, 2])),
        ("deleted", &|dir| remove(dir, &[0])),
        ("parted from its log", &|dir| remove(dir, &[1])),
        ("parted from its log", &|dir| remove(dir, &[2])),
        ("replaced", &|dir| {
            let other = tempfile::tempdir().unwrap();
            drop(Store::open(other.path(), Time(0)).unwrap());
            std::fs::rename(&files(other.path())[0], &files(dir)[0]).unwrap();
        }),
    ];
    for (how, harm) in harms {
        let dir = tempfile::Builder::new().tempdir_in(std::env::temp_dir()).unwrap();
        let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
        let state = commit_one_step(&store, &app);
        harm(dir.path());
        let act = EventRecord::new(EventKind::Asked, Time(2_000), "after the harm");
        store.log_act(act).unwrap();
        let said = format!("the record was {how} while bgd ran, and is written anew from what is known");
        assert!(texts(&store).contains(&said), "{how}: {:?}", texts(&store));
        let left = killed(dir.path());
        let (store, opened) = Store::open(left.path(), Time(0)).unwrap();
        assert_eq!(opened, Opened::Usable, "{how}");
        assert_eq!(store.app(&app).unwrap(), Some(state), "{how}");
        assert_eq!(store.history(None, 9).unwrap().len(), 1, "{how}");
        let texts = texts(&store);
        assert!(texts.contains(&said) && texts.contains(&"after the harm".to_owned()), "{how}: {texts:?}");
    }
}

#[test]
fn n12_a_record_that_is_overwritten_in_place_keeps_at_least_the_state_of_each_app() {
    let app: AppName = "shop".parse().unwrap();
    let older = tempfile::tempdir().unwrap();
    drop(Store::open(older.path(), Time(0)).unwrap());
    let older = std::fs::read(&files(older.path())[0]).unwrap();
    for content in [older, Vec::new(), vec![0x5a; 9_000]] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
        let state = commit_one_step(&store, &app);
        // Checkpoint, so that the log holds nothing of it any more.
        let put_away = "PRAGMA wal_checkpoint(TRUNCATE)";
        store
            .write(|writer| writer.connection.query_row(put_away, [], |_| Ok(())).map_err(sql("test")))
            .unwrap();
        std::fs::write(&files(dir.path())[0], &content).unwrap();
        store.keep_in_place(Time(3_000)).unwrap();
        assert!(texts(&store).iter().any(|text| text.contains("overwritten")), "{:?}", texts(&store));
        let left = killed(dir.path());
        let (store, _) = Store::open(left.path(), Time(0)).unwrap();
        assert_eq!(store.app(&app).unwrap(), Some(state));
    }
}

#[test]
fn a_log_that_somebody_puts_away_into_the_record_is_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    commit_one_step(&store, &"shop".parse().unwrap());
    let other = Connection::open(&files(dir.path())[0]).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    store.keep_in_place(Time(3_000)).unwrap();
    assert!(!texts(&store).iter().any(|text| text.contains("written anew")), "{:?}", texts(&store));
}

#[test]
fn b8_deploys_are_listed_by_their_counter_when_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
    let started = |id: u64, app: &str, at: u64| {
        let sql =
            "INSERT INTO deploy (id, app, kind, asked_by, started) VALUES (?1, ?2, 'push', 'poller', ?3)";
        let params = rusqlite::params![id, app, at];
        store.lock_writer().connection.execute(sql, params).unwrap();
        let event = EventRecord {
            deploy: Some(DeployId(id)),
            ..EventRecord::new(EventKind::DeployStarted, Time(at), "deploy started")
        };
        store.log(event).unwrap();
    };
    // The other app took its number before it had anything to deploy.
    started(2, "shop", 5_000);
    started(3, "shop", 1_000);
    started(1, "zoo", 1_500);
    let ids = |app: Option<&AppName>| {
        store.history(app, 9).unwrap().iter().map(|deploy| deploy.id.0).collect::<Vec<_>>()
    };
    assert_eq!(ids(None), [1, 3, 2]);
    assert_eq!(ids(Some(&"shop".parse().unwrap())), [3, 2]);
}

#[test]
fn an_event_of_a_kind_that_only_a_newer_bgd_knows_is_shown_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(1)).unwrap();
    store.log(EventRecord::new(EventKind::Trouble, Time(1), "a newer thing")).unwrap();
    store.lock_writer().connection.execute("UPDATE event SET kind = 'newer'", []).unwrap();
    let events = store.events(None, None).unwrap();
    assert_eq!((events[0].kind, events[0].text.as_str()), (EventKind::Unknown, "a newer thing"));
    assert_eq!(serde_json::from_str::<EventKind>("\"newer\"").unwrap(), EventKind::Unknown);
    assert_eq!(serde_json::to_string(&EventKind::PhaseEntered).unwrap(), "\"phase_entered\"");
}

#[test]
fn what_an_operator_brings_about_in_a_deploy_of_the_poller_is_the_operators() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Time(1)).unwrap();
    let app: AppName = "shop".parse().unwrap();
    let deploy = Deploy {
        id: DeployId(1),
        kind: Kind::Push,
        by: "poller".to_owned(),
        started: Time(1),
        phase_since: Time(1),
        migration: None,
        forced: false,
        progress: Default::default(),
    };
    let noted = |note| Noted { note, deploy: Some(deploy.clone()), release: None };
    let event = Event::Asked { by: "ann".to_owned(), ask: Ask::Flip };
    let next = App::default();
    let act = Act {
        event: EventRecord { by: "ann".to_owned(), ..EventRecord::new(EventKind::Asked, Time(2), "flip") },
        began: None,
    };
    let notes = [noted(Note::PhaseEntered(Phase::Switching))];
    for (act, by) in [(Some(&act), "ann"), (None, "poller")] {
        let commit =
            Commit { app: &app, now: Time(2), event: &event, next: &next, effects: &[], notes: &notes, act };
        let events = store.commit(&commit).unwrap();
        assert_eq!(events.last().unwrap().by, by, "{events:?}");
    }
}
