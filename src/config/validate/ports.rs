//! How many instances a color of an app has, and where they listen: one port after the other, from the color's first.
//! Called by `app`. What other apps claim is not looked at here; `conflicts` does, at the end.

use super::{Judge, PortClaim};
use crate::{
    config::{
        defaults,
        problem::Place,
        read::{Given, Written},
        settings::{FrontSettings, HaproxyServers, Listen, MOST_INSTANCES, Ports, Rewrite},
    },
    rules::ids::Color,
};

impl Judge<'_> {
    /// How many instances a color has, and what stands against more than one.
    pub(super) fn instances(
        &mut self,
        given: &Given<i64>,
        front: Option<&FrontSettings>,
        rewrites: &[Rewrite],
    ) -> u16 {
        let Some(written) = given.value() else { return defaults::INSTANCES };
        let number = u16::try_from(written.value).ok().filter(|it| (1..=MOST_INSTANCES).contains(it));
        let Some(number) = number else {
            let what = format!("must be 1 to {MOST_INSTANCES}: {}", written.value);
            self.notes.error(&written.at, what, "how many instances of the app a color has");
            return defaults::INSTANCES;
        };
        if let Some(FrontSettings::Haproxy(haproxy)) = front {
            self.servers_are_apart(&haproxy.servers, (number, &written.at));
        }
        let own = |rewrite: &&Rewrite| ["{port}", "{instance}"].iter().any(|it| rewrite.with.contains(it));
        if let Some(rewrite) = rewrites.iter().find(own).filter(|_| number > 1) {
            let what = format!(
                "{:?} is one file for {number} instances, and is given the port of one",
                rewrite.file
            );
            self.notes.error(&written.at, what, "have the app read $PORT, and take the rewrite out");
        }
        number
    }

    /// Where the second instance of a color has the server that the other color's first one is said to have.
    fn servers_are_apart(&mut self, servers: &HaproxyServers, (instances, at): (u16, &Place)) {
        let later =
            |color: Color| (1..usize::from(instances)).map(move |index| (color, servers.nth(color, index)));
        let taken = |(color, name): &(Color, String)| servers.color(name) != Some(*color);
        if let Some((color, name)) = Color::ALL.into_iter().flat_map(later).find(taken) {
            let what = format!(
                "needs a server {name} of {color}, and front.servers gives that name to {}",
                color.other()
            );
            self.notes.error(
                at,
                what,
                "servers = [\"blue\", \"green\"] have room: blue, blue-2, blue-3, and so on",
            );
        }
    }

    pub(super) fn app_ports(
        &mut self,
        (given, listen): (&Given<Vec<Written<i64>>>, &Listen),
        instances: u16,
        app: &Place,
    ) -> Ports {
        if matches!(listen, Listen::Sockets(_)) {
            return defaults::PORTS;
        }
        let (ports, at) = match given {
            Given::Absent => (Some(defaults::PORTS), app.absent("ports")),
            Given::Unreadable(at) => (None, at.clone()),
            Given::Value(written) => (self.port_pair(written), written.at.clone()),
        };
        let Some(ports) = ports else { return defaults::PORTS };
        if !self.has_room(ports, instances, (&at, given.place().is_none())) {
            return ports;
        }
        for (color, index) in
            Color::ALL.into_iter().flat_map(|color| (0..instances).map(move |at| (color, at)))
        {
            self.ports.push(PortClaim {
                port: ports.nth(color, index),
                listen: None,
                at: at.clone(),
                default: given.place().is_none(),
                instances,
            });
        }
        ports
    }

    /// Whether each color's ports, one after the other, are ports and not the other color's.
    fn has_room(&mut self, ports: Ports, instances: u16, (at, default): (&Place, bool)) -> bool {
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
