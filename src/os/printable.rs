//! Makes other programs' text safe for a terminal: removes escape sequences (whole, not only their first byte),
//! control characters, and characters that reorder or hide text. Pure; used wherever such text is shown or recorded.

/// Characters searched for the end of a string sequence (a window title, say); without an end in reach only its
/// introducer is removed.
const LONGEST_STRING: usize = 4096;

/// One line of plain text (promise A13).
pub fn one_line(text: &str) -> String {
    clean(text, |_| None)
}

/// At most this many bytes of a text, with a mark where it was cut.
pub fn shortened(text: &str, bytes: usize) -> String {
    match text.len() <= bytes {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(bytes)]),
    }
}

/// One line of output for a terminal: colours stay, and end with the line.
pub fn colored_line(line: &str) -> String {
    let mut colored = false;
    let mut clean = clean(line, |sequence| {
        colored = sequence != "\x1b[0m" && sequence != "\x1b[m";
        Some(sequence.to_owned())
    });
    if colored {
        clean.push_str("\x1b[0m");
    }
    clean
}

/// Characters that reorder or hide text on a terminal or in a page: Unicode's format characters, but for those
/// that are drawn (the number signs of Arabic and its neighbours).
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Joiners are part of words and emoji.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

fn clean(text: &str, mut color: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = sequence(rest);
        if length > 0 {
            let kept = Some(&rest[..length]).filter(|sequence| is_color(sequence)).and_then(&mut color);
            out.extend(kept);
            rest = &rest[length..];
            continue;
        }
        match c {
            _ if c.is_control() => out.push(' '),
            _ if is_invisible(c) && !is_joiner(c) => {}
            _ => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// The length in bytes of the escape sequence at the start of the text; 0 where there is none.
fn sequence(text: &str) -> usize {
    let mut chars = text.chars();
    let introducer = match chars.next() {
        Some('\x1b') => match chars.next() {
            Some(c) => c,
            None => return 1,
        },
        // A C1 control character stands for two characters, ESC and a letter.
        Some(c @ '\u{80}'..='\u{9f}') => char::from_u32(u32::from(c) - 0x40).unwrap_or(c),
        _ => return 0,
    };
    let head = text.len() - chars.as_str().len();
    match introducer {
        '[' => {
            let body = chars.as_str();
            let parameters = body.find(|c: char| !matches!(c, ' '..='?')).unwrap_or(body.len());
            let last = body[parameters..].chars().next().filter(|c| matches!(c, '@'..='~'));
            head + parameters + last.map_or(0, char::len_utf8)
        }
        ']' | 'P' | 'X' | '^' | '_' => head + string(chars.as_str()),
        // With intermediate characters: choice of a character set and the like.
        ' '..='/' => {
            let body = chars.as_str();
            let more = body.find(|c: char| !matches!(c, ' '..='/')).unwrap_or(body.len());
            head + more
                + body[more..].chars().next().filter(|c| matches!(c, '0'..='~')).map_or(0, char::len_utf8)
        }
        '0'..='~' => head,
        // An escape that begins no sequence: only the escape is removed.
        _ => 1,
    }
}

/// The length in bytes of a string sequence with its end; 0 where the end is missing.
fn string(text: &str) -> usize {
    let mut before = ' ';
    for (at, c) in text.char_indices().take(LONGEST_STRING) {
        if c == '\x07' || c == '\u{9c}' || (before == '\x1b' && c == '\\') {
            return at + c.len_utf8();
        }
        before = c;
    }
    0
}

fn is_color(sequence: &str) -> bool {
    let body = sequence.strip_prefix("\x1b[").and_then(|rest| rest.strip_suffix('m'));
    body.is_some_and(|body| body.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n12_no_sequence_of_a_terminal_is_left_in_one_line() {
        for (text, plain) in [
            ("a\nb\x1b[31mc\x1b[0m", "a bc"),
            ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
            ("\x1b]0;a title\x07shown", "shown"),
            ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\u{9b}31mred\u{9d}0;title\u{9c}!", "red!"),
            ("\x1bPq#0;2;0;0;0\x1b\\picture", "picture"),
            ("\x1b(0lines\x1b(B", "lines"),
            ("\x1b7\x1b8saved", "saved"),
            ("\x1b]0;without end", "0;without end"),
            ("\x1b[31", ""),
            ("end\x1b", "end"),
            ("\x1bé", "é"),
            ("over\rwritten\x08\x7f\0", "over written   "),
            ("abc\u{202e}fdp.exe\u{2066}\u{200f}", "abcfdp.exe"),
            ("می\u{200c}خواهم 👩\u{200d}💻", "می\u{200c}خواهم 👩\u{200d}💻"),
        ] {
            assert_eq!(one_line(text), plain, "{text:?}");
        }
    }

    #[test]
    fn n12_colours_stay_whole_and_end_with_the_line() {
        for (text, shown) in [
            ("plain", "plain"),
            ("\x1b[31;1mred\x1b[0m", "\x1b[31;1mred\x1b[0m"),
            ("\x1b[38;2;1;2;3mred\x1b[m", "\x1b[38;2;1;2;3mred\x1b[m"),
            ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
            ("\x1b[31mred\x1b[2J\x1b]52;c;aGk=\x07", "\x1b[31mred\x1b[0m"),
            ("\x1b[?1049hscreen\x1b[>4m", "screen"),
        ] {
            assert_eq!(colored_line(text), shown, "{text:?}");
        }
    }
}
