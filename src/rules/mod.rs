//! The decisions, and nothing else: no tokio, file system, network, clock or randomness below this folder.

pub mod address;
pub mod addresses;
pub mod advice;
pub mod app;
pub mod backoff;
pub mod barrier;
pub mod beside;
pub mod canary;
pub mod deploy;
pub mod effect;
pub mod event;
pub mod finding;
pub mod gate;
pub mod health;
pub mod ids;
pub mod limits;
pub mod opening;
pub mod retention;
pub mod route;
pub mod stage;
pub mod step;
pub mod sticky;
pub mod time;
pub mod traffic;
pub mod words;
pub mod workers;
