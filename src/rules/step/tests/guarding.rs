//! The guard on the way back over a contract migration.

use super::super::{AskReply, DenialKind, deploy_refusal};
use super::bench::{Bench, commit};
use crate::rules::{
    app::Instance,
    barrier::{Contract, ContractFile, Migration, OnFailure, SchemaNews},
    effect::{Action, Hook, Note},
    event::{Ask, Event, Routed, Want},
    ids::Color::{Blue, Green},
    words::{Nature, Outcome},
};

const TEXT: &str = "contract: db/2_contract_drop.sql";

fn contract() -> SchemaNews {
    let file = ContractFile { path: "db/2_contract_drop.sql".to_owned(), object: "2".repeat(40) };
    let contract = Contract { text: TEXT.to_owned(), files: vec![file], commits: Vec::new() };
    SchemaNews {
        migration: Some(Migration { text: TEXT.to_owned(), contract: Some(contract) }),
        behind: false,
    }
}

fn expand() -> SchemaNews {
    SchemaNews {
        migration: Some(Migration { text: "db/2_add.sql".to_owned(), contract: None }),
        behind: false,
    }
}

fn contained() -> SchemaNews {
    SchemaNews { behind: true, ..SchemaNews::default() }
}

/// Commit 1 is live, and commit 2 with a contract is pushed and has come that far.
fn contracting(state: &str) -> Bench {
    let mut bench = Bench::with_one_live();
    bench.policy.before_start = true;
    bench.news = contract();
    bench.push(2);
    bench.run_to(state);
    bench
}

fn objection() -> String {
    format!("going back to 0000001 would run it on the schema of 0000002 ({TEXT})")
}

fn assert_barred(answer: &AskReply) {
    let AskReply::Denied(denial) = answer else { panic!("not denied: {answer:?}") };
    assert_eq!((denial.kind, &denial.message), (DenialKind::Barred, &objection()));
    assert_eq!(denial.advice.text(None), "`bgd flip --force` does it all the same");
}

#[test]
fn a_flip_over_a_contract_is_refused_and_changes_nothing_but_by_force() {
    for state in ["Switching", "Watching", "Retiring", "Resting"] {
        let mut bench = contracting(state);
        let before = bench.app.clone();
        assert_barred(&bench.flip());
        assert_eq!(bench.app, before, "{state}");
        let answer = bench.ask(Ask::ForceFlip);
        assert!(matches!(answer, AskReply::RollingBack(_) | AskReply::Cancelling(_)), "{state}: {answer:?}");
        let passed = |note: &Note| matches!(note, Note::BarrierPassed { to, .. } if *to == commit(1));
        assert!(bench.notes.iter().any(passed), "{state}: the record says so");
        bench.run_to("Resting");
        assert_eq!(bench.live().map(|(_, number)| number), Some(1), "{state}");
        assert!(bench.app.schema_ahead().is_some(), "{state}");
        // Forward again, which is behind the barrier.
        if state == "Resting" {
            assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
        }
    }
}

#[test]
fn a_denied_flip_leaves_the_queue() {
    let mut bench = contracting("Watching");
    bench.ask(Ask::Deploy(Want::Tip));
    assert_barred(&bench.flip());
    assert!(bench.app.queued.is_some());
}

#[test]
fn a_deploy_is_cancelled_without_force_and_its_barrier_stands_once_its_commands_may_have_run() {
    for (state, raised) in
        [("Fetching", false), ("Building", false), ("Hooking", true), ("Starting", true), ("Probing", true)]
    {
        let mut bench = contracting(state);
        assert!(matches!(bench.flip(), AskReply::Cancelling(_)), "{state}");
        bench.run_to("Resting");
        assert_eq!((bench.live(), bench.app.schema_ahead().is_some()), (Some((Blue, 1)), raised), "{state}");
    }
}

#[test]
fn the_barrier_is_recorded_with_the_step_that_asks_for_the_hook_or_without_one_for_the_start() {
    let sets = |note: &Note| matches!(note, Note::BarrierSet(barrier) if barrier.commit == commit(2));
    let mut bench = contracting("Building");
    let made = bench.succeed();
    let asks = |action: &Action| matches!(action, Action::RunHook { hook: Hook::BeforeStart, .. });
    assert!(made.effects.iter().any(|effect| asks(&effect.action)) && made.next.barrier.is_some());
    assert!(made.notes.iter().any(|noted| sets(&noted.note)), "with its event");
    bench.run_to("Resting");
    assert_eq!(bench.notes.iter().filter(|note| sets(note)).count(), 1, "once");

    let mut bench = contracting("Building");
    bench.policy.before_start = false;
    let made = bench.succeed();
    assert!(made.effects.iter().any(|effect| matches!(effect.action, Action::Start { .. })));
    assert!(made.next.barrier.is_some());
}

#[test]
fn a_crash_in_the_hook_forgets_no_barrier_even_if_the_deploy_then_fails() {
    let mut bench = contracting("Hooking");
    let barrier = bench.app.barrier.clone();
    bench.recover(bench.facts(Routed::Color(Blue)));
    assert_eq!((bench.state(), &bench.app.barrier), ("Hooking", &barrier));
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((bench.live(), &bench.app.barrier), (Some((Blue, 1)), &barrier));
    assert_eq!(bench.app.schema_ahead(), barrier.as_ref(), "the schema is ahead of what is live");
}

