//! The git worker against real repositories made by the `git` command line, and against remotes that stall.

mod access;
mod attributes;
mod certificates;
mod formats;
mod repo;
mod signed;

use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use bgd::{
    config::settings::CheckoutLimit,
    release::git::{
        GitError, GitLimits, GitSource, GitWorker, LocalWatch, Reaction, WantedRevision, WatchMode,
        local_head,
    },
    rules::ids::CommitId,
};
use repo::{Bench, as_error};

use crate::stage::{
    self, git,
    servers::{Drip, Http, Server, Ssh},
};

#[tokio::test]
async fn a12_a_pushed_commit_is_seen_fetched_and_checked_out_by_its_id() {
    let bench = Bench::new();
    bench.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(bench.work().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    bench.write("deep/er/file", "one");
    std::os::unix::fs::symlink("deep/er/file", bench.work().join("link")).unwrap();
    let first = bench.commit_and_push("first\n\nbody");
    let worker = bench.worker();
    assert_eq!(worker.head().await.unwrap().commit, first);
    let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
    assert_eq!((&fetched.commit, fetched.subject.as_str(), fetched.rewound), (&first, "first", false));
    assert_eq!((fetched.author.as_str(), fetched.committed_at), ("Ann Author", 1_700_000_000));

    bench.write("deep/er/file", "two");
    let second = bench.commit_and_push("second");
    let out = bench.dir("release-1");
    let written = worker.checkout(&first, &out).await.unwrap();
    assert_eq!((written.files, written.bytes), (3, 13));
    assert_eq!(fs::read_to_string(out.join("deep/er/file")).unwrap(), "one", "the commit, not the tip");
    assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("deep/er/file"));
    assert_eq!(fs::metadata(out.join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(out.join("deep/er/file")).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(!out.join(".git").exists());

    assert_eq!(worker.head().await.unwrap().commit, second);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, second);
    assert_eq!(worker.describe(&second).await.unwrap().subject, "second");
    let out = bench.dir("release-2");
    worker.checkout(&second, &out).await.unwrap();
    assert_eq!(fs::read_to_string(out.join("deep/er/file")).unwrap(), "two");
}

#[tokio::test]
async fn a_checkout_never_writes_into_a_directory_that_is_there() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let err = worker.checkout(&commit, bench.root()).await.unwrap_err();
    assert!(matches!(err, GitError::Checkout { .. }), "{err:?}");
}

#[tokio::test]
async fn a3_an_empty_remote_and_a_missing_branch_are_errors_of_their_own_and_heal() {
    let bench = Bench::new();
    let worker = bench.worker();
    let empty = worker.head().await.unwrap_err();
    assert_eq!(
        (empty.kind(), worker.fetch(WantedRevision::Branch).await.unwrap_err().kind()),
        (Reaction::Empty, Reaction::Empty)
    );
    assert!(empty.to_string().contains("nothing was pushed yet"), "{empty}");
    let first = bench.commit_and_push("x");
    assert_eq!(worker.head().await.unwrap().commit, first);

    bench.git_bare(&["branch", "-m", "main", "trunk"]);
    let missing = worker.head().await.unwrap_err();
    assert_eq!(missing.kind(), Reaction::BranchMissing);
    assert!(missing.to_string().contains("no branch \"main\""), "{missing}");
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap_err().kind(), Reaction::BranchMissing);
    bench.git_bare(&["branch", "-m", "trunk", "main"]);
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, first);
}

#[tokio::test]
async fn a_path_without_a_repository_is_said_to_have_none() {
    let bench = Bench::new();
    let mut source = bench.source();
    source.remote = bench.dir("nowhere").display().to_string();
    let err = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(err, GitError::NoRepository { .. }), "{err:?}");
}

#[tokio::test]
async fn a4_a_branch_replaced_by_one_below_its_name_is_fetched() {
    for remote in [Remote::Path, Remote::Daemon] {
        let bench = Bench::new();
        let Some(server) = remote.serve(&bench) else { continue };
        bench.commit("one");
        bench.git(&["push", "-q", "origin", "HEAD:rel"]);
        let mut source = bench.source_at(&server);
        source.branch = "rel".into();
        bench.worker_of(source.clone()).fetch(WantedRevision::Branch).await.unwrap();
        bench.git_bare(&["branch", "-D", "rel"]);
        let two = bench.commit("two");
        bench.git(&["push", "-q", "origin", "HEAD:rel/x"]);
        let gone = bench.worker_of(source.clone()).fetch(WantedRevision::Branch).await.unwrap_err();
        assert_eq!(gone.kind(), Reaction::BranchMissing);
        source.branch = "rel/x".into();
        let worker = bench.worker_of(source);
        assert_eq!(worker.head().await.unwrap().commit, two);
        let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
        assert_eq!((fetched.commit, fetched.rewound), (two, false), "another branch is not compared with");
    }
}

