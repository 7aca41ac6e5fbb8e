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
error: bgd.toml:10: app.shop.stop.signal: is no signal: "TREM"
  hint: did you mean "TERM"?
error: bgd.toml:13: app.shop.health.timeout: must be longer than zero
  hint: leave it out for the default, 5s
error: bgd.toml:14: app.shop.health.body: has no effect without `path`
  hint: add path = "/…"
error: bgd.toml:15: app.shop.health.status: has no effect without `path`
  hint: add path = "/…"
error: bgd.toml:15: app.shop.health.status[1]: is no status of HTTP: 999
  hint: a status is 100 to 599, such as 200
error: bgd.toml:18: app.shop.front.type: is no front: "haprox"
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

const WRONG: &[Wrong] = &[
    ("limits.memory = \"512\"", "4 app.shop.limits.memory", "is no amount of memory"),
    ("limits.memory = \"1M\"", "4 app.shop.limits.memory", "is too little"),
    ("limits.cpu = \"2\"", "4 app.shop.limits.cpu", "is no share of the CPU"),
    ("checkout_limit.files = 0", "4 app.shop.checkout_limit.files", "must be 1 or more: 0"),
    ("checkout_limit.size = \"20\"", "4 app.shop.checkout_limit.size", "not an amount of bytes: \"20\""),
    ("limits.tasks = 0", "4 app.shop.limits.tasks", "must be 8 or more"),
    ("[daemon]\noperators = [\"an na\"]", "5 daemon.operators[0]", "is no name of a user or group"),
    ("[daemon]\nreaders = [\"@\"]", "5 daemon.readers[0]", "is no name of a user or group"),
    ("protocol = \"ftp\"", "4 app.shop.protocol", "is no protocol: \"ftp\""),
    ("protocol = \"fastcgi\"", "4 app.shop.protocol", "speaks HTTP only"),
    ("protocol = \"uwsgi\"\nfront.type = \"builtin\"", "4 app.shop.protocol", "speaks HTTP only"),
    (
        "health = { path = \"/\", script = \"a.php\" }",
        "4 app.shop.health.script",
        "no effect without FastCGI",
    ),
    (
        "protocol = \"fastcgi\"\nfront.type = \"nginx\"\nhealth = { path = \"/\", script = \"/a.php\" }",
        "6 app.shop.health.script",
        "is absolute",
    ),
    (
        "protocol = \"fastcgi\"\nfront.type = \"nginx\"\nhealth.script = \"a.php\"",
        "6 app.shop.health.script",
        "no effect without `path`",
    ),
    ("branch = \"\"", "4 app.shop.branch", "is empty"),
    ("branch = \"refs/heads/main\"", "4 app.shop.branch", "whole ref"),
    ("branch = \"refs/tags/v1\"", "4 app.shop.branch", "whole ref"),
    ("branch = \"a..b\"", "4 app.shop.branch", "no name of a branch"),
    ("branch = 1", "4 app.shop.branch", "expected a text, found the number 1"),
    ("poll = \"0s\"", "4 app.shop.poll", "longer than zero"),
    ("poll = \"often\"", "4 app.shop.poll", "is not a duration: \"often\""),
    ("poll = true", "4 app.shop.poll", "expected a duration"),
    ("standby = \"10000h\"", "4 app.shop.standby", "longer than 365 days"),
    ("ports = [0, 9502]", "4 app.shop.ports[0]", "no port: 0"),
    ("ports = [9501, 65536]", "4 app.shop.ports[1]", "no port: 65536"),
    ("ports = [9501]", "4 app.shop.ports", "needs two ports, found 1"),
    ("instances = 0", "4 app.shop.instances", "must be 1 to 64: 0"),
    ("instances = 65", "4 app.shop.instances", "must be 1 to 64: 65"),
    ("instances = 2", "1 app.shop.ports", "the default [9501, 9502] has no room for 2 instances"),
    ("instances = 3\nports = [9503, 9501]", "5 app.shop.ports", "green, 9501 to 9503, share ports"),
    ("instances = 64\nports = [9501, 65473]", "5 app.shop.ports", "64 ports from 65473 on are more than"),
    (
        "instances = 2\nports = [1, 11]\n[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"b\"\nwith = \"{port}\"",
        "4 app.shop.instances",
        "is one file for 2 instances",
    ),
    (
        "instances = 2\nports = [1, 11]\nfront = { type = \"haproxy\", servers = [\"web\", \"web-2\"] }",
        "4 app.shop.instances",
        "needs a server web-2 of blue, and front.servers gives that name to green",
    ),
    ("ports = 9501", "4 app.shop.ports", "expected a list, found the number 9501"),
    (
        "ports = [8080, 9502]",
        "4 app.shop.ports",
        "port 8080 is used twice, first by the default of app.shop.front.listen (bgd.toml:1)",
    ),
    ("build = [\"make\",\n \" \"]", "5 app.shop.build[1]", "is empty"),
    ("build = 1", "4 app.shop.build", "expected a text or a list of texts"),
    ("stop.signal = \"STOP\"", "4 app.shop.stop.signal", "does not ask a process to end: SIGSTOP"),
    ("stop.signal = 99", "4 app.shop.stop.signal", "is no signal number: 99"),
    ("stop.command = \"\"", "4 app.shop.stop.command", "is empty"),
    ("stop.wait = \"1s\"", "4 app.shop.stop.wait", "unknown key"),
    ("keep = -1", "4 app.shop.keep", "1 or more: -1"),
    ("keep = \"5\"", "4 app.shop.keep", "expected a whole number, found a text"),
    ("keep = 99999999999999999999", "4 app.shop.keep", "too large"),
    ("user = \"\"", "4 app.shop.user", "no name of a user"),
    ("user = \"www-data:www\"", "4 app.shop.user", "no name of a user"),
    ("env = { \"A B\" = \"x\" }", "4 app.shop.env.\"A B\"", "no name of a variable"),
    ("env = { BGD_COLOR = \"x\" }", "4 app.shop.env.BGD_COLOR", "set by bgd itself"),
    ("env = { PORT = \"80\" }", "4 app.shop.env.PORT", "set by bgd itself"),
    ("env_file = \"~/shop.env\"", "4 app.shop.env_file", "`~` is not expanded"),
    ("env_file = \"\"", "4 app.shop.env_file", "is empty"),
    ("env_file = \"/etc/\"", "4 app.shop.env_file", "is a directory"),
    ("env_file = \"a\\u0000b\"", "4 app.shop.env_file", "NUL"),
    ("shared = [\"/var\"]", "4 app.shop.shared[0]", "is absolute"),
    ("shared = [\"a/../b\"]", "4 app.shop.shared[0]", "leaves the release"),
    ("shared = [\".\"]", "4 app.shop.shared[0]", "is the whole release"),
    ("shared = [\"~/x\"]", "4 app.shop.shared[0]", "`~` is not expanded"),
    ("shared = [\"a\", \"b/\", \"a/c\"]", "4 app.shop.shared[2]", "overlaps \"a\" of app.shop.shared[0]"),
    (
        "shared = [\"a\"]\ncache = [\"a/\"]",
        "5 app.shop.cache[0]",
        "overlaps \"a\" of app.shop.shared[0] (bgd.toml:4)",
    ),
    ("cache = \"vendor\"", "4 app.shop.cache", "expected a list, found a text"),
    ("memory_check = \"stop\"", "4 app.shop.memory_check", "is not a memory check: \"stop\""),
    ("fast_forward_only = \"yes\"", "4 app.shop.fast_forward_only", "expected true or false"),
    ("auth.ssh_key = \"/k\"", "4 app.shop.auth.ssh_key", "is for ssh, but the remote is https"),
    ("auth.known_hosts = \"/k\"", "4 app.shop.auth.known_hosts", "is for ssh"),
    ("verify = {}", "4 app.shop.verify", "names nobody to trust"),
    ("verify.range = \"all\"", "4 app.shop.verify", "names nobody to trust"),
    ("verify = { signers = \"s\", range = \"some\" }", "4 app.shop.verify.range", "is no range: \"some\""),
    ("verify.signers = \"~/s\"", "4 app.shop.verify.signers", "`~` is not expanded"),
    ("verify.keyring = \"\"", "4 app.shop.verify.keyring", "is empty"),
    ("auth = \"x\"", "4 app.shop.auth", "expected a table, found a text"),
    ("[app.shop.rewrite]\nfile = \"a\"", "4 app.shop.rewrite", "expected a list, found a table"),
    ("[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"x\"", "4 app.shop.rewrite[0].with", "is required"),
    (
        "[[app.shop.rewrite]]\nfile = \"/a\"\nfind = \"x\"\nwith = \"\"",
        "5 app.shop.rewrite[0].file",
        "is absolute",
    ),
    (
        "[[app.shop.rewrite]]\nfile = \"a/\"\nfind = \"x\"\nwith = \"\"",
        "5 app.shop.rewrite[0].file",
        "directory",
    ),
    (
        "[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"\"\nwith = \"\"",
        "6 app.shop.rewrite[0].find",
        "is empty",
    ),
    (
        "shared = [\"etc\"]\n[[app.shop.rewrite]]\nfile = \"etc/x\"\nfind = \"1\"\nwith = \"\"",
        "6 app.shop.rewrite[0].file",
        "is the same file in both colors: it lies in app.shop.shared[0]",
    ),
    ("health.path = \"up\"", "4 app.shop.health.path", "no path of a URL"),
    ("health.path = \"http://localhost:3000/up\"", "4 app.shop.health.path", "no path of a URL"),
    ("health = \"/up\"", "4 app.shop.health", "expected a table, found a text"),
    ("env = [\"A=b\"]", "4 app.shop.env", "expected a table such as"),
    ("ports = [\"3000:3000\"]", "4 app.shop.ports[0]", "expected a whole number, found a text"),
    ("health.path = \"/a b\"", "4 app.shop.health.path", "no path of a URL"),
    ("health = { path = \"/\", command = \"x\" }", "4 app.shop.health.command", "exclude each other"),
    ("health = { command = \"x\", host = \"h\" }", "4 app.shop.health.host", "has no effect with `command`"),
    ("health = { path = \"/\", body = \"\" }", "4 app.shop.health.body", "is empty"),
    ("health = { path = \"/\", status = [] }", "4 app.shop.health.status", "is empty"),
    ("health = { path = \"/\", status = [99] }", "4 app.shop.health.status[0]", "no status of HTTP: 99"),
    ("health = { path = \"/\", host = \"http://x\" }", "4 app.shop.health.host", "no value of a Host header"),
    ("health.interval = \"0ms\"", "4 app.shop.health.interval", "longer than zero"),
    ("health.successes = 0", "4 app.shop.health.successes", "1 or more"),
    ("health.deadline = \"1s\"", "4 app.shop.health.deadline", "can never be met"),
    ("health = { path = \"/\", successes = 200 }", "4 app.shop.health.successes", "take at least 1m37s130ms"),
    ("hooks.before_start = [\"a\"]", "4 app.shop.hooks.before_start", "expected a text, found a list"),
    ("hooks.after_live = \"\"", "4 app.shop.hooks.after_live", "is empty"),
    ("hooks.timeout = \"0s\"", "4 app.shop.hooks.timeout", "longer than zero"),
    ("front.type = \"ngnix\"", "4 app.shop.front.type", "is no front: \"ngnix\""),
    ("front.upstream = \"x\"", "4 app.shop.front.upstream", "no effect with the builtin front"),
    (
        "front = { type = \"nginx\", listen = \"[::]:80\" }",
        "4 app.shop.front.listen",
        "no effect with the nginx front",
    ),
    (
        "front = { type = \"nginx\", upstream = \"a;b\" }",
        "4 app.shop.front.upstream",
        "no name of an upstream",
    ),
    ("front = { type = \"nginx\", file = \"/etc/\" }", "4 app.shop.front.file", "is a directory"),
    (
        "front = { type = \"nginx\", file = \"/etc/nginx/nginx.conf\" }",
        "4 app.shop.front.file",
        "nginx's own configuration",
    ),
    ("front = { type = \"nginx\", test = [] }", "4 app.shop.front.test", "is empty"),
    ("front = { type = \"nginx\", reload = \"x\" }", "4 app.shop.front.reload", "expected a list"),
    ("front.socket = \"/h.sock\"", "4 app.shop.front.socket", "no effect with the builtin front"),
    (
        "front = { type = \"nginx\", backend = \"shop\" }",
        "4 app.shop.front.backend",
        "no effect with the nginx front",
    ),
    (
        "front = { type = \"haproxy\", upstream = \"shop\" }",
        "4 app.shop.front.upstream",
        "no effect with the haproxy front",
    ),
    (
        "front = { type = \"haproxy\", backend = \"a; b\" }",
        "4 app.shop.front.backend",
        "is no name of a backend",
    ),
    (
        "front = { type = \"haproxy\", servers = [\"a\", \"b/c\"] }",
        "4 app.shop.front.servers[1]",
        "is no name of a server",
    ),
    (
        "front = { type = \"haproxy\", servers = [\"a\"] }",
        "4 app.shop.front.servers",
        "must name two servers, not 1",
    ),
    (
        "front = { type = \"haproxy\", servers = [\"a\", \"a\"] }",
        "4 app.shop.front.servers[1]",
        "the same server",
    ),
    ("front.listen = \":80\"", "4 app.shop.front.listen", "no address to listen on"),
    ("front.listen = \"127.0.0.1:0\"", "4 app.shop.front.listen", "no address to listen on"),
    ("front.listen = 80", "4 app.shop.front.listen", "expected a text, found the number 80"),
    ("[daemon]\nstate_dir = \"\"", "5 daemon.state_dir", "is empty"),
    ("[daemon]\nruntime_dir = \"~/run\"", "5 daemon.runtime_dir", "`~` is not expanded"),
    ("[daemon]\nruntime = \"/run\"", "5 daemon.runtime", "unknown key"),
    ("[app.Shop]\nremote = \"/a\"\nstart = \"a\"", "4 app.Shop", "not an app name"),
    ("[app.\"a b\"]\nremote = \"/a\"\nstart = \"a\"", "4 app.\"a b\"", "not an app name"),
    ("[app.lock]\nremote = \"/a\"\nstart = \"a\"", "4 app.lock", "not an app name"),
    ("[app.reserve]\nremote = \"/a\"\nstart = \"a\"", "4 app.reserve", "are files of bgd"),
    ("[daemon]\nruntime_dir = \"/var/lib/bgd/shop\"", "1 app.shop", "would be daemon.runtime_dir"),
    ("[[daemon]]", "4 daemon", "expected a table, found a list"),
];

