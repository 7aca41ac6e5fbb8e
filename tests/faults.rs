//! More of what bgd promises when things go wrong, on real parts: remotes that refuse and stall, sshd, builds that
//! fail, apps that listen where they should not, clocks that go back. A test's name begins with the line it proves.
#![allow(dead_code, reason = "the stage is shared with the tests of the daemon, which use more of it")]

#[path = "daemon/app.rs"]
mod app;
#[path = "daemon/load.rs"]
mod load;
#[path = "daemon/ports.rs"]
mod ports;
#[path = "daemon/stage.rs"]
mod stage;
#[path = "daemon/truth.rs"]
mod truth;

#[path = "promises/broken.rs"]
mod broken;
#[path = "promises/host.rs"]
mod host;
#[path = "git/repo.rs"]
mod repo;
#[path = "git/servers.rs"]
mod servers;

#[path = "promises/around.rs"]
mod around;

#[path = "promises/building.rs"]
mod building;
#[path = "promises/listening.rs"]
mod listening;
#[path = "promises/releases.rs"]
mod releases;
#[path = "promises/remotes.rs"]
mod remotes;
#[path = "promises/retiring.rs"]
mod retiring;
