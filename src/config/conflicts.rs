//! Finds ports and names of fronts that are claimed twice.

use std::collections::BTreeSet;

use super::{
    judge::{NameClaim, PortClaim},
    problem::Notes,
    tables::{front_builtin::LISTEN, ports::PORTS},
};

/// Notes every port used twice; all ports that the same two places share are one problem.
pub(super) fn ports(claims: &[PortClaim], notes: &mut Notes) {
    let mut shared: Vec<(&PortClaim, &PortClaim, Vec<u16>)> = Vec::new();
    for (index, later) in claims.iter().enumerate() {
        let Some(earlier) = claims[..index].iter().find(|earlier| collide(earlier, later)) else { continue };
        let same =
            |(l, e, _): &&mut (&PortClaim, &PortClaim, Vec<u16>)| l.at == later.at && e.at == earlier.at;
        match shared.iter_mut().find(same) {
            Some((_, _, ports)) => ports.push(later.port),
            None => shared.push((later, earlier, vec![later.port])),
        }
    }
    let mut taken: BTreeSet<u16> = claims.iter().map(|claim| claim.port).collect();
    for (later, earlier, ports) in shared {
        let what = format!("{}, first by {}", used_twice(later, &ports), origin(earlier));
        notes.error(&later.at, what, free(later, &mut taken));
    }
}

fn used_twice(claim: &PortClaim, ports: &[u16]) -> String {
    let default = if claim.default { "the default " } else { "" };
    match ports {
        [port] => format!("{default}port {port} is used twice"),
        [one, other] => format!("{default}ports {one} and {other} are used twice"),
        [first, ..] => format!("{} {default}ports are used twice, from {first}", ports.len()),
        [] => format!("{default}ports are used twice"),
    }
}

fn origin(claim: &PortClaim) -> String {
    match claim.default {
        true => format!("the default of {}", claim.at),
        false => claim.at.to_string(),
    }
}

/// Two fronts may share a port on different addresses; anything else may not.
fn collide(a: &PortClaim, b: &PortClaim) -> bool {
    let apart = match (a.listen, b.listen) {
        (Some(one), Some(other)) => one != other && !one.is_unspecified() && !other.is_unspecified(),
        (None, _) | (_, None) => false,
    };
    a.port == b.port && !apart
}

/// Proposes free ports, and marks them as taken, so that two hints never propose the same.
fn free(claim: &PortClaim, taken: &mut BTreeSet<u16>) -> String {
    let mut next = |from: u16| {
        let row = |first: u16| first..first.saturating_add(claim.instances);
        let first =
            (from..u16::MAX - claim.instances).find(|first| row(*first).all(|it| !taken.contains(&it)))?;
        taken.extend(row(first));
        Some(first)
    };
    match claim.listen {
        Some(ip) => next(LISTEN.port())
            .map(|port| format!("for example listen = \"{}\"", std::net::SocketAddr::new(ip, port))),
        None => next(PORTS.blue)
            .zip(next(PORTS.blue))
            .map(|(blue, green)| format!("for example ports = [{blue}, {green}]")),
    }
    .unwrap_or_else(|| "choose a free port".to_owned())
}

/// Notes every name of a front that is used twice.
pub(super) fn names(claims: &[NameClaim], notes: &mut Notes) {
    for (index, later) in claims.iter().enumerate() {
        let same = |earlier: &&NameClaim| earlier.what == later.what && earlier.value == later.value;
        if let Some(earlier) = claims[..index].iter().find(same) {
            let what = format!("{} {:?} is used twice, first by {}", later.what, later.value, earlier.at);
            notes.error(&later.at, what, format!("give each app its own {}", later.what));
        }
    }
}
