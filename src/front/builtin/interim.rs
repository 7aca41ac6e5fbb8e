//! Interim answers (1xx), passed on as they come, except 100, which each hop sends for itself, and 101, which is a
//! final answer. hyper's server can't write them, so they go out before its next write. Used by `proxy`.

use std::sync::Arc;

use hyper::{HeaderMap, Request, StatusCode};

use super::{headers, sockets::SocketState, upload::Upload};

/// Passes the backend's interim answers on to the client; each one restarts the wait for the answer, of `ticks`.
pub(super) fn pass_on(request: &mut Request<Upload>, client: &Arc<SocketState>, ticks: u32) {
    let client = Arc::clone(client);
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() != StatusCode::CONTINUE {
            client.write_interim(&message(interim.status(), interim.headers()));
        }
        client.wait(ticks);
    });
}

fn message(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &headers::interim(fields) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    text
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, LINK};

    use super::*;

    #[test]
    fn a_message_has_the_apps_fields_but_those_of_one_hop() {
        let mut fields = HeaderMap::new();
        fields.append(LINK, HeaderValue::from_static("</a.css>; rel=preload"));
        fields.append(LINK, HeaderValue::from_static("</b.js>; rel=preload"));
        fields.append(CONNECTION, HeaderValue::from_static("x-mine"));
        fields.append("x-mine", HeaderValue::from_static("1"));
        fields.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        let text = String::from_utf8(message(StatusCode::EARLY_HINTS, &fields)).unwrap();
        let links = "link: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n";
        assert_eq!(text, format!("HTTP/1.1 103 Early Hints\r\n{links}\r\n"));
    }
}
