//! nginx, HAProxy and the disk: not the commit's fault.

use std::fs;

use nix::sys::signal::Signal;

use super::book::Book;
use crate::{
    shop::host::SmallDisk,
    shop::{Kind, Plan, Stage, send},
};

pub fn the_front_is_to_blame(book: &mut Book) {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Nginx)) else { return };
    stage.push_live("good");
    let deploy = ["deploy"];
    let foreign = stage.path("conf.d/foreign.conf");
    fs::write(&foreign, "server { listen 127.0.0.1:1; nonsense; }\n").unwrap();
    book.fails("somebody else's file breaks nginx's configuration", &stage, &deploy);
    stage.until_at_rest();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::write(&foreign, format!("server {{ listen {address}; }}\n")).unwrap();
    book.fails("nginx accepts the reload and does not apply it", &stage, &deploy);
    stage.until_at_rest();
    fs::remove_file(&foreign).unwrap();
    let pid = fs::read_to_string(stage.path("nginx.pid")).unwrap();
    fs::write(stage.path("nginx.pid"), "").unwrap();
    book.fails("nginx's pid file is empty", &stage, &deploy);
    stage.until_at_rest();
    fs::write(stage.path("nginx.pid"), &pid).unwrap();
    let mut nginx = stage.nginx.take().expect("nginx runs");
    send(nginx.id(), Signal::SIGTERM);
    nginx.wait().expect("nginx has ended");
    stage.until("it is said", |status| status["state"] == "degraded");
    book.fails("nginx is down", &stage, &deploy);
    book.fails("status while nginx is down", &stage, &["status", "--oneline"]);
}

pub fn haproxy_is_to_blame(book: &mut Book) {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Haproxy)) else { return };
    stage.push_live("good");
    stage.until_at_rest();
    let deploy = ["deploy"];
    let good = fs::read_to_string(stage.path("haproxy.cfg")).unwrap();
    let other_port = good.replace(&format!("127.0.0.1:{}", stage.port("green")), "127.0.0.1:1");
    for (title, text) in [
        ("a server of haproxy has another port than its color", other_port),
        ("haproxy lacks a server", good.replace("server green", "server other")),
        ("haproxy lacks the backend", good.replace("backend shop\n", "backend store\n")),
        ("haproxy's socket may not move traffic", good.replace("level admin", "level operator")),
    ] {
        fs::write(stage.path("haproxy.cfg"), text).unwrap();
        stage.kill_haproxy();
        stage.run_haproxy();
        stage.until("it is said", |status| status["state"] == "degraded");
        book.fails(title, &stage, &deploy);
        stage.until_at_rest();
    }
    stage.kill_haproxy();
    book.fails("haproxy is down", &stage, &deploy);
    book.fails("status while haproxy is down", &stage, &["status", "--oneline"]);
}

pub fn the_disk_is_to_blame(book: &mut Book) {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.end_daemon();
    fs::remove_dir_all(stage.path("state")).unwrap();
    let Some(disk) = SmallDisk::mount(stage.path("state"), "100m") else { return };
    stage.start_daemon();
    stage.push_live("good");
    stage.until_at_rest();
    // Room for the record, and none for a release.
    fs::write(stage.path("state/ballast"), vec![b'x'; 60 << 20]).unwrap();
    book.fails("there is little room on the disk", &stage, &["deploy"]);
    stage.until_at_rest();
    disk.free();
}
