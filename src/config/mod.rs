//! The configuration: found, read, validated. Nothing here talks to the network or to a daemon.
//!
//! ```text
//! find.rs      which file
//! load.rs      files → texts, and a look at the files they name
//!   guarded.rs    what is not a sensible file is not read
//!   auth_file.rs  what such a file holds
//! parse.rs     texts → settings; pure
//!   read.rs      TOML → typed values, each with its span
//!   tables/      one file a table: its keys, what they mean, their defaults, their rules
//!   judge.rs     the words in which the rules are written, and what only one place may claim
//!   habits/      what people write who come from another tool
//!   problem.rs   everything that is wrong, at once
//! commands.rs  which programs a command runs
//! ```

mod amount;
pub mod auth_file;
pub mod commands;
mod conflicts;
mod directories;
pub mod duration;
pub mod env_file;
mod find;
mod guarded;
mod habits;
pub mod init;
mod judge;
mod load;
mod misspelt;
mod nearest;
mod parse;
mod paths;
mod problem;
mod read;
mod remembered;
mod secret;

pub mod settings;
pub mod signal;
mod span;
mod tables;
pub mod template;
#[cfg(test)]
mod tests;

pub use self::{
    directories::directories,
    find::{FindError, VARIABLE, find},
    load::{concerns, load, sources},
    parse::{Loaded, Source, Surroundings, parse},
    problem::{Problem, Problems, Severity},
    remembered::{recall, recall_all, remember},
    secret::SecretError,
};
