//! Debian's uWSGI with its Python plugin and the configuration of `contrib/uwsgi`.

use std::{fs, path::Path};

use nix::sys::signal::Signal;

use super::app_server::{self, AppServer, contrib, program};
use crate::shop::{Kind, Plan, Stage, send};

/// Says its revision in a header, as the sample app of the other tests does.
const APP: &str = r#"
import os
import re
import time

REV = re.search(r"rev = (\S+)", open("app.conf").read())[1]
GATES = os.environ["SAMPLE_GATES"]


def application(environ, start_response):
    asked = environ["REQUEST_URI"]
    slow = re.match(r"/slow\?ms=(\d+)", asked)
    if slow:
        time.sleep(int(slow[1]) / 1000)
    if asked == "/held":
        open(f"{GATES}/held-arrived", "w").close()
        while os.path.exists(f"{GATES}/held"):
            time.sleep(0.02)
    body = REV.encode() + environ["wsgi.input"].read()
    start_response("200 OK", [("X-Rev", REV), ("Content-Length", str(len(body)))])
    return [body]
"#;

const SITE: &str = "uwsgi_pass shop; include /etc/nginx/uwsgi_params;";

/// `None`, with the reason printed, where there is no uWSGI with Python.
fn uwsgi(keys: &str) -> Option<AppServer> {
    let program = program(&["uwsgi"])?;
    if !Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists() {
        eprintln!("skipped: no python3 plugin of uwsgi");
        return None;
    }
    let site = contrib("uwsgi/site.conf");
    for line in SITE.split_inclusive(';') {
        assert!(site.contains(line.trim()), "{line} is not what contrib/uwsgi/site.conf says");
    }
    // The app needs nothing from PyPI.
    let ini = contrib("uwsgi/uwsgi.ini");
    let without = ini.replace("virtualenv = .venv\n", "");
    assert_ne!(ini, without);
    Some(AppServer {
        protocol: "uwsgi",
        pass: SITE,
        keys: format!("start = [{program:?}, \"--ini\", \"uwsgi.ini\"]\n{keys}"),
        ends_with: "graceful shutdown triggered",
        files: vec![("uwsgi.ini", without), ("app.py", APP.to_owned())],
    })
}

const KEYS: &str = "stop = { signal = \"TERM\", grace = \"30s\" }\n";

#[test]
fn ten_deploys_of_uwsgi_under_load_lose_nothing() {
    let Some(server) = uwsgi(KEYS) else { return };
    app_server::ten_deploys_lose_nothing(&server);
}

#[test]
fn a_request_that_outlasts_the_drain_is_finished_by_uwsgi() {
    let Some(server) = uwsgi(KEYS) else { return };
    app_server::a_request_beyond_the_drain_is_finished(&server);
}

#[test]
fn python_that_does_not_load_gets_no_request() {
    let Some(server) = uwsgi(KEYS) else { return };
    let broken = ("app.py", "import no_such_module\n");
    app_server::an_unwell_release_is_refused(&server, broken, "the app ended before it was healthy");
}

/// Two deploys of a uWSGI that is told nothing of TERM; the stage at rest.
fn two_deploys_untold(stop: &str) -> Option<Stage> {
    let mut server = uwsgi(&format!("stop = {stop}\n"))?;
    let (_, ini) = &mut server.files[0];
    let untold = ini.lines().filter(|line| !line.contains("die-on-term") && !line.contains("unix_signal"));
    *ini = untold.collect::<Vec<_>>().join("\n") + "\n";
    let stage = server.set(Plan::of(Kind::Nginx))?;
    stage.push_live("one");
    stage.push_live("two");
    stage.until_at_rest();
    assert_eq!(stage.served(), "two");
    Some(stage)
}

#[test]
fn without_a_signal_in_the_configuration_any_uwsgi_ends_by_itself() {
    let Some(stage) = two_deploys_untold("{ grace = \"30s\" }") else { return };
    app_server::assert_nothing_was_killed(&stage);
}

#[test]
fn a_uwsgi_that_starts_anew_at_term_is_killed_after_its_grace() {
    let Some(stage) = two_deploys_untold("{ signal = \"TERM\", grace = \"2s\" }") else { return };
    let log = fs::read_to_string(stage.path("daemon.log")).unwrap();
    assert!(log.contains("ended by KILL"), "{log}");
}

/// Workers of uWSGI notice that their master is gone.
#[test]
fn a_uwsgi_whose_master_was_killed_is_started_again() {
    let Some(server) = uwsgi(KEYS) else { return };
    let Some(stage) = server.set(Plan::of(Kind::Nginx)) else { return };
    stage.push_live("one");
    let master = stage.until_at_rest()["live"]["pid"].clone();
    send(u32::try_from(master.as_u64().expect("a pid")).expect("a pid"), Signal::SIGKILL);
    let status = stage.until("another one runs", |status| {
        let pid = &status["live"]["pid"];
        status["state"] == "live" && pid.is_u64() && *pid != master && status["live"]["healthy"] == true
    });
    stage.eventually("it answers", |stage| stage.served() == "one");
    app_server::assert_only_the_live_one_runs(&stage, &status);
}
