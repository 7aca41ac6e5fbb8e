//! The files that the contract shows, and what they mean.

use std::{num::NonZeroU32, time::Duration};

use super::*;
use crate::config::settings::{
    Auth, CheckoutLimit, FrontSettings, Hooks, HttpProbe, NginxSettings, Ports, Probe, Rewrite, Start, Stop,
    StopHow, Verify, VerifyRange,
};

const SMALLEST: &str = r#"
[app.shop]
remote = "https://git.example.com/acme/shop.git"   # anything git fetches: https, ssh, file, a path
start  = "python3 -m http.server $PORT --bind 127.0.0.1"
"#;

/// All keys of the contract's listing (credentials and front are shown once for each kind there).
const ALL: &str = r#"
[app.shop]
remote   = "git@git.example.com:acme/shop.git"
branch   = "main"
poll     = "10s"
ports    = [9501, 9502]
build    = []
start    = "…"
stop     = { signal = "TERM", grace = "30s" }
drain    = "30s"
standby  = "0s"
keep     = 5
user     = "www-data"
env      = { APP_ENV = "prod" }
env_file = "/etc/bgd/shop.env" # KEY=value lines
shared   = ["storage", ".env"]
cache    = ["vendor"]
build_timeout = "15m"
fast_forward_only = false
memory_check = "warn"
checkout_limit = { files = 1_000_000, size = "20G" }

[app.shop.auth]
ssh_key     = "/etc/bgd/shop_deploy_key"
known_hosts = "/etc/bgd/known_hosts"

[app.shop.verify]
signers = "/etc/bgd/allowed_signers"
keyring = "/etc/bgd/keyring.gpg"
range   = "all"

[[app.shop.rewrite]]
file = "dev.php"
find = "9501"
with = "{port}"

[app.shop.health]
path     = "/up"
host     = "shop.example.com"
status   = [200]
body     = "ok"
interval = "500ms"
timeout  = "5s"
deadline = "60s"
successes = 2

[app.shop.watch]
for      = "30s"
restart  = true

[app.shop.hooks]
before_start = "php artisan migrate --force"
after_live   = "…"
after_failed = "…"
timeout      = "5m"

[app.shop.front]
type     = "builtin"
listen   = "127.0.0.1:8080"
request_timeout  = "60s"
response_timeout = "60s"

[daemon]
state_dir   = "/var/lib/bgd"
runtime_dir = "/run/bgd"
"#;

const NGINX: &str = r#"
[app.shop.front]
type     = "nginx"
upstream = "shop"
file     = "/etc/nginx/conf.d/bgd-shop.conf"
test     = ["nginx", "-t"]
reload   = ["nginx", "-s", "reload"]
pid_file = "/run/nginx.pid"
"#;

#[test]
fn the_smallest_file_means_the_defaults_of_the_contract() {
    let app = shop(SMALLEST);
    assert_eq!(app.remote, "https://git.example.com/acme/shop.git");
    assert_eq!(app.start, Start::Shell("python3 -m http.server $PORT --bind 127.0.0.1".to_owned()));
    assert_eq!(
        (app.branch.as_str(), app.poll, app.ports),
        ("main", SECS(10), Ports { blue: 9501, green: 9502 })
    );
    assert_eq!(app.stop, Stop { how: StopHow::Signal(15), grace: SECS(30) });
    assert_eq!((app.drain, app.standby, app.keep.get()), (SECS(30), SECS(0), 5));
    assert_eq!((app.build_timeout, app.fast_forward_only), (SECS(900), false));
    assert_eq!(app.checkout_limit, CheckoutLimit { files: 1_000_000, bytes: 20 << 30 });
    assert!(app.build.is_empty() && app.env.is_empty() && app.shared.is_empty() && app.cache.is_empty());
    assert!(app.user.is_none() && app.env_file.is_none() && app.rewrites.is_empty() && app.tasks.is_empty());
    assert_eq!((app.auth, app.verify), (Auth::default(), None));
    assert_eq!(app.health.probe, Probe::Tcp);
    assert_eq!(
        (app.health.interval, app.health.timeout, app.health.deadline, app.health.successes),
        (Duration::from_millis(500), SECS(5), SECS(60), NonZeroU32::new(2).unwrap())
    );
    assert_eq!((app.watch.period, app.watch.restart), (SECS(30), true));
    assert_eq!(
        app.hooks,
        Hooks { before_start: None, after_live: None, after_failed: None, timeout: SECS(300) }
    );
    let minute = Duration::from_secs(60);
    let front = FrontSettings::Builtin {
        listen: "127.0.0.1:8080".parse().unwrap(),
        request_timeout: minute,
        response_timeout: minute,
    };
    assert_eq!(app.front, front);
}

#[test]
fn the_smallest_file_is_told_that_its_health_check_is_weak() {
    let warnings = load(SMALLEST).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].key.as_deref(), Some("app.shop.health"));
    assert!(
        warnings[0].to_string().starts_with("warning: bgd.toml:2: app.shop.health: weak"),
        "{}",
        warnings[0]
    );
}

