//! The whole daemon from outside: real git, real children, the builtin front and a real nginx, `kill -9`, and
//! clients that count what is lost.

mod access;
mod backup;
mod canary;
mod commands;
mod crashes;
mod flips;
mod flooded;
mod gates;
mod guarded;
mod handover;
mod haproxy;
mod limits;
mod living;
mod memory;
mod meter;
mod refused;
mod scheduled;
mod several;
mod sites;
mod sockets;
mod tasks;
mod warming;
mod workers;
