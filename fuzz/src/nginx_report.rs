//! What nginx tells of a request: any datagram is at most a sample of each of the app's colors, and what is told in
//! nginx's way comes back, with what else was tried before.

use std::time::Duration;

use bgd::{
    config::settings::Ports,
    front::{nginx::report::parse, traffic::RequestSample},
    rules::ids::Color,
};

const PORTS: Ports = Ports { blue: 9501, green: 9502 };

/// A datagram, which also makes up the numbers of one that is written.
pub fn nginx_report(data: &[u8]) {
    for sample in parse(data, &PORTS.into()) {
        let port = PORTS.of(sample.color).to_string();
        let said = String::from_utf8_lossy(data);
        // With a backslash anything can be spelled in other letters.
        assert!(said.contains('\\') || said.contains(&port), "{port} is not in {said:?}");
    }
    let number =
        |at: usize| data.iter().cycle().skip(at).take(2).fold(0_u16, |n, byte| n << 8 | u16::from(*byte));
    let told = RequestSample {
        color: Color::ALL[data.len() % 2],
        status: Some(100 + number(0) % 900).filter(|status| ![101, 499].contains(status)),
        took: Duration::from_millis(u64::from(number(2))),
    };
    let before = PORTS.of(told.color.other());
    let (seconds, millis) = (told.took.as_secs(), told.took.subsec_millis());
    let answered = told.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let line = format!(
        "<190>Nov 21 14:00:00 bgd: {{\"status\":\"200\",\"to\":\"127.0.0.1:{before}, 127.0.0.1:{}\",\
         \"answered\":\"502, {answered}\",\"began\":\"-, 0.000\",\"took\":\"0.001, {seconds}.{millis:03}\"}}",
        PORTS.of(told.color),
    );
    let refused =
        RequestSample { color: told.color.other(), status: Some(502), took: Duration::from_millis(1) };
    let mut both = [told, refused];
    both.sort_by_key(|sample| sample.color);
    assert_eq!(parse(line.as_bytes(), &PORTS.into()), both, "{line}");
}
