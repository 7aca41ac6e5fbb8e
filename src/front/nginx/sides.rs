//! Which of two colors a request is sent to, in nginx's own words: a preview's secret first, then the client's place
//! among all clients. Pure; called by `include` for its text. Where nothing but the share counts, weights do, and
//! this is not needed.
//!
//! A client is a number between 0 and 2³² (`split_clients` takes the hash of its address, or of the ticket in its
//! cookie), and the canary has the numbers below its share: a share that grows takes clients over and gives none back,
//! and nothing has to be remembered. The canary's release is hashed too, so that it is not the same clients each time.
//!
//! The name in the site's `proxy_pass` is fixed, so the side is chosen inside the upstream: `hash` of one of two
//! constant keys. A server that refuses the connection is passed over for the other one.

use std::fmt;

use crate::{
    config::settings::Sticky,
    front::route::{Backend, Preview, Route},
    rules::ids::AppName,
};

/// nginx takes `(crc32(key) >> 16) & 0x7fff`, modulo the sum of the weights; with two servers of weight 1, an even
/// number is the first server.
const LIVE: &str = "live-1";
/// An odd one is the second.
const CANARY: &str = "canary-1";
/// Of the ticket: longer than any canary.
const TICKET_SECONDS: u32 = 30 * 24 * 60 * 60;
/// A name in nginx's table of variables, where it has 46 bytes on a usual machine, must leave room for what follows.
const LONGEST: usize = 24;

/// How the things of one app are called in nginx, where all apps share one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names(String);

impl Names {
    /// `bgd_shop` for shop. A variable has no dash, so `_` stands for it; an app with a `_` of its own gets a sum
    /// behind it, for there may be another one with a dash in its place.
    pub(super) fn of(app: &AppName) -> Self {
        let plain = app.as_str().replace('-', "_");
        if app.as_str().contains('_') {
            let sum = super::include::sum(app.as_str());
            return Self(format!("bgd_{plain:.LONGEST$}_{sum:.6}"));
        }
        Self(format!("bgd_{plain}"))
    }

    /// A variable, without the `$`.
    pub(super) fn variable(&self, what: &str) -> String {
        format!("{self}_{what}")
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The live color and the canary, where more than weights chooses between them.
pub(super) struct Sides<'r> {
    names: Names,
    live: &'r Backend,
    canary: &'r Backend,
    sticky: &'r Sticky,
    preview: Option<&'r Preview>,
}

impl<'r> Sides<'r> {
    /// `None`: weights are enough, or there is only one side.
    pub(super) fn of(names: &Names, route: &'r Route) -> Option<Self> {
        let (live, canary) = (route.live()?, route.canary()?);
        let sticky = canary.weight > 0 && route.sticky != Sticky::None;
        let preview = route.preview.as_ref();
        (sticky || preview.is_some()).then(|| Self {
            names: names.clone(),
            live,
            canary,
            sticky: &route.sticky,
            preview,
        })
    }

    /// First and second server of the upstream.
    pub(super) fn backends(&self) -> [&'r Backend; 2] {
        [self.live, self.canary]
    }

    /// What the upstream hashes.
    pub(super) fn key(&self) -> String {
        self.names.variable("side")
    }

    /// All that leads to the key.
    pub(super) fn maps(&self) -> String {
        let about = "# Which of the two a request is sent to.\n";
        let Some(preview) = self.preview else { return format!("{about}{}", self.share(&self.key())) };
        let (share, held) = (self.names.variable("share"), self.names.variable("held"));
        let cookie = pattern(&preview.cookie);
        let Preview { header, secret, .. } = preview;
        let header = variable_part(header);
        let secret = pattern(secret);
        format!(
            "{about}{}map $http_cookie ${held} {{\n    default ${share};\n    \
                 \"~(?:^|; ?){cookie}={secret}(?:;|$)\" {CANARY};\n}}\n\
             map $http_{header} ${} {{\n    default ${held};\n    \"~^{secret}$\" {CANARY};\n}}\n",
            self.share(&share),
            self.key(),
        )
    }

