//! Debian's php-fpm with the configuration of `contrib/php-fpm`, one for each color.

use std::{fs, os::unix::fs::PermissionsExt as _};

use nix::sys::signal::Signal;

use super::app_server::{self, AppServer, contrib, program};
use crate::shop::{Kind, Plan, send};

/// Says its revision in a header, as the sample app of the other tests does.
const INDEX: &str = r#"<?php
$rev = parse_ini_file(__DIR__ . '/../app.conf')['rev'];
$gates = getenv('SAMPLE_GATES');
if (preg_match('~^/slow\?ms=(\d+)~', $_SERVER['REQUEST_URI'], $found)) {
    usleep(1000 * (int) $found[1]);
}
if ($_SERVER['REQUEST_URI'] === '/held') {
    touch("$gates/held-arrived");
    while (file_exists("$gates/held")) {
        usleep(20000);
        clearstatcache();
    }
}
$body = "$rev " . file_get_contents('php://input');
header("X-Rev: $rev");
header('Content-Length: ' . strlen($body));
echo $body;
"#;

const SITE: &str = "fastcgi_pass shop; include /etc/nginx/fastcgi_params; \
                    fastcgi_param SCRIPT_FILENAME public/index.php; fastcgi_param SCRIPT_NAME /index.php; \
                    fastcgi_split_path_info ^((?:/index\\.php)?)((?:/.*)?)$; fastcgi_param PATH_INFO $fastcgi_path_info;";

/// `None`, with the reason printed, where there is no php-fpm.
fn php_fpm(keys: &str) -> Option<AppServer> {
    let program = program(&["php-fpm8.2", "php-fpm8.4", "php-fpm8.3", "php-fpm"])?;
    // Root has to be allowed; anybody else's php-fpm does not look at it.
    let conf = contrib("php-fpm/fpm.conf") + "user = root\ngroup = root\n";
    let site = contrib("php-fpm/site.conf");
    for line in SITE.split_inclusive(';') {
        assert!(site.contains(line.trim()), "{line} is not what contrib/php-fpm/site.conf says");
    }
    Some(AppServer {
        protocol: "fastcgi",
        pass: SITE,
        keys: format!("start = [{program:?}, \"-F\", \"-R\", \"-y\", \"fpm.conf\"]\n{keys}"),
        ends_with: "Finishing ...",
        files: vec![("fpm.conf", conf), ("public/index.php", INDEX.to_owned())],
    })
}

const KEYS: &str = "stop = { signal = \"QUIT\", grace = \"30s\" }\nhealth.script = \"public/index.php\"\n";

#[test]
fn ten_deploys_of_php_under_load_lose_nothing() {
    let Some(server) = php_fpm(KEYS) else { return };
    app_server::ten_deploys_lose_nothing(&server);
}

#[test]
fn a_request_that_outlasts_the_drain_is_finished_by_php_fpm() {
    // The signal is the default of the protocol.
    let keys = "stop = { grace = \"30s\" }\nhealth.script = \"public/index.php\"\n";
    let Some(server) = php_fpm(keys) else { return };
    app_server::a_request_beyond_the_drain_is_finished(&server);
}

#[test]
fn php_that_does_not_compile_gets_no_request() {
    let Some(server) = php_fpm(KEYS) else { return };
    let broken = ("public/index.php", "<?php this is no PHP");
    app_server::an_unwell_release_is_refused(&server, broken, "GET /up answered 500 (expected 200)");
}

#[test]
fn php_whose_script_is_missing_is_told_what_php_fpm_says() {
    let keys = "stop = { grace = \"30s\" }\nhealth.script = \"web/index.php\"\n";
    let Some(server) = php_fpm(keys) else { return };
    let Some(stage) = server.set(Plan { deadline: "10s", ..Plan::of(Kind::Nginx) }) else { return };
    let first = stage.push("first", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == first);
    let error = status["last"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("GET /up answered 404 (expected 200)"), "{status:#}");
    assert!(error.contains("Primary script unknown"), "{status:#}");
}