#[test]
fn the_commands_of_a_contract_wait_for_the_record() {
    let mut bench = contracting("Building");
    bench.unrecorded = true;
    bench.succeed();
    assert_eq!((bench.state(), &bench.app.barrier), ("Clearing", &None));
    bench.unrecorded = false;
    bench.tell(&Event::Ticked);
    assert_eq!((bench.state(), bench.app.barrier.is_some()), ("Hooking", true));
}

#[test]
fn an_expand_and_releases_behind_the_barrier_are_flipped_freely() {
    let mut bench = Bench::with_one_live();
    bench.news = expand();
    bench.push(2);
    bench.run_to("Resting");
    assert!(bench.app.barrier.is_none());
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));

    let mut bench = contracting("Resting");
    bench.news = contained();
    bench.push(3);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 3)));
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
}

#[test]
fn a_deploy_of_an_older_commit_is_refused_but_by_force() {
    let older = || Want::Rev(commit(1).as_str().to_owned());
    let fetched = |bench: &mut Bench| {
        bench.news = SchemaNews::default();
        bench.app.head = Some(commit(1));
        bench.succeed();
    };
    let mut bench = contracting("Resting");
    assert_eq!(deploy_refusal(&bench.app, &commit(1), false).map(|it| it.message), Some(objection()));
    assert_eq!(deploy_refusal(&bench.app, &commit(4), true), None);
    // The machine too, when it had no barrier yet as it was asked.
    bench.ask(Ask::Deploy(older()));
    fetched(&mut bench);
    let ended = bench.notes.iter().rev().find_map(|note| match note {
        Note::DeployEnded(end) => Some(end.clone()),
        _ => None,
    });
    assert_eq!(bench.state(), "Discarding");
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Failed));
    assert_ne!(ended, None);
    assert_eq!(bench.live(), Some((Green, 2)));

    bench.ask(Ask::ForceDeploy(older()));
    fetched(&mut bench);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
    assert!(bench.notes.iter().any(|note| matches!(note, Note::BarrierPassed { .. })));
}

#[test]
fn a_branch_that_is_forced_back_over_the_barrier_is_not_deployed_by_itself() {
    let mut bench = contracting("Resting");
    bench.news = SchemaNews::default();
    bench.push(7);
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Green, 2)), Some(&Outcome::Failed)));
    // Nor while the contract's own deploy has failed, and an older release serves.
    let mut failed = contracting("Starting");
    failed.fail(Nature::Deterministic);
    failed.run_to("Resting");
    failed.news = SchemaNews::default();
    failed.push(7);
    failed.run_to("Resting");
    assert_eq!((failed.live(), failed.outcomes().last()), (Some((Blue, 1)), Some(&Outcome::Failed)));
    // Once an older release was brought back by force, the branch goes on from there.
    bench.ask(Ask::ForceFlip);
    bench.run_to("Resting");
    bench.push(8);
    bench.run_to("Resting");
    assert_eq!(bench.live().map(|(_, number)| number), Some(8));
}

#[test]
fn a_failed_watch_stays_and_calls_for_a_person_or_flips_as_configured() {
    let mut bench = contracting("Watching");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Green, 2)), Some(&Outcome::Failed)));
    let stranded = bench.app.stranded.clone().expect("status says why");
    assert!(stranded.why.contains("a person has to decide") && stranded.why.contains(&objection()));
    assert_barred(&bench.flip());
    bench.ask(Ask::ForceFlip);
    bench.run_to("Resting");
    assert_eq!((bench.live(), &bench.app.stranded), (Some((Blue, 1)), &None));

    let mut bench = contracting("Watching");
    bench.policy.on_failure = OnFailure::Flip;
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Blue, 1)), Some(&Outcome::RolledBack)));
}

#[test]
fn a_contract_that_dies_in_its_watch_is_started_again_in_place() {
    let mut bench = contracting("Watching");
    bench.live_dies();
    assert_eq!(bench.state(), "Watching");
    assert!(matches!(bench.app.live().map(|live| &live.instance), Some(Instance::Waiting { .. })));
    // After a restart of bgd too.
    let mut bench = contracting("Watching");
    let mut facts = bench.facts(Routed::Color(Green));
    facts.running.remove(&Green);
    bench.recover(facts);
    assert_eq!(bench.state(), "Watching");
    assert!(matches!(bench.app.live().map(|live| &live.instance), Some(Instance::Starting { .. })));
    // The former release that recovers meanwhile gets no traffic.
    let (color, release) = (bench.app.idle_color(), bench.app.way_back().unwrap().0.id.clone());
    for healthy in [false, true] {
        let (release, answer) = (release.clone(), "503".to_owned());
        bench.tell(&Event::HealthChanged { color, release, healthy, answer });
    }
    assert_eq!(bench.state(), "Watching");
}

#[test]
fn a_newer_contract_takes_the_place_of_the_older_barrier_and_a_forced_older_one_does_not() {
    let mut bench = contracting("Resting");
    bench.news = SchemaNews { behind: true, ..contract() };
    bench.push(3);
    bench.run_to("Resting");
    assert_eq!(bench.app.barrier.as_ref().map(|barrier| &barrier.commit), Some(&commit(3)));
    bench.news = contract();
    bench.app.head = Some(commit(1));
    bench.ask(Ask::ForceDeploy(Want::Tip));
    bench.run_to("Resting");
    assert_eq!(bench.live().map(|(_, number)| number), Some(1));
    assert_eq!(bench.app.barrier.as_ref().map(|barrier| &barrier.commit), Some(&commit(3)));
}
