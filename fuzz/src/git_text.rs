//! What comes from a repository and is shown: one clean line, no user info; and the names of branches, judged as
//! libgit2 judges them.

use std::path::PathBuf;

use bgd::{
    config::{SourceFile, Surroundings},
    release::git::{ErrorCause, one_line, redact},
};

/// Characters that end the URL around them.
const AROUND: &str = "'\"<>`";

/// Any bytes; the first line is also taken as the name of a branch.
pub fn git_text(data: &[u8]) {
    let line = one_line(data);
    is_clean(&line);
    assert_eq!(one_line(line.as_bytes()), line, "clean is clean");
    let Ok(text) = std::str::from_utf8(data) else { return };
    let told = redact(text);
    has_no_user_info(&told);
    assert_eq!(redact(&told), told, "nothing is left to take out");
    let cause = ErrorCause::new(text);
    is_clean(cause.as_str());
    branch(text.split('\n').next().unwrap_or_default());
}

fn is_clean(line: &str) {
    assert!(line.chars().count() <= 501, "{} characters", line.chars().count());
    assert_eq!(line.trim(), line);
    let hides = |c: char| {
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || ('\u{200b}'..='\u{200f}').contains(&c)
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{2060}'..='\u{206f}').contains(&c)
            || ('\u{e0000}'..='\u{e007f}').contains(&c)
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
    };
    assert!(!line.contains(hides), "{line:?}");
    assert!(!line.contains("  "), "{line:?}");
}

fn has_no_user_info(text: &str) {
    for (at, found) in text.match_indices("://") {
        let rest = &text[at + found.len()..];
        let ends = |c: char| "/?#".contains(c) || c.is_whitespace() || AROUND.contains(c);
        let authority = &rest[..rest.find(ends).unwrap_or(rest.len())];
        assert!(!authority.contains('@'), "{authority:?} in {text:?}");
    }
}

fn branch(name: &str) {
    let file = PathBuf::from("bgd.toml");
    let quoted = toml::Value::from(name);
    let text = format!("[app.x]\nremote = \"/srv/x.git\"\nstart = \"x\"\nbranch = {quoted}\n");
    let surroundings = Surroundings { base: "/etc".into(), state_dir: "/var".into(), runtime_dir: None };
    let git = git2::Branch::name_is_valid(name).unwrap_or(false);
    match bgd::config::parse(&SourceFile { file, text }, &[], &surroundings) {
        Ok(loaded) => {
            let app = loaded.settings.apps.values().next().expect("one app");
            assert_eq!(app.branch, name);
            assert!(git, "git has no such name: {name:?}");
        }
        Err(problems) => {
            assert!(problems.0.iter().all(|one| one.key.as_deref() == Some("app.x.branch")), "{problems}");
            // Possible in git, and refused: nobody means it, and some of it can't be shown.
            let refused = name.trim().is_empty()
                || name == "@"
                || name.starts_with("refs/")
                || name.contains(char::is_control);
            assert!(!git || refused, "{name:?}: {problems}");
        }
    }
}
