//! Only commits signed by listed keys get through the worker: real keys, real signatures, and the ways around it.

use std::{fs, path::PathBuf, process::Command};

use bgd::{
    config::settings::{Verify, VerifyRange},
    release::git::{GitError, GitSource, GitWorker, Reaction, WantedRevision},
    rules::ids::CommitId,
};

use super::repo::{self, Bench, as_error};
use crate::stage::{
    self, git,
    keys::{Gpg, Key, keygen, with_signature},
};

/// A repository whose commits have to be signed by Ann, and Ann's key.
struct Signing {
    bench: Bench,
    ann: Key,
}

impl Signing {
    fn new() -> Self {
        let bench = Bench::new();
        let ann = Key::new(bench.root(), "ann");
        let signing = Self { bench, ann };
        signing.list(&format!("ann@example.com namespaces=\"git\" {}\n", signing.ann.public));
        signing
    }

    fn list(&self, text: &str) {
        fs::write(self.list_file(), text).unwrap();
    }

    fn list_file(&self) -> PathBuf {
        self.bench.root().join("allowed_signers")
    }

    fn source(&self, range: VerifyRange) -> GitSource {
        let verify = Verify { signers: Some(self.list_file()), keyring: None, range };
        GitSource { verify: Some(verify), ..self.bench.source() }
    }

    fn worker(&self) -> GitWorker {
        self.bench.worker_of(self.source(VerifyRange::Tip))
    }

    fn worker_of_all(&self) -> GitWorker {
        self.bench.worker_of(self.source(VerifyRange::All))
    }

    /// A signed commit on top of the branch, pushed; whatever was there before.
    fn push(&self, key: &Key, message: &str) -> CommitId {
        self.sign(key, &["commit", "-q", "--allow-empty", "-S", "-m", message])
    }

    fn sign(&self, key: &Key, words: &[&str]) -> CommitId {
        let settings = key.git_settings();
        let all: Vec<&str> = settings.iter().map(String::as_str).chain(words.iter().copied()).collect();
        self.bench.git(&all);
        self.bench.force_push()
    }

    /// The very bytes of a commit.
    fn raw(&self, commit: &CommitId) -> Vec<u8> {
        let mut command = git::command(&self.bench.work());
        let output = command.args(["cat-file", "commit", commit.as_str()]).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    /// Makes a commit object of these bytes the branch's tip.
    fn push_raw(&self, object: &[u8]) -> CommitId {
        let file = self.bench.root().join("object");
        fs::write(&file, object).unwrap();
        let args = ["hash-object", "-t", "commit", "-w", "--literally", file.to_str().unwrap()];
        let commit = self.bench.git(&args);
        self.bench.git(&["push", "-q", "-f", "origin", &format!("{commit}:refs/heads/main")]);
        commit.parse().unwrap()
    }
}

async fn refused(worker: &GitWorker, commit: &CommitId) -> String {
    let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
    assert_eq!(err.kind(), Reaction::Refused, "{err:?}");
    assert!(
        matches!(&err, GitError::Unverified { commit: refused, .. } if refused == commit.as_str()),
        "{err:?}"
    );
    as_error(&err)
}

#[tokio::test]
async fn a_commit_signed_by_a_listed_key_is_fetched_and_an_unsigned_one_is_refused() {
    let signing = Signing::new();
    let worker = signing.worker();
    let one = signing.push(&signing.ann, "one");
    let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
    let by = format!("ann@example.com with ED25519 key {}", signing.ann.fingerprint());
    assert_eq!((&fetched.commit, fetched.signer), (&one, Some(by)));
    let two = signing.bench.commit_and_push("two");
    let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
    assert_eq!(err.kind(), Reaction::Refused);
    assert_eq!(as_error(&err), format!("the commit {two} is not trusted: it is not signed"));
    let hint = err.hint().unwrap();
    assert!(
        hint.contains(signing.list_file().to_str().unwrap()) && hint.contains("commit --amend -S"),
        "{hint}"
    );
    // What was refused is nothing that its mended version has to follow.
    let mended = signing.sign(&signing.ann, &["commit", "-q", "--amend", "-S", "--no-edit"]);
    assert_ne!(mended, two);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, mended);
    assert!(worker.fetch(WantedRevision::Rev(two.to_string())).await.is_err(), "by its name neither");
    assert_eq!(worker.fetch(WantedRevision::Rev(one.to_string())).await.unwrap().commit, one);
}