#[tokio::test]
async fn a5_force_pushes_and_unrelated_histories_give_the_tip_and_are_reported() {
    for remote in [Remote::Path, Remote::Daemon] {
        let bench = Bench::new();
        let Some(server) = remote.serve(&bench) else { continue };
        bench.commit_and_push("one");
        bench.commit_and_push("two");
        let worker = bench.worker_of(bench.source_at(&server));
        worker.fetch(WantedRevision::Branch).await.unwrap();

        bench.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "two again"]);
        let amended = bench.force_push();
        let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
        assert_eq!((fetched.commit, fetched.rewound), (amended, true));

        bench.git(&["checkout", "-q", "--orphan", "fresh"]);
        bench.write("only", "here");
        bench.commit("unrelated");
        let unrelated = bench.force_push();
        let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
        assert_eq!((&fetched.commit, fetched.rewound), (&unrelated, true));
        let again = worker.fetch(WantedRevision::Branch).await.unwrap();
        assert!(!again.rewound, "reported once");
        worker.checkout(&unrelated, &bench.dir("out")).await.unwrap();
    }
}

#[tokio::test]
async fn a5_fast_forward_only_refuses_a_rewound_branch_until_it_is_put_right() {
    let bench = Bench::new();
    let one = bench.commit_and_push("one");
    let mut source = bench.source();
    source.fast_forward_only = true;
    let worker = bench.worker_of(source);
    worker.fetch(WantedRevision::Branch).await.unwrap();
    bench.git(&["commit", "-q", "--amend", "-m", "other"]);
    let other = bench.force_push();
    for _ in 0..2 {
        let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
        assert_eq!(err.kind(), Reaction::Refused);
        assert!(err.to_string().contains(one.as_str()) && err.to_string().contains(other.as_str()), "{err}");
    }
    assert_eq!(
        worker.fetch(WantedRevision::Rev(other.to_string())).await.unwrap().commit,
        other,
        "asked for by name"
    );
    bench.git(&["reset", "-q", "--hard", one.as_str()]);
    let two = bench.commit("two");
    bench.force_push();
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, two);
}

#[tokio::test]
async fn a5_the_tip_that_the_record_accepted_counts_where_the_mirror_is_new_or_remembers_another() {
    for remote in [Remote::Path, Remote::Daemon] {
        let bench = Bench::new();
        let Some(server) = remote.serve(&bench) else { continue };
        let one = bench.commit_and_push("one");
        let source = GitSource { fast_forward_only: true, ..bench.source_at(&server) };
        let worker = bench.worker_of(source);
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let two = bench.commit_and_push("two");
        // Accepted while the rule was off: by its name, which the mirror does not remember.
        worker.fetch(WantedRevision::Rev(two.to_string())).await.unwrap();
        bench.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "two again"]);
        let forced = bench.force_push();
        // Nothing holds it any more but the record.
        bench.git_bare(&["reflog", "expire", "--expire=now", "--all"]);
        bench.git_bare(&["gc", "-q", "--prune=now"]);
        for mirror in ["remembers the one before", "is new"] {
            for want in [WantedRevision::Seen(forced.clone()), WantedRevision::Branch] {
                let err = worker.fetch_after(Some(two.clone()), want).await.unwrap_err();
                assert!(
                    matches!(&err, GitError::Rewound { from, .. } if from == two.as_str()),
                    "{mirror}: {err:?}"
                );
                assert!(err.hint().unwrap().contains("bgd deploy --rev"), "{err:?}");
            }
            fs::remove_dir_all(bench.mirror()).unwrap();
        }
        // Without the record a new mirror takes what it finds; with it, what goes on from there.
        let found = worker.fetch_after(Some(one), WantedRevision::Branch).await.unwrap();
        assert!(found.accepted && !found.rewound && found.commit == forced, "{found:?}");
    }
}

