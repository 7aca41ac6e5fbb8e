//! Gates: what keeps a push from being deployed by itself, what passes it, and what is told of that.

use std::fs;

use serde_json::Value;

use crate::shop::{Kind, Plan, Stage};

fn stage(more: &str) -> Stage {
    let mut stage = Stage::empty(Plan::of(Kind::Builtin)).expect("a stage with the builtin front");
    stage.configure(more);
    stage.start_daemon();
    stage
}

impl Stage {
    /// Pushes these files, and nothing else that is new; the commit.
    fn push_files(&self, files: &[&str], message: &str) -> String {
        for file in files {
            let path = self.path("work").join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, message).expect("a file");
        }
        self.push_all(message)
    }

    /// Waits until this gate keeps the commit back, and says why.
    fn until_gated(&self, commit: &str, kind: &str) -> String {
        let status = self.until(&format!("{commit} is kept back by {kind}"), |status| {
            let gate = &status["gate"];
            gate["commit"] == commit && gate["kind"] == kind && status["deploy"].is_null()
        });
        assert_eq!(status["why"]["code"], "gate", "{status:#}");
        assert_eq!(status["why"]["text"], status["gate"]["text"], "{status:#}");
        status["gate"]["text"].as_str().expect("a sentence").to_owned()
    }

    /// The kinds of the gates that the newest deploy passed, and its commit.
    fn newest(&self) -> (Value, Value) {
        let history: Value = serde_json::from_str(&self.done(&["history", "--json"])).expect("JSON");
        (history[0]["passed_gates"].clone(), history[0]["commit"].clone())
    }

    /// How often an event of this kind was recorded.
    fn events(&self, kind: &str) -> usize {
        let text = self.done(&["events", "--json"]);
        text.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
    }
}

#[test]
fn commits_that_do_not_concern_the_app_or_ask_to_be_skipped_are_passed_over() {
    let mut stage = stage(
        "paths = [\"/app.conf\", \"*.sh\", \"api/**\", \"!**/*.md\"]\nskip = [\"[skip deploy]\", \"[skip cd]\"]",
    );
    let first = stage.push_live("r0");
    let docs = stage.push_files(&["other/x", "api/README.md"], "Docs");
    let why = stage.until_gated(&docs, "paths");
    assert_eq!(why, format!("{} touches nothing of `paths` since live {}", &docs[..7], &first[..7]));
    assert_eq!((stage.events("gate_closed"), stage.events("gate_opened")), (1, 0));
    // The marker of the tip alone keeps nothing back.
    let api = stage.push_files(&["api/x"], "Change the API [skip cd]");
    stage.wait_live(&api);
    assert_eq!(stage.newest().0, serde_json::json!([]));
    stage.push_files(&["api/y"], "More [skip deploy]");
    let skipped = stage.push_files(&["api/z"], "And more [skip cd]");
    assert!(stage.until_gated(&skipped, "skip").contains("every commit since live"));
    stage.kill_daemon();
    stage.start_daemon();
    stage.until_gated(&skipped, "skip");
    stage.done(&["deploy"]);
    let status = stage.until_at_rest();
    assert_eq!((&status["live"]["commit"], &status["gate"]), (&Value::from(skipped.as_str()), &Value::Null));
    assert_eq!(stage.newest(), (serde_json::json!(["skip"]), skipped.into()));
    // The history is another one, the files are equal.
    stage.git(&["checkout", "-q", "--orphan", "forced"]);
    stage.git(&["commit", "-q", "-m", "Anew"]);
    stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
    let forced = stage.git(&["rev-parse", "HEAD"]);
    stage.until_gated(&forced, "paths");
    assert!(stage.events("gate_closed") <= 5, "{}", stage.done(&["events", "--json"]));
    stage.end_daemon();
}

#[test]
fn a_frozen_app_takes_a_push_by_hand_and_the_rest_when_it_thaws() {
    let stage = stage("freeze = [{ from = \"2000-01-01\", to = \"2999-12-31\", reason = \"peak season\" }]");
    let first = stage.push("r0", "");
    let why = stage.until_gated(&first, "freeze");
    assert!(why.contains("waits for the end of a freeze (peak season): opens "), "{why}");
    assert!(why.ends_with("3000-01-01 00:00 UTC"), "{why}");
    assert_eq!(stage.value("gate.opens_at"), "3000-01-01T00:00:00.000Z");
    stage.done(&["deploy"]);
    assert_eq!(stage.newest(), (serde_json::json!(["freeze"]), first.into()));
    let second = stage.push("r1", "");
    stage.until_gated(&second, "freeze");
    stage.configure("");
    stage.done(&["reload"]);
    stage.wait_live(&second);
    assert_eq!(stage.newest().0, serde_json::json!([]));
    stage.assert_no_leftover();
}

