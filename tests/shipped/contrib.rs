//! The configurations of `contrib/`: each loads, and each is really deployed, under load, where the machine has its
//! interpreter: a push, a second push, the way back. Every request has to be answered.

use std::{fs, path::Path};

use super::sample::{Sample, SampleStage, contrib, installed, set};
use crate::shop::Kind;
use toml::Value;

/// Deploys the sample twice and goes back once, while clients ask all the time.
fn deploys_under_load(sample: &Sample<'_>) {
    let Some(mut stage) = SampleStage::set(sample) else { return };
    let first = stage.push("first");
    stage.0.start_daemon();
    stage.0.done(&["wait", "--for", "live", "--timeout", "60s"]);
    stage.open_site(sample);
    assert_eq!(stage.get(sample.path).unwrap().trim(), first);

    let load = stage.load(sample.path);
    let second = stage.push("second");
    stage.0.wait_live(&second);
    assert_eq!(stage.get(sample.path).unwrap().trim(), second);
    stage.0.done(&["flip"]);
    assert_eq!(stage.get(sample.path).unwrap().trim(), first);
    stage.0.until_at_rest();
    let counts = load.end_without_loss();
    assert!(counts.total() > 20, "only {} requests", counts.total());
    // So that it is the daemon that ends the app.
    stage.0.done(&["down", "--yes"]);
}

#[test]
fn every_configuration_loads() {
    let mut seen = 0;
    for entry in fs::read_dir(contrib("")).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        let loaded = bgd::config::load(&dir.join("bgd.toml")).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}: {:?}", dir.display(), loaded.warnings);
        assert_eq!(loaded.settings.apps.keys().map(|app| app.as_str()).collect::<Vec<_>>(), ["shop"]);
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn haproxy_passes_the_pieces_of_an_answer_on_as_they_come() {
    let text = fs::read_to_string(contrib("haproxy").join("haproxy.cfg")).unwrap();
    let defaults = text.split("\ndefaults\n").nth(1).and_then(|rest| rest.split("\nfrontend ").next());
    let option = |line: &str| line.trim() == "option http-no-delay";
    assert!(defaults.is_some_and(|defaults| defaults.lines().any(option)), "{text}");
}

