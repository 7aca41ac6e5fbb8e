//! The control socket: wire types, server, client, who may do what.

pub mod access;
mod acting;
pub mod client;
mod connection;
pub mod output;
pub mod reading;
mod refusal;
pub mod report;
mod scheduled;
pub mod server;
pub mod services;
mod visitors;
pub mod why;
pub mod wire;
