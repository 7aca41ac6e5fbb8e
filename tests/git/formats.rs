//! Repositories of this machine in formats that libgit2 does not read.

use std::fs;

use bgd::release::git::{Format, GitError, LocalWatch, WantedRevision, WatchMode, local_head};

use super::repo::{Bench, as_error};
use crate::stage::{git, servers::Http};

/// Whether this git can make such a repository, now at the place of the bare one.
fn made_anew(bench: &Bench, flag: &str) -> bool {
    fs::remove_dir_all(bench.bare()).unwrap();
    let mut command = git::command(bench.root());
    let made = command.args(["init", "-q", "--bare", "-b", "main", flag, "remote.git"]).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: git init {flag}: {}", String::from_utf8_lossy(&made.stderr));
    }
    made.status.success()
}

#[tokio::test]
async fn a_repository_with_reftable_is_deployed_from_like_any_other() {
    let bench = Bench::new();
    if !made_anew(&bench, "--ref-format=reftable") {
        return;
    }
    let first = bench.commit_and_push("first");
    let worker = bench.worker();
    assert!(!matches!(local_head(&bench.bare(), "main"), Ok(Some(_))), "only git reads it");
    assert_eq!(worker.head().await.unwrap().commit, first);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, first);
    let watch = LocalWatch::start(bench.bare());
    assert_eq!(watch.mode(), WatchMode::Watching);
    let second = bench.commit_and_push("second");
    tokio::time::timeout(std::time::Duration::from_secs(10), watch.changed()).await.unwrap();
    assert_eq!(worker.fetch(WantedRevision::Seen(second.clone())).await.unwrap().commit, second);
    assert_eq!(worker.fetch(WantedRevision::Rev(first.as_str()[..9].into())).await.unwrap().commit, first);
    let out = bench.dir("out");
    worker.checkout(&second, &out).await.unwrap();
    assert!(out.join("a").is_file());
}

#[tokio::test]
async fn an_extension_that_came_after_bgd_is_left_to_git() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let config = bench.bare().join("config");
    let before = fs::read_to_string(&config).unwrap();
    let after = before.replace("repositoryformatversion = 0", "repositoryformatversion = 1");
    fs::write(&config, after + "[extensions]\n\tfromTheFuture = true\n").unwrap();
    let err = bench.worker().fetch(WantedRevision::Branch).await.unwrap_err();
    assert!(as_error(&err).contains("fromthefuture"), "git does not know it either: {}", as_error(&err));
    fs::write(&config, before).unwrap();
    assert_eq!(bench.worker().fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn a_sha256_repository_and_a_partial_clone_are_called_by_their_names_and_a_shallow_one_will_do() {
    for (name, want) in
        [("sha256", Some(Format::Sha256)), ("partial", Some(Format::Partial)), ("shallow", None)]
    {
        let bench = Bench::new();
        bench.commit_and_push("one");
        bench.commit_and_push("two");
        let url = format!("file://{}", bench.bare().display());
        let mut source = bench.source();
        let other = bench.dir(name);
        source.remote = other.display().to_string();
        let mut command = git::command(bench.root());
        bench.git_bare(&["config", "uploadpack.allowFilter", "true"]);
        let args: &[&str] = match name {
            "sha256" => &["init", "-q", "--bare", "-b", "main", "--object-format=sha256", "sha256"],
            "partial" => &["clone", "-q", "--bare", "--filter=blob:none", &url, "partial"],
            _ => &["clone", "-q", "--bare", "--depth=1", &url, "shallow"],
        };
        command.args(args);
        assert!(command.status().unwrap().success());
        let fetched = bench.worker_of(source).fetch(WantedRevision::Branch).await;
        let Some(want) = want else {
            assert_eq!(fetched.unwrap().subject, "two");
            continue;
        };
        let err = fetched.unwrap_err();
        assert!(matches!(&err, GitError::Format { format, .. } if *format == want), "{}", as_error(&err));
        assert!(!as_error(&err).contains("reached"), "{}", as_error(&err));
        assert!(err.hint().unwrap().contains("bgd doctor"));
    }
}

#[tokio::test]
async fn a_sha256_repository_behind_a_server_is_called_by_its_name_too() {
    let bench = Bench::new();
    if !made_anew(&bench, "--object-format=sha256") {
        return;
    }
    let mut other = git::command(bench.root());
    assert!(other.args(["clone", "-q", "remote.git", "other"]).output().unwrap().status.success());
    let other = bench.dir("other");
    git::run(&other, &["commit", "-q", "--allow-empty", "-m", "x"]);
    git::run(&other, &["push", "-q", "origin", "HEAD:main"]);
    let server = Http::start(bench.root(), None);
    let mut source = bench.source();
    source.remote = server.url("");
    let err = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(&err, GitError::Format { format: Format::Sha256, .. }), "{}", as_error(&err));
}
