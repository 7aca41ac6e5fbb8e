//! Renders the one file that bgd owns from a route, and parses it. Pure, so that it can be fuzzed. Comments in the
//! file hold all that is needed to restore the route without a database, and a sum by which bgd notices a manual
//! edit. The proof address answers with the same sum, which distinguishes two texts of one generation.
//!
//! No `keepalive` towards the app: the app may close an idle connection at any time, because it stops or by its own
//! limit, and nginx does not repeat a POST that fails so; a new connection for each request avoids that.
//! `max_fails=0`: only bgd decides whether a color may receive traffic. No `zone`: without it each worker counts for
//! itself, so that a share is off by at most one request a worker; with it, a worker killed at the wrong instant would
//! leave a lock behind on which all the others spin.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddrV4},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    link,
    place::Audience,
    report, sides,
    sides::{Names, Sides},
    syntax,
};
use crate::{
    os::hash::fnv,
    rules::{
        address::Address,
        ids::{AppName, Generation},
        route::{FilesServed, FlatRoute, Preview, Route, Weighted},
        sticky::Sticky,
    },
};

/// The first words of a file written by bgd.
const MARK: &str = "# Written by bgd alone";
const SUM_LINE: &str = "# bgd-sum ";
const STATE_LINE: &str = "# bgd-state ";
/// Bytes of the state in one line: nginx refuses a line longer than 4 KiB, even a comment.
const STATE_PIECE: usize = 2000;
/// Placeholder for the sum in the text of which the sum is computed.
const NO_SUM: &str = "0000000000000000";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The app whose file it is.
    pub app: AppName,
    /// Name of the upstream block.
    pub upstream: String,
    /// The route that the file puts in force.
    pub route: Route,
    /// Blue's address, which the upstream names (as `down`) when nothing is live: nginx refuses an upstream without
    /// servers.
    pub parking: Address,
    /// The proof address, where nginx answers which file it has in force.
    pub proof: SocketAddrV4,
    /// The unix datagram socket to which nginx reports each request; `None` for no reports.
    pub traffic: Option<PathBuf>,
    /// The link that leads to the live sockets, if one is used. Then the upstream names only the link, and `route` has
    /// nothing but this text's generation, because a flip moves the link and does not change the text.
    pub link: Option<Address>,
}

/// A parsed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedInclude {
    /// The content by the file's header.
    pub include: Include,
    /// Whether the rest of the file agrees with the header.
    pub integrity: Integrity,
    /// The sum in the header. For a text by an older bgd it may differ from the sum of what this bgd would render.
    pub sum: String,
}

/// Whether somebody changed the file since bgd wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// The file is as bgd wrote it.
    Intact,
    /// The file was changed by hand.
    Edited {
        /// The addresses on this machine in the upstream block now, without servers that are down or backup.
        addresses: Vec<Address>,
    },
}

/// Why a text is not an include of bgd's.
#[derive(Debug, thiserror::Error)]
pub enum IncludeError {
    /// The text was not written by bgd.
    #[error("not written by bgd: the line {MARK:?} is missing")]
    NotOurs,
    /// Written by bgd, and damaged since.
    #[error("the line {line:?} is missing")]
    LineMissing {
        /// The beginning of the line.
        line: &'static str,
    },
    /// Written by bgd, and damaged since.
    #[error("the state in its header can't be read")]
    State(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct IncludeState {
    app: AppName,
    upstream: String,
    generation: Generation,
    parking: Parking,
    proof: SocketAddrV4,
    backends: Vec<Weighted>,
    #[serde(default)]
    sticky: Sticky,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preview: Option<Preview>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    backup: Vec<Weighted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traffic: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Address>,
}

/// A port as a number, a socket as its path.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Parking {
    Port(u16),
    Socket(PathBuf),
}

impl From<Address> for Parking {
    fn from(address: Address) -> Self {
        match address {
            Address::Port(port) => Self::Port(port),
            Address::Socket(path) => Self::Socket(path),
        }
    }
}

impl From<Parking> for Address {
    fn from(parking: Parking) -> Self {
        match parking {
            Parking::Port(port) => Self::Port(port),
            Parking::Socket(path) => Self::Socket(path),
        }
    }
}

impl Include {
    /// The text of the whole file.
    pub fn render(&self) -> String {
        self.with_sum(&self.sum())
    }

    /// The sum of the rendered text, 16 hex digits.
    pub fn sum(&self) -> String {
        sum(&self.with_sum(NO_SUM))
    }

