//! Compares an answer with the configured one. Called by the probes that ask for a page, over any protocol.

use crate::{
    config::settings::HttpProbe,
    probe::{Reason, reason::excerpt},
};

/// Bytes read of a body at most; a health page is short, and an endless stream must end here.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// The reason why a status is not accepted; `None` if it is. `location` is the target of a redirect.
pub(super) fn wrong_status(probe: &HttpProbe, status: u16, location: Option<&[u8]>) -> Option<Reason> {
    if probe.status.contains(&status) {
        return None;
    }
    let path = probe.path.clone();
    match location {
        Some(to) if (300..400).contains(&status) => Some(Reason::Redirect { path, status, to: excerpt(to) }),
        _ => Some(Reason::Status { path, status, expected: probe.status.clone() }),
    }
}

/// The reason why a body is not accepted; `None` if it is.
pub(super) fn wrong_body(probe: &HttpProbe, body: &[u8]) -> Option<Reason> {
    let wanted = probe.body.as_ref().filter(|wanted| !contains(body, wanted.as_bytes()))?;
    Some(Reason::Body { path: probe.path.clone(), wanted: wanted.clone() })
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|part| part == wanted)
}