#[test]
fn every_configuration_is_named_in_the_list() {
    let list = fs::read_to_string(contrib("README.md")).unwrap();
    for entry in fs::read_dir(contrib("")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(!entry.path().is_dir() || list.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_commented_lines_of_every_configuration_load_too() {
    for name in ["php-easyswoole", "php-fpm", "python-gunicorn", "rust", "uwsgi"] {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(contrib(name).join("bgd.toml")).unwrap();
        // A setting that is off has no blank after its `#`. The files it names are not here: a warning.
        let on: Vec<&str> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => setting,
                _ => line,
            })
            .collect();
        assert_ne!(on.join("\n"), text.trim_end(), "{name} has settings that are off");
        let file = dir.path().join("bgd.toml");
        let on = on.join("\n");
        fs::write(&file, on).unwrap();
        if let Err(problems) = bgd::config::load(&file) {
            panic!("{name}: {problems}");
        }
    }
}

#[test]
fn a_site_behind_an_nginx_that_is_already_there() {
    if installed(&["python3", "nginx"]) {
        deploys_under_load(&Sample { path: "/revision.txt", front: Kind::Nginx, ..Sample::of("nginx-site") });
    }
}

#[test]
fn a_site_behind_a_haproxy_that_is_already_there() {
    if installed(&["python3", "/usr/sbin/haproxy"]) {
        deploys_under_load(&Sample { path: "/revision.txt", front: Kind::Haproxy, ..Sample::of("haproxy") });
    }
}

#[test]
fn php_that_keeps_its_port_in_a_file_and_puts_itself_into_the_background() {
    if !installed(&["php"]) {
        return;
    }
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contrib/easyswoole");
    deploys_under_load(&Sample {
        files: &[(stand_in.join("dev.php"), "dev.php"), (stand_in.join("easyswoole"), "easyswoole")],
        // composer.phar wants the network; the stand-in has no dependencies.
        build: Some("test -f dev.php"),
        ..Sample::of("php-easyswoole")
    });
}

#[test]
fn python_under_gunicorn() {
    if !installed(&["gunicorn"]) {
        return;
    }
    deploys_under_load(&Sample {
        files: &[(contrib("python-gunicorn/app.py"), "app.py")],
        // The machine's gunicorn in place of one from the network.
        build: Some("mkdir -p .venv/bin && ln -s \"$(command -v gunicorn)\" .venv/bin/gunicorn"),
        ..Sample::of("python-gunicorn")
    });
}

#[test]
fn php_under_php_fpm_by_fastcgi() {
    if !installed(&["php-fpm8.2", "nginx"]) {
        return;
    }
    let dir = contrib("php-fpm");
    let files = ["fpm.conf", "public/index.php"].map(|name| (dir.join(name), name));
    deploys_under_load(&Sample {
        front: Kind::Nginx,
        files: &files,
        // The app has no dependencies. Root has to be allowed, which php-fpm asks of nobody else.
        build: Some("printf 'user = root\\ngroup = root\\n' >> fpm.conf"),
        start: Some("exec php-fpm8.2 -F -R -y fpm.conf"),
        ..Sample::of("php-fpm")
    });
}

#[test]
fn python_under_uwsgi_by_its_own_protocol() {
    let plugin = Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so");
    if !installed(&["uwsgi", "nginx"]) {
        return;
    }
    if !plugin.exists() {
        eprintln!("skipped: no {}", plugin.display());
        return;
    }
    let dir = contrib("uwsgi");
    let files = ["uwsgi.ini", "app.py"].map(|name| (dir.join(name), name));
    deploys_under_load(&Sample {
        front: Kind::Nginx,
        files: &files,
        // Nothing from the network, so no virtual environment.
        build: Some("sed -i '/^virtualenv/d' uwsgi.ini"),
        ..Sample::of("uwsgi")
    });
}

#[test]
fn node_with_npm() {
    if !installed(&["node"]) {
        return;
    }
    let dir = contrib("node");
    let files = ["server.js", "package.json", "package-lock.json"].map(|name| (dir.join(name), name));
    deploys_under_load(&Sample {
        files: &files,
        build: (!installed(&["npm"])).then_some("true"),
        ..Sample::of("node")
    });
}

/// What systemd does with the unit of the directory: starts it again whenever it ends.
#[test]
fn a_queue_worker_goes_to_the_release_that_is_live() {
    if !installed(&["python3"]) {
        return;
    }
    let dir = contrib("queue-worker");
    let files = ["app.py", "worker.py"].map(|name| (dir.join(name), name));
    let Some(mut stage) = SampleStage::set(&Sample { files: &files, ..Sample::of("queue-worker") }) else {
        return;
    };
    let first = stage.push("first");
    stage.0.start_daemon();
    stage.0.done(&["wait", "--for", "live", "--timeout", "60s"]);
    let unit = fs::read_to_string(dir.join("shop-worker.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let supervisor = fs::read_to_string(dir.join("shop-worker.conf")).unwrap();
    assert!(supervisor.contains(&format!("command={command}\n")), "{command}");
    let words = command.split_once("bgd.toml ").unwrap().1;
    let worker = stage.keep_running(&words.split(' ').collect::<Vec<_>>());
    stage.get("/job/a").unwrap();
    stage.until_done("a", &first);
    let second = stage.push("second");
    stage.0.wait_live(&second);
    stage.until_done_anew("b", &second);
    stage.0.until_at_rest();
    stage.0.done(&["flip"]);
    stage.until_done_anew("c", &first);
    worker.end();
    stage.0.done(&["down", "--yes"]);
}

#[test]
fn a_binary_built_by_cargo() {
    let dir = contrib("rust");
    let files = ["Cargo.toml", "Cargo.lock", "src/main.rs"].map(|name| (dir.join(name), name));
    deploys_under_load(&Sample {
        files: &files,
        env: &[("PATH", &std::env::var("PATH").unwrap())],
        ..Sample::of("rust")
    });
}

#[test]
fn the_changed_keys_are_the_ones_meant() {
    let mut table: Value = toml::from_str("[app.shop]\nremote = \"a\"\n").unwrap();
    set(&mut table, "app.shop.front.listen", "b");
    set(&mut table, "app.shop.remote", "c");
    assert_eq!(table["app"]["shop"]["front"]["listen"].as_str(), Some("b"));
    assert_eq!(table["app"]["shop"]["remote"].as_str(), Some("c"));
}
