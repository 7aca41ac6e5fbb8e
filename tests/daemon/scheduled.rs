//! Schedules of a real daemon: runs in the live release, by the calendar and by hand, across a flip, a `kill -9` and a
//! stop of the app.

use std::{collections::BTreeSet, fs, thread, time::Instant};

use serde_json::Value;

use crate::{
    shop::{Kind, Plan, Stage, app::wait_at},
    stage::{GENEROUS, LOOK},
};

/// A line for each run: the schedule, its release, the due time, the directory and the port, which it has not.
fn ledger(stage: &Stage) -> Vec<Vec<String>> {
    let text = fs::read_to_string(stage.path("ledger")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn lines_of(stage: &Stage, name: &str) -> Vec<Vec<String>> {
    ledger(stage).into_iter().filter(|line| line[0] == name).collect()
}

fn cron<'s>(status: &'s Value, name: &str) -> &'s Value {
    let all = status["cron"].as_array().expect("a list");
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {status:#}"))
}

/// A schedule that was due 12, 36 and 60 hours ago and is not due while the test runs.
fn half_a_day_away() -> String {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(12);
    then.strftime("%-M %-H * * *").to_string()
}

fn configure(stage: &Stage) {
    let note = format!(
        "echo \"$BGD_CRON $BGD_RELEASE $BGD_DUE_AT $PWD ${{PORT:-none}}\" >> {}",
        stage.path("ledger").display()
    );
    let away = half_a_day_away();
    let schedule = |name: &str, schedule: &str, more: &str, run: &str| {
        format!("[app.shop.cron.{name}]\nschedule = \"{schedule}\"\n{more}\nrun = '''\n{run}'''\n")
    };
    let all = [
        schedule("minute", "* * * * *", "", &note),
        schedule("job", &away, "", &format!("{note}\necho worked in {{release}}")),
        schedule("fails", &away, "", "echo last words of a job; exit 3"),
        schedule("slow", &away, "overlap = \"skip\"", &format!("{}{note}", wait_at("slow"))),
        schedule("late", &away, "timeout = \"1s\"", "exec sleep 600"),
        schedule("nightly", &away, "missed = \"skip\"", &note),
        schedule("made_up", &away, "missed = \"run\"", &note),
    ];
    stage.configure(&all.concat());
}

/// Lets the record say that the schedules were looked at three days ago, as if bgd had been down since.
fn go_back_three_days(stage: &Stage) {
    let record = rusqlite::Connection::open(stage.path("state/bgd.db")).expect("the record");
    let ms = 73 * 3_600_000_i64;
    let changed = record
        .execute("UPDATE cron_mark SET handled = handled - ?1 WHERE name IN ('nightly', 'made_up')", [ms])
        .expect("set the marks back");
    assert_eq!(changed, 2);
}

#[test]
fn schedules_run_in_the_live_release_and_across_a_flip_a_killed_daemon_and_missed_times() {
    let Some(mut stage) = Stage::empty(Plan::of(Kind::Builtin)) else { return };
    configure(&stage);
    stage.start_daemon();
    let refused = stage.bgd(&["cron", "run", "job"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    stage.push_live("r0");
    let first = stage.status()["live"]["release"].as_str().expect("a release").to_owned();
    by_hand(&stage, &first);
    across_a_flip_and_a_kill(&mut stage, &first);
    missed(&mut stage);
    by_the_minute(&stage);
    taken_down(&stage);
}

fn by_hand(stage: &Stage, release: &str) {
    let worked = stage.bgd(&["cron", "run", "job"]);
    assert_eq!(worked.code, 0, "{worked:?}");
    assert!(worked.stdout.contains(&format!("worked in {release}")), "{worked:?}");
    let [run] = &lines_of(stage, "job")[..] else { panic!("{:?}", ledger(stage)) };
    assert_eq!((run[1].as_str(), run[4].as_str()), (release, "none"), "{run:?}");
    assert!(run[3].ends_with(&format!("releases/{release}")), "{run:?}");
    let failed = stage.bgd(&["cron", "run", "fails"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.stdout.contains("last words of a job") && failed.stderr.contains("exit code 3"),
        "{failed:?}"
    );
    let late = stage.bgd(&["cron", "run", "late"]);
    assert!(late.code == 1 && late.stderr.contains("after 1s and was ended"), "{late:?}");
    let unknown = stage.bgd(&["cron", "run", "jbo"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("minute, job, fails"), "{unknown:?}");
    let status = stage.until("the ends are shown", |status| !cron(status, "late")["last"].is_null());
    let last = &cron(&status, "fails")["last"];
    assert_eq!((last["outcome"].as_str(), last["exit"].as_i64()), (Some("failed"), Some(3)), "{last}");
    assert_eq!(cron(&status, "late")["last"]["outcome"], "timed_out");
    assert!(cron(&status, "job")["next_at"].is_string() && cron(&status, "nightly")["last"].is_null());
    let list = stage.done(&["cron"]);
    assert!(list.contains("failed (exit 3)") && list.contains("  last words of a job"), "{list}");
    assert!(stage.done(&["logs", "--cron", "fails"]).contains("last words of a job"));
    let events = stage.done(&["events"]);
    assert!(events.contains("cron_started") && events.contains("fails failed: exit code 3"), "{events}");
}

fn across_a_flip_and_a_kill(stage: &mut Stage, first: &str) {
    stage.close("slow");
    let run = stage.begin(&["cron", "run", "slow"]);
    let runs = |status: &Value| cron(status, "slow")["running"]["pid"].is_u64();
    stage.until("the run goes on", runs);
    let again = stage.bgd(&["cron", "run", "slow"]);
    assert!(again.code == 5 && again.stderr.contains("slow runs already"), "{again:?}");
    stage.push_live("r1");
    let status = stage.until("the run outlives the flip", runs);
    assert_ne!(status["live"]["release"], first);
    let pid = cron(&status, "slow")["running"]["pid"].clone();
    stage.kill_daemon();
    let left = run.end();
    assert_eq!(left.code, 4, "{left:?}");
    stage.start_daemon();
    let status = stage.until("the run is taken up", runs);
    assert_eq!(cron(&status, "slow")["running"]["pid"], pid);
    assert!(lines_of(stage, "slow").is_empty(), "it still waits");
    stage.open("slow");
    let status = stage.until("it has ended", |status| !cron(status, "slow")["last"].is_null());
    let last = &cron(&status, "slow")["last"];
    assert_eq!((last["outcome"].as_str(), last["release"].as_str()), (Some("done"), Some(first)), "{last}");
    let [run] = &lines_of(stage, "slow")[..] else { panic!("{:?}", ledger(stage)) };
    assert_eq!(run[1], first, "in the release that was live when it began");
}

fn missed(stage: &mut Stage) {
    stage.end_daemon();
    go_back_three_days(stage);
    let offline = stage.bgd(&["cron", "--json"]);
    assert!(offline.stdout.contains("\"outcome\": \"done\""), "{offline:?}");
    stage.start_daemon();
    let status = stage.until("what was missed is decided", |status| {
        let known = |name| !cron(status, name)["last"].is_null();
        known("nightly") && known("made_up")
    });
    assert_eq!(cron(&status, "nightly")["last"]["outcome"], "missed");
    assert_eq!(cron(&status, "made_up")["last"]["outcome"], "done");
    assert_eq!((lines_of(stage, "nightly").len(), lines_of(stage, "made_up").len()), (0, 1));
    let events = stage.done(&["events"]);
    assert!(events.contains("nightly did not run at 3 times"), "{events}");
}

/// The calendar's own runs: one for each minute at most, and of a release that was live.
fn by_the_minute(stage: &Stage) {
    // The first one may have come while the daemon was stopped.
    let until = Instant::now() + 2 * GENEROUS;
    while lines_of(stage, "minute").is_empty() {
        assert!(Instant::now() < until, "no minute comes: {:#}", stage.status());
        thread::sleep(LOOK);
    }
    let runs = lines_of(stage, "minute");
    let due: BTreeSet<&String> = runs.iter().map(|run| &run[2]).collect();
    assert_eq!(due.len(), runs.len(), "two runs for one minute: {runs:?}");
    assert!(due.iter().all(|due| due.ends_with(":00.000Z")), "{due:?}");
}

fn taken_down(stage: &Stage) {
    stage.close("slow");
    let run = stage.begin(&["cron", "run", "slow"]);
    stage.until("it runs", |status| cron(status, "slow")["running"]["pid"].is_u64());
    stage.done(&["down", "--yes"]);
    let ended = run.end();
    assert!(ended.code == 1 && ended.stderr.contains("ended by bgd"), "{ended:?}");
    let status = stage.until("its end is shown", |status| cron(status, "slow")["running"].is_null());
    assert_eq!(cron(&status, "slow")["last"]["outcome"], "ended");
    assert!(cron(&status, "slow")["next_at"].is_null(), "nothing is due while the app is down");
    stage.open("slow");
}
