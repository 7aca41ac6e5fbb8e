//! Unsigned, stolen and replayed commits at the door, while the release that was signed serves on.

use std::fs;

use crate::{
    shop::{Kind, Plan, Stage},
    stage::keys::Key,
};

/// A stage that deploys only what Ann signed, with Ann's first release live.
struct Signing {
    stage: Stage,
    ann: Key,
}

impl Signing {
    fn set() -> Option<Self> {
        let stage = Stage::set(Plan { standby: "5m", ..Plan::of(Kind::Builtin) })?;
        let ann = Key::new(&stage.path(""), "ann");
        fs::write(stage.path("allowed_signers"), format!("ann@example.com {}\n", ann.public)).unwrap();
        stage.configure("verify.signers = \"allowed_signers\"\n");
        stage.done(&["reload"]);
        let signing = Self { stage, ann };
        signing.sign_with(&signing.ann);
        signing.stage.push_live("one");
        Some(signing)
    }

    fn sign_with(&self, key: &Key) {
        self.stage.git(&["config", "gpg.format", "ssh"]);
        self.stage.git(&["config", "user.signingkey", key.file.to_str().unwrap()]);
        self.stage.git(&["config", "commit.gpgsign", "true"]);
    }

    /// Waits until the deploy of this commit is refused; what `status` says of it.
    fn refused(&self, commit: &str) -> String {
        let status = self.stage.until("it is refused", |status| status["last"]["commit"] == *commit);
        assert_eq!(status["last"]["outcome"], "failed", "{status:#}");
        assert_eq!(status["last"]["phase"], "fetching", "{status:#}");
        assert_eq!(status["deploy"], serde_json::Value::Null);
        status["last"]["error"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_unsigned_push_is_refused_once_and_told_while_the_signed_release_serves_on() {
    let Some(signing) = Signing::set() else { return };
    let stage = &signing.stage;
    let load = stage.load();
    load.sees("one");
    stage.git(&["config", "commit.gpgsign", "false"]);
    let commit = stage.push("two", "");
    let error = signing.refused(&commit);
    assert_eq!(error, format!("the commit {commit} is not trusted: it is not signed"));
    let id = stage.value("last.id");
    let shown = stage.done(&["show", &id]);
    assert!(shown.contains("is not signed") && shown.contains("allowed_signers"), "{shown}");
    assert!(stage.done(&["why"]).contains("is not signed"));
    assert!(stage.done(&["history"]).contains("failed"));
    // A verdict is remembered, over a restart of the daemon too; only who asks for it has it judged again.
    let mut signing = signing;
    signing.stage.kill_daemon();
    signing.stage.start_daemon();
    let stage = &signing.stage;
    assert!(stage.done(&["why"]).contains("is not signed"));
    assert_eq!(stage.value("last.id"), id);
    assert_eq!(stage.bgd(&["deploy"]).code, 1);
    // The same change, signed, takes its place by a forced push.
    stage.git(&["commit", "-q", "--amend", "-S", "--no-edit"]);
    stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
    stage.wait_live(&stage.git(&["rev-parse", "HEAD"]));
    load.sees("two");
    load.end_without_loss();
    signing.stage.assert_no_leftover();
}

#[test]
fn a_stranger_is_named_and_let_in_by_a_line_in_the_list_and_a_deploy() {
    let Some(signing) = Signing::set() else { return };
    let stage = &signing.stage;
    let eve = Key::new(&stage.path(""), "eve");
    signing.sign_with(&eve);
    let commit = stage.push("two", "");
    let error = signing.refused(&commit);
    assert!(error.contains(&eve.fingerprint()) && error.contains("allowed_signers"), "{error}");
    assert_eq!(stage.served(), "one");
    let list = stage.path("allowed_signers");
    fs::write(&list, fs::read_to_string(&list).unwrap() + &format!("eve@example.com {}\n", eve.public))
        .unwrap();
    stage.done(&["deploy"]);
    stage.wait_live(&commit);
    assert_eq!(stage.served(), "two");
}

#[test]
fn a5_an_older_signed_release_comes_back_by_flip_or_by_name_and_not_by_a_forced_push() {
    let Some(signing) = Signing::set() else { return };
    let stage = &signing.stage;
    let one = stage.git(&["rev-parse", "HEAD"]);
    let two = stage.push_live("two");
    // Who deletes the mirror does not make bgd forget where the branch was.
    fs::remove_dir_all(stage.path("state/shop/mirror.git")).unwrap();
    stage.git(&["reset", "-q", "--hard", &one]);
    stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
    let error = signing.refused(&one);
    assert!(error.contains("rewound") && error.contains("verify"), "{error}");
    assert_eq!(stage.value("live.commit"), two);
    assert_eq!(stage.served(), "two");
    // The way back asks nobody, not even when the list is gone.
    let list = fs::read_to_string(stage.path("allowed_signers")).unwrap();
    fs::remove_file(stage.path("allowed_signers")).unwrap();
    stage.done(&["flip"]);
    assert_eq!(stage.served(), "one");
    stage.done(&["flip"]);
    assert_eq!(stage.served(), "two");
    let ran = stage.bgd(&["deploy", "--rev", &one]);
    assert_eq!(ran.code, 1, "no list, no deploy: {ran:?}");
    assert!(stage.value("last.error").contains("allowed_signers"));
    let ran = stage.bgd(&["doctor"]);
    assert!(ran.code == 1 && ran.stdout.contains("the keys to trust can't be read"), "{ran:?}");
    fs::write(stage.path("allowed_signers"), list).unwrap();
    assert!(stage.bgd(&["doctor"]).stdout.contains("signatures are checked against"));
    stage.done(&["deploy", "--rev", &one]);
    assert_eq!(stage.served(), "one");
    // That was the branch's tip: it is followed from there.
    stage.bgd(&["resume"]);
    stage.push_live("three");
    assert_eq!(stage.served(), "three");
}
