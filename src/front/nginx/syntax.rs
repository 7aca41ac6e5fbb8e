//! Parses the part of nginx's configuration language that bgd needs: words, blocks, ends of directives. Pure. Used by
//! `include` (for a manually edited upstream), `inspect` and `sites` (for the output of `nginx -T`). It checks nothing
//! and never fails, because nginx itself checks its syntax.

/// One piece of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A directive's name or one of its arguments, without quotes.
    Word(String),
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    End,
}

/// Cuts a configuration into tokens; comments are dropped.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        match first {
            ';' => out.push(Token::End),
            '{' => out.push(Token::Open),
            '}' => out.push(Token::Close),
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' => out.push(Token::Word(quoted(&mut chars, first))),
            space if space.is_whitespace() => {}
            other => out.push(Token::Word(bare(&mut chars, other))),
        }
    }
    out
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> String {
    let mut word = String::new();
    while let Some(c) = chars.next() {
        match c {
            end if end == quote => break,
            '\\' => escaped(&mut word, chars.next()),
            other => word.push(other),
        }
    }
    word
}

fn bare(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, first: char) -> String {
    let mut word = String::from(first);
    loop {
        let ends = |c: &char| c.is_whitespace() || matches!(c, ';' | '{' | '}');
        match chars.next_if(|c| !ends(c)) {
            Some('\\') => escaped(&mut word, chars.next()),
            Some(c) => word.push(c),
            // `${name}` is a variable inside a word, not a block.
            None if word.ends_with('$') && chars.next_if_eq(&'{').is_some() => {
                word.push('{');
                while let Some(c) = chars.next_if(|c| *c != '}') {
                    word.push(c);
                }
                word.extend(chars.next());
            }
            None => return word,
        }
    }
}

/// Adds the character after a backslash: a quote, a backslash, or a blank by its letter. Before any other character
/// the backslash stays.
fn escaped(word: &mut String, next: Option<char>) {
    match next {
        Some(itself @ ('"' | '\'' | '\\')) => word.push(itself),
        Some('t') => word.push('\t'),
        Some('r') => word.push('\r'),
        Some('n') => word.push('\n'),
        other => word.extend(['\\'].into_iter().chain(other)),
    }
}

/// The first argument of each `name …;` directive, at any level.
pub(super) fn arguments(tokens: &[Token], name: &str) -> Vec<String> {
    let starts = |at: usize| at == 0 || !matches!(tokens[at - 1], Token::Word(_));
    (0..tokens.len().saturating_sub(1))
        .filter(|at| starts(*at) && matches!(&tokens[*at], Token::Word(word) if word == name))
        .filter_map(|at| match &tokens[at + 1] {
            Token::Word(argument) => Some(argument.clone()),
            Token::Open | Token::Close | Token::End => None,
        })
        .collect()
}

/// The tokens inside the first block `kind name { … }`.
pub(super) fn block<'a>(tokens: &'a [Token], kind: &str, name: &str) -> Option<&'a [Token]> {
    let word = |token: &Token, text: &str| matches!(token, Token::Word(word) if word == text);
    let start =
        tokens.windows(3).position(|w| word(&w[0], kind) && word(&w[1], name) && w[2] == Token::Open)? + 3;
    let mut depth = 1_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Word(_) | Token::End => {}
        }
        if depth == 0 {
            return Some(&tokens[start..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_quotes_and_variables_do_not_confuse_the_blocks() {
        let text = "# upstream shop { server a:1; }\nmap $x ${y}z { '}' \"a;b\"; }\n\
                    upstream shop { server 127.0.0.1:9501 weight=3; server unix:/x; }";
        let tokens = tokens(text);
        let inside = block(&tokens, "upstream", "shop").unwrap();
        assert_eq!(arguments(inside, "server"), ["127.0.0.1:9501", "unix:/x"]);
        assert!(tokens.contains(&Token::Word("${y}z".into())));
        assert!(block(&tokens, "upstream", "other").is_none());
    }

    #[test]
    fn a_backslash_means_what_it_means_to_nginx() {
        let words = |text| tokens(text).into_iter().filter(|token| *token != Token::End).collect::<Vec<_>>();
        for (text, word) in
            [(r"9\502;", r"9\502"), (r"a\;b;", r"a\;b"), (r#""a\"b\\c\td";"#, "a\"b\\c\td"), ("a\\", "a\\")]
        {
            assert_eq!(words(text), [Token::Word(word.into())], "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_cut(text in "\\PC*[{};'\"\\\\$#\n]*\\PC*") {
            let tokens = tokens(&text);
            let _ = block(&tokens, "a", "b");
            let _ = arguments(&tokens, "server");
        }
    }
}
