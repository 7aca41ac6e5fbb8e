//! Renders nginx's choice of a color for each request: first by a preview's secret, then by the client's hash. Pure;
//! called by `include` for its text. Where only the share counts, weights are enough, and this is not needed.
//!
//! A client has a number between 0 and 2³² (`split_clients` hashes its address, or the ticket in its cookie), and the
//! canary gets the numbers below its share: a share that grows takes clients over and gives none back, and nothing has
//! to be stored. The canary's release is hashed too, so that each canary gets other clients.
//!
//! The name in the site's `proxy_pass` is fixed, so the side is chosen inside the upstream: `hash` of one of two
//! constant keys. When a server refuses the connection, nginx tries the other one.
//!
//! A color with several instances has a key for each, and each request gets one of them at random. The keys are chosen
//! so that when one or two instances refuse, nginx tries others of their color.

use std::{collections::BTreeSet, fmt, ops::Range};

use crate::rules::{
    address::Address,
    canary::Share,
    ids::AppName,
    route::{Preview, Route, Side},
    sticky::Sticky,
};

/// Value for the live side; where there are two servers, also the key of the first.
const LIVE: &str = "live-1";
/// Value for the canary's side; where there are two servers, also the key of the second.
const CANARY: &str = "canary-1";
/// Lifetime of the ticket's cookie, longer than any canary.
const TICKET_SECONDS: u32 = 30 * 24 * 60 * 60;
/// Most bytes of a text that `map` looks up in its hash table, with nginx's default sizes on a usual machine.
const LONGEST_KEY: usize = 46;
/// Most bytes of an app's name in a variable's name: nginx's table of variables has room for 46 bytes on a usual
/// machine, and a sum and a suffix follow the name.
const LONGEST: usize = 24;

/// Prefix of the names that one app defines in nginx, where all apps share one name space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names(String);

impl Names {
    /// `bgd_shop` for shop. A variable can't have a dash, so `_` replaces it. The name of an app with a `_` of its own
    /// gets a sum as suffix, because another app may have a dash in that place.
    pub(super) fn of(app: &AppName) -> Self {
        let plain = app.as_str().replace('-', "_");
        if app.as_str().contains('_') {
            let sum = super::include::sum(app.as_str());
            return Self(format!("bgd_{plain:.LONGEST$}_{sum:.6}"));
        }
        Self(format!("bgd_{plain}"))
    }

    /// The name of a variable, without the `$`.
    pub(super) fn variable(&self, what: &str) -> String {
        format!("{self}_{what}")
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The live color and the canary, where weights are not enough to choose between them.
pub(super) struct Sides<'r> {
    names: Names,
    live: &'r Side,
    canary: &'r Side,
    share: Share,
    sticky: &'r Sticky,
    preview: Option<&'r Preview>,
}

impl<'r> Sides<'r> {
    /// `None`: weights are enough, or there is only one side.
    pub(super) fn of(names: &Names, route: &'r Route) -> Option<Self> {
        let (live, (canary, share)) = (route.live.as_ref()?, route.canary.as_ref()?);
        let sticky = *share > Share::NONE && route.sticky != Sticky::None;
        let preview = route.preview.as_ref();
        (sticky || preview.is_some()).then(|| Self {
            names: names.clone(),
            live,
            canary,
            share: *share,
            sticky: &route.sticky,
            preview,
        })
    }

    /// The servers of the upstream, in its order.
    fn addresses(&self) -> Vec<&'r Address> {
        self.live.addresses.iter().chain(&self.canary.addresses).collect()
    }

    /// The variable that the upstream hashes.
    pub(super) fn hashed(&self) -> String {
        if self.is_single() { self.side() } else { self.names.variable("server") }
    }

    fn side(&self) -> String {
        self.names.variable("side")
    }

    /// Whether each side has one server.
    fn is_single(&self) -> bool {
        self.addresses().len() == 2
    }

    /// The maps that compute the hashed variable.
    pub(super) fn maps(&self) -> String {
        if self.is_single() {
            return self.choice();
        }
        let (live, all) = (self.live.addresses.len(), self.addresses().len());
        let (first, live_key) = self.dealt("one", 0..live);
        let (second, canary_key) = self.dealt("two", live..all);
        let (side, server) = (self.side(), self.names.variable("server"));
        format!(
            "{}{first}{second}map ${side} ${server} {{\n    default {live_key};\n    {CANARY} {canary_key};\n}}\n",
            self.choice()
        )
    }

