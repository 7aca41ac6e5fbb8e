//! What bgd promises when things go wrong, each line on real parts: real git, real nginx, real children, real
//! `kill -9`, real full disks. A test's name begins with the line it proves.

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

#[path = "git/keys.rs"]
#[allow(dead_code, reason = "the tests of the git worker use more of it")]
mod keys;

#[path = "promises/broken.rs"]
mod broken;
#[path = "promises/host.rs"]
mod host;

#[path = "promises/disk.rs"]
mod disk;
#[path = "promises/drain.rs"]
mod drain;
#[path = "promises/everyday.rs"]
mod everyday;
#[path = "promises/flips.rs"]
mod flips;
#[path = "promises/neighbours.rs"]
mod neighbours;
#[path = "promises/nginx.rs"]
mod nginx;
#[path = "promises/record.rs"]
mod record;
#[path = "promises/restarts.rs"]
mod restarts;
#[path = "promises/signed.rs"]
mod signed;
#[path = "promises/stall.rs"]
mod stall;
