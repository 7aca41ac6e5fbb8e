//! The configuration: found, read, validated. Nothing here talks to the network or to a daemon.
//!
//! ```text
//! find.rs      which file
//! load.rs      files → texts, and checks of the files they name
//!   guarded.rs    reads only regular files of a plausible size
//!   auth_file.rs  checks keys, tokens and certificates
//! parse.rs     texts → settings; pure
//!   read.rs      TOML → typed values, each with its span
//!   tables/      one file a table: its keys, what they mean, their defaults, their rules
//!   judge.rs     helpers for the rules, and the claims that must be unique
//!   habits/      warnings for users of other tools
//!   problem.rs   all problems, collected
//! time_zone.rs  a zone by its name, from the database of this system or of bgd
//! patterns.rs  which files concern an app
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
pub mod patterns;
mod problem;
mod read;
mod remembered;
mod secret;

#[cfg(test)]
pub(crate) mod fixture;
pub mod settings;
pub mod signal;
mod span;
mod tables;
pub mod template;
#[cfg(test)]
mod tests;
mod time_zone;

pub use self::{
    directories::directories,
    find::{FindError, VARIABLE, find},
    load::{concerns, load, sources},
    parse::{Loaded, SourceFile, Surroundings, parse},
    problem::{Problem, Problems, Severity},
    remembered::{recall, recall_all, remember},
    secret::SecretError,
};