    /// Deals requests evenly to a side's servers, which have these numbers in the upstream: returns the lines, and the
    /// key or the variable that holds it.
    fn dealt(&self, name: &str, servers: Range<usize>) -> (String, String) {
        let all = self.addresses().len();
        let keys: Vec<String> = servers.clone().map(|server| key(name, (server, all), &servers)).collect();
        let Some((last, others)) = keys.split_last() else { return (String::new(), String::new()) };
        if others.is_empty() {
            return (String::new(), last.clone());
        }
        let variable = self.names.variable(name);
        let hundredths = 10_000 / keys.len();
        let each: String = others
            .iter()
            .map(|key| format!("    {}.{:02}% {key};\n", hundredths / 100, hundredths % 100))
            .collect();
        let lines =
            format!("split_clients \"${{request_id}}{name}\" ${variable} {{\n{each}    * {last};\n}}\n");
        (lines, format!("${variable}"))
    }

    /// The maps that compute the side.
    fn choice(&self) -> String {
        let about = "# Which of the two a request is sent to.\n";
        let Some(preview) = self.preview else { return format!("{about}{}", self.share(&self.side())) };
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
            self.side(),
        )
    }

    /// The maps that compute the side by the canary's share alone.
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

    /// The canary's share; `None` for a share of 0, because nginx refuses `0%`.
    fn percent(&self) -> Option<u8> {
        Some(self.share.get()).filter(|percent| *percent > 0)
    }
}

/// Siblings of a server that nginx tries, one after the other, before it tries the other color.
const STAND_INS: usize = 2;

/// The number of candidate keys, and of their different lengths.
const KEYS: usize = 1_000_000;
const LENGTHS: usize = 61;

/// Finds a key that nginx's hash maps to this one of `all` servers, each with weight 1, and next to its siblings.
fn key(name: &str, (server, all): (usize, usize), siblings: &Range<usize>) -> String {
    let stand_ins = STAND_INS.min(siblings.len() - 1);
    let fits = |key: &String| {
        let mut order = order(key, all);
        order.next() == Some(server) && order.take(stand_ins).all(|next| siblings.contains(&next))
    };
    // Keys differ in length, because a CRC is linear: among keys of one length, the first server determines the second.
    let keys = (1..KEYS).map(|number| format!("{name}{}-{number}", "o".repeat(number % LENGTHS)));
    // Usually a few dozen tries are enough, or a few hundred with many servers.
    keys.clone().find(fits).unwrap_or_else(|| format!("{name}-{server}"))
}

/// The servers in the order in which nginx tries them: it adds `(crc32(key) >> 16) & 0x7fff`, with the number of the
/// try before the key from the second on, modulo the sum of the weights; after 20 tries it takes turns.
fn order(key: &str, all: usize) -> impl Iterator<Item = usize> {
    let mut sum = 0;
    let tries = (0..20).map(move |at| {
        let number = if at == 0 { String::new() } else { at.to_string() };
        // 15 bits fit.
        sum += ((crc(&format!("{number}{key}")) >> 16) & 0x7fff) as usize;
        sum % all
    });
    let mut tried = BTreeSet::new();
    tries.filter(move |server| tried.insert(*server))
}

fn crc(text: &str) -> u32 {
    let bits = |crc: u32| (0..8).fold(crc, |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()));
    !text.bytes().fold(u32::MAX, |crc, byte| bits(crc ^ u32::from(byte)))
}

/// The lines that set a client's ticket cookie in an answer of the app, for a client that has none. The variable is
/// always defined, because the site may name it; it is empty, so that nginx sends no cookie, unless a canary is sticky
/// by cookie.
pub(super) fn cookie(names: &Names, route: &Route) -> String {
    let variable = names.variable("cookie");
    let cookie = match (&route.sticky, Sides::of(names, route)) {
        (Sticky::Cookie(name), Some(sides)) if sides.percent().is_some() => Some((name, sides)),
        _ => None,
    };
    let Some((name, sides)) = cookie else {
        return format!("map \"\" ${variable} {{\n    default \"\";\n}}\n");
    };
    let new = names.variable("new");
    let value = format!("\"{name}=$request_id; Path=/; Max-Age={TICKET_SECONDS}; HttpOnly; SameSite=Lax\"");
    format!(
        "# A client's ticket, for those who have none.\n{}{}{}\n",
        by_cookie(name, &new, "\"\"", &value),
        of_the_app(&sides.addresses(), &variable, &format!("${new}")),
        cookie_line(names),
    )
}

/// The line that sends the cookie; a site with an `add_header` of its own must repeat it.
pub(super) fn cookie_line(names: &Names) -> String {
    format!("add_header Set-Cookie ${} always;", names.variable("cookie"))
}

/// A variable that has a value only when the request went to one of these addresses. A request may have been tried
/// on several, which nginx lists. A pattern changes `$1` for the site's own lines after the answer, so it is only
/// used for such a list, and for an address that is too long for nginx's table.
pub(super) fn of_the_app(addresses: &[&Address], variable: &str, value: &str) -> String {
    let fitting = addresses.iter().map(ToString::to_string).filter(|address| address.len() <= LONGEST_KEY);
    let each: String = fitting.map(|address| format!("    \"{address}\" {value};\n")).collect();
    let any = any_of(addresses);
    format!(
        "map $upstream_addr ${variable} {{\n    default \"\";\n{each}    \
             \"~(?:^| ){any}(?:[ ,]|$)\" {value};\n}}\n"
    )
}