#[tokio::test]
async fn a_commit_signed_by_a_stranger_is_refused_with_the_strangers_key() {
    let signing = Signing::new();
    let eve = Key::new(signing.bench.root(), "eve");
    let commit = signing.push(&eve, "mine");
    let worker = signing.worker();
    let text = refused(&worker, &commit).await;
    assert!(text.contains(&eve.fingerprint()), "{text}");
    assert!(text.contains(signing.list_file().to_str().unwrap()), "{text}");
    // The list is read for each fetch.
    signing.list(&format!("eve {}\n", eve.public));
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn a_signature_counts_for_the_very_bytes_that_were_signed() {
    let signing = Signing::new();
    signing.bench.write("a", "evil");
    signing.bench.commit("unsigned");
    let evil = signing.bench.git(&["rev-parse", "HEAD^{tree}"]);
    signing.bench.write("a", "good");
    signing.bench.git(&["add", "-A"]);
    let one = signing.push(&signing.ann, "one");
    let good = signing.bench.git(&["rev-parse", "HEAD^{tree}"]);
    let object = String::from_utf8(signing.raw(&one)).unwrap();
    let worker = signing.worker();
    for tampered in [
        object.replace(&good, &evil),
        object.replace("one\n", "two\n"),
        object.replace("Ann Author", "Eve Author"),
        object.replace("1700000000", "1700000001"),
        format!("{object}more"),
        format!("{object}\0more"),
    ] {
        let commit = signing.push_raw(tampered.as_bytes());
        assert_ne!(commit, one);
        let text = refused(&worker, &commit).await;
        assert!(text.contains("signature is bad"), "{text}");
    }
    // The signature again, where another reader of the object might look for it.
    let (head, message) = object.split_once("\n\n").unwrap();
    let signature = &head[head.find("gpgsig").unwrap()..];
    let moved = format!("{}\n{message}{signature}\n", head.replace(signature, ""));
    let commit = signing.push_raw(moved.as_bytes());
    assert!(refused(&worker, &commit).await.ends_with("it is not signed"));
    assert_eq!(signing.push_raw(object.as_bytes()), one);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, one);
}

