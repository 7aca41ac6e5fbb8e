//! Processes of this host: `ports` finds the listeners of an address. Starts nothing and decides nothing.

pub mod ports;
