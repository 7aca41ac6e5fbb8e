//! The annotated `bgd.toml` that `bgd init` writes: every key there is, commented out at its default, and the
//! smallest useful app. Loads as it is; tests keep it equal to the keys and defaults that the loader knows.

/// The text of the file.
pub const TEXT: &str = include_str!("init.toml");
