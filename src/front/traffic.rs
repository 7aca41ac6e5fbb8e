//! One request of real traffic, as a front reports it. Only data: the front parses reports, the engine evaluates them.

use std::time::Duration;

use crate::rules::ids::Color;

/// Prefix of `User-Agent` in bgd's own requests, such as those that measure a flip: they are not real traffic.
pub const OWN: &str = "bgd/";

/// One request and its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSample {
    /// The color that the request was sent to.
    pub color: Color,
    /// The status of the answer; `None` when the color gave none.
    pub status: Option<u16>,
    /// From the request to the last byte of the answer, counting only time that the color caused.
    pub took: Duration,
}

impl RequestSample {
    /// Whether the request counts as an error: a status of 500 or more, or no answer.
    pub fn is_error(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}
