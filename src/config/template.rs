//! The four placeholders of the contract. Used for `build`, `start`, `stop.command`, `env`, `rewrite` and
//! `hooks`; any other text in braces is left as it is, so that shell and JSON survive.

use crate::rules::ids::{Color, CommitId, ReleaseId};

/// What the placeholders stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// `{port}`
    pub port: u16,
    /// `{color}`
    pub color: Color,
    /// `{release}`
    pub release: ReleaseId,
    /// `{commit}`
    pub commit: CommitId,
}

impl Values {
    /// Replaces `{port}`, `{color}`, `{release}` and `{commit}` in one pass.
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let known = [
                ("{port}", self.port.to_string()),
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
            port: 9502,
            color: Color::Green,
            release: ReleaseId::new("20261121T101112Z", 1, &commit),
            commit,
        };
        assert_eq!(values.expand("p={port} ${HOME} {\"a\":1} {color}{"), "p=9502 ${HOME} {\"a\":1} green{");
    }
}
