//! The protocol of the control socket: one JSON line per request, one per answer. Pure; parsing fails only with a
//! [`BadControlLine`]. Spoken by `answer` on one side, `client` and `link` on the other.

use serde::{Deserialize, Serialize};

use super::limits::ExchangeLimits;
use crate::{
    os::lines,
    rules::{
        address::Address,
        ids::{Color, Generation},
        route::Route,
        traffic::Figures,
    },
};

/// The longest line, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// A request to a front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Who are you?
    Hello,
    /// Put this route in force.
    Route {
        /// The whole route.
        route: Box<Route>,
    },
    /// Use these time limits for clients and apps from now on.
    Limits {
        /// Both limits, in milliseconds.
        limits: ExchangeLimits,
    },
    /// How many requests are in flight, per color?
    Inflight,
    /// Wait until nothing is in flight on a color.
    Drained {
        color: Color,
        /// The longest wait, in milliseconds.
        deadline_ms: u64,
    },
    /// Close what is left on a color.
    Cut {
        /// The color whose connections are closed.
        color: Color,
    },
    /// Pass over these instances, and only these, for a while. When all instances of a color are passed over, they
    /// serve all the same.
    PassOver {
        /// The addresses of the instances.
        addresses: Vec<Address>,
        /// How long to pass them over, in milliseconds.
        for_ms: u64,
    },
    /// How many requests, server errors and failed connects since the start?
    Counters,
    /// How many requests and errors since the start, and how long did the requests take?
    Figures,
    /// Give me the listening socket; it comes along with the answer.
    Handover,
    /// I serve now: accept no more, finish, and end.
    Leave,
}

/// An answer of a front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// To [`ControlRequest::Hello`].
    Hello(Box<Hello>),
    /// To [`ControlRequest::Route`]: in force.
    Applied(Generation),
    /// To [`ControlRequest::Limits`]: in force.
    Limited,
    /// To [`ControlRequest::Inflight`].
    Inflight(PerColor<u64>),
    /// To [`ControlRequest::Drained`]: what is still in flight.
    Left(u64),
    /// To [`ControlRequest::Cut`]: how many connections were closed.
    Closed(u64),
    /// To [`ControlRequest::PassOver`].
    PassedOver,
    /// To [`ControlRequest::Counters`].
    Counters(PerColor<FrontCounters>),
    /// To [`ControlRequest::Figures`].
    Figures(PerColor<Figures>),
    /// To [`ControlRequest::Handover`]: the route to go on with.
    Heritage(Option<Box<Route>>),
    /// To [`ControlRequest::Leave`].
    Leaving,
    /// The request could not be fulfilled, and why.
    Refused(String),
}

/// A front's description of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of bgd it runs.
    pub version: String,
    /// The program file it runs: device, inode, size and time of change.
    pub build: String,
    pub pid: u32,
    /// Milliseconds since 1970 UTC.
    pub started_at_ms: u64,
    /// The public address as it was asked for.
    pub listen: std::net::SocketAddr,
    /// The public address as it is: the port is the real one where 0 was asked for.
    pub bound: std::net::SocketAddr,
    /// The route in force; `None` before the first one.
    pub route: Option<Route>,
    /// Requests in flight, those of a predecessor that still drains included.
    pub inflight: PerColor<u64>,
    /// How long clients and apps may take; `None`: a former build, which has no limits.
    #[serde(default)]
    pub limits: Option<ExchangeLimits>,
    /// What the front can't do well at this time, for the operator; `None` when all is well.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Plain numbers since the start of the front's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FrontCounters {
    /// Requests answered, by the backend or for it.
    pub requests: u64,
    /// Of these, answers of 500 and above.
    pub server_errors: u64,
    /// Failed attempts to connect.
    pub connect_failures: u64,
}

impl FrontCounters {
    /// The sum of both.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            server_errors: self.server_errors + other.server_errors,
            connect_failures: self.connect_failures + other.connect_failures,
        }
    }
}

/// One value for each color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerColor<T> {
    pub blue: T,
    pub green: T,
}

impl<T> PerColor<T> {
    /// Makes each value from its color.
    pub fn from_fn(mut make: impl FnMut(Color) -> T) -> Self {
        Self { blue: make(Color::Blue), green: make(Color::Green) }
    }

    /// The value of a color.
    pub fn of(&self, color: Color) -> &T {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Mutable access to the value of a color.
    pub fn of_mut(&mut self, color: Color) -> &mut T {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

/// A line that is not a request or an answer.
#[derive(Debug, thiserror::Error)]
#[error("not a line of the front's protocol: {line:?}")]
pub struct BadControlLine {
    /// The first 80 bytes of the line, at most.
    pub line: String,
    #[source]
    cause: serde_json::Error,
}

/// Reads a request or an answer from one line.
pub fn parse<'line, T: Deserialize<'line>>(line: &'line [u8]) -> Result<T, BadControlLine> {
    serde_json::from_slice(line).map_err(|cause| BadControlLine {
        line: String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned(),
        cause,
    })
}

/// Writes a request or an answer as one line.
pub fn line<T: Serialize>(message: &T) -> Vec<u8> {
    lines::line(message).expect("our own types are always valid JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::route::Side;

    #[test]
    fn requests_and_answers_survive_the_line() {
        let live = Side {
            color: Color::Green,
            addresses: vec![Address::Port(9502)],
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            directory: None,
        };
        let route = Route::to(Generation(3), live);
        let requests = [
            ControlRequest::Hello,
            ControlRequest::Route { route: Box::new(route.clone()) },
            ControlRequest::Limits { limits: ExchangeLimits::default() },
            ControlRequest::Inflight,
            ControlRequest::Drained { color: Color::Blue, deadline_ms: 5 },
            ControlRequest::Cut { color: Color::Green },
            ControlRequest::PassOver { addresses: vec![Address::Port(9502)], for_ms: 5 },
            ControlRequest::Counters,
            ControlRequest::Figures,
            ControlRequest::Handover,
            ControlRequest::Leave,
        ];
        for request in requests {
            let text = line(&request);
            assert_eq!(
                parse::<ControlRequest>(&text).unwrap(),
                request,
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
        let answer = ControlAnswer::Heritage(Some(Box::new(route)));
        assert_eq!(parse::<ControlAnswer>(&line(&answer)).unwrap(), answer);
        assert_eq!(line(&ControlRequest::Hello), b"{\"do\":\"hello\"}\n");
        assert!(parse::<ControlRequest>(b"{\"do\":\"cut\",\"color\":\"red\"}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = parse::<ControlRequest>(&bytes);
            let _either = parse::<ControlAnswer>(&bytes);
        }
    }
}
