//! `env`: variables of the app besides those that bgd sets; any name is allowed as a key.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::listen::Listen;
use crate::config::{
    judge::Judge,
    read::{FromToml, Given, Item, Reader, Written},
    span::Span,
};

/// `env` as written; any key is allowed.
#[derive(Debug, Clone)]
pub(in crate::config) struct RawEnv(pub BTreeMap<String, Written<String>>);

impl FromToml for RawEnv {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            return reader.wrong_type(at, "a table such as { APP_ENV = \"prod\" }", item);
        };
        let mut all = BTreeMap::new();
        for (name, item) in table.iter() {
            let at = at.key(name.get_ref(), reader.line(name.span().start));
            if matches!(item.get_ref(), DeValue::String(_)) {
                let value = String::from_toml(item, &at, reader)?;
                all.insert(name.get_ref().to_string(), Written { value, at });
            } else {
                // `wrong_type` would show a number, and a number here may be a secret.
                reader.notes.error(
                    &at,
                    "expected a text",
                    "environment variables are texts: write it in quotes",
                );
            }
        }
        Some(Self(all))
    }
}

impl Judge<'_> {
    /// Checks the variables of an app that listens on `listen`.
    pub(super) fn env(&mut self, given: Given<RawEnv>, listen: &Listen) -> BTreeMap<String, String> {
        let Some(all) = given.into_value() else { return BTreeMap::new() };
        for (name, written) in &all.value.0 {
            if name.is_empty() || name.contains(|c: char| c == '=' || c.is_control() || c.is_whitespace()) {
                self.notes.error(&written.at, "is not a variable name", "letters, digits and `_`");
            }
            let (own, stands_for) = match listen {
                Listen::Ports => ("PORT", "{port}"),
                Listen::Sockets(_) => ("SOCKET", "{socket}"),
            };
            let address = name == own && written.value != stands_for;
            if address || name.starts_with("BGD_") {
                self.notes.error(&written.at, "is set by bgd itself", "leave it out, or choose another name");
            }
        }
        all.value.0.into_iter().map(|(name, written)| (name, written.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("env = { \"A B\" = \"x\" }", "4 app.shop.env.\"A B\"", "not a variable name"),
        ("env = { BGD_COLOR = \"x\" }", "4 app.shop.env.BGD_COLOR", "set by bgd itself"),
        ("env = { PORT = \"80\" }", "4 app.shop.env.PORT", "set by bgd itself"),
        ("env = [\"A=b\"]", "4 app.shop.env", "expected a table such as"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