#[tokio::test]
async fn a_signature_for_another_purpose_proves_nothing() {
    let signing = Signing::new();
    let worker = signing.worker();
    let one = signing.push(&signing.ann, "one");
    signing.list(&format!("ann@example.com namespaces=\"file\" {}\n", signing.ann.public));
    let text = refused(&worker, &one).await;
    assert!(text.contains("namespace"), "{text}");
    // Ann signed these bytes, as a file.
    signing.list(&format!("ann@example.com {}\n", signing.ann.public));
    let unsigned = signing.raw(&signing.bench.commit("two"));
    let file = signing.bench.root().join("payload");
    fs::write(&file, &unsigned).unwrap();
    let key = signing.ann.file.to_str().unwrap();
    keygen(&["-Y", "sign", "-q", "-n", "file", "-f", key, file.to_str().unwrap()]);
    let signature = fs::read_to_string(file.with_extension("sig")).unwrap();
    let commit = signing.push_raw(&with_signature(&unsigned, &signature));
    assert!(refused(&worker, &commit).await.contains("signature is bad"));
    fs::remove_file(file.with_extension("sig")).unwrap();
    keygen(&["-Y", "sign", "-q", "-n", "git", "-f", key, file.to_str().unwrap()]);
    let signature = fs::read_to_string(file.with_extension("sig")).unwrap();
    let commit = signing.push_raw(&with_signature(&unsigned, &signature));
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn a_key_counts_while_it_is_valid_at_the_time_of_the_commit() {
    // The bench's commits are of November 2023.
    let signing = Signing::new();
    let worker = signing.worker();
    let commit = signing.push(&signing.ann, "one");
    for (options, counts) in [
        ("valid-before=\"20230101\"", false),
        ("valid-after=\"20240101\"", false),
        ("valid-before=\"20240101\"", true),
        ("valid-after=\"20230101\",valid-before=\"20240101\"", true),
    ] {
        signing.list(&format!("ann@example.com {options} {}\n", signing.ann.public));
        match counts {
            true => {
                assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit, "{options}")
            }
            false => {
                let text = refused(&worker, &commit).await;
                assert!(text.contains("allowed_signers:1: key "), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_counts_by_its_authority_and_its_principal() {
    let signing = Signing::new();
    let worker = signing.worker();
    let root = signing.bench.root();
    let authority = Key::new(root, "authority");
    let (ca, public) = (authority.file.to_str().unwrap(), signing.ann.file.with_extension("pub"));
    keygen(&["-q", "-s", ca, "-I", "ann", "-n", "ann@example.com", public.to_str().unwrap()]);
    let certified = Key { file: root.join("ann-cert.pub"), public: String::new() };
    let commit = signing.push(&certified, "one");
    signing.list(&format!("*@example.org cert-authority {}\n", authority.public));
    refused(&worker, &commit).await;
    signing.list(&format!("*@example.com {}\n", authority.public));
    refused(&worker, &commit).await;
    signing.list(&format!("*@example.com cert-authority {}\n", authority.public));
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn one_line_may_list_several_principals_and_comments_stand_between() {
    let signing = Signing::new();
    let eve = Key::new(signing.bench.root(), "eve");
    let ann = &signing.ann.public;
    signing.list(&format!(
        "# us\n\neve@x {}\nbob@x,ann@example.com namespaces=\"git,file\" {ann}\n",
        eve.public
    ));
    let commit = signing.push(&signing.ann, "one");
    assert_eq!(signing.worker().fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn range_all_refuses_an_unsigned_commit_in_the_middle_and_range_tip_lets_the_tip_vouch() {
    let signing = Signing::new();
    let (tip, all) = (signing.worker(), signing.worker_of_all());
    // Of the first deploy only the tip is looked at.
    signing.bench.commit_and_push("unsigned before everything");
    let first = signing.push(&signing.ann, "first");
    assert_eq!(all.fetch(WantedRevision::Branch).await.unwrap().commit, first);
    drop(all);
    let middle = signing.bench.commit_and_push("unsigned");
    let last = signing.push(&signing.ann, "last");
    let all = signing.worker_of_all();
    assert!(refused(&all, &middle).await.ends_with("it is not signed"));
    let by_name = all.fetch(WantedRevision::Rev(last.to_string())).await.unwrap_err();
    assert!(matches!(by_name, GitError::Unverified { .. }), "{by_name:?}");
    drop(all);
    assert_eq!(tip.fetch(WantedRevision::Branch).await.unwrap().commit, last);
}

#[tokio::test]
async fn range_all_looks_at_merged_branches_too() {
    let signing = Signing::new();
    let worker = signing.worker_of_all();
    let first = signing.push(&signing.ann, "first");
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, first);
    for (branch, signed) in [("good", true), ("bad", false)] {
        signing.bench.git(&["checkout", "-q", "-b", branch, first.as_str()]);
        let settings = signing.ann.git_settings();
        let sign = if signed { "-S" } else { "--no-gpg-sign" };
        let words = ["commit", "-q", "--allow-empty", sign, "-m", branch];
        let all: Vec<&str> = settings.iter().map(String::as_str).chain(words).collect();
        signing.bench.git(&all);
        let side: CommitId = signing.bench.git(&["rev-parse", "HEAD"]).parse().unwrap();
        signing.bench.git(&["checkout", "-q", "main"]);
        let merged = signing.sign(&signing.ann, &["merge", "-q", "--no-ff", "-S", "-m", "merge", branch]);
        match signed {
            true => assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, merged),
            false => assert!(refused(&worker, &side).await.ends_with("it is not signed")),
        }
    }
}

#[tokio::test]
async fn an_older_signed_commit_does_not_come_back_by_a_forced_push_unless_the_operator_says_so() {
    let signing = Signing::new();
    let worker = signing.worker();
    let one = signing.push(&signing.ann, "one");
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let two = signing.push(&signing.ann, "two");
    worker.fetch(WantedRevision::Branch).await.unwrap();
    signing.bench.git(&["reset", "-q", "--hard", one.as_str()]);
    signing.bench.force_push();
    for want in [WantedRevision::Branch, WantedRevision::Seen(one.clone())] {
        let err = worker.fetch(want).await.unwrap_err();
        assert!(matches!(&err, GitError::Rewound { rule, .. } if rule == "verify"), "{err:?}");
        assert!(err.hint().unwrap().contains(&format!("bgd deploy --rev {}", one.short())), "{err:?}");
    }
    // Seen at the tip for a moment, and gone from there when it is fetched.
    signing.bench.git(&["reset", "-q", "--hard", two.as_str()]);
    signing.bench.force_push();
    let err = worker.fetch(WantedRevision::Seen(one.clone())).await.unwrap_err();
    assert!(matches!(err, GitError::Rewound { .. }), "{err:?}");
    let aside = signing.push(&signing.ann, "aside");
    signing.bench.git(&["reset", "-q", "--hard", two.as_str()]);
    signing.bench.force_push();
    let err = worker.fetch(WantedRevision::Seen(aside)).await.unwrap_err();
    assert!(matches!(err, GitError::Rewound { .. }), "{err:?}");
    // By name, and then the branch is followed from there.
    signing.bench.git(&["reset", "-q", "--hard", one.as_str()]);
    signing.bench.force_push();
    assert_eq!(worker.fetch(WantedRevision::Rev(one.to_string())).await.unwrap().commit, one);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, one);
    let other = signing.push(&signing.ann, "other");
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, other);
}

#[tokio::test]
async fn a_commit_that_was_the_tip_when_it_was_seen_is_fetched_though_the_branch_has_gone_on() {
    for remote in [super::Remote::Path, super::Remote::Daemon] {
        let signing = Signing::new();
        let Some(server) = remote.serve(&signing.bench) else { continue };
        let verify = signing.source(VerifyRange::All).verify;
        let worker = signing.bench.worker_of(GitSource { verify, ..signing.bench.source_at(&server) });
        signing.push(&signing.ann, "one");
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let two = signing.push(&signing.ann, "two");
        let three = signing.push(&signing.ann, "three");
        assert_eq!(worker.fetch(WantedRevision::Seen(two.clone())).await.unwrap().commit, two);
        assert_eq!(worker.fetch(WantedRevision::Seen(three.clone())).await.unwrap().commit, three);
        let err = worker.fetch(WantedRevision::Seen(two)).await.unwrap_err();
        assert!(matches!(err, GitError::Rewound { .. }), "{err:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_hangs_ends_with_the_request_that_is_given_up() {
    let signing = Signing::new();
    signing.push(&signing.ann, "one");
    let mark = signing.bench.root().join("pid");
    let script = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", mark.display());
    let exe = signing.bench.exe_with_program("ssh-keygen", &script);
    let worker =
        GitWorker::new(exe, signing.source(VerifyRange::Tip), bgd::release::git::GitLimits::default());
    let fetch = tokio::spawn(async move { worker.fetch(WantedRevision::Branch).await });
    stage::until("the verifier runs", || mark.exists());
    let pid: u32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    fetch.abort();
    stage::until("the verifier is gone", || stage::is_gone(pid));
}

#[tokio::test]
async fn without_a_list_nothing_is_deployed_and_the_error_names_it() {
    let signing = Signing::new();
    let worker = signing.worker();
    let one = signing.push(&signing.ann, "one");
    let list = fs::read_to_string(signing.list_file()).unwrap();
    fs::remove_file(signing.list_file()).unwrap();
    let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
    assert!(matches!(err, GitError::Signers { .. }), "{err:?}");
    assert_eq!(err.kind(), Reaction::Permanent);
    assert!(as_error(&err).contains(signing.list_file().to_str().unwrap()));
    signing.list("# nobody yet\n");
    let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
    assert!(as_error(&err).ends_with("no key is in it"), "{err:?}");
    signing.list("this is no list of keys\n");
    assert!(refused(&worker, &one).await.contains("allowed_signers:1: "), "its flaw is told");
    signing.list(&list);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, one);
}

#[tokio::test]
async fn a_list_that_only_bgd_may_read_serves_an_app_of_another_user() {
    use std::os::unix::fs::PermissionsExt;
    let signing = Signing::new();
    let one = signing.push(&signing.ann, "one");
    let is_root = nix::unistd::geteuid().is_root();
    if is_root && nix::unistd::User::from_name("nobody").unwrap().is_none() {
        eprintln!("skipped: no user nobody");
        return;
    }
    let mode = |mode| fs::set_permissions(signing.list_file(), fs::Permissions::from_mode(mode)).unwrap();
    if is_root {
        mode(0o600);
        repo::open_to_all(signing.bench.root());
        let source = GitSource { user: Some("nobody".into()), ..signing.source(VerifyRange::Tip) };
        assert_eq!(signing.bench.worker_of(source).fetch(WantedRevision::Branch).await.unwrap().commit, one);
    } else {
        mode(0o000);
        let err = signing.worker().fetch(WantedRevision::Branch).await.unwrap_err();
        assert!(matches!(err, GitError::Signers { .. }), "{err:?}");
        mode(0o600);
        assert_eq!(signing.worker().fetch(WantedRevision::Branch).await.unwrap().commit, one);
    }
}

#[tokio::test]
async fn a_huge_broken_or_unknown_signature_is_refused() {
    let signing = Signing::new();
    let worker = signing.worker();
    let unsigned = signing.raw(&signing.bench.commit("x"));
    let armored = |kind: &str, body: &str| {
        with_signature(&unsigned, &format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"))
    };
    for (object, why) in [
        (armored("SSH SIGNATURE", &"A".repeat(70).repeat(2000)), "longer than"),
        (armored("SSH SIGNATURE", "AAAA"), "signature is bad"),
        (armored("SSH SIGNATURE", ""), "signature is bad"),
        (armored("SIGNED MESSAGE", "AAAA"), "X.509"),
        (armored("PGP SIGNATURE", "AAAA"), "verify.keyring is not set"),
        (armored("PARTY", "AAAA"), "neither of SSH nor of GPG"),
    ] {
        let commit = signing.push_raw(&object);
        let text = refused(&worker, &commit).await;
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn without_ssh_keygen_nothing_is_deployed_and_the_error_names_it() {
    let signing = Signing::new();
    signing.push(&signing.ann, "one");
    let exe = signing.bench.exe_without_programs();
    let worker =
        GitWorker::new(exe, signing.source(VerifyRange::Tip), bgd::release::git::GitLimits::default());
    let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
    assert!(matches!(&err, GitError::Verifier { program, .. } if program == "ssh-keygen"), "{err:?}");
    assert_eq!(err.kind(), Reaction::Permanent);
    assert!(err.hint().unwrap().contains("openssh-client"));
}

#[tokio::test]
async fn gpg_signatures_count_by_the_keys_of_the_keyring_alone() {
    let Some(gpg) = Gpg::new() else { return };
    let bench = Bench::new();
    let keyring = bench.root().join("keyring.gpg");
    let verify = Verify { signers: None, keyring: Some(keyring.clone()), range: VerifyRange::Tip };
    let source = GitSource { verify: Some(verify), ..bench.source() };
    let worker = bench.worker_of(source);
    let ann = Key::new(bench.root(), "ann");
    let signing = Signing { bench, ann };
    let (key, stranger) = (gpg.key("Ann <ann@example.com>", &[]), gpg.key("Eve <eve@example.com>", &[]));
    gpg.export(&key, &keyring);

    let unsigned = signing.raw(&signing.bench.commit("x"));
    let eves = with_signature(&unsigned, &gpg.sign(&stranger, &[], &unsigned));
    let commit = signing.push_raw(&eves);
    let text = refused(&worker, &commit).await;
    assert!(text.contains(&stranger[24..]) && text.contains("keyring.gpg"), "{text}");

    let signature = gpg.sign(&key, &[], &unsigned);
    let tampered = String::from_utf8(with_signature(&unsigned, &signature)).unwrap().replace("\nx", "\ny");
    let commit = signing.push_raw(tampered.as_bytes());
    let text = refused(&worker, &commit).await;
    assert!(text.contains("does not fit the commit") && text.contains("Ann <ann@example.com>"), "{text}");

    let commit = signing.push_raw(&with_signature(
        &unsigned,
        "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----",
    ));
    assert!(refused(&worker, &commit).await.contains("signature is bad"));

    let commit = signing.push_raw(&with_signature(&unsigned, &signature));
    let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
    assert_eq!(fetched.commit, commit);
    assert!(fetched.signer.unwrap().contains("Ann <ann@example.com>"));
    signing.bench.git(&["reset", "-q", "--hard", commit.as_str()]);
    let ssh = signing.push(&signing.ann, "by ssh");
    assert!(refused(&worker, &ssh).await.contains("verify.signers is not set"));
}

#[tokio::test]
async fn a_gpg_key_that_has_expired_does_not_count() {
    let Some(gpg) = Gpg::new() else { return };
    let bench = Bench::new();
    let keyring = bench.root().join("keyring.gpg");
    let then = ["--faked-system-time", "20200101T000000!"];
    let key = gpg.key("Ann <ann@example.com>", &then);
    gpg.export(&key, &keyring);
    let ann = Key::new(bench.root(), "ann");
    let signing = Signing { bench, ann };
    let verify = Verify { signers: None, keyring: Some(keyring), range: VerifyRange::Tip };
    let worker = signing.bench.worker_of(GitSource { verify: Some(verify), ..signing.bench.source() });
    let unsigned = signing.raw(&signing.bench.commit("x"));
    let commit = signing.push_raw(&with_signature(&unsigned, &gpg.sign(&key, &then, &unsigned)));
    let text = refused(&worker, &commit).await;
    assert!(text.contains("expired key"), "{text}");
}

#[test]
fn the_signing_tools_of_these_tests_are_there() {
    // `.ci/apt test` installs it; without it the tests above would prove nothing.
    assert!(Command::new("ssh-keygen").arg("-?").output().is_ok(), "install openssh-client");
}
