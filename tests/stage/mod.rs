//! What tests take place on: ports, clients, servers and keys of their own, on loopback, gone with the test.
#![allow(dead_code, reason = "shared by test crates that each use a part")]

use std::{
    thread,
    time::{Duration, Instant},
};

pub mod git;
pub mod keys;
pub mod load;
pub mod ports;
pub mod processes;
pub mod servers;

pub use self::processes::is_gone;

/// Waits for what can not be awaited.
pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < Duration::from_secs(60), "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
