//! A commit's files into a new directory: bgd's git worker against `git worktree add`, on the same mirror, in
//! rounds that take turns. bgd's figure has everything that a deploy waits for, the round trip to the worker's
//! process and the one flush of the file system that makes a release durable included; git flushes nothing. What is
//! judged is that, against git without a flush; the ratios of like with like stand beside it.

mod stage;

use std::{
    fs::File,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use bgd::{
    config::settings::{Auth, CheckoutLimit},
    release::git::{GitLimits, GitSource, GitWorker, WantedRevision},
};
use stage::{BGD, Place, Remote, Res, Sample, Table, figures::verdict};

/// Of git's time.
const AIM: f64 = 0.5;

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let mut table = Table::new(
        "checkout against `git worktree add` = 1",
        &[
            "files",
            "rounds",
            "git",
            "bgd and flush",
            "ratio",
            "aim",
            "",
            "bgd",
            "ratio",
            "git and flush",
            "ratio of both with flush",
        ],
    );
    let rounds = stage::count("ROUNDS", 9);
    for (files, rounds) in [(1_000, rounds), (20_000, rounds.div_ceil(2))] {
        let measured = measure(files, rounds)?;
        let base = measured.git.median();
        let flushed = measured.flushed.median();
        table.row([
            files.to_string(),
            rounds.to_string(),
            measured.git.show()[0].clone(),
            measured.flushed.show()[0].clone(),
            format!("{:.2}", flushed / base),
            format!("<= {AIM:.2}"),
            verdict(flushed / base, AIM),
            measured.bgd.show()[0].clone(),
            format!("{:.2}", measured.bgd.median() / base),
            measured.git_flushed.show()[0].clone(),
            format!("{:.2}", flushed / measured.git_flushed.median()),
        ]);
    }
    table.print();
    Ok(())
}

#[derive(Default)]
struct Measured {
    git: Sample,
    git_flushed: Sample,
    bgd: Sample,
    flushed: Sample,
}

fn measure(files: usize, rounds: usize) -> Res<Measured> {
    let place = Place::new();
    let remote = Remote::create(&place.path("shop.git"))?;
    let commit = remote.fill(files)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let source = GitSource {
        mirror: place.path("mirror.git"),
        remote: remote.path().to_string_lossy().into_owned(),
        branch: "main".to_owned(),
        auth: Auth::default(),
        user: None,
        fast_forward_only: false,
        verify: None,
        checkout_limit: CheckoutLimit { files: 10_000_000, bytes: 1 << 40 },
    };
    let mirror = source.mirror.clone();
    let worker = GitWorker::new(BGD.into(), source, GitLimits::default());
    let fetched = runtime.block_on(worker.fetch(WantedRevision::Branch))?;
    if fetched.commit.as_str() != commit.to_string() {
        return Err("another commit was fetched".into());
    }
    let mut measured = Measured::default();
    for number in 0..=rounds {
        let (ours, theirs) = (place.path("ours"), place.path("theirs"));
        flush(place.dir())?;
        let begun = Instant::now();
        runtime.block_on(worker.checkout(&fetched.commit, &ours))?;
        let written = begun.elapsed();
        flush(place.dir())?;
        let flushed = begun.elapsed();
        let begun = Instant::now();
        worktree(&mirror, &theirs, fetched.commit.as_str())?;
        let added = begun.elapsed();
        flush(place.dir())?;
        let git_flushed = begun.elapsed();
        let sizes = (Remote::size_of(&ours)?, Remote::size_of(&theirs)?);
        if sizes.0 != sizes.1 {
            return Err(format!("not the same was written: {sizes:?}").into());
        }
        std::fs::remove_dir_all(&ours)?;
        std::fs::remove_dir_all(&theirs)?;
        prune(&mirror)?;
        // The first round warms the caches of both.
        if number > 0 {
            measured.bgd.add(written);
            measured.flushed.add(flushed);
            measured.git.add(added);
            measured.git_flushed.add(git_flushed);
        }
    }
    Ok(measured)
}

fn flush(dir: &Path) -> Res<()> {
    Ok(nix::unistd::syncfs(File::open(dir)?)?)
}

fn worktree(mirror: &Path, dir: &Path, commit: &str) -> Res<()> {
    let status = Command::new("git")
        .args(["worktree", "add", "-q", "--detach"])
        .arg(dir)
        .arg(commit)
        .current_dir(mirror)
        .status()?;
    if status.success() { Ok(()) } else { Err("git worktree add failed".into()) }
}

fn prune(mirror: &Path) -> Res<()> {
    let status = Command::new("git").args(["worktree", "prune"]).current_dir(mirror).status()?;
    if status.success() { Ok(()) } else { Err("git worktree prune failed".into()) }
}
