//! Processes of this host: `ports` says who listens where; `pulse` is a sign of life, and `vitals` says whether a silent
//! process hangs. Starts nothing and decides nothing.

pub mod ports;
pub mod pulse;
pub mod vitals;