    fn with_sum(&self, sum: &str) -> String {
        let Self { app, upstream, proof, .. } = self;
        let flat = FlatRoute::from(self.route.clone());
        let names = Names::of(app);
        let sides = Sides::of(&names, &self.route);
        let maps = sides.as_ref().map_or_else(String::new, Sides::maps);
        let cookie = sides::cookie(&names, &self.route);
        let chosen: Vec<_> = flat.backends.iter().filter(|one| sides.is_some() || one.weight > 0).collect();
        let ways = self.ways();
        let backends = chosen.iter().copied().chain(flat.backup.iter().filter(|_| !chosen.is_empty()));
        let reached: Vec<_> = backends.map(|backend| &backend.address).chain(&ways).collect();
        let report = report::directives(&names, &reached, self.traffic.as_deref());
        let servers = self.servers(sides.as_ref(), &chosen, &flat.backup);
        let state = self.state(flat);
        let answer = self.answer(sum);
        format!(
            "{MARK} (app {app}). A change made here by hand is noticed, and lost at the next flip.\n\
             {SUM_LINE}{sum}\n\
             {STATE_LINE}{state}\n\
             \n\
             {maps}\
             upstream {upstream} {{\n{servers}}}\n\
             \n\
             {cookie}\
             {report}\
             \n\
             # Tells which of these files nginx has truly in force; reachable from this machine only.\n\
             server {{\n    \
                 listen {proof};\n    \
                 access_log off;\n    \
                 location / {{\n        \
                     default_type application/json;\n        \
                     return 200 '{answer}';\n    \
                 }}\n\
             }}\n"
        )
    }

    fn state(&self, flat: FlatRoute) -> String {
        let state = IncludeState {
            app: self.app.clone(),
            upstream: self.upstream.clone(),
            generation: flat.generation,
            parking: self.parking.clone().into(),
            proof: self.proof,
            backends: flat.backends,
            sticky: flat.sticky,
            preview: flat.preview,
            backup: flat.backup,
            traffic: self.traffic.clone(),
            link: self.link.clone(),
        };
        let text = serde_json::to_string(&state).expect("plain data becomes JSON");
        let mut pieces = vec![String::new()];
        for c in text.chars() {
            if pieces.last().is_some_and(|piece| piece.len() >= STATE_PIECE) {
                pieces.push(String::new());
            }
            pieces.last_mut().expect("never empty").push(c);
        }
        pieces.join(&format!("\n{STATE_LINE}"))
    }

    /// Whether the include routes nowhere.
    pub(super) fn is_parked(&self) -> bool {
        self.route.live.is_none() && self.link.is_none()
    }

    /// The paths by which the upstream names the link; empty without a link.
    fn ways(&self) -> Vec<Address> {
        let path = self.link.as_ref().and_then(Address::socket);
        path.map_or_else(Vec::new, |path| link::ways(path).into_iter().map(Address::Socket).collect())
    }

    /// The lines of the upstream block. `chosen` are the servers that receive requests first, before a backup.
    fn servers(&self, sides: Option<&Sides<'_>>, chosen: &[&Weighted], backup: &[Weighted]) -> String {
        let mut lines = sides.map_or_else(String::new, |sides| format!("    hash ${};\n", sides.hashed()));
        match chosen {
            [] => match &self.link {
                Some(_) => {
                    for way in self.ways() {
                        _ = writeln!(lines, "    server {way} max_fails=0;");
                    }
                }
                None => _ = writeln!(lines, "    server {} down;", self.parking),
            },
            several => {
                // Servers of one color share the requests evenly, without weights.
                let weighted = sides.is_none() && several.iter().any(|one| one.color != several[0].color);
                for Weighted { address, weight, .. } in several {
                    let weight = if weighted { format!(" weight={weight}") } else { String::new() };
                    _ = writeln!(lines, "    server {address}{weight} max_fails=0;");
                }
                // nginx refuses `backup` together with `hash`.
                for Weighted { address, .. } in backup.iter().filter(|_| sides.is_none()) {
                    _ = writeln!(lines, "    server {address} max_fails=0 backup;");
                }
            }
        }
        lines
    }

