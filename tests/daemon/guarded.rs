//! The way back over a contract migration, from outside: refused with the daemon alive, dead and hung, taken by force,
//! and said beforehand.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{Kind, Plan, Ran, Stage};

const MIGRATION: &str = "migration = { paths = [\"db/**\"], contract = [\"**/*_contract_*\"] }\n";
const FILE: &str = "db/2_contract_drop.sql";

fn stage() -> Option<Stage> {
    // A watch ends when it is told to, or by what a test does to the release.
    let plan = Plan { watch: "10m", hook: true, ..Plan::of(Kind::Builtin) };
    let mut stage = Stage::empty(plan)?;
    stage.configure(MIGRATION);
    stage.start_daemon();
    Some(stage)
}

impl Stage {
    fn add(&self, file: &str) {
        let path = self.path("work").join(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("its directory");
        fs::write(path, "select 1;\n").expect("write");
    }

    /// A flip, or another command, that is refused with both commits and the cause, and changes nothing.
    fn assert_barred(&self, words: &[&str], (to, commit, cause): (&str, &str, &str)) {
        let pid = |stage: &Self| stage.status()["live"]["pid"].clone();
        let before = self.value("live.commit");
        let deploys = self.done(&["history"]);
        // Read from the record when the daemon is away, so that the pid is that of the instance that runs.
        let serving = pid(self);
        let ran = self.bgd(words);
        assert_eq!(ran.code, 5, "{words:?}: {ran:?}");
        let sentence =
            format!("going back to {} would run it on the schema of {} ({cause})", &to[..7], &commit[..7]);
        assert!(ran.stderr.contains(&sentence), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains("--force` does it all the same"), "{words:?}: {ran:?}");
        assert_eq!((self.value("live.commit"), pid(self)), (before, serving), "{words:?}");
        assert_eq!(
            self.done(&["history"]).lines().count(),
            deploys.lines().count(),
            "{words:?}: a deploy began"
        );
    }
}

fn text_of(ran: &Ran) -> &str {
    &ran.stdout
}

#[test]
fn a_contract_is_not_flipped_away_but_by_force() {
    let Some(mut stage) = stage() else { return };
    let first = stage.push_promoted("first");
    stage.add("db/1_add.sql");
    let expand = stage.push_promoted("expand");
    stage.until_at_rest();
    let events = stage.done(&["events", "--since", "0"]);
    assert!(events.contains("; migrates (db/1_add.sql)"), "{events}");

    // An expand is flipped as ever.
    stage.done(&["flip"]);
    assert_eq!(stage.value("live.commit"), first);
    stage.until_at_rest();
    stage.done(&["flip"]);
    assert_eq!(stage.value("live.commit"), expand);
    stage.until_at_rest();

    let load = stage.load();
    load.sees("expand");
    stage.add(FILE);
    let contract = stage.push("contract", "");
    stage.until_phase(&contract, "watching");
    let cause = format!("contract: {FILE}");
    let barred = (expand.as_str(), contract.as_str(), cause.as_str());
    let status = stage.status();
    let rollback = &status["rollback"];
    assert_eq!(
        (&rollback["possible"], &rollback["to"]),
        (&Value::Bool(false), &Value::String(expand.clone()))
    );
    let barrier = rollback["barrier"].as_object().expect("a barrier");
    let keys: Vec<&str> = barrier.keys().map(String::as_str).collect();
    assert_eq!(keys.join(" "), "commit deploy release since text");
    assert_eq!((&barrier["commit"], &barrier["text"]), (&contract.clone().into(), &cause.clone().into()));
    assert!(status["schema_ahead"].is_null(), "{status:#}");
    let said = stage.bgd(&["status"]);
    let deploy = &barrier["deploy"];
    let line = format!("way back  {}, only with --force (contract migration in #{deploy})", &expand[..7]);
    assert!(text_of(&said).contains(&line), "{said:?}");
    stage.assert_barred(&["flip"], barred);
    stage.promote(&contract);
    stage.until_at_rest();
    stage.assert_barred(&["flip"], barred);
    stage.assert_barred(&["deploy", "--rev", &first], (first.as_str(), contract.as_str(), cause.as_str()));
    stage.assert_barred(
        &["deploy", "--detach", "--rev", &expand[..10]],
        (expand.as_str(), contract.as_str(), cause.as_str()),
    );
    let events = stage.done(&["events", "--since", "0", "--json"]);
    assert_eq!(events.matches("\"barrier_set\"").count(), 1, "{events}");

    // With the daemon hung, which lives on, and dead.
    let daemon = stage.daemon_pid();
    stage.signal_daemon(Signal::SIGSTOP);
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("would run it on the schema of"), "{ran:?}");
    stage.signal_daemon(Signal::SIGCONT);
    assert_eq!(stage.daemon_pid(), daemon);
    stage.eventually("the daemon answers", |stage| {
        stage.bgd(&["status", "--json"]).stdout.contains("\"running\": true")
    });
    stage.kill_daemon();
    stage.assert_barred(&["flip"], barred);
    stage.start_daemon();

