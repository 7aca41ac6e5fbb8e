//! Processes of this host: `ports` says who listens where. Starts nothing and decides nothing.

pub mod ports;
