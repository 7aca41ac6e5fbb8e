//! `ports` and `instances`: the number of instances per color, and their consecutive ports from the color's first one.
//! `conflicts.rs` checks for conflicts with other apps at the end.

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

/// The first port of each color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// First port of blue.
    pub blue: u16,
    /// First port of green.
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

    /// The port of a color's instance, counted from 0.
    pub fn nth(self, color: Color, index: u16) -> u16 {
        self.of(color).saturating_add(index)
    }

    /// The color of a port, if it is one of the two first ports.
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
    /// Checks the number of instances, and the settings that do not allow more than one.
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

    /// Checks the first ports, and claims the ports of all instances.
    pub(super) fn app_ports(
        &mut self,
        (given, listen): (&Given<Vec<Written<i64>>>, &Listen),
        instances: u16,
        app: &Span,
    ) -> Ports {
        if matches!(listen, Listen::Sockets(_)) || instances == 0 {
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

    /// Whether the consecutive ports of each color are valid and do not overlap.
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
                self.notes.error(&written.at, format!("is not a port: {}", written.value), hint);
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

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("ports = [0, 9502]", "4 app.shop.ports[0]", "not a port: 0"),
        ("ports = [9501, 65536]", "4 app.shop.ports[1]", "not a port: 65536"),
        ("ports = [9501]", "4 app.shop.ports", "needs two ports, found 1"),
        ("instances = 0", "4 app.shop.instances", "must be 1 to 64: 0"),
        ("instances = 65", "4 app.shop.instances", "must be 1 to 64: 65"),
        ("instances = 2", "1 app.shop.ports", "the default [9501, 9502] has no room for 2 instances"),
        ("instances = 3\nports = [9503, 9501]", "5 app.shop.ports", "green, 9501 to 9503, share ports"),
        ("instances = 64\nports = [9501, 65473]", "5 app.shop.ports", "64 ports from 65473 on are more than"),
        (
            "instances = 2\nports = [1, 11]\n[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"b\"\nwith = \"{port}\"",
            "4 app.shop.instances",
            "is one file for 2 instances",
        ),
        (
            "instances = 2\nports = [1, 11]\nfront = { type = \"haproxy\", servers = [\"web\", \"web-2\"] }",
            "4 app.shop.instances",
            "needs a server web-2 of blue, and front.servers gives that name to green",
        ),
        ("ports = 9501", "4 app.shop.ports", "expected a list, found the number 9501"),
        (
            "ports = [8080, 9502]",
            "4 app.shop.ports",
            "port 8080 is used twice, first by the default of app.shop.front.listen (bgd.toml:1)",
        ),
        ("ports = [\"3000:3000\"]", "4 app.shop.ports[0]", "expected a whole number, found a text"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_port_used_twice_names_both_places_and_free_ports() {
        let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\n";
        let problems = load(&format!("{}{blog}", with(""))).unwrap_err();
        let expected = [
            "error: bgd.toml:4: app.blog.front.listen: the default port 8080 is used twice, first by the default of app.shop.front.listen (bgd.toml:1)",
            "  hint: for example listen = \"127.0.0.1:8081\"",
            "error: bgd.toml:4: app.blog.ports: the default ports 9501 and 9502 are used twice, first by the default of app.shop.ports (bgd.toml:1)",
            "  hint: for example ports = [9503, 9504]",
        ]
        .join("\n");
        assert_eq!(problems.to_string(), expected);

        let apart = "ports = [9601, 9602]\nfront.listen = \"127.0.0.2:8080\"\n";
        assert!(load(&format!("{}{blog}{apart}", with(""))).is_ok());
        let everywhere = "ports = [9601, 9602]\nfront.listen = \"0.0.0.0:8080\"\n";
        assert_eq!(errors(&format!("{}{blog}{everywhere}", with(""))).len(), 1);
        let front_on_port = "ports = [9601, 9602]\nfront.listen = \"127.0.0.2:9501\"\n";
        assert_eq!(errors(&format!("{}{blog}{front_on_port}", with(""))).len(), 1);
    }

    #[test]
    fn the_ports_of_all_instances_are_another_app_s_to_leave_alone() {
        let shop = with("ports = [9501, 9511]\ninstances = 3\n");
        let blog = |ports| {
            format!(
                "{shop}[app.blog]\nremote = \"/b\"\nstart = \"b\"\nfront.listen = \"[::1]:1\"\nports = {ports}\n"
            )
        };
        assert!(load(&blog("[9504, 9510]")).is_ok());
        for (ports, said) in
            [("[9503, 9520]", "port 9503 is used twice"), ("[9513, 9512]", "ports 9513 and 9512 are")]
        {
            assert!(errors(&blog(ports))[0].contains(said), "{:?}", errors(&blog(ports)));
        }
        let three = errors(&blog("[9503, 9511]\ninstances = 3"));
        assert!(three[0].contains("4 ports are used twice, from 9503"), "{three:?}");
        let hint = load(&blog("[9503, 9511]\ninstances = 3")).unwrap_err().to_string();
        assert!(hint.contains("for example ports = [9506, 9514]"), "{hint}");
    }
}
