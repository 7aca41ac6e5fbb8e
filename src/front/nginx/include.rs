//! The text of the one file that bgd owns: rendered from a route, and read back. Pure, so that it can be
//! fuzzed. It carries, in comments, all that is needed to know the route again without a database, and a sum
//! by which a hand edit is noticed. The same sum is answered by the proof address, so that two texts of one
//! generation are told apart.
//!
//! No `keepalive` towards the app: a fresh connection per request can't be one that a stopping app has just
//! closed. `max_fails=0`: whether a color may receive traffic is bgd's decision alone. No `zone`: without it each
//! worker counts for itself, so that a share is off by at most one request a worker; with it, a worker killed at the
//! wrong instant would leave a lock behind on which all the others spin.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddrV4},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    place::Audience,
    report, sides,
    sides::{Names, Sides},
    syntax,
};
use crate::{
    config::settings::Sticky,
    front::route::{Backend, Preview, Route},
    rules::ids::{AppName, Generation},
};

/// The first words of a file written by bgd.
const MARK: &str = "# Written by bgd alone";
const SUM_LINE: &str = "# bgd-sum ";
const STATE_LINE: &str = "# bgd-state ";
/// Stands for the sum while the sum is computed.
const NO_SUM: &str = "0000000000000000";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The app whose file it is.
    pub app: AppName,
    /// Name of the upstream block.
    pub upstream: String,
    /// What is routed.
    pub route: Route,
    /// Port of blue, named (as down) when nothing is live: nginx refuses an upstream without servers.
    pub parking: u16,
    /// Where nginx tells what it has in force.
    pub proof: SocketAddrV4,
    /// The socket that nginx tells of each request, a unix datagram one; `None`: it tells nobody.
    pub traffic: Option<PathBuf>,
}

/// A file as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What its header says.
    pub include: Include,
    /// Whether the rest agrees with the header.
    pub integrity: Integrity,
    /// The sum that its header says. Of a text that an older bgd wrote it is not the one of what is rendered now.
    pub sum: String,
}

/// Whether somebody changed the file since bgd wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// As written.
    Intact,
    /// Changed by hand.
    Edited {
        /// The local ports that the upstream block names now, without those marked down.
        ports: Vec<u16>,
    },
}

