//! The uWSGI probe: sends one packet of variables; the answer is a page that ends with the connection.

use std::time::Duration;

use crate::{
    config::settings::HttpProbe,
    probe::{
        Outcome, Reason,
        cgi::{self, EncodedRequest, PageDecoder, Variable},
        page::Page,
        reason::chain,
    },
    rules::address::Address,
};

/// Probes once.
pub(super) async fn ask(probe: &HttpProbe, address: &Address, limit: Duration) -> Outcome {
    let mut variables = cgi::variables(probe, address);
    variables.push(("PATH_INFO", cgi::decoded_path(probe)));
    variables.push(("SCRIPT_NAME", Vec::new()));
    let Some(request) = packet(&variables) else {
        let error = "the path is longer than a packet of uwsgi".to_owned();
        return Err((Reason::Impossible { error }, String::new()));
    };
    EncodedRequest { probe, address, limit, request }.ask(Page::default()).await
}

impl PageDecoder for Page {
    fn take(&mut self, piece: &[u8]) -> Result<bool, String> {
        Self::take(self, piece).map_err(|bad| chain(&bad))?;
        Ok(self.is_enough())
    }

    fn finish(&mut self) -> Result<(), String> {
        Self::finish(self).map_err(|bad| chain(&bad))
    }

    fn page(&self) -> &Page {
        self
    }

    fn errors(&self) -> &[u8] {
        &[]
    }
}

/// Encodes variables as a request for an app; `None` when they don't fit. Every length has two bytes, the low one
/// first.
fn packet(variables: &[Variable]) -> Option<Vec<u8>> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).map(u16::to_le_bytes).ok();
    let mut body = Vec::new();
    for (name, value) in variables {
        for part in [name.as_bytes(), value] {
            body.extend_from_slice(&length(part)?);
            body.extend_from_slice(part);
        }
    }
    let [low, high] = length(&body)?;
    // Both modifiers are 0: a request for the app that is loaded.
    Some([&[0, low, high, 0], &body[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_length_and_the_length_of_each_part() {
        let bytes = packet(&[("A", b"bc".to_vec()), ("D", Vec::new())]).unwrap();
        assert_eq!(bytes, b"\x00\x0c\x00\x00\x01\x00A\x02\x00bc\x01\x00D\x00\x00");
        let full = 65_535 - 5;
        assert!(packet(&[("A", vec![0; full])]).is_some());
        assert_eq!(packet(&[("A", vec![0; full + 1])]), None);
    }
}
