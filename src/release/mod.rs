//! The release: fetched and checked out by `git/`, prepared for its build, listed and removed again.
//!
//! Called by the engine, on a blocking thread. Prepares release directories (cache, shared paths, rewrites) and removes
//! releases. It runs none of the app's commands.

mod assets;
mod cache;
mod copy;
mod error;
pub mod git;
mod in_use;
mod moved;
mod on_disk;
mod prepare;
mod rewrite;
mod shared;
mod site;
mod space;
mod tree;
mod walk;

pub use assets::{AssetsOf, keep_assets, prune_assets};
pub use error::{BuildError, own_hint};
pub use in_use::Occupant;
pub use on_disk::{
    ReleaseDir, Removal, Usability, forget_leftovers, list_releases, mark_complete, remove_release, standing,
};
pub use prepare::{Prepared, Skipped, prepare};
pub use shared::{Closed, closed_to};
pub use site::{SiteError, SiteOf};
pub use space::{Space, free_space, sync_filesystem};