#[tokio::test]
async fn a_revision_is_found_by_full_and_short_id_tag_and_branch() {
    for remote in [Remote::Path, Remote::Daemon] {
        let bench = Bench::new();
        let Some(server) = remote.serve(&bench) else { continue };
        let one = bench.commit_and_push("one");
        let two = bench.commit_and_push("two");
        bench.git(&["checkout", "-q", "-b", "side"]);
        let side = bench.commit("side");
        bench.git(&["tag", "-a", "v1", "-m", "tagged", one.as_str()]);
        bench.git(&["push", "-q", "origin", "side", "v1"]);
        let worker = bench.worker_of(bench.source_at(&server));
        for (rev, want) in [
            ("v1", &one),
            ("side", &side),
            (one.as_str(), &one),
            (&two.as_str()[..9], &two),
            (side.short(), &side),
        ] {
            assert_eq!(
                &worker.fetch(WantedRevision::Rev(rev.to_owned())).await.unwrap().commit,
                want,
                "{rev}"
            );
        }
        for rev in ["nope", "0123456789012345678901234567890123456789", "0000000", "--all", ""] {
            let err = worker.fetch(WantedRevision::Rev(rev.to_owned())).await.unwrap_err();
            assert!(matches!(err, GitError::RevMissing { .. }), "{rev}: {err:?}");
        }
    }
}

#[tokio::test]
async fn b2_locks_left_by_a_killed_git_do_not_stop_the_next_fetch() {
    let bench = Bench::new();
    bench.commit_and_push("one");
    bench.worker().fetch(WantedRevision::Branch).await.unwrap();
    for name in ["refs/bgd/head.lock", "packed-refs.lock", "HEAD.lock", "config.lock"] {
        fs::write(bench.mirror().join(name), "").unwrap();
    }
    let two = bench.commit_and_push("two");
    assert_eq!(bench.worker().fetch(WantedRevision::Branch).await.unwrap().commit, two);
}

#[tokio::test]
async fn b3_a_damaged_mirror_is_replaced_whenever_it_is_noticed() {
    for remote in [Remote::Path, Remote::Daemon] {
        for damage in [repo::truncate_packs as fn(&Path), repo::flip_bytes, repo::garble_head_ref] {
            let bench = Bench::new();
            let Some(server) = remote.serve(&bench) else { continue };
            bench.write("data", &"0123456789".repeat(5000));
            let one = bench.commit_and_push("one");
            bench.git_bare(&["gc", "-q"]);
            let source = bench.source_at(&server);
            bench.worker_of(source.clone()).fetch(WantedRevision::Branch).await.unwrap();
            damage(&bench.mirror());
            let worker = bench.worker_of(source.clone());
            worker.checkout(&one, &bench.dir("out-1")).await.unwrap();
            drop(worker);
            damage(&bench.mirror());
            let two = bench.commit_and_push("two");
            let worker = bench.worker_of(source);
            let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
            assert_eq!((&fetched.commit, fetched.rewound), (&two, false));
            worker.checkout(&two, &bench.dir("out-2")).await.unwrap();
            assert_eq!(fs::read(bench.dir("out-2").join("data")).unwrap().len(), 50_000);
        }
    }
}

#[tokio::test]
async fn b6_submodules_are_checked_out_at_the_recorded_commit() {
    let bench = Bench::new();
    let lib = bench.sibling("lib.git", "lib.txt", "old");
    bench.git(&["submodule", "--quiet", "add", "../lib.git", "vendor/lib"]);
    let commit = bench.commit_and_push("with a submodule");
    bench.advance(&lib, "lib.txt", "new");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let out = bench.dir("out");
    worker.checkout(&commit, &out).await.unwrap();
    assert_eq!(fs::read_to_string(out.join("vendor/lib/lib.txt")).unwrap(), "old");
    assert!(!out.join("vendor/lib/.git").exists());
}

