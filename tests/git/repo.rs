//! Real repositories and servers for the git tests: made in a temporary directory, cut off from any settings of
//! whoever runs the tests, gone with the test.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bgd::{
    config::settings::{Auth, CheckoutLimit},
    release::git::{GitLimits, GitSource, GitWorker},
    rules::ids::CommitId,
};

pub fn exe() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_bgd"))
}

use crate::stage::{
    self,
    git::{feed, run},
    servers::Server,
};

/// A bare repository, a working copy of it, and room for a mirror and releases.
pub struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap() };
        bench.init_bare();
        run(bench.root(), &["init", "-q", "-b", "main", "work"]);
        bench.git(&["remote", "add", "origin", bench.bare().to_str().unwrap()]);
        bench
    }

    pub fn init_bare(&self) {
        run(self.root(), &["init", "-q", "--bare", "-b", "main", "remote.git"]);
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn bare(&self) -> PathBuf {
        self.dir("remote.git")
    }

    pub fn work(&self) -> PathBuf {
        self.dir("work")
    }

    pub fn mirror(&self) -> PathBuf {
        self.dir("mirror.git")
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.root().join(name.replace(['/', ':'], "_"))
    }

    pub fn git(&self, args: &[&str]) -> String {
        run(&self.work(), args)
    }

    pub fn git_bare(&self, args: &[&str]) -> String {
        run(&self.bare(), args)
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A file that does not compress.
    pub fn write_noise(&self, name: &str, bytes: usize) {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let noise: Vec<u8> = std::iter::repeat_with(&mut next).take(bytes / 8).flatten().collect();
        fs::write(self.work().join(name), noise).unwrap();
    }

    /// A commit of everything in the working copy, with something changed in any case.
    pub fn commit(&self, message: &str) -> CommitId {
        if !self.work().join("a").exists() && fs::read_dir(self.work()).unwrap().count() == 1 {
            self.write("a", "a");
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    pub fn commit_and_push(&self, message: &str) -> CommitId {
        let commit = self.commit(message);
        self.git(&["push", "-q", "origin", "HEAD:main"]);
        commit
    }

    pub fn force_push(&self) -> CommitId {
        self.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// As many commits on top of the branch in the bare repository, oldest first, in one process.
    pub fn fast_commits(&self, count: usize) -> Vec<CommitId> {
        let one = |n: usize| {
            let (from, text) = (if n == 0 { "from refs/heads/main^0\n" } else { "" }, n.to_string());
            let bytes = text.len();
            format!(
                "commit refs/heads/main\ncommitter A <a@x> 1700000000 +0000\ndata {bytes}\n{text}\n{from}\
                 M 644 inline n\ndata {bytes}\n{text}\n"
            )
        };
        let all: String = (0..count).map(one).collect();
        feed(&self.bare(), &["fast-import", "--quiet"], all.as_bytes());
        let listed = self.git_bare(&["rev-list", "--reverse", &format!("--max-count={count}"), "main"]);
        listed.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// A commit on top of HEAD with these very bytes.
    pub fn raw_commit(&self, author: &[u8], message: &[u8]) -> CommitId {
        let tree = self.git(&["rev-parse", "HEAD^{tree}"]);
        let mut text = format!("tree {tree}\nauthor ").into_bytes();
        text.extend_from_slice(author);
        text.extend_from_slice(b" <a@x> 1700000000 +0000\ncommitter c <c@x> 1700000000 +0000\n\n");
        text.extend_from_slice(message);
        self.raw_object("commit", &text)
    }

    /// An object with these very bytes, whether git would make it or not.
    pub fn raw_object(&self, kind: &str, bytes: &[u8]) -> CommitId {
        let args = ["hash-object", "-t", kind, "-w", "--stdin", "--literally"];
        feed(&self.work(), &args, bytes).parse().unwrap()
    }

    /// A commit of ten directories, of ten each, and so on `deep` times, with ten files in each of the last: all of
    /// them the same object.
    pub fn bomb(&self, deep: usize) -> CommitId {
        let ten = |kind: &str, id: &str| {
            let lines = (0..10).map(|name| format!("{kind} {id}\t{name}\n"));
            feed(&self.work(), &["mktree"], lines.collect::<String>().as_bytes())
        };
        let blob = feed(&self.work(), &["hash-object", "-w", "--stdin"], b"x");
        let files = ten("100644 blob", &blob);
        let tree = (0..deep).fold(files, |tree, _| ten("040000 tree", &tree));
        self.git(&["commit-tree", &tree, "-m", "small"]).parse().unwrap()
    }

    /// The branch in the bare repository, at a file below so many directories.
    pub fn deep_commit(&self, levels: usize) -> CommitId {
        let path = "d/".repeat(levels);
        let text = format!(
            "commit refs/heads/main\ncommitter A <a@x> 1700000000 +0000\ndata 1\nx\nM 644 inline {path}f\ndata 1\nx\n"
        );
        feed(&self.bare(), &["fast-import", "--quiet", "--force"], text.as_bytes());
        self.git_bare(&["rev-parse", "main"]).parse().unwrap()
    }

    /// Another bare repository with one commit, beside the first.
    pub fn sibling(&self, name: &str, file: &str, content: &str) -> PathBuf {
        run(self.root(), &["init", "-q", "--bare", "-b", "main", name]);
        self.advance(&self.dir(name), file, content);
        self.dir(name)
    }

    pub fn advance(&self, bare: &Path, file: &str, content: &str) {
        let copy = tempfile::tempdir_in(self.root()).unwrap();
        run(copy.path(), &["clone", "-q", bare.to_str().unwrap(), "c"]);
        let copy = copy.path().join("c");
        fs::write(copy.join(file), content).unwrap();
        run(&copy, &["add", "-A"]);
        run(&copy, &["commit", "-q", "-m", content]);
        run(&copy, &["push", "-q", "origin", "HEAD:main"]);
    }

    pub fn source(&self) -> GitSource {
        self.source_at(&Server::path(&self.bare()))
    }

    pub fn source_at(&self, server: &Server) -> GitSource {
        GitSource {
            mirror: self.mirror(),
            remote: server.url().to_owned(),
            branch: "main".into(),
            auth: Auth::default(),
            user: None,
            fast_forward_only: false,
            verify: None,
            checkout_limit: CheckoutLimit { files: 100_000, bytes: 2 << 30 },
        }
    }

    pub fn worker(&self) -> GitWorker {
        self.worker_of(self.source())
    }

    pub fn worker_of(&self, source: GitSource) -> GitWorker {
        GitWorker::new(exe(), source, GitLimits::default())
    }

    /// bgd with a git-lfs first on its PATH that runs `script`.
    pub fn exe_with_lfs(&self, script: &str) -> PathBuf {
        self.exe_with_program("git-lfs", script)
    }

    /// bgd with a program of that name first on its PATH that runs `script`.
    pub fn exe_with_program(&self, name: &str, script: &str) -> PathBuf {
        self.script(name, script);
        self.script("bgd", &format!("PATH={}:$PATH exec {} \"$@\"", self.root().display(), exe().display()))
    }

    /// bgd where no other program is installed.
    pub fn exe_without_programs(&self) -> PathBuf {
        self.script("bgd", &format!("PATH=/nonexistent exec {} \"$@\"", exe().display()))
    }

    /// bgd with its mirror on a file system of its own of 2 MiB; `None` where that can't be made.
    pub fn exe_with_little_room(&self) -> Option<PathBuf> {
        let possible = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        if !possible.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no mount namespaces here");
            return None;
        }
        fs::create_dir_all(self.mirror()).unwrap();
        let (mirror, exe) = (self.mirror(), exe());
        let mount = format!("mount -t tmpfs -o size=2m none {} && exec {}", mirror.display(), exe.display());
        Some(self.script("bgd", &format!("exec unshare -m sh -c '{mount} \"$@\"' sh \"$@\"")))
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir(name);
        stage::program(&file, &format!("#!/bin/sh\n{text}\n"));
        file
    }

    pub fn fsck(&self, repo: &Path) {
        run(repo, &["fsck", "--strict", "--no-dangling"]);
    }
}

/// A worker without a daemon, asked for the head already.
pub fn raw_worker(source: &GitSource) -> Child {
    let opening = format!(
        "{{\"mirror\":{:?},\"remote\":{:?},\"branch\":\"main\",\"fast_forward_only\":null,\"home\":\"/\",\
         \"read_timeout_ms\":600000}}\n",
        source.mirror, source.remote
    );
    let mut command = Command::new(exe());
    command.arg("git-worker").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(opening.as_bytes()).unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("ready"), "{ready}");
    child.stdin.as_mut().unwrap().write_all(b"{\"do\":\"head\"}\n").unwrap();
    child
}

pub fn as_error(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}

pub fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

fn packs(mirror: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(mirror.join("objects/pack")).unwrap();
    let found = entries.map(|entry| entry.unwrap().path());
    found.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).collect()
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn truncate_packs(mirror: &Path) {
    let packs = packs(mirror);
    assert!(!packs.is_empty());
    for pack in packs {
        rewrite(&pack, |bytes| bytes.truncate(bytes.len() / 2));
    }
}

pub fn flip_bytes(mirror: &Path) {
    let packs = packs(mirror);
    assert!(!packs.is_empty());
    for pack in packs {
        rewrite(&pack, |bytes| {
            let end = bytes.len() - 20;
            bytes[12..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        });
    }
}

pub fn garble_head_ref(mirror: &Path) {
    fs::write(mirror.join("refs/bgd/head"), "nonsense\n").unwrap();
}