    /// The side by the canary's share alone.
    fn share(&self, variable: &str) -> String {
        let Some(percent) = self.percent() else {
            return format!("map \"\" ${variable} {{\n    default {LIVE};\n}}\n");
        };
        let ticket = self.names.variable("ticket");
        let (before, client) = match self.sticky {
            Sticky::None => (String::new(), "request_id"),
            Sticky::Ip => (String::new(), "remote_addr"),
            Sticky::Cookie(name) => {
                (by_cookie(name, &ticket, &format!("$cookie_{name}"), "$request_id"), ticket.as_str())
            }
        };
        let release = &self.canary.release;
        format!(
            "{before}split_clients \"${{{client}}}{release}\" ${variable} {{\n    \
                 {percent}% {CANARY};\n    * {LIVE};\n}}\n"
        )
    }

    /// With as many places as nginx has (two); `None` for nothing, which nginx refuses to write as 0 %.
    fn percent(&self) -> Option<String> {
        let (live, canary) = (u32::from(self.live.weight), u32::from(self.canary.weight));
        let hundredths = (canary * 10_000 + (live + canary) / 2) / (live + canary);
        (canary > 0).then(|| match (hundredths.max(1) / 100, hundredths.max(1) % 100) {
            (whole, 0) => whole.to_string(),
            (whole, part) => format!("{whole}.{part:02}"),
        })
    }
}

/// The cookie with a client's ticket, for a client that has none, in an answer of the app. The variable is there
/// always, because the site may name it, and empty, so that nothing is sent, unless a canary is sticky by cookie.
pub(super) fn cookie(names: &Names, route: &Route) -> String {
    let variable = names.variable("cookie");
    let cookie = match (&route.sticky, Sides::of(names, route)) {
        (Sticky::Cookie(name), Some(sides)) if sides.canary.weight > 0 => Some((name, sides)),
        _ => None,
    };
    let Some((name, sides)) = cookie else {
        return format!("map \"\" ${variable} {{\n    default \"\";\n}}\n");
    };
    let new = names.variable("new");
    let value = format!("\"{name}=$request_id; Path=/; Max-Age={TICKET_SECONDS}; HttpOnly; SameSite=Lax\"");
    let ports = sides.backends().map(|backend| backend.port);
    format!(
        "# A client's ticket, for those who have none.\n{}{}{}\n",
        by_cookie(name, &new, "\"\"", &value),
        of_the_app(&ports, &variable, &format!("${new}")),
        cookie_line(names),
    )
}

/// The line that gives it, as a site with an `add_header` of its own needs it too.
pub(super) fn cookie_line(names: &Names) -> String {
    format!("add_header Set-Cookie ${} always;", names.variable("cookie"))
}

/// A variable that has a value only when the request went to one of these ports. One request may have been tried
/// on several, which nginx lists. A pattern changes `$1` for what the site does after the answer, so it is only
/// used for such a list.
pub(super) fn of_the_app(ports: &[u16], variable: &str, value: &str) -> String {
    let each: String = ports.iter().map(|port| format!("    \"127.0.0.1:{port}\" {value};\n")).collect();
    let any = ports.iter().map(u16::to_string).collect::<Vec<_>>().join("|");
    format!(
        "map $upstream_addr ${variable} {{\n    default \"\";\n{each}    \
             \"~(?:^| )127\\.0\\.0\\.1:(?:{any})(?:[ ,]|$)\" {value};\n}}\n"
    )
}

/// A variable by a cookie: one value where the client has it, another where it is missing or empty.
fn by_cookie(name: &str, variable: &str, there: &str, missing: &str) -> String {
    format!("map $cookie_{name} ${variable} {{\n    default {there};\n    \"\" {missing};\n}}\n")
}

/// A text as a pattern that means nothing else, in quotes.
fn pattern(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let escaped = |c: u8| if plain(c) { char::from(c).to_string() } else { format!("\\x{c:02x}") };
    text.bytes().map(escaped).collect()
}

/// A header's name as nginx has it in `$http_…`.
fn variable_part(header: &str) -> String {
    let part = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    header.chars().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ids::{Color, Generation};

    const SECRET: &str = "Secret-secret_s3cret";

    fn names(app: &str) -> Names {
        Names::of(&app.parse().unwrap())
    }

    fn route(sticky: Sticky, share: u16) -> Route {
        let backend = |color, port, weight, release: &str| {
            let release = release.parse().unwrap();
            Backend { color, port, weight, release }
        };
        let live = backend(Color::Blue, 9501, 100 - share, "20261121T101112Z-1-0123456");
        let canary = backend(Color::Green, 9502, share, "20261121T101112Z-2-0123456");
        Route { sticky, ..Route::new(Generation(7), vec![live, canary]) }
    }

    fn previewed(route: Route) -> Route {
        let preview =
            Preview { header: "X-Bgd-Preview".into(), cookie: "bgd-preview".into(), secret: SECRET.into() };
        Route { preview: Some(preview), ..route }
    }

    fn maps(route: &Route) -> String {
        Sides::of(&names("shop"), route).map_or_else(String::new, |sides| sides.maps())
    }

    /// As nginx computes it, bit by bit.
    fn slot(key: &str) -> u32 {
        let crc = key.bytes().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        });
        ((!crc >> 16) & 0x7fff) % 2
    }

    #[test]
    fn each_key_leads_to_its_own_server() {
        assert_eq!((slot(LIVE), slot(CANARY)), (0, 1));
    }

    #[test]
    fn weights_are_enough_without_stickiness_and_preview() {
        assert_eq!(maps(&route(Sticky::None, 5)), "");
        assert_eq!(maps(&route(Sticky::Ip, 0)), "");
        assert!(maps(&previewed(route(Sticky::None, 5))).contains("split_clients \"${request_id}2026"));
    }

    #[test]
    fn clients_are_places_under_the_share_and_the_canary_s_release() {
        let text = maps(&route(Sticky::Ip, 5));
        let split = "# Which of the two a request is sent to.\n\
                     split_clients \"${remote_addr}20261121T101112Z-2-0123456\" $bgd_shop_side {\n    \
                     5% canary-1;\n    * live-1;\n}\n";
        assert_eq!(text, split);
    }

    #[test]
    fn a_share_that_rounds_to_nothing_is_still_one_that_nginx_accepts() {
        let mut odd = route(Sticky::Ip, 1);
        odd.backends[0].weight = 65_000;
        assert!(maps(&odd).contains("    0.01% canary-1;"), "{}", maps(&odd));
        odd.backends[0].weight = 2;
        assert!(maps(&odd).contains("    33.33% canary-1;"), "{}", maps(&odd));
    }

    #[test]
    fn a_preview_comes_before_the_share_also_when_that_is_nothing() {
        let text = maps(&previewed(route(Sticky::Ip, 0)));
        assert!(text.contains("map \"\" $bgd_shop_share {\n    default live-1;\n}"), "{text}");
        assert!(text.contains("~(?:^|; ?)bgd-preview=Secret-secret_s3cret(?:;|$)\" canary-1;"), "{text}");
        assert!(text.contains("map $http_x_bgd_preview $bgd_shop_side {"), "{text}");
    }

    #[test]
    fn a_cookie_is_given_only_while_a_canary_is_sticky_by_cookie_and_its_variable_is_there_always() {
        let named = |route: &Route| cookie(&names("shop"), route);
        for route in [route(Sticky::None, 5), route(Sticky::Ip, 5), route(Sticky::Cookie("c".into()), 0)] {
            assert_eq!(named(&route), "map \"\" $bgd_shop_cookie {\n    default \"\";\n}\n");
        }
        let text = named(&route(Sticky::Cookie("c".into()), 5));
        assert!(text.contains("    \"\" \"c=$request_id; Path=/; Max-Age=2592000; "), "{text}");
        assert!(text.ends_with("add_header Set-Cookie $bgd_shop_cookie always;\n"), "{text}");
    }

    #[test]
    fn no_two_apps_share_a_name() {
        let of = |app| names(app).to_string();
        assert_eq!((of("shop"), of("shop-api")), ("bgd_shop".to_owned(), "bgd_shop_api".to_owned()));
        assert_ne!(of("shop_api"), of("shop-api"));
        let long = names(&"a_".repeat(16));
        assert!(long.variable("ticket").len() <= 46, "{long}");
        assert!(names(&"a-".repeat(16)).variable("ticket").len() <= 46);
    }
}