#[test]
fn every_key_of_the_contract_is_understood() {
    let loaded = load(ALL).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.daemon.state_dir, PathBuf::from("/var/lib/bgd"));
    let app = shop(ALL);
    assert_eq!(app.user.as_deref(), Some("www-data"));
    assert_eq!(app.env, [("APP_ENV".to_owned(), "prod".to_owned())].into());
    assert_eq!(app.env_file, Some("/etc/bgd/shop.env".into()));
    assert_eq!(app.shared, [PathBuf::from("storage"), ".env".into()]);
    assert_eq!(app.cache, [PathBuf::from("vendor")]);
    assert_eq!(app.auth.ssh_key, Some("/etc/bgd/shop_deploy_key".into()));
    assert_eq!(app.auth.known_hosts, Some("/etc/bgd/known_hosts".into()));
    let verify = Verify {
        signers: Some("/etc/bgd/allowed_signers".into()),
        keyring: Some("/etc/bgd/keyring.gpg".into()),
        range: VerifyRange::All,
    };
    assert_eq!(app.verify, Some(verify));
    let rewrite = Rewrite { file: "dev.php".into(), find: "9501".to_owned(), with: "{port}".to_owned() };
    assert_eq!(app.rewrites, [rewrite]);
    let http = HttpProbe {
        path: "/up".to_owned(),
        host: Some("shop.example.com".to_owned()),
        status: vec![200],
        body: Some("ok".to_owned()),
    };
    assert_eq!(app.health.probe, Probe::Http(http));
    assert_eq!(app.hooks.before_start.as_deref(), Some("php artisan migrate --force"));
}

#[test]
fn the_nginx_front_of_the_contract_is_also_what_its_type_alone_means() {
    let app = shop(&format!("{SMALLEST}{NGINX}"));
    let nginx = NginxSettings {
        upstream: "shop".to_owned(),
        file: "/etc/nginx/conf.d/bgd-shop.conf".into(),
        test: ["nginx", "-t"].map(str::to_owned).to_vec(),
        reload: ["nginx", "-s", "reload"].map(str::to_owned).to_vec(),
        pid_file: "/run/nginx.pid".into(),
    };
    assert_eq!(app.front, FrontSettings::Nginx(nginx));
    assert_eq!(shop(&with("front.type = \"nginx\"")).front, app.front);
}

#[test]
fn other_ways_to_write_things_are_understood() {
    let app = shop(&with("build = \"make\"\nstop = { command = \"bye {port}\", grace = \"1m30s\" }"));
    assert_eq!(app.build, ["make"]);
    assert_eq!(app.stop, Stop { how: StopHow::Command("bye {port}".to_owned()), grace: SECS(90) });
    assert_eq!(shop(&with("stop.signal = \"SIGQUIT\"")).stop.how, StopHow::Signal(3));
    assert_eq!(shop(&with("stop.signal = 28")).stop.how, StopHow::Signal(28));
    let token = shop(&with("auth.token_file = \"secrets/token\""));
    assert_eq!(token.auth.token_file, Some("/etc/bgd/secrets/token".into()));
    let verify = shop(&with("verify = { signers = \"allowed_signers\" }")).verify.unwrap();
    assert_eq!((verify.signers, verify.range), (Some("/etc/bgd/allowed_signers".into()), VerifyRange::Tip));
    let argv = shop("[app.shop]\nremote = \"./shop.git\"\nstart = [\"node\", \"server.js\", \"\"]");
    assert_eq!(argv.start, Start::Argv(["node", "server.js", ""].map(str::to_owned).to_vec()));
    assert_eq!(argv.remote, "/etc/bgd/shop.git");
    assert_eq!(shop(&with("health.command = \"curl -f localhost\"")).health.probe, {
        Probe::Command("curl -f localhost".to_owned())
    });
    let shared = shop(&with("shared = [\"./storage/\", \"a/b\"]")).shared;
    assert_eq!(shared[0].as_os_str(), "storage/");
    assert_eq!(shop(&with("env.PORT = \"{port}\"")).env["PORT"], "{port}");
}

#[test]
fn a_file_of_apps_d_is_one_app_with_the_same_keys_at_the_root() {
    let main = source("/etc/bgd/bgd.toml", ALL);
    let blog = "remote = \"/srv/blog.git\"\nstart = \"run\"\nports = [9601, 9602]\n[front]\nlisten = \"[::1]:8080\"\n\
                [health]\npath = \"/\"";
    let loaded = parse(&main, &[source("/etc/bgd/apps.d/blog.toml", blog)], &surroundings()).unwrap();
    let names: Vec<&str> = loaded.settings.apps.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["blog", "shop"]);
    assert_eq!(loaded.settings.apps.values().next().unwrap().ports, Ports { blue: 9601, green: 9602 });
    assert_eq!(
        loaded.settings.files,
        [PathBuf::from("/etc/bgd/bgd.toml"), "/etc/bgd/apps.d/blog.toml".into()]
    );
}

#[test]
fn who_may_act_and_what_an_app_may_use_are_understood() {
    use crate::config::settings::{Limits, Principal};
    let text = with(
        "limits = { memory = \"2G\", cpu = \"150%\", tasks = 512 }\n[daemon]\noperators = [\"anna\", \"@ops\"]",
    );
    assert_eq!(shop(&text).limits, Limits { memory: Some(2 << 30), cpu: Some(150), tasks: Some(512) });
    let daemon = load(&text).unwrap().settings.daemon;
    assert_eq!(daemon.operators, Some(vec![Principal::User("anna".into()), Principal::Group("ops".into())]));
    assert_eq!(daemon.readers, []);
    assert_eq!(load(SMALLEST).unwrap().settings.daemon.operators, None, "nobody named is not nobody");
}
