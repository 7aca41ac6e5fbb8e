//! A `start` that asks something else to run the app, which is then below no shim.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::shop::{Kind, Plan, Stage};

/// Runs whatever a fifo tells it to, as a manager that was there before bgd would.
struct Manager(Child);

impl Manager {
    fn at(stage: &Stage) -> Self {
        let orders = stage.path("orders");
        mkfifo(&orders, Mode::from_bits_truncate(0o600)).expect("a fifo");
        // Opened for both, so that it never ends.
        let orders = File::options().read(true).write(true).open(&orders).expect("open");
        let runs = "while read dir port; do (cd \"$dir\" && exec python3 -m http.server \"$port\" --bind 127.0.0.1) & done";
        let mut command = Command::new("bash");
        command.args(["-c", runs]).stdin(orders).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("bash"))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

/// One by one: the port is free again, what serves serves on, and the next good release starts there.
#[test]
fn n8_n9_a_start_that_hands_the_app_over_is_said_and_its_port_is_not_lost() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("good");
    let _manager = Manager::at(&stage);
    let before = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    let asks = format!("start = \"echo $PWD $PORT > {}\" # [", stage.path("orders").display());
    fs::write(stage.path("bgd.toml"), before.replacen("start = [", &asks, 1)).unwrap();
    stage.done(&["reload"]);
    let commit = stage.push("elsewhere", "");
    let status = stage.until("the deploy has failed", |app| app["last"]["commit"] == commit.as_str());
    let error = status["last"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("had handed the app over to another process: pid "), "{error}");
    assert!(error.contains("it was ended, and port "), "{error}");
    assert!(status["last"]["hint"].as_str().unwrap().contains("in the foreground"), "{status}");
    assert!(stage.served().contains("good"), "{}", stage.served());
    // One that listens too late to be seen is ended before the next start.
    let idle = stage.port(&stage.value("idle.color"));
    let release = fs::read_dir(stage.path("state/shop/releases")).unwrap().flatten();
    let abandoned = release
        .map(|entry| entry.path())
        .find(|path| fs::read_to_string(path.join("app.conf")).is_ok_and(|conf| conf.contains("elsewhere")));
    let late = abandoned.map(|dir| {
        let mut late = Command::new("python3");
        let port = idle.to_string();
        late.args(["-m", "http.server", &port, "--bind", "127.0.0.1"]).current_dir(dir);
        let child = late.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3");
        stage.eventually("it listens", |_| std::net::TcpStream::connect(("127.0.0.1", idle)).is_ok());
        child
    });
    fs::write(stage.path("bgd.toml"), before).unwrap();
    stage.done(&["reload"]);
    stage.push_live("next");
    let mut late = late.expect("the directory of the failed release is kept");
    assert!(late.try_wait().unwrap().is_some(), "it was ended");
    stage.end_daemon();
}
