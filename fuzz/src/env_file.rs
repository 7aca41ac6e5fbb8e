//! Environment files: what is read is read again once written in quotes, and a wrong line is one of the file.

use std::collections::BTreeMap;

use bgd::config::env_file::{BadEnvLine, parse};

/// The text of a file.
pub fn env_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse(text) {
        Ok(all) => {
            assert_eq!(parse(&quoted(&all)), Ok(all.clone()));
            for (key, value) in all.iter().filter(|(_, value)| !value.contains('\'')) {
                let one = BTreeMap::from([(key.clone(), value.clone())]);
                assert_eq!(parse(&format!("\texport {key} = '{value}' # and no more")), Ok(one));
            }
        }
        Err(BadEnvLine { line, what }) => {
            assert!((1..=text.split('\n').count()).contains(&line), "line {line}: {what}");
        }
    }
}

fn quoted(all: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    for (key, value) in all {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        let escaped = escaped.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
        out.push_str(&format!("{key}=\"{escaped}\"\n"));
    }
    out
}
