//! Apps that are static sites: no process of theirs runs, and a flip moves a directory.

use std::{
    fs,
    io::{BufRead as _, Read as _, Write as _},
    thread,
    time::Duration,
};

use crate::{
    shop::{Kind, Plan, Stage},
    stage::{
        http,
        load::{Client, Load},
    },
};

/// Writes the configuration of a static site with these keys, and starts the daemon.
fn site(kind: Kind, keys: &str) -> Option<Stage> {
    let mut stage = Stage::empty(Plan::of(kind))?;
    configure(&stage, kind, keys);
    stage.start_daemon();
    Some(stage)
}

fn configure(stage: &Stage, kind: Kind, keys: &str) {
    let dir = stage.path("");
    let front = match kind {
        Kind::Builtin => format!("listen = \"{}\"", stage.public()),
        Kind::Nginx => stage.web().front("shop"),
        Kind::Haproxy => unreachable!("it serves no files"),
    };
    let text = format!(
        "[daemon]\nstate_dir = \"{0}state\"\nruntime_dir = \"{0}run\"\n[app.shop]\nremote = \"{0}remote.git\"\n\
         poll = \"1s\"\nbuild = \"sh build.sh\"\n{keys}\n[app.shop.watch]\nfor = \"50ms\"\n[app.shop.front]\n{front}\n",
        dir.display(),
    );
    fs::write(stage.path("bgd.toml"), text).unwrap();
}

const SITE: &str = "static = { dir = \"dist\", fallback = \"index.html\" }\n\
                    assets = { dir = \"dist/assets\", keep = 1 }";

/// Pushes a site whose pages all name this revision; the commit.
fn push(stage: &Stage, rev: &str) -> String {
    let build = format!(
        "umask 022; mkdir -p dist/assets dist/docs; echo 'page of {rev}' > dist/index.html; echo 'docs of {rev}' > dist/docs/index.html\n\
         echo 'script of {rev}' > dist/assets/app.{rev}.js; echo '{{\"app\": \"{rev}\"}}' > dist/assets/manifest.json\n\
         echo secret > dist/.env; head -c 6000000 /dev/zero | tr '\\0' x > dist/large.bin\n"
    );
    fs::write(stage.path("work/build.sh"), build).unwrap();
    stage.push_all(&format!("Make {rev}"))
}

fn push_live(stage: &Stage, rev: &str) -> String {
    let commit = push(stage, rev);
    stage.wait_live(&commit);
    stage.until_at_rest();
    commit
}

/// Asks for a page and an asset on one connection, as a browser does: both have to be whole.
fn visitor(stage: &Stage) -> Client {
    let to = stage.public();
    Box::new(move || {
        let said = |path: &str| {
            let answer =
                http::get(to, path).and_then(http::Answer::good).map_err(|err| format!("{path}: {err}"))?;
            Ok::<_, String>(answer.body)
        };
        let page = said("/")?;
        let rev =
            page.strip_prefix("page of ").map(str::trim).ok_or_else(|| format!("another page: {page:?}"))?;
        let script = said(&format!("/assets/app.{rev}.js"))?;
        match script.trim() == format!("script of {rev}") {
            true => Ok(rev.to_owned()),
            false => Err(format!("another script: {script:?}")),
        }
    })
}

fn get(stage: &Stage, path: &str) -> (u16, String) {
    let answer = http::get(stage.public(), path).unwrap();
    (answer.status, answer.body.trim().to_owned())
}