/// Why a text is no include of bgd's.
#[derive(Debug, thiserror::Error)]
pub enum IncludeError {
    /// No trace of bgd: somebody else's file.
    #[error("not written by bgd: the line {MARK:?} is missing")]
    NotOurs,
    /// Written by bgd, and damaged since.
    #[error("the line {line:?} is missing")]
    LineMissing {
        /// How the line begins.
        line: &'static str,
    },
    /// Written by bgd, and damaged since.
    #[error("the state in its header can't be read")]
    State(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct State {
    app: AppName,
    upstream: String,
    generation: Generation,
    parking: u16,
    proof: SocketAddrV4,
    backends: Vec<Backend>,
    #[serde(default)]
    sticky: Sticky,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preview: Option<Preview>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backup: Option<Backend>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traffic: Option<PathBuf>,
}

impl Include {
    /// The whole file.
    pub fn render(&self) -> String {
        self.with_sum(&self.sum())
    }

    /// The sum of the rendered text, 16 hex digits.
    pub fn sum(&self) -> String {
        sum(&self.with_sum(NO_SUM))
    }

    fn with_sum(&self, sum: &str) -> String {
        let Self { app, upstream, proof, .. } = self;
        let state = self.state();
        let names = Names::of(app);
        let sides = Sides::of(&names, &self.route);
        let maps = sides.as_ref().map_or_else(String::new, Sides::maps);
        let cookie = sides::cookie(&names, &self.route);
        let ports: Vec<_> = self.reached(sides.as_ref()).iter().map(|backend| backend.port).collect();
        let report = report::directives(&names, &ports, self.traffic.as_deref());
        let servers = self.servers(sides.as_ref());
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

    fn state(&self) -> String {
        let state = State {
            app: self.app.clone(),
            upstream: self.upstream.clone(),
            generation: self.route.generation,
            parking: self.parking,
            proof: self.proof,
            backends: self.route.backends.clone(),
            sticky: self.route.sticky.clone(),
            preview: self.route.preview.clone(),
            backup: self.route.backup.clone(),
            traffic: self.traffic.clone(),
        };
        serde_json::to_string(&state).expect("plain data becomes JSON")
    }

    /// What requests can reach, the live backend first and the backup last.
    fn reached<'a>(&'a self, sides: Option<&Sides<'a>>) -> Vec<&'a Backend> {
        let chosen = self.chosen(sides);
        let backup = self.route.backup.iter().filter(|_| !chosen.is_empty());
        chosen.iter().copied().chain(backup).collect()
    }

    /// What requests are sent to first.
    fn chosen<'a>(&'a self, sides: Option<&Sides<'a>>) -> Vec<&'a Backend> {
        match sides {
            Some(sides) => sides.backends().to_vec(),
            None => self.route.backends.iter().filter(|backend| backend.weight > 0).collect(),
        }
    }

    fn servers(&self, sides: Option<&Sides<'_>>) -> String {
        let mut lines = sides.map_or_else(String::new, |sides| format!("    hash ${};\n", sides.key()));
        let chosen = self.chosen(sides);
        match chosen.as_slice() {
            [] => _ = writeln!(lines, "    server 127.0.0.1:{} down;", self.parking),
            several => {
                let weighted = sides.is_none() && several.len() > 1;
                for Backend { port, weight, .. } in several {
                    let weight = if weighted { format!(" weight={weight}") } else { String::new() };
                    _ = writeln!(lines, "    server 127.0.0.1:{port}{weight} max_fails=0;");
                }
                // nginx has no backup beside a `hash`.
                if let (None, Some(Backend { port, .. })) = (sides, &self.route.backup) {
                    _ = writeln!(lines, "    server 127.0.0.1:{port} max_fails=0 backup;");
                }
            }
        }
        lines
    }

    /// Has neither quotes that nginx would end the word at, nor a `$`: names and numbers only.
    fn answer(&self, sum: &str) -> String {
        serde_json::json!({
            "app": self.app,
            "color": self.route.color(),
            "canary": self.route.canary().map(|canary| canary.color),
            "share": self.route.canary_share(),
            "backup": self.route.backup.as_ref().map(|backup| backup.color),
            "generation": self.route.generation,
            "release": self.route.live().map(|backend| &backend.release),
            "sum": sum,
        })
        .to_string()
    }
}

/// Reads a file back.
pub fn parse(text: &str) -> Result<Found, IncludeError> {
    if !text.lines().any(|line| line.starts_with(MARK)) {
        return Err(IncludeError::NotOurs);
    }
    let said = after(text, SUM_LINE)?.trim();
    let state: State = serde_json::from_str(after(text, STATE_LINE)?).map_err(IncludeError::State)?;
    let include = Include {
        app: state.app,
        upstream: state.upstream,
        route: Route {
            sticky: state.sticky,
            preview: state.preview,
            backup: state.backup,
            ..Route::new(state.generation, state.backends)
        },
        parking: state.parking,
        proof: state.proof,
        traffic: state.traffic,
    };
    let is_sum = said.len() == NO_SUM.len() && said.bytes().all(|c| c.is_ascii_hexdigit());
    let integrity = if is_sum && sum(&without_sum(text, said)) == said {
        Integrity::Intact
    } else {
        Integrity::Edited { ports: ports(text, &include.upstream) }
    };
    Ok(Found { include, integrity, sum: said.to_owned() })
}

/// Who may read a text: one that lets previews in has their secret.
pub(super) fn audience(text: &str) -> Audience {
    match parse(text) {
        Ok(found) if found.include.route.preview.is_some() => Audience::Owner,
        Ok(_) | Err(_) => Audience::Everybody,
    }
}

/// The text as it was while its sum was computed. Only where sums stand: a name may be made of the same digits.
fn without_sum(text: &str, said: &str) -> String {
    let line = text.replacen(&format!("{SUM_LINE}{said}"), &format!("{SUM_LINE}{NO_SUM}"), 1);
    line.replacen(&format!("\"sum\":\"{said}\""), &format!("\"sum\":\"{NO_SUM}\""), 1)
}

fn after<'a>(text: &'a str, line: &'static str) -> Result<&'a str, IncludeError> {
    text.lines().find_map(|text| text.strip_prefix(line)).ok_or(IncludeError::LineMissing { line })
}

/// The local ports that an upstream block sends requests to, its backup not among them.
fn ports(text: &str, upstream: &str) -> Vec<u16> {
    let tokens = syntax::tokens(text);
    let Some(inside) = syntax::block(&tokens, "upstream", upstream) else { return Vec::new() };
    inside
        .split(|token| *token == syntax::Token::End)
        .filter(|directive| {
            !["down", "backup"].iter().any(|word| directive.contains(&syntax::Token::Word((*word).into())))
        })
        .flat_map(|directive| syntax::arguments(directive, "server"))
        .filter_map(|server| local_port(&server))
        .collect()
}

/// The port of an address on this machine; the same port elsewhere is nothing of bgd's.
fn local_port(server: &str) -> Option<u16> {
    let (host, port) = server.rsplit_once(':')?;
    let loopback = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let local = host == "localhost" || loopback(host.trim_start_matches('[').trim_end_matches(']'));
    let digits = port.bytes().all(|c| c.is_ascii_digit());
    (local && digits).then(|| port.parse().ok()).flatten()
}

/// FNV-1a, 64 bits: against accidents and hand edits, not against an attacker, who could write the file.
pub(super) fn sum(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ids::Color;

    fn backend(color: Color, port: u16, weight: u16) -> Backend {
        Backend { color, port, weight, release: "20261121T101112Z-1-0123456".parse().unwrap() }
    }

    fn include(backends: Vec<Backend>) -> Include {
        Include {
            app: "shop".parse().unwrap(),
            upstream: "shop_app".into(),
            route: Route::new(Generation(7), backends),
            parking: 9501,
            proof: "127.98.103.100:29501".parse().unwrap(),
            traffic: None,
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
        assert_eq!(found, Found { include, integrity: Integrity::Intact, sum });
    }

    /// Blue live beside green, with all that there is.
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
            let ports = vec![9501, 9502];
            assert_eq!(parse(&edited).unwrap().integrity, Integrity::Edited { ports }, "{from}");
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
        backed.route.backup = Some(backend(Color::Blue, 9501, 0));
        let servers =
            "{\n    server 127.0.0.1:9502 max_fails=0;\n    server 127.0.0.1:9501 max_fails=0 backup;\n}";
        let text = backed.render();
        assert!(text.contains(servers), "{text}");
        assert!(text.contains("\"backup\":\"blue\""), "{text}");
        is_read_back(backed.clone());
        let edited = text.replace("max_fails=0 backup", "max_fails=3 backup");
        assert_eq!(parse(&edited).unwrap().integrity, Integrity::Edited { ports: vec![9502] });
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
        assert_eq!(found.integrity, Integrity::Edited { ports: vec![9502] });
        let harmless = format!("{text}# a note\n");
        assert_eq!(parse(&harmless).unwrap().integrity, Integrity::Edited { ports: vec![9501] });
    }

    #[test]
    fn f3_the_same_port_on_another_machine_is_no_color() {
        let text = include(vec![backend(Color::Blue, 9501, 100)]).render();
        for (server, ports) in [
            ("10.0.0.9:9502", vec![]),
            ("shop.example.com:9502", vec![]),
            ("unix:/run/x:9502", vec![]),
            ("127.0.0.1:+9502", vec![]),
            ("localhost:9502", vec![9502]),
            ("[::1]:9502", vec![9502]),
        ] {
            let edited = text.replace("127.0.0.1:9501 max_fails=0", server);
            assert_eq!(parse(&edited).unwrap().integrity, Integrity::Edited { ports }, "{server}");
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
