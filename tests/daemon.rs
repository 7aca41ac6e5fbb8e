//! The whole daemon from outside: real git, real children, the builtin front and a real nginx, `kill -9`, and
//! clients that count what is lost.

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

#[path = "daemon/access.rs"]
mod access;
#[path = "daemon/backup.rs"]
mod backup;
#[path = "daemon/canary.rs"]
mod canary;
#[path = "daemon/commands.rs"]
mod commands;
#[path = "daemon/crashes.rs"]
mod crashes;
#[path = "daemon/flips.rs"]
mod flips;
#[path = "daemon/flooded.rs"]
mod flooded;
#[path = "daemon/handover.rs"]
mod handover;
#[path = "daemon/haproxy.rs"]
mod haproxy;
#[path = "daemon/limits.rs"]
mod limits;
#[path = "daemon/living.rs"]
mod living;
#[path = "daemon/memory.rs"]
mod memory;
#[path = "daemon/meter.rs"]
mod meter;
#[path = "daemon/refused.rs"]
mod refused;
#[path = "daemon/several.rs"]
mod several;
#[path = "daemon/sockets.rs"]
mod sockets;
#[path = "daemon/warming.rs"]
mod warming;
