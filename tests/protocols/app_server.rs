//! A stage whose app is run by a server of its own kind: the daemon's configuration and the site of nginx are changed
//! before the first push, the files of the server are committed beside the app.

use std::{fs, process::Command};

use serde_json::Value as Json;
use toml::Value;

use crate::shop::{Kind, Plan, Stage};

/// A server and how it is run.
pub struct AppServer {
    /// As in `protocol`.
    pub protocol: &'static str,
    /// Inside of the site's `location /`.
    pub pass: &'static str,
    /// Keys of the app beside those, as TOML.
    pub keys: String,
    /// What it says when it is told to end.
    pub ends_with: &'static str,
    /// Files of the repository.
    pub files: Vec<(&'static str, String)>,
}

/// A file of `contrib/`.
pub fn contrib(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Where a program is, also where only root looks for it; says when it is nowhere.
pub fn program(names: &[&str]) -> Option<String> {
    let look = "PATH=$PATH:/usr/sbin:/sbin; for one; do command -v \"$one\" && exit; done";
    let output = Command::new("sh").args(["-c", look, "sh"]).args(names).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap().lines().next().map(str::to_owned);
    if found.is_none() {
        eprintln!("skipped: no {}", names.join(" or "));
    }
    found
}

impl AppServer {
    /// The stage with this server; `None`, with the reason printed, without nginx.
    pub fn set(&self, plan: Plan) -> Option<Stage> {
        let stage = Stage::set(Plan { kind: Kind::Nginx, ..plan })?;
        self.write_keys(&stage);
        self.write_site(&stage);
        for (name, text) in &self.files {
            write(&stage, name, text);
        }
        Some(stage)
    }

    /// Changes the configuration and has it read.
    pub fn write_keys(&self, stage: &Stage) {
        let file = stage.path("bgd.toml");
        let mut root: Value = toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let app = root["app"]["shop"].as_table_mut().unwrap();
        app.insert("protocol".to_owned(), Value::from(self.protocol));
        let keys: toml::Table = toml::from_str(&self.keys).unwrap();
        for (key, value) in keys {
            match (app.get_mut(&key), value) {
                // One more key of a table that is there.
                (Some(Value::Table(there)), Value::Table(more)) if key == "health" => there.extend(more),
                (_, value) => drop(app.insert(key, value)),
            }
        }
        fs::write(&file, toml::to_string(&root).unwrap()).unwrap();
        stage.done(&["reload"]);
    }

    fn write_site(&self, stage: &Stage) {
        let site = format!(
            "server {{ listen {}; location / {{ {}_next_upstream off; {} }} }}\n",
            stage.public(),
            self.protocol,
            self.pass
        );
        fs::write(stage.path("conf.d/site.conf"), site).unwrap();
        let prefix = format!("{}/", stage.path("").display());
        let reload = ["-p", &prefix, "-c", "nginx.conf", "-s", "reload"];
        assert!(Command::new("nginx").args(reload).status().unwrap().success());
    }
}

/// Writes a file of the repository, to be committed by the next push.
pub fn write(stage: &Stage, name: &str, text: &str) {
    let file = stage.path("work").join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Ten deploys, one after the other, under load: nothing is lost, every revision answers, every server ends by itself.
pub fn ten_deploys_lose_nothing(server: &AppServer) {
    // So short that the old one is still at work when it is drained.
    let Some(stage) = server.set(Plan { watch: "50ms", drain: "30s", ..Plan::of(Kind::Nginx) }) else {
        return;
    };
    stage.push_live("r0");
    let load = stage.load();
    load.sees("r0");
    for deploy in 1..=10 {
        let rev = format!("r{deploy}");
        stage.push_live(&rev);
        load.sees(&rev);
    }
    let status = stage.until_at_rest();
    let counts = load.end_without_loss();
    assert_eq!(counts.answered.len(), 11, "{:?}", counts.answered);
    eprintln!("{}: {} answered, {} lost", server.protocol, counts.total(), counts.lost.len());
    assert_only_the_live_one_runs(&stage, &status);
    assert_nothing_was_killed(&stage);
}

/// A server that has to be killed had time to finish, and did not use it.
pub fn assert_nothing_was_killed(stage: &Stage) {
    let log = fs::read_to_string(stage.path("daemon.log")).unwrap();
    assert!(!log.contains("ended by KILL"), "{log}");
}

/// What nginx shows is what the status says, and no process of another release is left.
pub fn assert_only_the_live_one_runs(stage: &Stage, status: &Json) {
    let live = status["live"]["release"].as_str().unwrap_or_else(|| panic!("{status:#}"));
    let strays = |stage: &Stage| -> Vec<String> {
        let cwd = |pid: u32| fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let all = stage.processes().into_iter().map(|(pid, line)| (cwd(pid), line));
        let releases = all.filter(|(cwd, _)| cwd.starts_with(stage.path("state/shop/releases")));
        releases.filter(|(cwd, _)| !cwd.ends_with(live)).map(|(_, line)| line).collect()
    };
    stage.eventually("nothing of an old release runs", |stage| strays(stage).is_empty());
    assert_eq!(status["live"]["subject"], format!("Make {}", stage.served()), "{status:#}");
    stage.until("it is healthy", |status| status["live"]["healthy"] == true);
}

/// A request that outlasts `drain` is in flight when the old one is told to end, and is answered.
pub fn a_request_beyond_the_drain_is_finished(server: &AppServer) {
    let Some(stage) = server.set(Plan { drain: "100ms", ..Plan::of(Kind::Nginx) }) else { return };
    stage.push_live("one");
    let color = stage.value("live.color");
    let held = stage.hold_a_request();
    stage.push_live("two");
    let log = stage.path(&format!("state/shop/logs/{color}.log"));
    stage.eventually("the old one is told to end", |_| {
        fs::read_to_string(&log).is_ok_and(|text| text.contains(server.ends_with))
    });
    stage.open("held");
    held.join().expect("an answer");
    stage.until_at_rest();
    assert_nothing_was_killed(&stage);
}

/// A release whose page is not well gets no request, and `said` is the reason given.
pub fn an_unwell_release_is_refused(server: &AppServer, (file, text): (&str, &str), said: &str) {
    let Some(stage) = server.set(Plan { deadline: "10s", ..Plan::of(Kind::Nginx) }) else { return };
    stage.push_live("good");
    let load = stage.load();
    load.sees("good");
    write(&stage, file, text);
    let bad = stage.push("bad", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == bad);
    let error = status["last"]["error"].to_string();
    assert!(error.contains(said), "{status:#}");
    load.sees("good");
    stage.until_at_rest();
    let counts = load.end_without_loss();
    assert!(!counts.answered.contains_key("bad"), "{:?}", counts.answered);
}
