//! What keeps a client on its side while two colors receive traffic; every front keeps it in its own way.

use serde::{Deserialize, Serialize};

/// What keeps a client on its side while two colors receive traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// Nothing: each request for itself.
    #[default]
    None,
    /// The client's address.
    Ip,
    /// A cookie of this name: letters, digits and `_`.
    Cookie(String),
}
