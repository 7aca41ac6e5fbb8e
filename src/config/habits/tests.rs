//! What people write who come from another tool: said by `check`, and never refused, where it might work.

use crate::config::tests::{load, warnings, with};

/// An app with this `start` and more lines after it.
fn started(start: &str, more: &str) -> String {
    format!(
        "[app.shop]\nremote = \"https://git.example.com/shop.git\"\nhealth.path = \"/up\"\nstart = {start}\n{more}\n"
    )
}

/// `start`, lines after it, and a part of the warning with its key in front; `None`: nothing is said.
type Habit = (&'static str, &'static str, Option<&'static str>);

const HABITS: &[Habit] = &[
    (
        r#"["python3", "-m", "http.server", "$PORT"]"#,
        "",
        Some("start[3]: has $PORT, and no shell reads a list"),
    ),
    (
        r#"["gunicorn", "-b", "127.0.0.1:${PORT}", "app:app"]"#,
        "",
        Some("start[2]: has ${PORT}, and no shell"),
    ),
    (r#"["app", "--dir", "$HOME/x"]"#, "", Some("start[2]: has $HOME, and no shell reads a list")),
    (
        r#"["cd", "web", "&&", "node", "server.js"]"#,
        "",
        Some("start[2]: is \"&&\", and no shell reads a list"),
    ),
    (r#"["node server.js"]"#, "", Some("start[0]: is one program of the name \"node server.js\"")),
    (r#"["~/app", "{port}"]"#, "", Some("start[0]: begins with `~`")),
    (r#"["sh", "-c", "exec app --port $PORT"]"#, "", None),
    (r#"["java", "-jar", "app.jar", "--server.port=${PORT}"]"#, "", None),
    (r#"["app", "{port}"]"#, "", None),
    (r#""app --port {PORT}""#, "", Some("start: has {PORT}, which nobody replaces")),
    (r#""app --port ${port}""#, "", Some("start: has ${port}, which nobody replaces")),
    (r#""app --port %(port)s""#, "", Some("start: has %(port)s, which nobody replaces")),
    (r#"["app", "{{port}}"]"#, "", Some("start[1]: has {{port}}, which nobody replaces")),
    (
        r#""app""#,
        "env = { LISTEN = \"127.0.0.1:{PORT}\" }",
        Some("env.LISTEN: has {PORT}, which nobody replaces"),
    ),
    (
        r#""app""#,
        "env = { PATH = \"$PATH:/opt/bin\" }",
        Some("env.PATH: has $PATH, and values are given as they are"),
    ),
    (
        r#""app""#,
        "env = { URL = \"http://127.0.0.1:$PORT\" }",
        Some("env.URL: has $PORT, and values are given"),
    ),
    (r#""app""#, "env = { TOKEN = \"pa$$word\" }", None),
    (r#""pm2 start ecosystem.config.js""#, "", Some("start: pm2 runs the app somewhere else")),
    (r#""supervisorctl restart shop""#, "", Some("start: supervisorctl runs the app somewhere else")),
    (r#"["systemctl", "restart", "shop"]"#, "", Some("start: systemctl runs the app somewhere else")),
    (r#""docker compose up -d""#, "", Some("start: docker runs the app somewhere else")),
    (r#""service shop start""#, "", Some("start: service runs the app somewhere else")),
    (r#""tmux new -d 'node server.js'""#, "", Some("start: tmux runs the app somewhere else")),
    (r#""pm2-runtime server.js""#, "", None),
    (r#""nohup node server.js > log 2>&1 &""#, "", Some("start: sends the app to the background")),
    (r#""gunicorn -D app:app""#, "", Some("start: sends the app to the background")),
    (r#""cd web && npm run dev""#, "", Some("start: `npm dev` is for development")),
    (r#""nodemon server.js""#, "", Some("start: `nodemon` is for development")),
    (
        r#""python manage.py runserver 127.0.0.1:$PORT""#,
        "",
        Some("start: `manage.py runserver` is for development"),
    ),
    (r#""php artisan serve --port=$PORT""#, "", Some("start: `php artisan serve` is for development")),
    (r#""npm start""#, "", None),
    (
        r#""node server.js --port 3000""#,
        "",
        Some("start: has the port 3000, and blue and green need one each"),
    ),
    (r#""PORT=3000 node server.js""#, "", Some("start: has the port 3000")),
    (r#"["gunicorn", "--bind=0.0.0.0:8000", "app"]"#, "", Some("start: has the port 8000")),
    (r#""php easyswoole server start""#, "", None),
    (r#""app -p 4""#, "", None),
    (r#""app --port 9501""#, "rewrite = [{ file = \"a\", find = \"b\", with = \"{port}\" }]", None),
    (r#""source venv/bin/activate && gunicorn app""#, "", Some("start: `source` is of bash")),
    (r#""sudo node server.js""#, "", Some("start: sudo gains nothing here")),
    (r#""app""#, "build = \"sudo npm ci\"", Some("build: sudo gains nothing here")),
    (r#""sudo node server.js""#, "new_privileges = true", None),
    (r#""app""#, "build = [\"cd web\", \"npm ci\"]", Some("build[0]: `cd` ends with this step")),
    (r#""app""#, "build = [\"cd web && npm ci\", \"make\"]", None),
    (r#""-/usr/bin/app""#, "", Some("start: begins with `-`, which is of systemd's units")),
    (r#""app""#, "stop.command = \"kill -QUIT $MAINPID\"", Some("stop.command: has $MAINPID")),
    (
        r#""app""#,
        "stop.command = \"pkill -f server.js\"",
        Some("stop.command: pkill finds the other color too"),
    ),
    (
        r#""app""#,
        "stop.command = \"sudo fuser -k 9501/tcp\"",
        Some("stop.command: fuser finds the other color"),
    ),
    (r#""app""#, "stop.command = \"pm2 restart shop\"", Some("stop.command: pm2 does not know the app")),
    (r#""app""#, "stop.command = \"bin/stop {color}\"", None),
    (
        r#""app""#,
        "build = [\"git pull\", \"make\"]",
        Some("build[0]: runs git, and a release is not a clone"),
    ),
    (r#""app""#, "build = \"cd web && git submodule update --init\"", Some("build: runs git, and a release")),
    (r#""app""#, "build = \"git clone https://git.example.com/themes themes\"", None),
    (r#""app""#, "front.listen = \"0.0.0.0:443\"", Some("front.listen: is where browsers speak TLS")),
    (r#""app""#, "branch = \"origin/main\"", Some("branch: looks like a branch of a clone")),
    (
        r#""app""#,
        "branch = \"0123456789abcdef0123456789abcdef01234567\"",
        Some("branch: looks like a commit"),
    ),
    (r#""app""#, "user = \"1000\"", Some("user: is a number")),
    (r#""app""#, "shared = [\"public/*\"]", Some("shared[0]: is one path of that name, not a pattern")),
    (
        r#""app""#,
        "front = { type = \"nginx\", file = \"/etc/nginx/conf.d/shop\" }",
        Some("front.file: does not end in .conf"),
    ),
    (
        r#""app""#,
        "front = { type = \"nginx\", reload = [\"systemctl reload nginx\"] }",
        Some("front.reload[0]: is one program of the name \"systemctl reload nginx\""),
    ),
];

#[test]
fn n8_what_another_tool_would_take_is_said_with_a_way_out() {
    for (start, more, expected) in HABITS {
        let text = started(start, more);
        let loaded = load(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let said: Vec<String> = loaded
            .warnings
            .iter()
            .map(|w| format!("{}: {}", w.key.as_deref().unwrap_or_default(), w.what))
            .collect();
        match expected {
            None => assert!(said.is_empty(), "{text}\n{said:#?}"),
            Some(part) => assert!(said.iter().any(|one| one.contains(part)), "{text}\n{said:#?}"),
        }
        assert!(loaded.warnings.iter().all(|w| w.hint.as_ref().is_some_and(|hint| !hint.is_empty())));
    }
}

#[test]
fn n8_a_health_command_that_asks_one_port_or_passes_any_status_is_said() {
    for (command, expected) in [
        ("curl http://localhost:3000/up", "asks port 3000 whichever color is meant"),
        ("curl http://127.0.0.1:$PORT/up", "curl succeeds whatever the status"),
    ] {
        let text = with(&format!("health.command = \"{command}\""));
        assert!(
            warnings(&text).iter().any(|said| said.contains(expected)),
            "{command}: {:?}",
            warnings(&text)
        );
    }
    let good = with("health.command = \"curl -sf http://127.0.0.1:$PORT/up\"");
    assert_eq!(warnings(&good), Vec::<String>::new());
}

#[test]
fn n8_a_wrong_path_or_host_of_the_health_check_is_given_as_it_should_be() {
    let hint = |lines: &str| load(&with(lines)).unwrap_err().0[0].hint.clone().unwrap();
    assert!(hint("health.path = \"http://localhost:3000/up?a=b\"").contains("write \"/up?a=b\""));
    assert_eq!(hint("health.path = \"up\""), "write \"/up\"");
    assert!(
        hint("health = { path = \"/\", host = \"https://shop.example.com/\" }")
            .contains("\"shop.example.com\"")
    );
    assert!(hint("health = \"/up\"").contains("health = { path = \"/up\" }"));
    assert!(hint("env = [\"A=b\"]").contains("{ NAME = \"value\" }"));
    assert!(hint("ExecStart = \"x\"").contains("`start`"));
    assert!(hint("limits.cpu = \"1.5\"").contains("write \"150%\""));
    assert_eq!(hint("limits.memory = \"512m\""), "write \"512M\"");
    assert!(hint("ports = 3000").contains("[9501, 9502]"));
    assert!(hint("health = { path = \"/\", status = 200 }").contains("status = [200]"));
    assert!(hint("[shop]").contains("[app.shop]"));
}