#[tokio::test]
async fn b6_a_submodule_that_cannot_be_had_is_refused_with_the_reason() {
    let bench = Bench::new();
    let lib = bench.sibling("lib.git", "lib.txt", "old");
    bench.git(&["submodule", "--quiet", "add", "../lib.git", "lib"]);
    let commit = bench.commit_and_push("with a submodule");
    fs::remove_dir_all(lib).unwrap();
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let err = worker.checkout(&commit, &bench.dir("out")).await.unwrap_err();
    assert!(matches!(&err, GitError::Submodule { path, .. } if path == "lib"), "{err:?}");
    assert!(
        as_error(&err).contains("no git repository") || as_error(&err).contains("no repository"),
        "{err:?}"
    );
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 7\n";

#[tokio::test]
async fn b7_an_lfs_pointer_is_content_only_where_nothing_is_handed_to_lfs() {
    let bench = Bench::new();
    bench.write("big.bin", POINTER);
    let plain = bench.commit_and_push("looks like a pointer");
    bench.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    let lfs = bench.commit_and_push("is a pointer");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    worker.checkout(&plain, &bench.dir("plain")).await.unwrap();
    let err = match worker.checkout(&lfs, &bench.dir("lfs")).await {
        Err(err) => err,
        Ok(done) => panic!("a pointer was shipped: {done:?}"),
    };
    assert!(matches!(&err, GitError::Lfs { path, .. } if path == "big.bin"), "{err:?}");
    assert_eq!(err.kind(), Reaction::Refused);
}

#[tokio::test]
async fn a13_any_bytes_in_author_message_branch_and_file_names_stay_one_line() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let strange = std::ffi::OsStr::from_bytes(b"caf\xe9\nx");
    fs::write(bench.work().join(strange), "y").unwrap();
    bench.commit("x");
    let commit = bench.raw_commit(b"A\xff\x1b[2J \xc2\x85B", b"\n\n sub\xe9ject\r\x07bell\tx\nmore\n");
    bench.git(&["update-ref", "refs/heads/main", commit.as_str()]);
    bench.git(&["push", "-q", "origin", "main"]);
    // A ref name that is not UTF-8 must not matter to anybody who does not ask for it.
    let packed = [format!("{commit} ").as_bytes(), b"refs/heads/caf\xe9\n"].concat();
    fs::write(bench.bare().join("packed-refs"), packed).unwrap();
    for remote in [Remote::Path, Remote::Daemon] {
        let Some(server) = remote.serve(&bench) else { continue };
        let worker = bench.worker_of(bench.source_at(&server));
        assert_eq!(worker.head().await.unwrap().commit, commit);
        let fetched = worker.fetch(WantedRevision::Branch).await.unwrap();
        assert_eq!(
            (fetched.subject.as_str(), fetched.author.as_str()),
            ("sub\u{fffd}ject bell x", "A\u{fffd} [2J B")
        );
        let out = bench.dir(server.url());
        worker.checkout(&commit, &out).await.unwrap();
        assert_eq!(fs::read(out.join(strange)).unwrap(), b"y");
    }
}

#[tokio::test]
async fn a1_a_silent_remote_costs_one_call_and_the_next_one_works() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let limits = GitLimits {
        ask: Duration::from_secs(2),
        stall: Duration::from_secs(1),
        total: Duration::from_secs(3),
        ..GitLimits::default()
    };
    for scheme in ["http", "git"] {
        let bench = Bench::new();
        bench.commit_and_push("x");
        let mut source = bench.source();
        source.remote = format!("{scheme}://me:s3cret@{address}/x.git");
        let worker = GitWorker::new(repo::exe(), source, limits);
        for outcome in [worker.head().await.err(), worker.fetch(WantedRevision::Branch).await.err()] {
            let err = outcome.expect("a silent remote has no head");
            assert_eq!(err.kind(), Reaction::Stalled, "{err:?}");
            assert!(!as_error(&err).contains("s3cret"), "{err}");
        }
    }
}

#[tokio::test]
async fn a1_a_remote_that_drips_a_byte_now_and_then_is_killed_and_the_worker_replaced() {
    let drip = Drip::start();
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let limits = GitLimits {
        ask: Duration::from_secs(30),
        stall: Duration::from_secs(1),
        total: Duration::from_secs(30),
        ..GitLimits::default()
    };
    let mut source = bench.source();
    source.remote = format!("http://{}/x.git", drip.address());
    let worker = GitWorker::new(repo::exe(), source.clone(), limits);
    let began = Instant::now();
    let err = worker.head().await.unwrap_err();
    assert!(matches!(err, GitError::Stalled { .. }), "{err:?}");
    assert!(began.elapsed() < limits.total, "{:?}", began.elapsed());
    assert_eq!(worker.pid().await, None, "the stalled worker is gone");
    source.remote = bench.bare().display().to_string();
    assert_eq!(GitWorker::new(repo::exe(), source, limits).head().await.unwrap().commit, commit);
}

#[tokio::test]
async fn a_worker_serves_many_requests_and_is_replaced_when_it_was_killed() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let worker = bench.worker();
    worker.head().await.unwrap();
    let pid = worker.pid().await.unwrap();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    assert_eq!(worker.pid().await, Some(pid));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    stage::until("the worker is seen as gone", || stage::is_gone(pid));
    assert_eq!(worker.head().await.unwrap().commit, commit);
    assert_ne!(worker.pid().await, Some(pid));
}

