//! Configurations that `bgd check` refuses.

use std::fs;

use super::book::Book;
use crate::shop::{Kind, Plan, Stage};

const BASE: &str = "[app.shop]\nremote = \"/srv/shop.git\"\nstart = \"./shop\"\n";

const BAD: [(&str, &str); 8] = [
    ("an unknown key", "biuld = \"make\"\n"),
    ("a duration without a unit", "drain = \"30\"\n"),
    ("one port for both colors", "ports = [9501, 9501]\n"),
    ("a port that is not a port", "ports = [9501, 95021]\n"),
    ("a shared path that leaves the release", "shared = [\"../secrets\"]\n"),
    ("a canary's step with all of the traffic", "canary.steps = [\"5%:2m\", \"100%:5m\"]\n"),
    ("a front that does not exist", "[app.shop.front]\ntype = \"ngnix\"\n"),
    ("a protocol that the front does not speak", "protocol = \"fastcgi\"\n"),
];

pub fn the_configuration_is_to_blame(book: &mut Book) {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.end_daemon();
    let daemon = format!(
        "[daemon]\nstate_dir = \"{0}/state\"\nruntime_dir = \"{0}/run\"\n",
        stage.path("").display().to_string().trim_end_matches('/')
    );
    let mut check = |title: &str, text: String| {
        fs::write(stage.path("bgd.toml"), text).unwrap();
        book.fails(title, &stage, &["check"]);
    };
    for (title, lines) in BAD {
        check(title, format!("{daemon}{BASE}{lines}"));
    }
    check("not TOML", format!("{daemon}[app.shop\n"));
    check("no remote and no start", format!("{daemon}[app.shop]\n"));
    check("several at once", format!("{daemon}[app.shop]\nstart = 7\nkeep = 0\npoll = \"soon\"\n"));
    let two = format!("{daemon}{BASE}[app.blog]\nremote = \"/srv/blog.git\"\nstart = \"./blog\"\n");
    check("two apps on one port", two);
    fs::remove_file(stage.path("bgd.toml")).unwrap();
    book.fails("no such file", &stage, &["check"]);
}
