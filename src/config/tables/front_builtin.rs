//! `[app.NAME.front]` with `type = "builtin"`: bgd's own proxy.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::{
    Table as _,
    front::{FrontKind, FrontSettings, RawFront},
};
use crate::config::{
    judge::{Judge, PortClaim},
    read::{Given, Written},
};

table! {
    /// The keys of the builtin front.
    RawBuiltin { listen: String, request_timeout: Duration, response_timeout: Duration }
}

pub(super) const KIND: FrontKind = FrontKind {
    name: "builtin",
    written: |raw| raw.builtin.written(),
    own_way: |_| None,
    judge: |judge, raw, _| judge.builtin(raw),
};

pub(in crate::config) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Default of both timeouts: between two pieces of a request's body, and until the head of a response. As in nginx.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The default front of an app without `[app.NAME.front]`.
pub(super) fn usual() -> FrontSettings {
    FrontSettings::Builtin {
        listen: LISTEN,
        request_timeout: EXCHANGE_TIMEOUT,
        response_timeout: EXCHANGE_TIMEOUT,
    }
}

impl Judge<'_> {
    fn builtin(&mut self, raw: &RawFront) -> Option<FrontSettings> {
        let raw = &raw.builtin;
        let listen = match &raw.listen {
            Given::Absent => LISTEN,
            Given::Unreadable(_) => return None,
            Given::Value(written) => self.listen(written)?,
        };
        let at = raw.listen.span().cloned().unwrap_or_else(|| raw.at.absent("listen"));
        let default = raw.listen.span().is_none();
        self.ports.push(PortClaim {
            port: listen.port(),
            listen: Some(listen.ip()),
            at,
            default,
            instances: 1,
        });
        if let (443, Some(at)) = (listen.port(), raw.listen.span()) {
            let what = "is where browsers speak TLS, and the builtin front speaks plain HTTP";
            let hint = "listen on port 80, or on 127.0.0.1 behind a proxy that has the certificate; or use type = \"nginx\"";
            self.notes.warn(at, what, hint);
        }
        Some(FrontSettings::Builtin {
            listen,
            request_timeout: self.positive(&raw.request_timeout, EXCHANGE_TIMEOUT),
            response_timeout: self.positive(&raw.response_timeout, EXCHANGE_TIMEOUT),
        })
    }

    fn listen(&mut self, written: &Written<String>) -> Option<SocketAddr> {
        let text = written.value.as_str();
        let hint = match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((_, Ok(0))) => "write a port of 1 to 65535".to_owned(),
            Some(("" | "*", Ok(port))) => {
                format!("write \"0.0.0.0:{port}\" (every address) or \"127.0.0.1:{port}\"")
            }
            Some(("localhost", Ok(port))) => format!("write \"127.0.0.1:{port}\""),
            _ => match text.parse::<u16>() {
                Ok(port) => format!("write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every address"),
                Err(_) => "write an IP address and a port, such as \"0.0.0.0:80\" or \"[::]:80\"".to_owned(),
            },
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Some(address),
            _ => {
                self.notes.error(&written.at, format!("is not an address to listen on: {text:?}"), hint);
                None
            }
        }
    }
}

/// The address on which this host reaches the front: the loopback if it listens on all addresses.
pub(super) fn reached_at(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("front.listen = \":80\"", "4 app.shop.front.listen", "not an address to listen on"),
        ("front.listen = \"127.0.0.1:0\"", "4 app.shop.front.listen", "not an address to listen on"),
        ("front.listen = 80", "4 app.shop.front.listen", "expected a text, found the number 80"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_front_that_listens_everywhere_is_asked_on_the_loopback() {
        assert_eq!(reached_at("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(reached_at("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(reached_at("192.0.2.1:80".parse().unwrap()).to_string(), "192.0.2.1:80");
    }
}