#[tokio::test]
async fn a_worker_ends_in_the_middle_of_a_request_when_its_daemon_is_gone() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::new();
    let mut source = bench.source();
    source.remote = format!("git://{}/x.git", silent.local_addr().unwrap());
    let mut child = repo::raw_worker(&source);
    let (mut peer, _) = tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();
    // A killed daemon shows as the end of stdin.
    drop(child.stdin.take());
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(!status.success());
    peer.read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn a_dropped_request_ends_its_worker_and_the_next_one_works() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::new();
    let mut source = bench.source();
    source.remote = format!("git://{}/x.git", silent.local_addr().unwrap());
    let worker = bench.worker_of(source);
    for _ in 0..2 {
        let accepted = silent.try_clone().unwrap();
        let accepted = tokio::task::spawn_blocking(move || accepted.accept().unwrap().0);
        let mut peer = tokio::select! {
            outcome = worker.head() => panic!("a silent remote answered: {outcome:?}"),
            peer = accepted => peer.unwrap(),
        };
        tokio::task::spawn_blocking(move || peer.read_to_end(&mut Vec::new()).unwrap()).await.unwrap();
        assert_eq!(worker.pid().await, None);
    }
}

#[tokio::test]
async fn b7_with_git_lfs_installed_the_content_is_shipped_or_the_reason_told() {
    let bench = Bench::new();
    bench.write("deep/big.bin", POINTER);
    bench.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    let commit = bench.commit_and_push("is a pointer");
    for (name, script, good) in [
        ("right", "cat >/dev/null; test \"$1 $3\" = \"smudge deep/big.bin\" && printf content", true),
        ("passes the pointer on", "cat", false),
        ("fails", "cat >/dev/null; exit 2", false),
    ] {
        let worker = GitWorker::new(bench.exe_with_lfs(script), bench.source(), GitLimits::default());
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let out = bench.dir(name);
        let outcome = worker.checkout(&commit, &out).await;
        if good {
            assert_eq!(outcome.unwrap().files, 2);
            assert_eq!(fs::read_to_string(out.join("deep/big.bin")).unwrap(), "content");
        } else {
            assert!(matches!(outcome, Err(GitError::Lfs { .. })), "{name}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn l3_the_worker_runs_as_the_user_of_the_app() {
    let Some(user) =
        nix::unistd::User::from_name("nobody").unwrap().filter(|_| nix::unistd::geteuid().is_root())
    else {
        eprintln!("skipped: needs root and the user nobody");
        return;
    };
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    repo::open_to_all(bench.root());
    let mut source = bench.source();
    // A mirror of another owner is made anew, B1.
    bench.worker_of(source.clone()).fetch(WantedRevision::Branch).await.unwrap();
    source.user = Some("nobody".into());
    let worker = bench.worker_of(source.clone());
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid().await.unwrap())).unwrap();
    let ids = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let uid = user.uid.to_string();
    assert_eq!(ids("Uid:").split_whitespace().collect::<Vec<_>>(), [&uid; 4]);
    assert!(!ids("Groups:").split_whitespace().any(|group| group == "0"));
    let out = bench.dir("out");
    worker.checkout(&commit, &out).await.unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(out.join("a")).unwrap().uid(), user.uid.as_raw());

    // The user may not write beside the mirror, so a worker that gave its rights up can't make it again.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(source.mirror.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(&source.mirror).unwrap();
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
    assert_eq!(fs::metadata(&source.mirror).unwrap().uid(), user.uid.as_raw());

    source.user = Some("no-such-user".into());
    let err = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(err, GitError::User { .. }), "{err:?}");
}

#[tokio::test]
async fn b1_a_remote_owned_by_another_user_is_read() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let (uid, gid) = (nix::unistd::Uid::from_raw(65534), nix::unistd::Gid::from_raw(65534));
    nix::unistd::chown(&bench.bare(), Some(uid), Some(gid)).unwrap();
    nix::unistd::chown(&bench.bare().join("HEAD"), Some(uid), Some(gid)).unwrap();
    assert_eq!(bench.worker().fetch(WantedRevision::Branch).await.unwrap().commit, commit);
}

#[tokio::test]
async fn a_local_head_is_read_loose_and_packed_and_nested() {
    let bench = Bench::new();
    assert_eq!(local_head(&bench.bare(), "main").unwrap(), None);
    let one = bench.commit_and_push("one");
    bench.git(&["push", "-q", "origin", "HEAD:rel/x"]);
    for _ in 0..2 {
        for branch in ["main", "rel/x"] {
            assert_eq!(local_head(&bench.bare(), branch).unwrap(), Some(one.clone()), "{branch}");
        }
        assert_eq!(local_head(&bench.bare(), "rel").unwrap(), None);
        assert_eq!(local_head(&bench.bare(), "../../HEAD").unwrap(), None);
        bench.git_bare(&["pack-refs", "--all"]);
    }
    assert_eq!(local_head(&bench.work(), "main").unwrap(), Some(one), "a working copy");
    assert!(local_head(bench.root(), "main").is_err());
}

