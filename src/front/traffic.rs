//! One request of real traffic, as a front tells of it. Only data: how it is told is the front's matter, what is made
//! of it the engine's.

use std::time::Duration;

use crate::rules::ids::Color;

/// How `User-Agent` begins in requests of bgd's own, such as those that measure a flip: they are no real traffic.
pub const OWN: &str = "bgd/";

/// One request, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The color that it was sent to.
    pub color: Color,
    /// The status of the answer; `None` when the color gave none.
    pub status: Option<u16>,
    /// From the request to the last byte of the answer, as far as the color is to blame for it.
    pub took: Duration,
}

impl Sample {
    /// Whether it counts as an error: a status of 500 or more, or no answer.
    pub fn is_error(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}
