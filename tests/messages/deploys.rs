//! Deploys that fail because of what was pushed, and those that are called off.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::book::Book;
use crate::{
    shop::app,
    shop::{Kind, Plan, Ran, Stage},
};

impl Stage {
    /// A commit that is not on the branch, so that only a deploy by hand takes it.
    pub fn draft(&self, rev: &str, conf: &str, build: &str) -> String {
        let write = |name: &str, text: String| fs::write(self.path("work").join(name), text).expect("write");
        write("app.conf", format!("rev = {rev}\n{conf}\n"));
        write("build.sh", format!("echo building {rev}\n{}{build}\n", app::wait_at("build")));
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", &format!("Make {rev}")]);
        self.git(&["push", "-q", "-f", "origin", "HEAD:refs/heads/draft"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Replaces a part of the configuration and has it read.
    pub fn with(&self, from: &str, to: &str, then: impl FnOnce()) {
        let before = fs::read_to_string(self.path("bgd.toml")).expect("the configuration");
        assert!(before.contains(from), "{from} is not in {before}");
        fs::write(self.path("bgd.toml"), before.replacen(from, to, 1)).expect("write the configuration");
        self.done(&["reload"]);
        then();
        fs::write(self.path("bgd.toml"), before).expect("write the configuration");
        self.done(&["reload"]);
    }
}

struct Broken {
    title: &'static str,
    rev: &'static str,
    conf: &'static str,
    build: &'static str,
}

const BROKEN: [Broken; 2] = [
    Broken {
        title: "the build fails",
        rev: "unbuildable",
        conf: "",
        build: "echo main.c:7: no such header; exit 4",
    },
    Broken { title: "the app exits at its start", rev: "exiting", conf: "start = exits", build: "" },
];

const NEVER_READY: [Broken; 3] = [
    Broken { title: "the app hangs at its start", rev: "hanging", conf: "start = hangs", build: "" },
    Broken { title: "the health check answers 500", rev: "erring", conf: "up = 500", build: "" },
    Broken { title: "the app ignores its port", rev: "elsewhere", conf: "start = elsewhere", build: "" },
];

/// Scripts that a shell can't run, each with what it says of them.
fn scripts(book: &mut Book, stage: &Stage) {
    let start = "start = [";
    for (title, content, mode) in [
        ("the start script has Windows line ends", "#!/bin/sh\r\nexec true\r\n", 0o755),
        ("the start script is not executable", "#!/bin/sh\nexec true\n", 0o644),
        ("the interpreter of the start script is missing", "#!/usr/bin/env no-such-ruby\n", 0o755),
    ] {
        let script = stage.path("work").join("run.sh");
        fs::write(&script, content).expect("write");
        fs::set_permissions(&script, fs::Permissions::from_mode(mode)).expect("chmod");
        let commit = stage.draft("scripted", "", "");
        stage.with(start, "start = \"./run.sh\" # [", || tried(book, stage, (title, &commit)));
        fs::remove_file(&script).expect("remove");
    }
    let commit = stage.draft("scriptless", "", "");
    let build = "build = \"sh build.sh\"";
    stage.with(build, "build = \"no-such-npm ci\"", || {
        tried(book, stage, ("a program of the build is not installed", &commit));
    });
    stage.with(start, "start = \"true\" # [", || {
        tried(book, stage, ("the start ends and leaves nothing", &commit));
    });
}

fn tried(book: &mut Book, stage: &Stage, (title, commit): (&str, &str)) {
    let ran = stage.bgd(&["deploy", "--rev", commit]);
    book.note(title, stage, (&["deploy", "--rev", "REV"], &ran));
    stage.until_at_rest();
}

pub fn the_release_is_to_blame(book: &mut Book) {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    let first = stage.draft("first", "", "exit 1");
    tried(book, &stage, ("the build of the very first release fails", &first));
    stage.push_live("good");
    for Broken { title, rev, conf, build } in BROKEN {
        let commit = stage.draft(rev, conf, build);
        tried(book, &stage, (title, &commit));
    }
    scripts(book, &stage);
    configured_wrongly(book, &stage);
    let health = "[app.shop.health]";
    let warmup = format!("warmup = {{ paths = [\"/cold\"], requests = 3 }}\n{health}");
    stage.with(health, &warmup, || cold(book, &stage));
    // Long enough for whatever this machine does meanwhile: both end it.
    let watch = "[app.shop.watch]\nfor = ";
    stage.with(&format!("{watch}\"300ms\""), &format!("{watch}\"60s\""), || watched(book, &stage));
}

pub fn the_release_does_not_get_ready(book: &mut Book) {
    let plan = Plan { deadline: "5s", ..Plan::of(Kind::Builtin) };
    let Some(stage) = Stage::set(plan) else { return };
    stage.push_live("good");
    for Broken { title, rev, conf, build } in NEVER_READY {
        let commit = stage.draft(rev, conf, build);
        tried(book, &stage, (title, &commit));
        if rev == "erring" {
            let ran = stage.bgd(&["show", &stage.value("last.id")]);
            let reason = ran.stdout.lines().filter(|line| line.contains("error") || line.contains("hint"));
            let ran = Ran { stdout: reason.collect::<Vec<_>>().join("\n"), ..ran };
            book.shows(
                "the same afterwards, in `bgd show` (two lines of it)",
                &stage,
                (&["show", "ID"], &ran),
            );
        }
    }
}

fn cold(book: &mut Book, stage: &Stage) {
    stage.close("cold");
    let commit = stage.draft("cold", "", "");
    tried(book, stage, ("the app answers no request of the warm-up", &commit));
    stage.open("cold");
}

fn watched(book: &mut Book, stage: &Stage) {
    let dying = stage.draft("dying", "start = dies_when_told", "");
    let deploy = stage.begin(&["deploy", "--rev", &dying]);
    stage.until_phase(&dying, "watching");
    stage.close("die-dying");
    let ran = deploy.end();
    book.note("the app dies while it is watched", stage, (&["deploy", "--rev", "REV"], &ran));
    stage.open("die-dying");
    stage.until_at_rest();
    let sick = stage.draft("sick", "", "");
    let deploy = stage.begin(&["deploy", "--rev", &sick]);
    stage.until_phase(&sick, "watching");
    stage.close("up-sick");
    let ran = deploy.end();
    book.note("the app turns unhealthy while it is watched", stage, (&["deploy", "--rev", "REV"], &ran));
    stage.open("up-sick");
    stage.until_at_rest();
}

/// What the configuration asks for and the commit does not have.
fn configured_wrongly(book: &mut Book, stage: &Stage) {
    let commit = stage.draft("plain", "", "");
    let build = "build = \"sh build.sh\"";
    let changes = [
        ("a shared file is missing", build, "shared = [\".env\"]"),
        ("the build takes too long", build, "build = \"sleep 30\"\nbuild_timeout = \"5s\""),
        ("the start command does not exist", "start = [", "start = [\"./no-such-program\", "),
        ("the env_file does not exist", build, "env_file = \"no-such-file.env\""),
    ];
    for (title, from, to) in changes {
        stage.with(from, to, || tried(book, stage, (title, &commit)));
    }
    let health = "[app.shop.health]";
    let rewrite = "[[app.shop.rewrite]]\nfile = \"app.conf\"\nfind = \"9501\"\nwith = \"{port}\"\n";
    stage.with(health, &format!("{rewrite}{health}"), || {
        tried(book, stage, ("the text to rewrite is not found", &commit));
    });
    let hook = "[app.shop.hooks]\nbefore_start = \"echo table users exists; exit 9\"\n";
    stage.with(health, &format!("{hook}{health}"), || {
        tried(book, stage, ("the hook before the start fails", &commit));
    });
    let stranger =
        std::net::TcpListener::bind(("127.0.0.1", stage.port(&stage.value("idle.color")))).unwrap();
    tried(book, stage, ("a stranger holds the port", &commit));
    drop(stranger);
}

pub fn the_deploy_is_called_off(book: &mut Book) {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("good");
    stage.close("build");
    let late = stage.push("late", "");
    stage.until_phase(&late, "building");
    let wait = format!("rev={late}");
    let wait = ["wait", "--for", &wait, "--timeout", "60s"];
    let waiting = stage.begin(&wait);
    let newer = stage.push("newer", "");
    book.note("a newer commit supersedes the deploy that is waited for", &stage, (&wait, &waiting.end()));
    stage.until_phase(&newer, "building");
    let waits = ["wait", "--for", &format!("rev={newer}"), "--timeout", "1s"];
    book.fails("waiting takes longer than allowed", &stage, &waits);
    let wait = ["wait", "--for", &format!("rev={newer}"), "--timeout", "60s"];
    let waiting = stage.begin(&wait);
    stage.done(&["flip"]);
    book.note("a flip cancels the deploy that is waited for", &stage, (&wait, &waiting.end()));
    let ran = stage.bgd(&["why"]);
    book.shows("why nothing is deployed after a flip", &stage, (&["why"], &ran));
    stage.until_at_rest();
    let other = stage.draft("other", "", "");
    let deploy = stage.begin(&["deploy", "--rev", &other]);
    stage.until_phase(&other, "building");
    stage.done(&["flip"]);
    book.note("a flip cancels the deploy", &stage, (&["deploy", "--rev", "REV"], &deploy.end()));
    stage.open("build");
    stage.until_at_rest();
}
