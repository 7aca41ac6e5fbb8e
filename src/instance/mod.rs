//! The processes that serve: what they leave behind elsewhere and what they use of the host. Called by the engine.

pub mod strays;
pub mod usage;