    // Behind the barrier flips are free.
    let third = stage.push_promoted("third");
    stage.until_at_rest();
    stage.done(&["flip"]);
    assert_eq!(stage.value("live.commit"), contract);
    stage.until_at_rest();
    stage.done(&["flip"]);
    assert_eq!(stage.value("live.commit"), third);
    stage.until_at_rest();

    // By force a named older commit is deployed, and is said to be behind the schema.
    let deploy = stage.begin(&["deploy", "--rev", &expand, "--force"]);
    stage.until_phase(&expand, "watching");
    stage.done(&["promote"]);
    assert_eq!(deploy.end().code, 0);
    let status = stage.until_at_rest();
    assert_eq!(
        (&status["live"]["commit"], &status["schema_ahead"]["commit"]),
        (&expand.into(), &contract.clone().into())
    );
    assert!(stage.done(&["events", "--since", "0"]).contains("by force to"), "the record says so");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn a_barrier_outlives_the_daemon_and_its_deploy_and_a_failed_watch_stays() {
    let Some(mut stage) = stage() else { return };
    let first = stage.push_promoted("first");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("first");

    // A commit below the tip says so. bgd is killed while the hook runs, and the release does not start.
    stage.close("hook");
    stage.git(&[
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "Drop the name\n\nIt is unused.\n\nmigration: Contract",
    ]);
    let saying = stage.git(&["rev-parse", "HEAD"]);
    let broken = stage.push("broken", "start = exits");
    stage.until("the hook may run", |status| status["deploy"]["phase"] == "starting");
    stage.eventually("the hook runs", |stage| {
        stage.processes().iter().any(|(_, line)| line.contains("hook.sh"))
    });
    stage.kill_daemon();
    let status = stage.status();
    assert_eq!(status["schema_ahead"]["commit"], broken, "{status:#}");
    stage.start_daemon();
    stage.open("hook");
    let status = stage.until("it failed", |status| status["last"]["commit"] == broken);
    assert_eq!(
        (&status["last"]["outcome"], &status["live"]["commit"]),
        (&"failed".into(), &first.clone().into())
    );
    let cause = format!("contract: commit {} \"Drop the name\"", &saying[..7]);
    assert_eq!(status["schema_ahead"]["text"], cause, "{status:#}");
    assert_eq!(
        (&status["rollback"]["possible"], &status["rollback"]["barrier"]["commit"]),
        (&Value::Bool(false), &broken.clone().into())
    );
    let said = stage.bgd(&["status"]);
    let ahead = format!("schema    ahead of what is live: {} migrated in #", &broken[..7]);
    assert!(text_of(&said).contains(&ahead), "{said:?}");

    let why = stage.done(&["why"]);
    assert!(why.contains("the schema is ahead of what is live"), "{why}");

    // A release with the contract turns unwell in its watch: it stays, and calls for a person.
    let fixed = stage.push("fixed", "");
    stage.until_phase(&fixed, "watching");
    stage.close("up-fixed");
    let status = stage.until_at_rest();
    stage.open("up-fixed");
    let last = &status["last"];
    assert_eq!((&status["live"]["commit"], &last["commit"]), (&fixed.clone().into(), &fixed.clone().into()));
    let error = last["error"].as_str().unwrap_or_default();
    assert!(last["outcome"] == "failed" && error.contains("a person has to decide"), "{status:#}");
    let well = stage.until("it is well again", |status| status["live"]["healthy"] == true);
    assert_eq!(well["state"], "degraded", "{well:#}");
    assert!(well["trouble"].as_str().unwrap_or_default().contains("a person has to decide"), "{well:#}");
    assert_eq!(stage.bgd(&["status"]).code, 20);
    stage.assert_barred(&["flip"], (first.as_str(), fixed.as_str(), cause.as_str()));
    assert!(stage.done(&["events", "--since", "0"]).contains("a person has to decide"));

    let why = stage.bgd(&["why"]);
    assert!(why.stdout.contains("a person has to decide"), "{why:?}");
    assert!(why.stderr.contains("`bgd flip shop --force` goes back"), "{why:?}");

    // By force it goes back, the daemon dead.
    stage.kill_daemon();
    let ran = stage.bgd(&["flip", "--force"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    load.sees("first");
    stage.start_daemon();
    let status = stage.until_at_rest();
    assert_eq!((&status["live"]["commit"], &status["trouble"]), (&first.into(), &Value::Null));
    let acts = stage.done(&["events", "--since", "0"]);
    assert!(acts.contains("flip --force, without the daemon") && acts.contains("by force to"), "{acts}");
    load.end_without_loss();
    stage.assert_no_leftover();
}
