//! The placeholders of the contract. Used for `build`, `start`, `stop.command`, `env`, `rewrite`,
//! `hooks` and tasks; any other text in braces is left as it is, so that shell and JSON survive.

use crate::rules::{
    address::Address,
    ids::{Color, CommitId, ReleaseId},
};

/// The values of the placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// `{port}`, or `{socket}`
    pub address: Address,
    /// `{instance}`: number of the instance in its color, from 1.
    pub instance: u16,
    /// `{color}`
    pub color: Color,
    /// `{release}`
    pub release: ReleaseId,
    /// `{commit}`
    pub commit: CommitId,
}

impl Values {
    /// The placeholder of the address, and its value.
    fn place(&self) -> (&'static str, String) {
        match &self.address {
            Address::Port(port) => ("{port}", port.to_string()),
            // Lossless: the path comes from the configuration, which is UTF-8.
            Address::Socket(path) => ("{socket}", path.to_string_lossy().into_owned()),
        }
    }

    /// Replaces `{port}` or `{socket}`, `{instance}`, `{color}`, `{release}` and `{commit}` in one pass.
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let known = [
                self.place(),
                ("{instance}", self.instance.to_string()),
                ("{color}", self.color.to_string()),
                ("{release}", self.release.to_string()),
                ("{commit}", self.commit.to_string()),
            ];
            match known.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    out.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_other_braces_stay() {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let values = Values {
            address: Address::Port(9502),
            instance: 3,
            color: Color::Green,
            release: ReleaseId::new("20261121T101112Z", 1, &commit),
            commit,
        };
        assert_eq!(values.expand("p={port} ${HOME} {\"a\":1} {color}{"), "p=9502 ${HOME} {\"a\":1} green{");
        assert_eq!(values.expand("{instances} {instance}"), "{instances} 3");
    }

    #[test]
    fn an_app_on_a_socket_has_no_port() {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let address = Address::Socket("/run/bgd/a/shop/blue.sock".into());
        let release = ReleaseId::new("20261121T101112Z", 1, &commit);
        let values = Values { address, instance: 1, color: Color::Blue, release, commit };
        assert_eq!(values.expand("{socket} {port}"), "/run/bgd/a/shop/blue.sock {port}");
    }
}
