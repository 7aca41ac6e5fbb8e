//! Tables that people name, such as `[app.NAME]`, in a table that holds only those.

use toml::de::DeValue;

use super::Table;
use crate::config::{
    read::{FromToml, Item, Reader},
    span::Span,
};

/// A table that has a name of its own.
pub(in crate::config) trait NamedTable: Table {
    /// How such tables are written, such as `tables [app.NAME]`.
    const FORM: &str;
    /// The error for a key of the table where a name is expected, and the hint.
    const NAMELESS: (&str, &str);
}

/// The tables of one kind, each with its name as written, in the order of the file.
#[derive(Debug, Clone)]
pub(in crate::config) struct Named<T>(pub Vec<(String, T)>);

impl<T: NamedTable> FromToml for Named<T> {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = item.get_ref() else {
            return reader.wrong_type(at, T::FORM, item);
        };
        let (mut all, keys) = (Vec::new(), T::keys());
        for (name, item) in table.iter() {
            let at = at.key(name.get_ref(), reader.line(name.span().start));
            match (item.get_ref(), keys.contains(&name.get_ref().as_ref())) {
                (DeValue::Table(table), _) => {
                    all.push((at.line, name.get_ref().to_string(), T::read(table, &at, reader)));
                }
                (_, true) => {
                    let (what, hint) = T::NAMELESS;
                    reader.notes.error(&at, what, hint);
                }
                (_, false) => {
                    reader.wrong_type::<()>(&at, "a table", item);
                }
            }
        }
        // The parser sorts tables by name; messages should follow the order of the file.
        all.sort_by_key(|(line, ..)| *line);
        Some(Self(all.into_iter().map(|(_, name, table)| (name, table)).collect()))
    }
}