/// A pattern for any of the addresses, which are all ports or all sockets.
fn any_of(addresses: &[&Address]) -> String {
    let ports: Option<Vec<String>> =
        addresses.iter().map(|address| Some(address.port()?.to_string())).collect();
    match ports {
        Some(ports) => format!("127\\.0\\.0\\.1:(?:{})", ports.join("|")),
        None => {
            let each: Vec<String> = addresses.iter().map(|address| pattern(&address.to_string())).collect();
            format!("(?:{})", each.join("|"))
        }
    }
}

/// A variable that depends on a cookie: one value where the client has it, another where it is missing or empty.
fn by_cookie(name: &str, variable: &str, there: &str, missing: &str) -> String {
    format!("map $cookie_{name} ${variable} {{\n    default {there};\n    \"\" {missing};\n}}\n")
}

/// Escapes a text as a pattern that matches only that text, for use in quotes.
fn pattern(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let escaped = |c: u8| if plain(c) { char::from(c).to_string() } else { format!("\\x{c:02x}") };
    text.bytes().map(escaped).collect()
}

/// A header's name as nginx writes it in `$http_…`.
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
        let side = |color, port, release: &str| {
            let release = release.parse().unwrap();
            Side { color, addresses: vec![Address::Port(port)], release, directory: None }
        };
        let live = side(Color::Blue, 9501, "20261121T101112Z-1-0123456");
        let canary = side(Color::Green, 9502, "20261121T101112Z-2-0123456");
        Route { sticky, ..Route::to(Generation(7), live).beside(canary, Share::capped(share)) }
    }

    fn previewed(route: Route) -> Route {
        let preview =
            Preview { header: "X-Bgd-Preview".into(), cookie: "bgd-preview".into(), secret: SECRET.into() };
        Route { preview: Some(preview), ..route }
    }

    fn maps(route: &Route) -> String {
        Sides::of(&names("shop"), route).map_or_else(String::new, |sides| sides.maps())
    }

    #[test]
    fn each_key_leads_to_its_own_server_and_then_to_its_siblings() {
        assert_eq!((order(LIVE, 2).next(), order(CANARY, 2).next()), (Some(0), Some(1)));
        for (live, canary) in [(1, 2), (2, 1), (3, 3), (64, 1), (64, 64)] {
            let all = live + canary;
            for (name, side) in [("one", 0..live), ("two", live..all)] {
                for server in side.clone() {
                    let key = key(name, (server, all), &side);
                    let first: Vec<usize> =
                        order(&key, all).take(1 + STAND_INS.min(side.len() - 1)).collect();
                    assert_eq!(first[0], server, "{key}");
                    assert!(first.iter().all(|next| side.contains(next)), "{key}: {first:?}");
                }
            }
        }
    }

    #[test]
    fn a_request_is_dealt_one_of_a_side_s_instances() {
        let mut several = route(Sticky::Ip, 10);
        several.live.as_mut().unwrap().addresses = [9501, 9511, 9521].map(Address::Port).into();
        let names = names("shop");
        let sides = Sides::of(&names, &several).unwrap();
        let ports: Vec<_> = sides.addresses().into_iter().filter_map(Address::port).collect();
        assert_eq!(
            (ports.as_slice(), sides.hashed().as_str()),
            (&[9501, 9511, 9521, 9502][..], "bgd_shop_server")
        );
        let text = sides.maps();
        assert!(text.contains("    10% canary-1;\n    * live-1;\n"), "{text}");
        let [one, two, three] = [0, 1, 2].map(|server| key("one", (server, 4), &(0..3)));
        let dealt = format!(
            "split_clients \"${{request_id}}one\" $bgd_shop_one {{\n    33.33% {one};\n    33.33% {two};\n    * {three};\n}}\n\
             map $bgd_shop_side $bgd_shop_server {{\n    default $bgd_shop_one;\n    canary-1 {};\n}}\n",
            key("two", (3, 4), &(3..4))
        );
        assert!(text.ends_with(&dealt), "{text}");
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
    fn a_path_that_a_table_of_nginx_has_no_room_for_is_matched_by_a_pattern_alone() {
        let of = |path: String| of_the_app(&[&Address::Socket(path.into())], "bgd_shop_reached", "1");
        let short = of("/etc/nginx/conf.d/.bgd-shop.conf.live".to_owned());
        assert!(short.contains("    \"unix:/etc/nginx/conf.d/.bgd-shop.conf.live\" 1;\n"), "{short}");
        let long = of(format!("/{}", "x".repeat(41)));
        assert!(!long.contains("    \"unix:"), "{long}");
        assert!(long.contains("~(?:^| )(?:unix\\x3a\\x2fxxx"), "{long}");
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
