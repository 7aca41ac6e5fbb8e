//! nginx's report of each request that it sent to the app: the lines of the include that turn reports on, and the
//! parser of a report. Pure. `include` takes the lines; the engine has the socket and evaluates the samples. nginx's
//! workers, which run as another user, need access to the socket and its directories.
//!
//! The format and its variable are always defined, because the site may name them; without a socket nothing is sent.
//! nginx sends without waiting, and drops a datagram that can't be sent.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Deserialize;

use super::sides::{Names, of_the_app};
use crate::{
    config::settings::Addresses,
    front::traffic::{OWN, RequestSample},
    os::unix::{LONGEST_PATH, is_plain},
    rules::{address::Address, ids::Color},
};

/// The end of the target of bgd's `access_log` line, which identifies that line.
pub(super) const TAG: &str = ",nohostname,tag=bgd";
/// nginx's own status for a client that went away before the answer began.
const CLIENT_GONE: u16 = 499;
/// Status of a protocol switch. The connection may then last for any time, which says nothing about the app.
const SWITCHING: u16 = 101;

/// Whether nginx's configuration can name this path: it is not too long, and has no character with a meaning there.
pub fn can_name(socket: &Path) -> bool {
    is_plain(socket) && socket.as_os_str().len() <= LONGEST_PATH
}

/// The include's lines for reports.
pub(super) fn directives(names: &Names, addresses: &[&Address], socket: Option<&Path>) -> String {
    let told = names.variable("told");
    let socket = socket.filter(|socket| can_name(socket) && !addresses.is_empty());
    let map = match socket {
        Some(_) => {
            let reached = names.variable("reached");
            let others = format!(
                "map $http_user_agent ${told} {{\n    default ${reached};\n    \"~^{OWN}\" \"\";\n}}\n"
            );
            of_the_app(addresses, &reached, "1") + &others
        }
        None => format!("map \"\" ${told} {{\n    default \"\";\n}}\n"),
    };
    let line = socket.map_or_else(String::new, |socket| access_log(names, socket));
    format!(
        "{map}log_format {names} escape=json\n    \
             '{{\"status\":\"$status\",\"to\":\"$upstream_addr\",\"answered\":\"$upstream_status\",'\n    \
             '\"began\":\"$upstream_header_time\",\"took\":\"$upstream_response_time\"}}';\n{line}"
    )
}

/// The line that sends the reports; a site with an `access_log` of its own must repeat it.
fn access_log(names: &Names, socket: &Path) -> String {
    let told = names.variable("told");
    let socket = socket.display();
    format!("access_log syslog:server=unix:{socket}{TAG} {names} if=${told};\n")
}

/// A report, with the fields of the log format. All but `status` are lists with one entry for each try.
#[derive(Deserialize)]
struct RequestReport {
    status: String,
    to: String,
    answered: String,
    began: String,
    took: String,
}

/// Parses nginx's report of one request: a sample for each color that the request was tried on, of the last try. Empty
/// when the datagram does not have the format, or when no address is the app's. A client that went away before the
/// answer does not count as an error of the color, but its waiting time counts.
pub fn parse(datagram: &[u8], addresses: &Addresses) -> Vec<RequestSample> {
    parse_by(datagram, |to, _| color(addresses, to))
}

/// The color that listens at an address as nginx writes it.
pub(super) fn color(addresses: &Addresses, to: &str) -> Option<Color> {
    let address = match to.strip_prefix("unix:") {
        Some(path) => Address::Socket(path.into()),
        None => Address::Port(to.strip_prefix("127.0.0.1:")?.parse().ok()?),
    };
    addresses.color(&address)
}

/// Parses a report like [`parse`]; `color` finds the color of a try by its address and the time that it took.
pub(super) fn parse_by(
    datagram: &[u8],
    color: impl Fn(&str, Option<Duration>) -> Option<Color>,
) -> Vec<RequestSample> {
    let text = std::str::from_utf8(datagram).unwrap_or_default();
    let line = text.find('{').and_then(|at| serde_json::from_str::<RequestReport>(&text[at..]).ok());
    let Some(line) = line else { return Vec::new() };
    let took = |at: usize| tries(&line.took).nth(at).and_then(seconds);
    let colors = tries(&line.to).enumerate().map(|(at, to)| (color(to, took(at)), at));
    let by_color: BTreeMap<Color, usize> = colors.filter_map(|(color, at)| Some((color?, at))).collect();
    let last = by_color.values().copied().max();
    let samples = by_color.into_iter().map(|(color, at)| line.sample(color, at, Some(at) == last));
    samples.flatten().collect()
}

impl RequestReport {
    /// The sample of one try; only during the last try can the client have gone away.
    fn sample(&self, color: Color, at: usize, is_last: bool) -> Option<RequestSample> {
        let answered = tries(&self.answered).nth(at).and_then(status);
        let gone = status(&self.status).filter(|status| *status == CLIENT_GONE && is_last);
        let took = if answered == Some(SWITCHING) { &self.began } else { &self.took };
        let took = tries(took).nth(at).and_then(seconds)?;
        Some(RequestSample { color, status: gone.or(answered), took })
    }
}