    /// The proof address's answer, as JSON. It has only names and numbers, and so no character with a meaning inside
    /// quotes in nginx's configuration, such as a single quote or a `$`.
    fn answer(&self, sum: &str) -> String {
        let mut answer = serde_json::json!({
            "app": self.app,
            "color": self.route.color(),
            "canary": self.route.canary.as_ref().map(|(canary, _)| canary.color),
            "share": self.route.canary.as_ref().map_or(0, |(_, share)| share.get()),
            "backup": self.route.backup.as_ref().map(|backup| backup.color),
            "generation": self.route.generation,
            "release": self.route.live.as_ref().map(|live| &live.release),
            "sum": sum,
        });
        if self.link.is_some() {
            answer["link"] = true.into();
        }
        answer.to_string()
    }
}

/// Parses the text of a file.
pub fn parse(text: &str) -> Result<ParsedInclude, IncludeError> {
    if !text.lines().any(|line| line.starts_with(MARK)) {
        return Err(IncludeError::NotOurs);
    }
    let said = after(text, SUM_LINE)?.trim();
    after(text, STATE_LINE)?;
    let state: String = text.lines().filter_map(|line| line.strip_prefix(STATE_LINE)).collect();
    let state: IncludeState = serde_json::from_str(&state).map_err(IncludeError::State)?;
    let include = Include {
        app: state.app,
        upstream: state.upstream,
        route: Route::from(FlatRoute {
            generation: state.generation,
            backends: state.backends,
            sticky: state.sticky,
            preview: state.preview,
            backup: state.backup,
            directories: Vec::new(),
            files: FilesServed::default(),
        }),
        parking: state.parking.into(),
        proof: state.proof,
        traffic: state.traffic,
        link: state.link,
    };
    let is_sum = said.len() == NO_SUM.len() && said.bytes().all(|c| c.is_ascii_hexdigit());
    let integrity = if is_sum && sum(&without_sum(text, said)) == said {
        Integrity::Intact
    } else {
        Integrity::Edited { addresses: addresses(text, &include.upstream) }
    };
    Ok(ParsedInclude { include, integrity, sum: said.to_owned() })
}

/// Who may read a text: only the owner where it has a preview's secret.
pub(super) fn audience(text: &str) -> Audience {
    match parse(text) {
        Ok(found) if found.include.route.preview.is_some() => Audience::Owner,
        Ok(_) | Err(_) => Audience::Everybody,
    }
}

/// The text of which the sum was computed. Replaces the digits only where a sum is expected, because a name may
/// contain them too.
fn without_sum(text: &str, said: &str) -> String {
    let line = text.replacen(&format!("{SUM_LINE}{said}"), &format!("{SUM_LINE}{NO_SUM}"), 1);
    line.replacen(&format!("\"sum\":\"{said}\""), &format!("\"sum\":\"{NO_SUM}\""), 1)
}

fn after<'a>(text: &'a str, line: &'static str) -> Result<&'a str, IncludeError> {
    text.lines().find_map(|text| text.strip_prefix(line)).ok_or(IncludeError::LineMissing { line })
}

/// The addresses on this machine in an upstream block, without servers that are down or backup.
fn addresses(text: &str, upstream: &str) -> Vec<Address> {
    let tokens = syntax::tokens(text);
    let Some(inside) = syntax::block(&tokens, "upstream", upstream) else { return Vec::new() };
    inside
        .split(|token| *token == syntax::Token::End)
        .filter(|directive| {
            !["down", "backup"].iter().any(|word| directive.contains(&syntax::Token::Word((*word).into())))
        })
        .flat_map(|directive| syntax::arguments(directive, "server"))
        .filter_map(|server| local_address(&server))
        .collect()
}

/// The address of a server on this machine; `None` for other hosts, even with the same port.
fn local_address(server: &str) -> Option<Address> {
    if let Some(path) = server.strip_prefix("unix:") {
        return Some(Address::Socket(path.into()));
    }
    let (host, port) = server.rsplit_once(':')?;
    let loopback = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let local = host == "localhost" || loopback(host.trim_start_matches('[').trim_end_matches(']'));
    let digits = port.bytes().all(|c| c.is_ascii_digit());
    (local && digits).then(|| Some(Address::Port(port.parse().ok()?))).flatten()
}

/// A sum of a text, 16 hex digits. It protects against accidents and manual edits, not against an attacker, who could
/// write the file.
pub(super) fn sum(text: &str) -> String {
    format!("{:016x}", fnv(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ids::Color;

    fn backend(color: Color, port: u16, weight: u16) -> Weighted {
        Weighted {
            color,
            address: Address::Port(port),
            weight,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
        }
    }

    fn include(backends: Vec<Weighted>) -> Include {
        Include {
            app: "shop".parse().unwrap(),
            upstream: "shop_app".into(),
            route: FlatRoute::new(Generation(7), backends).into(),
            parking: Address::Port(9501),
            proof: "127.98.103.100:29501".parse().unwrap(),
            traffic: None,
            link: None,
        }
    }

    #[test]
    fn a_rendered_include_is_read_back_as_it_was() {
        for backends in [
            vec![],
            vec![backend(Color::Green, 9502, 100)],
            vec![backend(Color::Blue, 9501, 90), backend(Color::Green, 9502, 10)],
        ] {
            is_read_back(include(backends));
        }
    }

    #[track_caller]
    fn is_read_back(include: Include) {
        let sum = include.sum();
        let found = parse(&include.render()).unwrap();
        assert_eq!(found, ParsedInclude { include, integrity: Integrity::Intact, sum });
    }

    #[test]
    fn no_line_is_too_long_for_nginx_with_as_many_instances_as_there_can_be() {
        let of = |color, first: u16| (0..64).map(move |at| backend(color, first + at, 1));
        let many = include(of(Color::Blue, 9501).chain(of(Color::Green, 9601)).collect());
        let text = many.render();
        assert!(text.lines().all(|line| line.len() < 4000), "{text}");
        assert_eq!(text.matches(" weight=50 max_fails=0;").count(), 128);
        is_read_back(many);
        let alone = include(of(Color::Blue, 9501).collect());
        assert!(!alone.render().contains("weight=1"));
        is_read_back(alone);
    }

    #[test]
    fn the_text_of_a_linked_route_names_the_link_alone_and_is_read_back() {
        let mut linked = include(vec![]);
        linked.link = Some(Address::Socket("/etc/nginx/conf.d/.bgd-shop.conf.live".into()));
        linked.traffic = Some("/run/bgd/t/shop.sock".into());
        let text = linked.render();
        let server = "{\n    server unix:/etc/nginx/conf.d/.bgd-shop.conf.live max_fails=0;\n}";
        assert!(text.contains(server), "{text}");
        assert!(text.contains("\"unix:/etc/nginx/conf.d/.bgd-shop.conf.live\" 1;"), "{text}");
        assert!(linked.answer("").contains(r#""link":true"#) && !include(vec![]).answer("").contains("link"));
        is_read_back(linked);
    }

    /// A route with blue live and green as canary, with every optional part.
    fn gray() -> Include {
        let mut gray = include(vec![backend(Color::Blue, 9501, 95), backend(Color::Green, 9502, 5)]);
        gray.route.sticky = Sticky::Cookie("bgd_shop".into());
        gray.route.preview = Some(Preview {
            header: "X-Bgd-Preview".into(),
            cookie: "bgd_preview".into(),
            secret: "secret-secret-secret".into(),
        });
        gray.traffic = Some("/run/bgd/f/shop.traffic".into());
        gray
    }

    #[test]
    fn what_keeps_clients_and_what_lets_them_in_is_read_back_too() {
        let gray = gray();
        assert_eq!(audience(&gray.render()), Audience::Owner);
        is_read_back(gray.clone());
        let mut closed = gray;
        closed.route.preview = None;
        assert_eq!(audience(&closed.render()), Audience::Everybody);
        is_read_back(closed);
    }

    #[test]
    fn a_secret_is_neither_in_the_answer_nor_in_what_is_shown_of_an_include() {
        let gray = gray();
        assert!(!gray.answer("").contains("secret-secret"), "{}", gray.answer(""));
        assert!(!format!("{gray:?}").contains("secret-secret"), "{gray:?}");
    }

    #[test]
    fn a_hand_that_changes_the_split_is_noticed() {
        let text = gray().render();
        for (from, to) in
            [("    5% canary-1;", "    50% canary-1;"), ("~^secret-", "~^other-"), ("hash $", "# $")]
        {
            let edited = text.replacen(from, to, 1);
            assert_ne!(edited, text);
            let addresses = vec![Address::Port(9501), Address::Port(9502)];
            assert_eq!(parse(&edited).unwrap().integrity, Integrity::Edited { addresses }, "{from}");
        }
    }

    #[test]
    fn weights_are_written_only_when_there_is_a_choice() {
        let single = include(vec![backend(Color::Green, 9502, 30), backend(Color::Blue, 9501, 0)]).render();
        assert!(single.contains("{\n    server 127.0.0.1:9502 max_fails=0;\n}"), "{single}");
        let both = include(vec![backend(Color::Blue, 9501, 90), backend(Color::Green, 9502, 10)]).render();
        assert!(both.contains("9501 weight=90 max_fails=0;\n    server 127.0.0.1:9502 weight=10 "), "{both}");
        let none = include(vec![]).render();
        assert!(none.contains("{\n    server 127.0.0.1:9501 down;\n}"), "{none}");
    }

    #[test]
    fn a_backup_comes_last_and_a_hand_s_change_is_read_without_it() {
        let mut backed = include(vec![backend(Color::Green, 9502, 100)]);
        backed.route.backup = include(vec![backend(Color::Blue, 9501, 1)]).route.live;
        let servers =
            "{\n    server 127.0.0.1:9502 max_fails=0;\n    server 127.0.0.1:9501 max_fails=0 backup;\n}";
        let text = backed.render();
        assert!(text.contains(servers), "{text}");
        assert!(text.contains("\"backup\":\"blue\""), "{text}");
        is_read_back(backed.clone());
        let edited = text.replace("max_fails=0 backup", "max_fails=3 backup");
        assert_eq!(
            parse(&edited).unwrap().integrity,
            Integrity::Edited { addresses: vec![Address::Port(9502)] }
        );
        backed.traffic = Some("/run/bgd/f/shop.traffic".into());
        assert!(backed.render().contains("127\\.0\\.0\\.1:(?:9502|9501)"), "{}", backed.render());
    }

    #[test]
    fn two_texts_of_one_generation_have_different_sums() {
        let even = include(vec![backend(Color::Blue, 9501, 50), backend(Color::Green, 9502, 50)]);
        let canary = include(vec![backend(Color::Blue, 9501, 90), backend(Color::Green, 9502, 10)]);
        assert_ne!(even.sum(), canary.sum());
        assert!(even.render().contains(&format!(r#""sum":"{}"}}';"#, even.sum())));
    }

    #[test]
    fn f3_a_hand_edit_is_noticed_with_the_ports_it_names() {
        let text = include(vec![backend(Color::Blue, 9501, 100)]).render();
        let edited = text.replace("    server 127.0.0.1:9501 max_fails=0;", "  server 127.0.0.1:9502;");
        let found = parse(&edited).unwrap();
        assert_eq!(found.integrity, Integrity::Edited { addresses: vec![Address::Port(9502)] });
        let harmless = format!("{text}# a note\n");
        assert_eq!(
            parse(&harmless).unwrap().integrity,
            Integrity::Edited { addresses: vec![Address::Port(9501)] }
        );
    }

    #[test]
    fn f3_the_same_port_on_another_machine_is_no_color() {
        let text = include(vec![backend(Color::Blue, 9501, 100)]).render();
        for (server, addresses) in [
            ("10.0.0.9:9502", vec![]),
            ("shop.example.com:9502", vec![]),
            ("unix:/run/x:9502", vec![Address::Socket("/run/x:9502".into())]),
            ("127.0.0.1:+9502", vec![]),
            ("localhost:9502", vec![Address::Port(9502)]),
            ("[::1]:9502", vec![Address::Port(9502)]),
        ] {
            let edited = text.replace("127.0.0.1:9501 max_fails=0", server);
            assert_eq!(parse(&edited).unwrap().integrity, Integrity::Edited { addresses }, "{server}");
        }
    }

    #[test]
    fn a_name_that_looks_like_a_sum_is_read_back_as_it_was() {
        let mut named = include(vec![backend(Color::Blue, 9501, 100)]);
        named.app = NO_SUM.parse().unwrap();
        named.upstream = format!("x{NO_SUM}");
        let text = named.render();
        assert!(text.contains(&format!("upstream x{NO_SUM} {{")), "{text}");
        is_read_back(named);
    }

    #[test]
    fn a_file_of_somebody_else_and_a_damaged_one_are_told_apart() {
        let foreign = "upstream shop { server 127.0.0.1:9501; }";
        assert!(matches!(parse(foreign), Err(IncludeError::NotOurs)));
        let text = include(vec![]).render();
        assert!(matches!(parse(&text.replace("bgd-sum", "sum")), Err(IncludeError::LineMissing { .. })));
        assert!(matches!(parse(&text.replace("\"generation\":", "\"g\":")), Err(IncludeError::State(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(noise in "\\PC{0,40}", at in 0_usize..900) {
            let mut text = include(vec![backend(Color::Blue, 9501, 100)]).render();
            let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.insert_str(at, &noise);
            let _ = parse(&text);
            let _ = parse(&text[..at]);
            let _ = parse(&noise);
        }
    }
}