#[tokio::test]
async fn a_local_watch_sees_pushes_loose_packed_and_nested_and_a_repository_made_anew() {
    let bench = Bench::new();
    bench.commit_and_push("one");
    let watch = LocalWatch::start(bench.bare());
    assert_eq!(watch.mode(), WatchMode::Watching);
    let seen = async |branch: &str, want: &CommitId| {
        let look = async {
            while local_head(&bench.bare(), branch).ok().flatten().as_ref() != Some(want) {
                watch.changed().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), look).await.expect("the push is seen");
    };
    let two = bench.commit_and_push("two");
    seen("main", &two).await;
    bench.git(&["push", "-q", "origin", "HEAD:rel/deep/x"]);
    seen("rel/deep/x", &two).await;
    let three = bench.commit("three");
    bench.git(&["push", "-q", "origin", "HEAD:rel/deep/x"]);
    seen("rel/deep/x", &three).await;
    bench.git_bare(&["pack-refs", "--all"]);
    bench.git(&["push", "-q", "origin", "HEAD:main"]);
    seen("main", &three).await;

    fs::remove_dir_all(bench.bare()).unwrap();
    let polling = async {
        while watch.mode() == WatchMode::Watching {
            watch.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polling).await.expect("the loss is seen");
    bench.init_bare();
    bench.git(&["push", "-q", "origin", "HEAD:main"]);
    seen("main", &three).await;
    let armed = async {
        while watch.mode() != WatchMode::Watching {
            watch.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), armed).await.expect("watching again");
}

#[tokio::test]
async fn a_local_watch_reports_a_push_within_a_fraction_of_a_second() {
    let bench = Bench::new();
    bench.commit_and_push("one");
    let watch = LocalWatch::start(bench.bare());
    // Twice, and the better one counts: the machine may be busy elsewhere, a poll would miss both.
    let mut best = Duration::MAX;
    for text in ["two", "three", "four"] {
        while tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_ok() {}
        bench.commit(text);
        let (bench, began) = (&bench, Instant::now());
        let id = bench.git(&["rev-parse", "HEAD"]);
        fs::write(bench.bare().join("refs/heads/main"), format!("{id}\n")).unwrap();
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("seen");
        best = best.min(began.elapsed());
    }
    assert!(best < Duration::from_millis(300), "{best:?}");
}

#[tokio::test]
async fn h4_many_small_fetches_leave_few_packs_and_a_worker_that_holds_none_that_is_gone() {
    let bench = Bench::new();
    bench.commit_and_push("first");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let commits = bench.fast_commits(130);
    let mut most = 0;
    for commit in &commits {
        worker.fetch(WantedRevision::Rev(commit.to_string())).await.unwrap();
        let pid = worker.pid().await.unwrap();
        most = most.max(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let gone: Vec<_> =
            maps.lines().filter(|line| line.contains("pack") && line.ends_with("(deleted)")).collect();
        assert!(gone.is_empty(), "packs that were joined are held on to: {gone:#?}");
    }
    assert!(most < 64, "{most} descriptors");
    let packs = fs::read_dir(bench.mirror().join("objects/pack")).unwrap().count();
    assert!((10..120).contains(&packs), "{packs} files for 130 fetches");
    worker.checkout(commits.last().unwrap(), &bench.dir("out")).await.unwrap();
    bench.fsck(&bench.mirror());
}

#[tokio::test]
async fn h4_a_worker_that_has_answered_often_is_replaced_between_two_requests() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("first");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let first = worker.pid().await.unwrap();
    let mut asked = 0;
    while worker.pid().await == Some(first) {
        worker.describe(&commit).await.unwrap();
        asked += 1;
        assert!(asked <= 1_000, "the same process for ever");
    }
    stage::until("the worker has ended", || stage::is_gone(first));
    assert_eq!(worker.head().await.unwrap().commit, commit);
}

#[tokio::test]
async fn h4_a_worker_without_work_ends_after_its_rest_and_the_next_request_starts_another() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let limits = GitLimits { rest: Duration::from_millis(300), ..GitLimits::default() };
    let worker = GitWorker::new(repo::exe(), bench.source(), limits);
    for _ in 0..2 {
        assert_eq!(worker.head().await.unwrap().commit, commit);
        // On a slow machine it may have ended before anyone could ask.
        let Some(pid) = worker.pid().await else { continue };
        while worker.pid().await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage::until("the process has ended", || stage::is_gone(pid));
    }
}