/// The entries of one of nginx's lists: a comma follows a server that failed, a colon a redirect to another group.
fn tries(list: &str) -> impl Iterator<Item = &str> {
    list.split(", ").flat_map(|part| part.split(" : "))
}

/// Parses a status with three digits; nginx writes `-` or `000` where there is none.
fn status(text: &str) -> Option<u16> {
    text.parse().ok().filter(|status| (100..=999).contains(status))
}

/// Parses seconds with three decimal places.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, part) = text.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let right = part.len() == 3 && digits(part) && digits(whole);
    right
        .then(|| Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_millis(part.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::settings::Ports,
        rules::ids::Color::{Blue, Green},
    };

    const PORTS: Ports = Ports { blue: 9501, green: 9502 };

    fn told(status: &str, to: &str, answered: &str, took: &str) -> Vec<RequestSample> {
        let line = format!(
            "<190>Nov 21 14:00:00 bgd: {{\"status\":\"{status}\",\"to\":\"{to}\",\"answered\":\"{answered}\",\
             \"began\":\"0.001\",\"took\":\"{took}\"}}"
        );
        parse(line.as_bytes(), &PORTS.into())
    }

    fn sample(color: Color, status: Option<u16>, ms: u64) -> RequestSample {
        RequestSample { color, status, took: Duration::from_millis(ms) }
    }

    #[test]
    fn a_request_is_told_with_color_status_and_time() {
        assert_eq!(told("200", "127.0.0.1:9501", "200", "1.042"), [sample(Blue, Some(200), 1042)]);
        assert_eq!(told("503", "127.0.0.1:9502", "503", "0.000"), [sample(Green, Some(503), 0)]);
    }

    #[test]
    fn a_color_that_refused_is_blamed_though_the_other_one_answered() {
        let both = told("200", "127.0.0.1:9502, 127.0.0.1:9501", "502, 200", "0.001, 0.020");
        assert_eq!(both, [sample(Blue, Some(200), 20), sample(Green, Some(502), 1)]);
        let redirected = "127.0.0.1:9502 : 10.0.0.1:80";
        assert_eq!(told("404", redirected, "200 : 404", "0.003 : 0.020"), [sample(Green, Some(200), 3)]);
    }

    #[test]
    fn of_several_tries_on_one_color_the_last_counts() {
        let twice = told("200", "127.0.0.1:9502, 127.0.0.1:9502", "502, 200", "0.001, 0.020");
        assert_eq!(twice, [sample(Green, Some(200), 20)]);
    }

    #[test]
    fn a_client_that_went_away_is_no_error_and_no_answer_is_one() {
        let gone = told("499", "127.0.0.1:9502", "-", "2.000")[0];
        assert_eq!((gone.is_error(), gone.took), (false, Duration::from_secs(2)));
        assert!(told("502", "127.0.0.1:9502", "-", "0.000")[0].is_error());
        let both = told("499", "127.0.0.1:9502, 127.0.0.1:9501", "502, -", "0.001, 2.000");
        assert_eq!(both.iter().map(RequestSample::is_error).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn an_open_connection_is_as_slow_as_its_beginning() {
        assert_eq!(told("101", "127.0.0.1:9501", "101", "3600.000"), [sample(Blue, Some(101), 1)]);
    }

    #[test]
    fn what_is_not_about_the_app_is_no_sample() {
        assert_eq!(told("502", "shop", "502", "0.000"), []);
        assert_eq!(told("200", "127.0.0.1:9503", "200", "0.000"), []);
        assert_eq!(told("200", "127.0.0.1:9501", "200", "-"), []);
        assert_eq!(told("200", "", "", ""), []);
        for text in ["", "<190>Nov", "{}", "{\"status\":1}", "\u{e9}{"] {
            assert_eq!(parse(text.as_bytes(), &PORTS.into()), [], "{text}");
        }
        assert_eq!(parse(b"\xff{", &PORTS.into()), []);
    }

    #[test]
    fn a_socket_that_nginx_would_misread_is_not_written() {
        let names = Names::of(&"shop".parse().unwrap());
        let text = |path: &str| directives(&names, &[&Address::Port(9501)], Some(Path::new(path)));
        assert!(
            text("/run/bgd/f/shop.log")
                .contains("server=unix:/run/bgd/f/shop.log,nohostname,tag=bgd bgd_shop if=")
        );
        for odd in ["/run/a b", "/run/a,b", "/run/$x", "relative", "/run/é", &format!("/{}", "a".repeat(107))]
        {
            assert!(!text(odd).contains("access_log"), "{odd}");
        }
        assert!(!directives(&names, &[], Some(Path::new("/run/x"))).contains("access_log"));
    }

    proptest::proptest! {
        #[test]
        fn any_datagram_is_read_without_a_panic(head in "\\PC{0,9}", to in "[0-9.: ,]{0,40}", took in "[0-9., -]{0,60}") {
            let _ = told("200", &to, &took, &took);
            let _ = parse(format!("{head}{{{to}").as_bytes(), &PORTS.into());
            proptest::prop_assert!(told("200", "127.0.0.1:9501", "200", &took).iter().all(|it| it.color == Blue));
        }
    }
}
