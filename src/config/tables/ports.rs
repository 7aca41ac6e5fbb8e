//! `ports` and `instances`: how many instances a color of an app has, and where they listen: one port after the other,
//! from the color's first. What other apps claim is not looked at here; `conflicts.rs` does, at the end.

use super::{front::FrontSettings, listen::Listen, rewrite::Rewrite};
use crate::{
    config::{
        judge::{Judge, PortClaim},
        read::{Given, Written},
        span::Span,
    },
    rules::{
        address::Address,
        addresses::{Addresses, MOST_INSTANCES},
        ids::Color,
    },
};

/// The two ports of an app: where the ports of each color begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Port of blue.
    pub blue: u16,
    /// Port of green.
    pub green: u16,
}

impl Ports {
    /// The port of a color's first instance.
    pub fn of(self, color: Color) -> u16 {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }

    /// The port of one of a color's instances, counted from 0.
    pub fn nth(self, color: Color, index: u16) -> u16 {
        self.of(color).saturating_add(index)
    }

    /// The color of a port, if it is one of the two.
    pub fn color(self, port: u16) -> Option<Color> {
        Color::ALL.into_iter().find(|color| self.of(*color) == port)
    }
}

impl From<Ports> for Addresses {
    fn from(ports: Ports) -> Self {
        Self { blue: Address::Port(ports.blue), green: Address::Port(ports.green), each: 1 }
    }
}

pub(in crate::config) const PORTS: Ports = Ports { blue: 9501, green: 9502 };
const INSTANCES: u16 = 1;

impl Judge<'_> {
    /// How many instances a color has, and what stands against more than one.
    pub(super) fn instances(
        &mut self,
        given: &Given<i64>,
        front: Option<&FrontSettings>,
        rewrites: &[Rewrite],
    ) -> u16 {
        let some = |number: i64| u16::try_from(number).ok().filter(|it| (1..=MOST_INSTANCES).contains(it));
        let what = format!("must be 1 to {MOST_INSTANCES}");
        let number = self.number(given, some, &what, "how many instances of the app a color has");
        let (Some(number), Some(at)) = (number, given.span()) else { return INSTANCES };
        if let Some((what, hint)) = front.and_then(|front| front.no_room(number)) {
            self.notes.error(at, what, hint);
        }
        let own = |rewrite: &&Rewrite| ["{port}", "{instance}"].iter().any(|it| rewrite.with.contains(it));
        if let Some(rewrite) = rewrites.iter().find(own).filter(|_| number > 1) {
            let what = format!(
                "{:?} is one file for {number} instances, and is given the port of one",
                rewrite.file
            );
            self.notes.error(at, what, "have the app read $PORT, and take the rewrite out");
        }
        number
    }

    /// Judges where each color's ports begin, and claims them all.
    pub(super) fn app_ports(
        &mut self,
        (given, listen): (&Given<Vec<Written<i64>>>, &Listen),
        instances: u16,
        app: &Span,
    ) -> Ports {
        if matches!(listen, Listen::Sockets(_)) {
            return PORTS;
        }
        let (ports, at) = match given {
            Given::Absent => (Some(PORTS), app.absent("ports")),
            Given::Unreadable(at) => (None, at.clone()),
            Given::Value(written) => (self.port_pair(written), written.at.clone()),
        };
        let Some(ports) = ports else { return PORTS };
        if !self.has_room(ports, instances, (&at, given.span().is_none())) {
            return ports;
        }
        for (color, index) in
            Color::ALL.into_iter().flat_map(|color| (0..instances).map(move |at| (color, at)))
        {
            self.ports.push(PortClaim {
                port: ports.nth(color, index),
                listen: None,
                at: at.clone(),
                default: given.span().is_none(),
                instances,
            });
        }
        ports
    }

    /// Whether each color's ports, one after the other, are ports and not the other color's.
    fn has_room(&mut self, ports: Ports, instances: u16, (at, default): (&Span, bool)) -> bool {
        let Ports { blue, green } = ports;
        let last = |first: u16| first.checked_add(instances - 1);
        let (Some(blue_last), Some(green_last)) = (last(blue), last(green)) else {
            let what = format!("{instances} ports from {} on are more than there are", blue.max(green));
            self.notes.error(at, what, "begin lower: the last port is 65535");
            return false;
        };
        if blue_last < green || green_last < blue {
            return true;
        }
        let what = match default {
            true => format!("the default [{blue}, {green}] has no room for {instances} instances"),
            false => {
                format!(
                    "{instances} instances of blue, {blue} to {blue_last}, and of green, {green} to {green_last}, share ports"
                )
            }
        };
        let room = instances.next_multiple_of(10);
        let first = blue.min(u16::MAX - room - instances);
        let hint = format!("write ports = [{first}, {}]: where each color's ports begin", first + room);
        self.notes.error(at, what, hint);
        false
    }

    fn port_pair(&mut self, list: &Written<Vec<Written<i64>>>) -> Option<Ports> {
        let hint = "two ports, [blue, green], each 1 to 65535, such as [9501, 9502]";
        let [blue, green] = &list.value[..] else {
            self.notes.error(&list.at, format!("needs two ports, found {}", list.value.len()), hint);
            return None;
        };
        let mut port = |written: &Written<i64>| {
            let port = u16::try_from(written.value).ok().filter(|port| *port != 0);
            if port.is_none() {
                self.notes.error(&written.at, format!("is no port: {}", written.value), hint);
            }
            port
        };
        let (blue, green) = (port(blue), port(green));
        let ports = Ports { blue: blue?, green: green? };
        if ports.blue == ports.green {
            let what = format!("blue and green have the same port: {}", ports.blue);
            self.notes.error(&list.at, what, "each color listens on its own port, such as [9501, 9502]");
            return None;
        }
        Some(ports)
    }
}