#[tokio::test]
async fn the_number_of_refs_that_a_look_costs_is_known() {
    let bench = Bench::new();
    bench.commit_and_push("x");
    bench.git(&["push", "-q", "origin", "HEAD:refs/heads/other", "HEAD:refs/tags/v1"]);
    assert_eq!(bench.worker().head().await.unwrap().refs, None, "one file is read");
    let server = Http::start(bench.root(), None);
    let mut source = bench.source();
    source.remote = server.url("");
    // HEAD, two branches and a tag.
    assert_eq!(bench.worker_of(source).head().await.unwrap().refs, Some(4));
}

#[tokio::test]
async fn a6_an_http_token_is_sent_once_and_never_shown() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    // Basic x-access-token:right-token
    let server = Http::start(bench.root(), Some("Basic eC1hY2Nlc3MtdG9rZW46cmlnaHQtdG9rZW4="));
    let mut source = bench.source();
    source.remote = server.url("");
    let none = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!((none.kind(), server.refused()), (Reaction::Auth, 0), "{none:?}");

    let token = bench.dir("token");
    fs::write(&token, "wrong-token\n").unwrap();
    source.auth.token_file = Some(token.clone());
    let wrong = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!((wrong.kind(), server.refused()), (Reaction::Auth, 1), "one try: {wrong:?}");
    assert!(!as_error(&wrong).contains("wrong-token"), "{wrong:?}");

    fs::write(&token, "right-token\n").unwrap();
    let worker = bench.worker_of(source.clone());
    assert_eq!(worker.head().await.unwrap().commit, commit);
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let out = bench.dir("out");
    worker.checkout(&commit, &out).await.unwrap();
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "a");
    for dir in [bench.mirror(), out] {
        assert!(!git::holds_text(&dir, "right-token"), "{}", dir.display());
    }
    source.auth.token_file = Some(bench.dir("absent"));
    let absent = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(absent, GitError::Credentials { .. }), "{absent:?}");
}

#[tokio::test]
async fn l1_user_info_in_the_remote_works_and_is_never_shown() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    // Basic me:s3cret-word
    let server = Http::start(bench.root(), Some("Basic bWU6czNjcmV0LXdvcmQ="));
    let mut source = bench.source();
    source.remote = server.url("me:s3cret-word@");
    let worker = bench.worker_of(source.clone());
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
    source.branch = "gone".into();
    assert!(!format!("{source:?}").contains("s3cret"));
    drop(worker);
    let gone = bench.worker_of(source.clone()).head().await.unwrap_err();
    source.remote = server.url("me:s3cret-wrong@");
    let refused = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!(refused.kind(), Reaction::Auth);
    source.remote = server.url("me:s3cret-word@").replace("remote.git", "absent.git");
    let absent = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(absent, GitError::NoRepository { .. }), "{absent:?}");
    for err in [gone, refused, absent] {
        assert!(!format!("{err:?} {}", as_error(&err)).contains("s3cret"), "{err:?}");
    }
    assert!(!git::holds_text(&bench.mirror(), "s3cret"));
}

#[tokio::test]
async fn a8_ssh_host_keys_are_known_or_the_remote_is_refused() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let Some(server) = Ssh::start(bench.root()) else { return };
    let mut source = bench.source();
    source.remote = server.url(&bench.bare());
    source.auth.ssh_key = Some(server.path("client"));

    let empty = server.path("known-none");
    source.auth.known_hosts = Some(empty.clone());
    let unknown = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!(unknown.kind(), Reaction::HostKey);
    let text = format!("{unknown} {}", unknown.hint().unwrap());
    for part in ["127.0.0.1", &server.fingerprint(), empty.to_str().unwrap(), "ssh-keyscan -p"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for hashed in [false, true] {
        let other = server.known_hosts("known-other", "host2");
        if hashed {
            server.hashed(&other);
        }
        source.auth.known_hosts = Some(other.clone());
        let changed = bench.worker_of(source.clone()).head().await.unwrap_err();
        assert!(
            matches!(&changed, GitError::HostKeyChanged { file, .. } if *file == other.display().to_string())
        );
        let right = server.known_hosts("known-right", "host");
        if hashed {
            server.hashed(&right);
        }
        source.auth.known_hosts = Some(right);
        let worker = bench.worker_of(source.clone());
        assert_eq!(worker.head().await.unwrap().commit, commit);
        assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
    }

    source.auth.ssh_key = Some(server.path("stranger"));
    let before = server.log().matches("Connection closed by authenticating user").count();
    let refused = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!(refused.kind(), Reaction::Auth, "{refused:?}");
    assert!(server.log().matches("Connection closed by authenticating user").count() <= before + 1);
    source.auth.ssh_key = Some(server.path("config"));
    let no_key = bench.worker_of(source).head().await.unwrap_err();
    assert_eq!(no_key.kind(), Reaction::Auth, "{no_key:?}");
}

