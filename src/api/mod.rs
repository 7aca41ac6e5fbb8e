//! The control socket: wire types, server, client, who may do what.

pub mod access;
mod acting;
pub mod client;
mod exit;
pub mod output;
pub mod reading;
pub mod report;
pub mod server;
mod verbs;
mod visitors;
pub mod why;
pub mod wire;
