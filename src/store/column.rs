//! Values in the columns of the tables: identifiers and words as text, lists and states as JSON.

use rusqlite::Row;

pub(super) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err))
    })
}

pub(super) fn parsed_option<T: std::str::FromStr>(
    row: &Row<'_>,
    column: usize,
) -> Result<Option<T>, rusqlite::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parsed(row, column).map(Some),
    }
}

pub(super) fn lines(row: &Row<'_>, column: usize) -> Result<Vec<String>, rusqlite::Error> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err))
    })
}

/// Our own types always serialize: no maps with keys that are not strings, no failing impls.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|err| panic!("a recorded type did not serialize: {err}"))
}
