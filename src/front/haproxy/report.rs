//! Parses a line of HAProxy's log about one request, for the verdict on real traffic: HAProxy counts errors, but only
//! its log has the time that each answer took. Pure. haproxy.cfg needs, in the frontend (one line):
//!
//! ```text
//! log-format '{"backend":"%b","server":"%s","status":%ST,"connect":%Tc,"answer":%Tr,"ended":"%ts"}'
//! ```

use std::time::Duration;

use serde::Deserialize;

use crate::{config::settings::HaproxySettings, front::traffic::RequestSample};

/// The `log-format` that haproxy.cfg needs.
pub const LOG_FORMAT: &str =
    r#"'{"backend":"%b","server":"%s","status":%ST,"connect":%Tc,"answer":%Tr,"ended":"%ts"}'"#;

/// One line of the log. HAProxy writes -1 for a phase that the request did not reach.
#[derive(Deserialize)]
struct LogLine {
    backend: String,
    server: String,
    status: i32,
    /// Milliseconds to connect to the server.
    connect: i64,
    /// Milliseconds from the connection to the head of the answer; the rest of the answer depends on the client too.
    answer: i64,
    /// Cause of the end (`-` regular, `S` or `s` the server, `C` or `c` the client, …), and the phase of the request.
    ended: String,
}

/// The request in a datagram, with or without a syslog header. `None` when it is not such a line, when the request was
/// for another backend, or when the client went away before the server answered.
pub fn parse(settings: &HaproxySettings, datagram: &[u8]) -> Option<RequestSample> {
    let begin = datagram.iter().position(|byte| *byte == b'{')?;
    let mut lines = serde_json::Deserializer::from_slice(&datagram[begin..]).into_iter::<LogLine>();
    let line = lines.next()?.ok()?;
    let color = settings.servers.color(&line.server)?;
    if line.backend != settings.backend {
        return None;
    }
    let by_server = line.ended.starts_with(['S', 's']);
    let answered = line.answer >= 0 && !by_server;
    if !answered && !by_server {
        return None;
    }
    let millis = line.connect.max(0).saturating_add(line.answer.max(0));
    let took = Duration::from_millis(u64::try_from(millis).ok()?);
    Some(RequestSample { color, status: if answered { u16::try_from(line.status).ok() } else { None }, took })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::settings::HaproxyServers, rules::ids::Color};

    fn read(text: &str) -> Option<RequestSample> {
        let servers = HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() };
        let settings = HaproxySettings {
            socket: "/nowhere".into(),
            backend: "shop".to_owned(),
            servers,
            state_file: None,
        };
        parse(&settings, text.as_bytes())
    }

    fn line(server: &str, status: i32, answer: i64, ended: &str) -> String {
        format!(
            r#"{{"backend":"shop","server":"{server}","status":{status},"connect":2,"answer":{answer},"ended":"{ended}"}}"#
        )
    }

    #[test]
    fn an_answer_is_a_sample_of_its_color_with_its_time() {
        let sample = read(&line("green", 404, 38, "--")).unwrap();
        assert_eq!((sample.color, sample.status), (Color::Green, Some(404)));
        assert_eq!(sample.took, Duration::from_millis(40));
        assert!(!sample.is_error());
        let with_header = format!("<134>Nov 21 14:00:00 haproxy[7]: {}\n", line("blue", 200, 0, "--"));
        assert_eq!(read(&with_header).unwrap().color, Color::Blue);
        assert_eq!(read(&line("green-3", 200, 0, "--")).unwrap().color, Color::Green);
    }

    #[test]
    fn a_server_that_gave_no_answer_or_half_of_one_is_an_error() {
        for (status, answer, ended) in [(503, -1, "SC"), (504, -1, "sH"), (502, -1, "SH"), (200, 5, "SD")] {
            let sample = read(&line("blue", status, answer, ended)).unwrap();
            assert!(sample.is_error() && sample.status.is_none(), "{ended}");
        }
    }

    #[test]
    fn a_client_that_went_away_blames_nobody_unless_it_had_its_answer() {
        assert_eq!(read(&line("blue", -1, -1, "CH")), None);
        assert_eq!(read(&line("blue", 200, 7, "CD")).unwrap().status, Some(200));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), status: i32, answer: i64) {
            let _ = read(&String::from_utf8_lossy(&bytes));
            let _ = read(&line("blue", status, answer, "--"));
        }
    }

    #[test]
    fn what_is_no_line_of_this_app_is_nothing() {
        assert_eq!(read(""), None);
        assert_eq!(read("{\"backend\":"), None);
        assert_eq!(read("proxy shop started"), None);
        for other in ["<NOSRV>", "green-", "green-1", "green-65", "green-x", "greenish", "blue2"] {
            assert_eq!(read(&line(other, 503, -1, "SC")), None, "{other}");
        }
        assert_eq!(read(&line("blue", 200, 1, "--").replace("\"shop\"", "\"other\"")), None);
    }
}
