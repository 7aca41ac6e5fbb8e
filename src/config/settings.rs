//! The validated configuration, with defaults filled in, absolute paths and typed durations. Everything above `config`
//! reads these types; each is made in the file of its table.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub use super::tables::settings::*;
use crate::rules::ids::AppName;
pub use crate::rules::{
    addresses::{Addresses, MOST_INSTANCES},
    barrier::OnFailure,
    limits::{CheckoutLimit, Limits},
    sticky::Sticky,
};

/// All settings of one daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// bgd's own directories and access rules.
    pub daemon: DaemonSettings,
    /// The apps by name.
    pub apps: BTreeMap<AppName, Arc<AppSettings>>,
    /// The files these settings came from, main file first.
    pub files: Vec<PathBuf>,
}
