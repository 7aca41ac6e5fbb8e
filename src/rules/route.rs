//! What a front routes, in the words that the machine and every front share.

use super::{
    canary::Share,
    ids::{Color, Generation},
};

/// The answer to "what is routed".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The color beside it, and its share.
    pub canary: Option<(Color, Share)>,
    /// Whether there is a backup behind the live color.
    pub backup: bool,
    /// Which state of the front; a higher number is newer.
    pub generation: Generation,
    /// Why the front may route by something else than the route that it was told last, for people.
    pub half_told: Option<&'static str>,
}

impl Standing {
    /// Whether requests can reach the color.
    pub fn names(&self, color: Color) -> bool {
        self.live == Some(color) || self.canary.is_some_and(|(canary, _)| canary == color)
    }
}
