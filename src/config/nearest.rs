//! Finds the known word closest to a misspelt one. Used for the hints of unknown keys and names.

/// The known word that is closest to `word`, if one is close enough.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    // Every third letter may be wrong; two in short words would turn `poll` into `port`.
    let limit = (word.chars().count() / 3).clamp(1, 3);
    if word.chars().count() > 64 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The hint for an unknown word: the closest known one, else `otherwise`.
pub(super) fn meant(word: &str, known: &[&str], otherwise: &str) -> String {
    nearest(word, known).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean {near:?}?"))
}

/// Suffixes that make other forms of a word: `sticky` and `stickyness`, `drain` and `draining`.
const ENDINGS: [&str; 8] = ["s", "es", "d", "ed", "er", "ing", "ness", "name"];
/// Shorter prefixes match too many words.
const SHORTEST_STEM: usize = 4;

/// The only known word that begins with `word`, or that `word` is another form of. Words joined by `_` are not
/// forms: `build_user` does not mean `build`.
pub(super) fn related<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    let is_form = |stem: &str| word.strip_prefix(stem).is_some_and(|ending| ENDINGS.contains(&ending));
    if let Some(stem) = known.iter().find(|known| is_form(known)) {
        return Some(stem);
    }
    let mut longer = known.iter().filter(|known| word.len() >= SHORTEST_STEM && known.starts_with(&word));
    longer.next().filter(|_| longer.next().is_none()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_none() {
        let known = ["timeout", "path", "status", "port", "build_timeout", "before_start"];
        for (word, expected) in [
            ("timeuot", Some("timeout")),
            ("Path", Some("path")),
            ("staus", Some("status")),
            ("build-timeout", Some("build_timeout")),
            ("before_strat", Some("before_start")),
            ("poll", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), &known), None);
    }

    #[test]
    fn a_form_or_a_beginning_finds_its_word_unless_it_could_be_another() {
        let app = ["build", "build_timeout", "drain", "user", "watch", "keep", "cache"];
        let known =
            [&app[..], &["sticky", "steps", "max_p95", "max_error_rate", "successes", "state_dir"]].concat();
        for (word, expected) in [
            ("stickyness", Some("sticky")),
            ("Draining", Some("drain")),
            ("watched", Some("watch")),
            ("username", Some("user")),
            ("succ", Some("successes")),
            ("build_time", Some("build_timeout")),
            ("state", Some("state_dir")),
            ("max_", None),
            ("max", None),
            ("buil", None),
            ("build_user", None),
            ("keep_alive", None),
            ("watchdog", None),
            ("stepson", None),
            ("users_file", None),
            ("", None),
        ] {
            assert_eq!(related(word, &known), expected, "{word}");
        }
    }
}
