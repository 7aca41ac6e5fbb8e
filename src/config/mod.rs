//! The configuration: found, read, validated. Nothing here talks to the network or to a daemon.
//!
//! ```text
//! find.rs      which file
//! load.rs      files → texts, and a look at the files they name
//!   guarded.rs    what is no sensible file is not read
//!   auth_file.rs  what such a file holds
//! parse.rs     texts → settings; pure
//!   read.rs      TOML → typed values with their places
//!   raw.rs       the keys that exist
//!   validate/    what is written → what is meant, with defaults.rs
//!   problem.rs   everything that is wrong, at once
//! commands.rs  which programs a command runs
//! ```

mod addresses;
pub mod auth_file;
pub mod commands;
mod defaults;
mod directories;
pub mod duration;
pub mod env_file;
mod find;
mod guarded;
pub mod init;
mod load;
mod nearest;
mod parse;
mod problem;
mod raw;
mod read;
mod remembered;
mod secret;

pub mod settings;
pub mod signal;
pub mod template;
#[cfg(test)]
mod tests;
mod validate;

pub use self::{
    directories::directories,
    find::{FindError, VARIABLE, find},
    load::{concerns, load, sources},
    parse::{Loaded, Source, Surroundings, parse},
    problem::{Problem, Problems, Severity},
    remembered::{recall, recall_all, remember},
    secret::SecretError,
};
