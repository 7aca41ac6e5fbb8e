//! nginx's include: what is written is read back, whatever the names and ports; what is read claims nothing that
//! the text does not say.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
};

use bgd::{
    front::nginx::{Include, Integrity, ParsedInclude, parse},
    rules::{
        address::Address,
        ids::{Color, CommitId, Generation, ReleaseId},
        route::{FlatRoute, Preview, Weighted},
        sticky::Sticky,
    },
};

/// A text as found on disk, which also makes up the names and numbers of one that is written.
pub fn nginx_include(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found) = parse(&text) {
        claims_only_what_is_there(&found, &text);
        is_read_back(&found.include);
    }
    let made = made_of(data, &text);
    is_read_back(&made);
    let rendered = made.render();
    let edited = rendered.replacen("    server 127.0.0.1:", &format!("    server {text}:"), 1);
    if let Ok(found) = parse(&edited) {
        claims_only_what_is_there(&found, &edited);
    }
}

fn claims_only_what_is_there(found: &ParsedInclude, text: &str) {
    // With a backslash anything can be spelled in other letters.
    if text.contains('\\') {
        return;
    }
    for (side, _) in found.include.route.sides() {
        assert!(text.contains(side.color.as_str()), "{} is not in {text:?}", side.color);
        side.addresses.iter().for_each(|address| is_in(address, text));
    }
    if let Integrity::Edited { addresses } = &found.integrity {
        addresses.iter().for_each(|address| is_in(address, text));
    }
}

fn is_in(address: &Address, text: &str) {
    let said = match address {
        Address::Port(port) => port.to_string(),
        // In JSON some letters have other names, which a backslash would show.
        Address::Socket(path) => path.to_string_lossy().into_owned(),
    };
    assert!(text.contains(&said), "{said} is not in {text:?}");
}

fn is_read_back(include: &Include) {
    let text = include.render();
    let found = parse(&text).expect("what is written can be read");
    let sum = include.sum();
    assert_eq!(found, ParsedInclude { include: include.clone(), integrity: Integrity::Intact, sum });
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if include.upstream.starts_with(|c: char| c.is_ascii_alphanumeric())
        && include.upstream.chars().all(plain)
    {
        let noted = parse(&format!("{text}# a note\n")).expect("a note does not make it unreadable");
        assert_eq!(noted.integrity, Integrity::Edited { addresses: reached(include) });
    }
}

/// Live and canary where more than weights chooses between them, else what has a weight.
fn reached(include: &Include) -> Vec<Address> {
    let route = &include.route;
    if include.link.is_some() && route.live.is_none() {
        return include.link.iter().cloned().collect();
    }
    let chosen = |percent: u8| percent > 0 || route.preview.is_some();
    let reached = route.sides().filter(|(_, percent)| chosen(*percent));
    reached.flat_map(|(side, _)| side.addresses.clone()).collect()
}

/// A stickiness and a preview with whatever names.
fn gray(data: &[u8], text: &str) -> (Sticky, Option<Preview>) {
    let sticky = match data.len() % 4 {
        0 => Sticky::None,
        1 => Sticky::Ip,
        _ => Sticky::Cookie(text.chars().take(9).collect()),
    };
    let name: String = text.chars().rev().take(9).collect();
    let preview = data.len().is_multiple_of(3).then(|| Preview {
        header: name.clone(),
        cookie: name,
        secret: text.chars().skip(4).take(16).collect(),
    });
    (sticky, preview)
}

fn made_of(data: &[u8], text: &str) -> Include {
    let number = |at: usize| data.iter().cycle().skip(at).step_by(3).take(2);
    let port = |at: usize| number(at).fold(0_u16, |number, byte| number << 8 | u16::from(*byte));
    let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().expect("40 digits");
    let backend = |at: usize| Weighted {
        color: Color::ALL[at % 2],
        address: Address::Port(port(at)),
        weight: port(at + 1) % 101,
        release: ReleaseId::new("20261121T101112Z", u64::from(port(at + 2)), &commit),
    };
    let app: String =
        text.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(32).collect();
    let (sticky, preview) = gray(data, text);
    let generation = Generation(u64::from(port(5)) << (data.len() % 48));
    let backends = (0..data.len() % 3).map(backend).collect();
    Include {
        app: app.parse().unwrap_or_else(|_| "shop".parse().expect("a name")),
        upstream: text.lines().last().unwrap_or("shop").to_owned(),
        route: FlatRoute { sticky, preview, ..FlatRoute::new(generation, backends) }.into(),
        parking: Address::Port(port(7)),
        proof: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port(8)),
        traffic: text.lines().next().map(PathBuf::from),
        link: None,
    }
}