/// Prints a megabyte, and answers as the file `answer-COMMIT` or `answer` says.
const GATE: &str = r#"[ "$BGD_APP" = shop ] && [ -n "$BGD_REMOTE" ] && [ -z "$PORT" ] || exit 9
head -c 1000000 /dev/zero | tr '\0' x
answer=$(cat "answer-$BGD_COMMIT" 2>/dev/null || cat answer)
[ "$answer" = hang ] && sleep 1000
printf '\nsaid %s since %s\n' "$answer" "$BGD_LIVE_COMMIT"
exit "$answer"
"#;

#[test]
fn a_gate_command_is_asked_until_it_opens_and_the_newest_green_commit_goes_live() {
    let mut stage = Stage::empty(Plan::of(Kind::Builtin)).expect("a stage with the builtin front");
    let write = |stage: &Stage, name: &str, text: &str| {
        fs::write(stage.path("new"), text).expect("a file");
        fs::rename(stage.path("new"), stage.path(name)).expect("rename");
    };
    write(&stage, "ask.sh", GATE);
    write(&stage, "answer", "75");
    stage.configure(
        "gate = { command = \"sh ask.sh\", interval = \"100ms\", timeout = \"2s\", deadline = \"10m\" }",
    );
    stage.start_daemon();
    let first = stage.push("r0", "");
    let why = stage.until_gated(&first, "command");
    assert!(why.contains("says not yet; closed for this commit at "), "{why}");
    write(&stage, "answer", "0");
    stage.wait_live(&first);
    stage.until_at_rest();
    // Two commits at once: the older one is green, the tip is red.
    write(&stage, "answer", "75");
    let commit_rev = |rev: &str| {
        fs::write(stage.path("work/app.conf"), format!("rev = {rev}\n")).expect("app.conf");
        stage.git(&["commit", "-q", "-a", "-m", rev]);
        stage.git(&["rev-parse", "HEAD"])
    };
    let (green, red) = (commit_rev("green"), commit_rev("red"));
    write(&stage, &format!("answer-{green}"), "0");
    write(&stage, &format!("answer-{red}"), "1");
    stage.git(&["push", "-q", "origin", "HEAD:main"]);
    stage.wait_live(&green);
    let why = stage.until_gated(&red, "command");
    let said = format!("ended with exit code 1: said 1 since {first}");
    assert!(why.contains(&said) || why.contains(&said.replace(&first, &green)), "{why}");
    // Closed for good: a restart does not ask about it again.
    stage.kill_daemon();
    write(&stage, &format!("answer-{red}"), "0");
    stage.start_daemon();
    stage.until_gated(&red, "command");
    // A command that hangs is ended at its limit, and asked again.
    write(&stage, "answer", "hang");
    let last = stage.push("r2", "");
    stage.until_gated(&last, "command");
    stage.done(&["deploy"]);
    assert_eq!(stage.newest(), (serde_json::json!(["command"]), last.into()));
    assert_eq!(stage.events("marked_bad"), 0);
    stage.assert_no_leftover();
}

#[test]
fn the_commands_of_an_app_run_in_its_directory_of_the_repository() {
    let mut stage = stage("dir = \"services/api\"\npaths = [\"services/api/**\"]");
    let dir = stage.path("work/services/api");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("app.conf"), "rev = api\n").expect("app.conf");
    fs::write(dir.join("build.sh"), "test \"$PWD\" = \"$BGD_RELEASE_DIR/services/api\"\n").expect("build.sh");
    let first = stage.push_all("Make the API");
    stage.wait_live(&first);
    assert_eq!(stage.served(), "api");
    let shop = stage.push_files(&["services/web/x"], "Change the shop");
    stage.until_gated(&shop, "paths");
    // A link out of the repository would have the build write elsewhere.
    fs::remove_dir_all(&dir).expect("remove the directory");
    std::os::unix::fs::symlink(stage.path("gates"), &dir).expect("a link");
    let linked = stage.push_all("Link the API");
    let status = stage.until("the link is refused", |status| status["last"]["commit"] == linked.as_str());
    let error = status["last"]["error"].as_str().expect("an error");
    assert!(error.starts_with("services/api leads out of the repository, to "), "{error}");
    assert_eq!((stage.served(), status["live"]["commit"].as_str()), ("api".to_owned(), Some(&*first)));
    stage.end_daemon();
}