/// One request with more fields; the answer's head in small letters, and its body.
fn ask(stage: &Stage, method: &str, path: &str, fields: &str) -> (String, String) {
    let mut stream = http::connect(stage.public()).unwrap();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{fields}\r\n");
    stream.get_mut().write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn is_without_processes(stage: &Stage) {
    assert!(stage.shims().is_empty(), "{:?}", stage.processes());
}

#[test]
fn a_static_site_goes_live_flips_and_comes_back_without_a_process_and_without_a_lost_request() {
    let Some(mut stage) = site(Kind::Builtin, SITE) else { return };
    let one = push_live(&stage, "r1");
    is_without_processes(&stage);
    let status = stage.status();
    assert_eq!((&status["state"], &status["live"]["healthy"]), (&"live".into(), &true.into()), "{status:#}");
    assert!(status["live"]["port"].is_null() && status["live"]["pid"].is_null(), "{status:#}");
    assert_eq!(status["live"]["instances"].as_array().map(Vec::len), Some(0));
    let load = Load::of((0..4).map(|_| visitor(&stage)), Duration::from_millis(4));
    load.sees("r1");
    let two = push_live(&stage, "r2");
    load.sees("r2");
    let linked = fs::canonicalize(stage.path("state/shop/live")).unwrap();
    assert!(linked.ends_with("dist") && linked.to_str().unwrap().contains(&two[..7]), "{linked:?}");
    // A page of the former release still finds its script.
    assert_eq!(get(&stage, "/assets/app.r1.js"), (200, "script of r1".to_owned()));
    assert_eq!(get(&stage, "/assets/manifest.json"), (200, "{\"app\": \"r2\"}".to_owned()));
    stage.done(&["flip"]);
    load.sees("r1");
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    stage.kill_daemon();
    load.goes_on();
    stage.start_daemon();
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    let back: Vec<String> = load.end_without_loss().answered.into_keys().collect();
    assert_eq!(back, ["r1", "r2"]);
    stage.done(&["down", "--yes"]);
    assert_eq!(get(&stage, "/").0, 503);
    stage.done(&["up"]);
    stage.eventually("it serves again", |stage| get(stage, "/").1 == "page of r1");
    is_without_processes(&stage);
}

#[test]
fn what_a_former_release_had_is_gone_after_its_time_and_a_broken_site_never_goes_live() {
    let Some(stage) = site(Kind::Builtin, SITE) else { return };
    for rev in ["r1", "r2", "r3"] {
        push_live(&stage, rev);
    }
    assert_eq!(get(&stage, "/assets/app.r2.js").0, 200, "the former one");
    let (head, body) = ask(&stage, "GET", "/assets/app.r1.js", "");
    assert!(head.starts_with("http/1.1 404") && head.contains("cache-control: no-store"), "{head}");
    assert!(!body.contains("page of"), "{body}");
    fs::write(stage.path("work/build.sh"), "mkdir -p other; echo x > other/index.html\n").unwrap();
    let broken = stage.push_all("Break it");
    let status = stage.until("the broken one failed", |status| status["last"]["commit"] == broken);
    assert_eq!(status["last"]["outcome"], "failed", "{status:#}");
    assert_eq!(status["last"]["error"], "the release has no directory dist");
    assert_eq!(get(&stage, "/"), (200, "page of r3".to_owned()));
}

#[test]
fn the_builtin_front_serves_files_as_web_servers_do() {
    let Some(stage) = site(Kind::Builtin, SITE) else { return };
    push_live(&stage, "r1");
    let (head, body) = ask(&stage, "GET", "/", "");
    assert!(head.contains("content-type: text/html; charset=utf-8") && body.trim() == "page of r1", "{head}");
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap();
        line.to_owned()
    };
    let known = |fields: String| ask(&stage, "GET", "/", &fields).0.starts_with("http/1.1 304");
    assert!(known(format!("If-None-Match: {}\r\n", field("etag"))));
    let modified = field("last-modified");
    assert!(!known("If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n".to_owned()), "{modified}");
    let (head, body) = ask(&stage, "GET", "/large.bin", "Range: bytes=5999998-\r\n");
    assert!(
        head.starts_with("http/1.1 206") && head.contains("content-range: bytes 5999998-5999999/6000000"),
        "{head}"
    );
    assert_eq!(body, "xx");
    assert!(ask(&stage, "GET", "/large.bin", "Range: bytes=6000000-\r\n").0.starts_with("http/1.1 416"));
    let (head, body) = ask(&stage, "HEAD", "/large.bin", "");
    assert!(head.contains("content-length: 6000000") && body.is_empty(), "{head}");
    let (head, _) = ask(&stage, "GET", "/docs?a=b", "");
    assert!(head.starts_with("http/1.1 301") && head.contains("location: /docs/?a=b"), "{head}");
    assert_eq!(get(&stage, "/docs/"), (200, "docs of r1".to_owned()));
    assert_eq!(get(&stage, "/a/page/of/the/app"), (200, "page of r1".to_owned()), "the fallback");
    for path in ["/gone.js", "/.env", "/%2eenv", "/..%2f..%2fbuild.sh", "/docs/%00", "/a\\..\\b"] {
        assert_eq!(get(&stage, path).0, 404, "{path}");
    }
    assert!(ask(&stage, "POST", "/", "Content-Length: 0\r\n").0.starts_with("http/1.1 405"));
    // A download across a flip and the removal of its release is whole.
    let mut stream = http::connect(stage.public()).unwrap();
    http::send(&mut stream, "GET", "/large.bin", "").unwrap();
    let begun = stream.fill_buf().unwrap().len();
    assert!(begun > 0);
    push_live(&stage, "r2");
    let removed = thread::spawn({
        let releases = stage.path("state/shop/releases");
        move || {
            let all = fs::read_dir(releases).unwrap().map(|entry| entry.unwrap().path());
            let old = all.filter(|path| path.join("dist/assets/app.r1.js").exists());
            old.for_each(|path| fs::remove_dir_all(path).unwrap());
        }
    });
    removed.join().unwrap();
    let answer = http::answer(&mut stream).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 6_000_000));
}
