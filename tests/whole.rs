//! The binary as a whole: its daemon, commands, messages and what is shipped with it, on real parts.

mod cli;
mod daemon;
mod messages;
mod promises;
mod protocols;
mod shipped;
mod shop;
mod stage;
