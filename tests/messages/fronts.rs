//! nginx and the disk: not the commit's fault.

use std::fs;

use nix::sys::signal::Signal;

use crate::{
    book::Book,
    host::SmallDisk,
    stage::{Kind, Plan, Stage, send},
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
