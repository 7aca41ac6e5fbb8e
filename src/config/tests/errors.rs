//! What is refused, and how it is said.

use proptest::prelude::*;

use super::*;

#[test]
fn a_file_with_ten_problems_is_told_all_ten_with_their_lines_and_hints() {
    let text = r#"# one
[app.shop]
remote = "https://git.example.com/acme/shop.git"
start = ""
brnach = "main"
poll = 10
ports = [9501, 9501]
keep = 0
shared = ["../storage"]
stop = { signal = "TREM", command = "bye" }

[app.shop.health]
timeout = "0s"
body = "ok"
status = [200, 999]

[app.shop.front]
type = "haprox"

[demon]
"#;
    let expected = r#"error: bgd.toml:4: app.shop.start: is empty
  hint: a text (/bin/sh -c) or a list (argv), such as "node server.js" or ["node", "server.js"]
error: bgd.toml:5: app.shop.brnach: unknown key
  hint: did you mean `branch`?
error: bgd.toml:6: app.shop.poll: has no unit: "10"
  hint: write "10s" for seconds; units are ms, s, m, h and d
error: bgd.toml:7: app.shop.ports: blue and green have the same port: 9501
  hint: each color listens on its own port, such as [9501, 9502]
error: bgd.toml:8: app.shop.keep: must be 1 or more: 0
  hint: keep at least 1; 2 or more leave a way back
error: bgd.toml:9: app.shop.shared[0]: leaves the release: "../storage"
  hint: write a path relative to the release, without `..`
error: bgd.toml:10: app.shop.stop.command: `signal` and `command` exclude each other
  hint: keep one of them
error: bgd.toml:10: app.shop.stop.signal: is not a signal: "TREM"
  hint: did you mean "TERM"?
error: bgd.toml:13: app.shop.health.timeout: must be longer than zero
  hint: leave it out for the default, 5s
error: bgd.toml:14: app.shop.health.body: has no effect without `path`
  hint: add path = "/…"
error: bgd.toml:15: app.shop.health.status: has no effect without `path`
  hint: add path = "/…"
error: bgd.toml:15: app.shop.health.status[1]: is not an HTTP status: 999
  hint: a status is 100 to 599, such as 200
error: bgd.toml:18: app.shop.front.type: is not a front: "haprox"
  hint: did you mean "haproxy"?
error: bgd.toml:20: demon: unknown key
  hint: did you mean `daemon`?"#;
    let problems = load(text).unwrap_err();
    assert_eq!(problems.to_string(), expected);
    let json = serde_json::to_value(&problems).unwrap();
    assert_eq!(json[0]["line"], 4);
    assert_eq!(json[0]["severity"], "error");
    assert!(json[0]["column"].is_null());
    assert_eq!(serde_json::from_value::<Problems>(json).unwrap(), problems);
}

#[test]
fn what_is_required_is_missed_at_the_header() {
    let expected = ["2 app.shop.remote: is required", "2 app.shop.start: is required"];
    assert_eq!(errors("\n[app.shop]\nbranch = \"x\""), expected);
    assert_eq!(errors(""), ["1 app: no app is configured"]);
    assert!(load("").unwrap_err().0[0].hint.as_ref().unwrap().contains("bgd init"));
}

#[test]
fn an_unknown_key_is_told_where_it_belongs() {
    for (text, hint) in [
        (with("interval = \"1s\""), "`interval` belongs to the table `health`: app.shop.health.interval"),
        (with("[app.shop.health]\nbranch = \"x\""), "`branch` belongs to the app itself: app.shop.branch"),
        (with("health.time_out = \"1s\""), "did you mean `timeout`?"),
        (with("healthcheck.path = \"/\""), "did you mean `health`?"),
        (with("port = 1"), "did you mean `ports`?"),
        (with("state_dir = \"/x\""), "`state_dir` belongs under [daemon] of bgd.toml"),
        (
            with("watch.zzzzzz = 1"),
            "known here: for, restart, backup, max_error_rate, max_p95, min_requests, inconclusive",
        ),
        (format!("remote = \"x\"\n{}", with("")), "`remote` belongs to an app: under [app.NAME]"),
        (
            "app.remote = \"x\"\napp.a.start = \"x\"\napp.a.remote = \"/x\"".to_owned(),
            "with a name: [app.NAME]",
        ),
        (with("[apps.blog]"), "did you mean `app`?"),
    ] {
        let problems = load(&text).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].hint.as_ref().unwrap().ends_with(hint), "{:#?}", problems[0]);
    }
    let apps = [source("apps.d/shop.toml", "remote = \"/a\"\nstart = \"a\"\n[daemon]\n[app.x]")];
    let problems = parse(&source("bgd.toml", ""), &apps, &surroundings()).unwrap_err().0;
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(
        problems.iter().all(|problem| problem.hint.as_ref().unwrap().contains("a file of apps.d is one app"))
    );
}

#[test]
fn a_syntax_error_has_line_and_column_and_hides_its_consequences() {
    for (text, place, what) in [
        ("[app.shop]\nremote = \"x\nstart = 1\nbrnach = 2", ":2:12", "invalid basic string"),
        ("[app.shop\nremote = 1", ":1:10", "unclosed table"),
        ("[app.shop]\nremote = “x”\nbrnach = 2", ":2:10", "a quotation mark of a word processor"),
        ("a = 1\n\t= 2", ":2:2", "key"),
        ("ä = \"ö\" = 2", ":1:1", "unquoted key"),
        ("x = '''\nnever", ":2:6", "invalid multi-line literal string"),
    ] {
        let problems = load(text).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        let shown = problems[0].to_string();
        assert!(shown.starts_with(&format!("error: bgd.toml{place}: syntax error")), "{shown}");
        assert!(shown.contains(what), "{shown}");
    }
}

