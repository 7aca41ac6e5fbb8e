//! The configuration as meant: validated, with defaults filled in, paths absolute, durations as durations. Everything above
//! `config` reads these types; each is made in the file of its table.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub use super::tables::settings::*;
use crate::rules::ids::AppName;
pub use crate::rules::{
    addresses::{Addresses, MOST_INSTANCES},
    limits::{CheckoutLimit, Limits},
    sticky::Sticky,
};

/// Everything one daemon runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where bgd itself keeps things.
    pub daemon: DaemonSettings,
    /// The apps by name.
    pub apps: BTreeMap<AppName, Arc<AppSettings>>,
    /// The files these settings came from, main file first.
    pub files: Vec<PathBuf>,
}