#[test]
fn each_wrong_value_is_one_error_at_its_key_and_line() {
    each_is_one_error_at_its_place(WRONG);
}

#[test]
fn each_wrong_remote_is_one_error() {
    for (remote, what) in [
        ("", "is empty"),
        ("  ", "is empty"),
        ("~/shop.git", "`~` is not expanded"),
        ("--upload-pack=x", "no address that git fetches"),
        ("https://", "names no host"),
        ("ssh://-oProxyCommand=x/y", "names no host"),
        ("svn://host/x", "no address that git fetches: \"svn://…\""),
        ("file://srv/shop.git", "without an absolute path"),
        ("https://host/a\\nb", "no address that git fetches"),
        ("git@git.example.com/acme/shop.git", "lacks the colon"),
        ("ssh://git@git.example.com:acme/shop.git", "names no port"),
        ("/srv/a\\u001bb", "no address that git fetches"),
    ] {
        let found = errors(&format!("[app.shop]\nremote = \"{remote}\"\nstart = \"x\""));
        assert_eq!(found.len(), 1, "{remote}: {found:#?}");
        assert!(found[0].starts_with("2 app.shop.remote") && found[0].contains(what), "{found:#?}");
    }
    for (remote, key, what) in [
        ("git@host:a.git", "ca_file", "is for https, but the remote is ssh"),
        ("http://host/a.git", "ca_file", "is for https, but the remote is http"),
        ("/srv/a.git", "ca_file", "is for https, and the remote is not"),
        ("https://host/a.git", "proxy", "is not the URL of a proxy"),
        ("git@host:a.git", "token_file", "is for https, but the remote is ssh"),
        ("/srv/a.git", "ssh_key", "takes no credentials"),
        ("git://host/a.git", "token_file", "takes no credentials"),
    ] {
        let text = format!("[app.shop]\nremote = \"{remote}\"\nstart = \"x\"\nauth.{key} = \"/k\"");
        let found = errors(&text);
        assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
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
fn a_port_used_twice_names_both_places_and_free_ports() {
    let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\n";
    let problems = load(&format!("{}{blog}", with(""))).unwrap_err();
    let expected = "\
error: bgd.toml:4: app.blog.front.listen: the default port 8080 is used twice, first by the default of app.shop.front.listen (bgd.toml:1)
  hint: for example listen = \"127.0.0.1:8081\"
error: bgd.toml:4: app.blog.ports: the default ports 9501 and 9502 are used twice, first by the default of app.shop.ports (bgd.toml:1)
  hint: for example ports = [9503, 9504]";
    assert_eq!(problems.to_string(), expected);

    let apart = "ports = [9601, 9602]\nfront.listen = \"127.0.0.2:8080\"\n";
    assert!(load(&format!("{}{blog}{apart}", with(""))).is_ok());
    let everywhere = "ports = [9601, 9602]\nfront.listen = \"0.0.0.0:8080\"\n";
    assert_eq!(errors(&format!("{}{blog}{everywhere}", with(""))).len(), 1);
    let front_on_port = "ports = [9601, 9602]\nfront.listen = \"127.0.0.2:9501\"\n";
    assert_eq!(errors(&format!("{}{blog}{front_on_port}", with(""))).len(), 1);
}

#[test]
fn the_ports_of_all_instances_are_another_app_s_to_leave_alone() {
    let shop = with("ports = [9501, 9511]\ninstances = 3\n");
    let blog = |ports| {
        format!(
            "{shop}[app.blog]\nremote = \"/b\"\nstart = \"b\"\nfront.listen = \"[::1]:1\"\nports = {ports}\n"
        )
    };
    assert!(load(&blog("[9504, 9510]")).is_ok());
    for (ports, said) in
        [("[9503, 9520]", "port 9503 is used twice"), ("[9513, 9512]", "ports 9513 and 9512 are")]
    {
        assert!(errors(&blog(ports))[0].contains(said), "{:?}", errors(&blog(ports)));
    }
    let three = errors(&blog("[9503, 9511]\ninstances = 3"));
    assert!(three[0].contains("4 ports are used twice, from 9503"), "{three:?}");
    let hint = load(&blog("[9503, 9511]\ninstances = 3")).unwrap_err().to_string();
    assert!(hint.contains("for example ports = [9506, 9514]"), "{hint}");
}

#[test]
fn two_apps_cannot_have_the_same_upstream_or_file_of_nginx() {
    let nginx = "front = { type = \"nginx\", upstream = \"u\", file = \"/n/./x.conf\" }\n";
    let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\nports = [1, 2]\n";
    let found = errors(&format!("{}{blog}{}", with(nginx), nginx.replace("./", "")));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[1].contains("upstream \"u\" is used twice, first by app.shop.front.upstream (bgd.toml:4)"),
        "{found:#?}"
    );
    assert!(found[0].contains("file \"/n/x.conf\" is used twice"), "{found:#?}");
}

#[test]
fn two_apps_cannot_have_the_same_backend_of_one_haproxy() {
    let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\nports = [1, 2]\n";
    let two = |one: &str, other: &str| errors(&format!("{}{blog}{other}", with(one)));
    let haproxy = "front = { type = \"haproxy\", backend = \"b\" }\n";
    let found = two(haproxy, haproxy);
    let expected = "backend \"b at /run/haproxy/admin.sock\" is used twice";
    assert!(found.len() == 1 && found[0].contains(expected), "{found:#?}");
    let elsewhere = "front = { type = \"haproxy\", backend = \"b\", socket = \"/o.sock\" }\n";
    assert!(load(&format!("{}{blog}{elsewhere}", with(haproxy))).is_ok());
}

#[test]
fn a_relative_remote_below_a_directory_that_is_not_utf8_is_refused() {
    let base = std::os::unix::ffi::OsStringExt::from_vec(b"/srv/\xff".to_vec());
    let odd = Surroundings { base: std::ffi::OsString::into(base), ..surroundings() };
    let text = "[app.shop]\nremote = \"a.git\"\nstart = \"x\"";
    let problems = parse(&source("bgd.toml", text), &[], &odd).unwrap_err();
    assert!(problems.to_string().contains("is not UTF-8 in full"), "{problems}");
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

#[test]
fn without_a_runtime_directory_it_lies_below_the_state_directory_and_a_socket_fits_into_it() {
    let nowhere = Surroundings { runtime_dir: None, ..surroundings() };
    let text = with("[daemon]\nstate_dir = \"state\"");
    let daemon = parse(&source("bgd.toml", &text), &[], &nowhere).unwrap().settings.daemon;
    assert_eq!(daemon.state_dir, PathBuf::from("/etc/bgd/state"));
    assert_eq!(daemon.runtime_dir, PathBuf::from("/etc/bgd/state/run"));
    let long = with(&format!("[daemon]\nruntime_dir = \"/{}\"", "x".repeat(99)));
    assert!(errors(&long)[0].contains("too long for a socket in it: 109 bytes with /bgd.sock, at most 107"));
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "(\\PC|[\n\"'\\[\\]{}=.# ]){0,120}", app in "\\PC{0,40}") {
        let _ = parse(&source("bgd.toml", &text), &[source("apps.d/x.toml", &app)], &surroundings());
    }

    #[test]
    fn no_value_makes_the_loader_panic(key in 0..WRONG.len(), value in "(\\PC|[\n~/:@.0-9]){0,20}", number: i64) {
        let key = WRONG[key].0.split(" = ").next().unwrap();
        for value in [format!("{value:?}"), number.to_string(), format!("[{value:?}, {number}]")] {
            let _ = load(&with(&format!("{key} = {value}")));
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