#[tokio::test]
async fn j1_a_full_disk_fails_that_fetch_and_loses_nothing() {
    for remote in [Remote::Path, Remote::Daemon] {
        let bench = Bench::new();
        let Some(server) = remote.serve(&bench) else { continue };
        let Some(exe) = bench.exe_with_little_room() else { return };
        let small = bench.commit_and_push("small");
        let worker = GitWorker::new(exe, bench.source_at(&server), GitLimits::default());
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let pid = worker.pid().await;
        bench.write_noise("big", 6 << 20);
        bench.commit_and_push("big");
        for _ in 0..2 {
            let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
            assert_eq!(err.kind(), Reaction::Transient, "{err:?}");
            assert!(as_error(&err).contains("No space left"), "{}", as_error(&err));
            assert!(!as_error(&err).contains("can't be reached"), "{}", as_error(&err));
        }
        assert_eq!(worker.pid().await, pid, "the same process, with the same file system");
        assert_eq!(worker.describe(&small).await.unwrap().subject, "small");
        bench.git(&["rm", "-q", "big"]);
        bench.git(&["reset", "-q", "--hard", small.as_str()]);
        let next = bench.commit("small again");
        bench.force_push();
        assert_eq!(
            worker.fetch(WantedRevision::Branch).await.unwrap().commit,
            next,
            "as soon as there is room"
        );
    }
}

/// How a test reaches its bare repository.
#[derive(Clone, Copy)]
enum Remote {
    Path,
    Daemon,
}

impl Remote {
    fn serve(self, bench: &Bench) -> Option<Server> {
        match self {
            Self::Path => Some(Server::path(&bench.bare())),
            Self::Daemon => Server::git_daemon(bench.root()),
        }
    }
}

#[tokio::test]
async fn n1_a_path_that_no_program_can_open_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let worker = bench.worker();
    for (levels, fits) in [(1_000, true), (3_000, false)] {
        let commit = bench.deep_commit(levels);
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let dir = bench.dir(&format!("release-{levels}"));
        let done = worker.checkout(&commit, &dir).await;
        assert_eq!(done.is_ok(), fits, "{done:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count() > 0, fits);
        let refused = done.err().map(|refused| refused.kind());
        assert_eq!(refused, (!fits).then_some(Reaction::Refused));
    }
}

#[tokio::test]
async fn n1_a_commit_that_names_more_files_than_it_may_bring_is_refused_before_any_is_written() {
    let bench = Bench::new();
    let bomb = bench.bomb(8);
    bench.git(&["push", "-q", "-f", "origin", &format!("{bomb}:refs/heads/main")]);
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let dir = bench.dir("release");
    let refused = worker.checkout(&bomb, &dir).await.unwrap_err();
    assert_eq!((refused.kind(), refused.hint().is_some()), (Reaction::Refused, true));
    assert!(
        refused.to_string().ends_with("brings more than 100000 files, which checkout_limit does not allow")
    );
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

    drop(worker);
    bench.write_noise("noise", 3 << 20);
    bench.write("sub/small", "x");
    let large = {
        bench.commit("large");
        bench.force_push()
    };
    let all = bench.git(&["ls-tree", "-r", "-t", "HEAD"]).lines().count() as u64;
    for (limit, fits) in [((all, 3 << 20), false), ((all - 1, 4 << 20), false), ((all, 4 << 20), true)] {
        let checkout_limit = CheckoutLimit { files: limit.0, bytes: limit.1 };
        let worker = bench.worker_of(GitSource { checkout_limit, ..bench.source() });
        worker.fetch(WantedRevision::Branch).await.unwrap();
        let dir = bench.dir(&format!("release-{limit:?}"));
        let done = worker.checkout(&large, &dir).await;
        assert_eq!(done.is_ok(), fits, "{limit:?}: {done:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count() > 0, fits, "{limit:?}");
    }
}