#[test]
fn a_forgotten_quote_or_a_key_given_twice_does_not_hide_other_problems() {
    let text = with("poll = 10s\nkeep = 0\nkeep = 5\n[app.shop]\nbrnach = \"x\"");
    let found = errors(&text);
    assert_eq!(
        found,
        [
            "4 -: syntax error: a text without quotes",
            "5 app.shop.keep: must be 1 or more: 0",
            "6 -: syntax error: this key or table is already there",
            "7 -: syntax error: this key or table is already there",
            "8 app.shop.brnach: unknown key",
        ]
    );
}

#[test]
fn an_app_defined_twice_names_both_places() {
    let apps = [source("apps.d/shop.toml", "remote = \"/a\"\nstart = \"a\"")];
    let problems = parse(&source("bgd.toml", &with("")), &apps, &surroundings()).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "error: apps.d/shop.toml:1: app.shop: is defined twice, first at bgd.toml:1\n  \
         hint: an app stands in bgd.toml or in a file of apps.d; remove one"
    );
}

#[test]
fn problems_of_several_files_come_in_the_order_of_the_files() {
    let apps = [source("apps.d/a.toml", "x = = 1"), source("apps.d/b.toml", "start = \"b\"")];
    let problems = parse(&source("bgd.toml", &with("keep = 0")), &apps, &surroundings()).unwrap_err().0;
    let places: Vec<_> = problems.iter().map(|p| (p.file.as_str(), p.line.unwrap())).collect();
    assert_eq!(places[..3], [("bgd.toml", 4), ("apps.d/a.toml", 1), ("apps.d/b.toml", 1)]);
    assert!(problems.iter().any(|problem| problem.key.as_deref() == Some("app.b.remote")));
}

#[test]
fn l1_no_secret_in_a_problem() {
    let text = "[app.shop]\nremote = \"svn://user:hunter2@host/x\"\nstart = \"x\"\n\
                env = { A = { x = \"hunter2\" }, \"B C\" = \"hunter2\", BGD_X = \"hunter2\", PIN = 31337 }\n\
                auth.token_file = \"~hunter2\"\nkeep = \"hunter2\"\nuser = 31337.5\nxyz = \"hunter2\"";
    let problems = load(text).unwrap_err();
    assert!(problems.0.len() > 5, "{problems}");
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
    assert!(
        !problems.0.iter().any(|p| p.what.contains("31337") && p.key.as_deref() != Some("app.shop.user"))
    );
    let text = "[app.shop]\nremote = \"https://user:hunter2@host/x\"\nstart = \"x\"\nhealth.path = \"/\"";
    let warnings = load(text).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(!warnings[0].to_string().contains("hunter2"), "{warnings:#?}");
}

#[test]
fn what_works_but_should_be_looked_at_is_a_warning() {
    for (lines, key) in [
        ("drain = \"0s\"\nhealth.path = \"/\"", "app.shop.drain"),
        ("watch.for = \"0s\"\nhealth.command = \"x\"", ""),
        ("health.path = \"/\"", ""),
        ("health.command = \"x\"", ""),
        ("health.deadline = \"20s\"", "app.shop.health"),
    ] {
        let keys: Vec<_> = load(&with(lines)).unwrap().warnings.into_iter().filter_map(|w| w.key).collect();
        assert_eq!(keys.join(" "), key, "{lines}");
    }
    let keys: Vec<_> =
        load(&with("watch.for = \"0s\"")).unwrap().warnings.into_iter().filter_map(|w| w.key).collect();
    assert_eq!(keys, ["app.shop.health", "app.shop.watch.for"]);
}

#[test]
fn one_problem_stays_on_its_own_line_whatever_is_in_the_file() {
    let text = with("\"a\\nb\\u001b[31m\" = 1\nbranch = \"x\\ny\\u001b\"\nshared = [\"/a\\nb\"]");
    for problem in load(&text).unwrap_err().0 {
        let hint = problem.hint.clone().unwrap();
        assert!(!problem.key.as_ref().unwrap().contains(char::is_control), "{problem:?}");
        assert!(!problem.what.contains(char::is_control) && !hint.contains(char::is_control), "{problem:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "(\\PC|[\n\"'\\[\\]{}=.# ]){0,120}", app in "\\PC{0,40}") {
        let _ = parse(&source("bgd.toml", &text), &[source("apps.d/x.toml", &app)], &surroundings());
    }

    #[test]
    fn no_value_makes_the_loader_panic(at: usize, value in "(\\PC|[\n~%+/:@.0-9]){0,20}", number: i64) {
        let keys: Vec<String> = keys::all().into_iter().collect();
        let key = &keys[at % keys.len()];
        let text = |value: &str| match key.starts_with("daemon.") {
            true => format!("{key} = {value}\n{}", with("")),
            false => with(&format!("{key} = {value}")),
        };
        for value in [format!("{value:?}"), number.to_string(), format!("[{value:?}, {number}]"), format!("[{value:?}]")] {
            let _ = load(&text(&value));
        }
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_loader_panic(from in 0usize..9000, length in 0usize..40, put in "\\PC{0,3}") {
        let good = crate::config::init::TEXT.replace("\n#", "\n");
        let cut = |at: usize| (0..=at.min(good.len())).rev().find(|at| good.is_char_boundary(*at)).unwrap_or(0);
        let (from, to) = (cut(from), cut(from + length));
        let _ = load(&format!("{}{put}{}", &good[..from], &good[to..]));
    }
}