/// Workers of php-fpm do not notice that their master is gone, and hold the socket: they end first.
#[test]
fn h1_php_fpm_whose_master_was_killed_is_started_again_whole() {
    let keys = "stop = { signal = \"QUIT\", grace = \"3s\" }\nhealth.script = \"public/index.php\"\n";
    let Some(server) = php_fpm(keys) else { return };
    let Some(stage) = server.set(Plan::of(Kind::Nginx)) else { return };
    stage.push_live("one");
    let before = stage.until_at_rest()["live"].clone();
    let master = before["pid"].as_u64().expect("a pid");
    send(u32::try_from(master).expect("a pid"), Signal::SIGKILL);
    let status = stage.until("another master is there and well", |status| {
        let live = &status["live"];
        !live["up_since"].is_null() && live["up_since"] != before["up_since"] && live["healthy"] == true
    });
    app_server::assert_only_the_live_one_runs(&stage, &status);
    let load = stage.load();
    load.sees("one");
    stage.push_live("two");
    load.sees("two");
    let status = stage.until_at_rest();
    load.end_without_loss();
    app_server::assert_only_the_live_one_runs(&stage, &status);
}

/// Three things that differ between users: opening the error log, the rights of workers, reading the release.
#[test]
fn php_fpm_runs_as_the_user_of_the_app_with_the_configuration_as_it_is() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let Some(mut server) = php_fpm(KEYS) else { return };
    server.keys = server.keys.replace(", \"-R\"", "") + "user = \"nobody\"\n";
    server.files[0].1 = contrib("php-fpm/fpm.conf");
    let Some(stage) = server.set(Plan::of(Kind::Nginx)) else { return };
    for dir in ["", "remote.git", "gates"] {
        fs::set_permissions(stage.path(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
    stage.push_live("one");
    stage.push_live("two");
    assert_eq!(stage.served(), "two");
    let pid = stage.until_at_rest()["live"]["pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("\nUid:\t0\t"), "{status}");
    assert!(stage.done(&["logs", "-n", "200"]).contains("ready to handle connections"));
    app_server::assert_nothing_was_killed(&stage);
}

/// As ThinkPHP and CodeIgniter route: by `PATH_INFO` alone.
#[test]
fn a_framework_that_routes_by_path_info_gets_it_from_the_health_check_and_from_the_site() {
    let routed = INDEX.replace(
        "$body = ",
        "if (!in_array($_SERVER['PATH_INFO'] ?? '', ['/up', '/', '/a/b'])) { http_response_code(404); }\n$body = ",
    );
    let Some(mut server) = php_fpm(KEYS) else { return };
    server.files[1].1 = routed.replace("\"$rev \"", "\"$rev {$_SERVER['PATH_INFO']} \"");
    let Some(stage) = server.set(Plan::of(Kind::Nginx)) else { return };
    stage.push_live("one");
    for (path, info) in [("/a/b?c=d", "one /a/b "), ("/index.php/a/b", "one /a/b "), ("/", "one / ")] {
        let url = format!("http://{}{path}", stage.public());
        let answer = std::process::Command::new("curl").args(["-sf", &url]).output().expect("curl");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), info, "{path}: {answer:?}");
    }
    stage.until_at_rest();
}

#[test]
fn the_ping_of_php_fpm_can_be_asked_without_a_script() {
    let keys =
        "stop = { grace = \"30s\" }\nhealth = { path = \"/ping\", body = \"pong\", interval = \"50ms\" }\n";
    let Some(server) = php_fpm(keys) else { return };
    let Some(stage) = server.set(Plan::of(Kind::Nginx)) else { return };
    stage.push_live("one");
    stage.push_live("two");
    assert_eq!(stage.served(), "two");
    stage.until_at_rest();
    // Nothing on this host is in its way.
    stage.done(&["doctor"]);
    app_server::assert_nothing_was_killed(&stage);
}
