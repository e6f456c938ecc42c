//! The patterns of push rules: `*` stands for any characters, `?` for one; case does not matter.
//!
//! Texts come from anybody and patterns from the user, so matching takes time in proportion to the
//! product of their lengths at the worst.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#conditions-1>

/// A pattern, taken apart once.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// Without wildcards; in lower case.
    Plain(String),
    /// With wildcards.
    Glob(Vec<Piece>),
}

/// One step of a pattern with wildcards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// This character.
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        if !pattern.contains(['*', '?']) {
            return Self::Plain(pattern);
        }
        let mut pieces: Vec<Piece> = pattern
            .chars()
            .map(|char| match char {
                '*' => Piece::Many,
                '?' => Piece::One,
                char => Piece::Char(char),
            })
            .collect();
        pieces.dedup_by(|a, b| *a == Piece::Many && *b == Piece::Many);
        Self::Glob(pieces)
    }

    /// A text that is looked for as it is.
    pub(super) fn literal(text: &str) -> Self {
        Self::Plain(text.to_lowercase())
    }

    /// Whether the whole of `text` fits. `text` is in lower case.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Plain(pattern) => pattern == text,
            Self::Glob(pieces) => run(pieces, text, false),
        }
    }

    /// The same for a text in any case.
    pub(super) fn matches_any_case(&self, text: &str) -> bool {
        match self {
            Self::Plain(pattern) if text.is_ascii() => pattern.eq_ignore_ascii_case(text),
            _ => self.matches(&text.to_lowercase()),
        }
    }

    /// The one word that is looked for, if it is one: found wherever [`words_of`] finds it.
    pub(super) fn as_word(&self) -> Option<&str> {
        match self {
            Self::Plain(word) if !word.is_empty() && word.chars().all(is_word) => Some(word),
            _ => None,
        }
    }

    /// Whether some words of `text` fit: what stands between two places where a word begins or
    /// ends. `text` is in lower case.
    pub(super) fn matches_words(&self, text: &str) -> bool {
        match self {
            Self::Plain(pattern) if pattern.is_empty() => text.is_empty(),
            Self::Plain(pattern) => {
                text.match_indices(pattern.as_str()).any(|(start, found)| {
                    is_boundary(text, start) && is_boundary(text, start + found.len())
                }) || overlapping(pattern, text)
            }
            Self::Glob(pieces) => run(pieces, text, true),
        }
    }
}

/// The words of a text in lower case, each once.
pub(super) fn words_of(text: &str) -> Vec<String> {
    let mut words: Vec<&str> = text.split(|char| !is_word(char)).collect();
    words.sort_unstable();
    words.dedup();
    words.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `match_indices` skips what overlaps an earlier find: `a a` in `xa a a`.
fn overlapping(pattern: &str, text: &str) -> bool {
    let first = pattern.chars().next().map_or(1, char::len_utf8);
    let mut start = 0;
    while let Some(found) = text.get(start..).and_then(|rest| rest.find(pattern)) {
        let at = start + found;
        if is_boundary(text, at) && is_boundary(text, at + pattern.len()) {
            return true;
        }
        start = at + first;
    }
    false
}

/// Whether a word begins or ends at byte `at`, or none is there.
fn is_boundary(text: &str, at: usize) -> bool {
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    !(before.chars().next_back().is_some_and(is_word) && after.chars().next().is_some_and(is_word))
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// Follows all ways through the pattern at once, so no text makes it try again.
fn run(pieces: &[Piece], text: &str, words: bool) -> bool {
    let mut states = vec![false; pieces.len() + 1];
    let mut next = states.clone();
    enter(pieces, &mut states, 0);
    let done = pieces.len();
    let mut before: Option<char> = None;
    let mut chars = text.chars().peekable();
    loop {
        let here = chars.next();
        if words {
            let boundary = !(before.is_some_and(is_word) && here.is_some_and(is_word));
            if boundary {
                enter(pieces, &mut states, 0);
                if states.get(done) == Some(&true) {
                    return true;
                }
            } else if let Some(end) = states.get_mut(done) {
                *end = false;
            }
        }
        let Some(char) = here else { return states.get(done) == Some(&true) };
        next.fill(false);
        for (index, piece) in pieces.iter().enumerate() {
            if states.get(index) != Some(&true) {
                continue;
            }
            match piece {
                Piece::Many => enter(pieces, &mut next, index),
                Piece::One => enter(pieces, &mut next, index + 1),
                Piece::Char(wanted) if *wanted == char => enter(pieces, &mut next, index + 1),
                Piece::Char(_) => {}
            }
        }
        std::mem::swap(&mut states, &mut next);
        before = Some(char);
    }
}

/// Comes to a place in the pattern; a `*` there may also stand for nothing.
fn enter(pieces: &[Piece], states: &mut [bool], at: usize) {
    if let Some(state) = states.get_mut(at) {
        *state = true;
    }
    // Two in a row are one.
    if pieces.get(at) == Some(&Piece::Many)
        && let Some(state) = states.get_mut(at + 1)
    {
        *state = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches_words(&text.to_lowercase())
    }

    fn whole(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches(&text.to_lowercase())
    }

    /// The examples of the spec and their neighbours.
    #[test]
    fn words_are_found_between_other_words() {
        for (pattern, text, fits) in [
            ("cake", "I like CAKE!", true),
            ("cake", "cakes", false),
            ("cake", "pancake", false),
            ("cake", "cheese_cake", false),
            ("cake", "pancake cake", true),
            ("ex ple", "ex ple", true),
            ("ex*ple", "An example event.", true),
            ("exam?le", "An example event.", true),
            ("exam?le", "An examle event.", false), // typo on purpose
            ("exam*", "An exAmple event.", true),
            ("xam*", "An example event.", false),
            ("cake*lie", "the cake is a lie", true),
            ("*", "anything", true),
            ("Zoé", "hello zoé", true),
            ("a a", "xa a a", true),
            ("", "text", false),
        ] {
            assert_eq!(words(pattern, text), fits, "{pattern:?} in {text:?}");
        }
    }

    #[test]
    fn other_values_fit_as_a_whole() {
        for (pattern, text, fits) in [
            ("m.notice", "m.notice", true),
            ("m.notice", "m.notice.x", false),
            ("lunc?*", "lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", "lunc", false),
            ("*", "", true),
            ("", "", true),
        ] {
            assert_eq!(whole(pattern, text), fits, "{pattern:?} in {text:?}");
        }
    }

    #[test]
    fn a_long_text_full_of_near_misses_is_read_once() {
        let text = "foox ".repeat(13_000);
        assert!(!words("foo", &text));
        assert!(!words("f*o b", &text));
    }

    proptest! {
        #[test]
        fn a_text_fits_itself(text in "[a-z ?*é_]{0,20}") {
            prop_assert!(whole(&text, &text));
        }

        #[test]
        fn a_word_is_looked_up_where_it_would_be_found(text in "[ab_é .]{0,12}", word in "[ab_]{1,2}") {
            let pattern = Pattern::new(&word);
            let found = words_of(&text).iter().any(|found| Some(found.as_str()) == pattern.as_word());
            prop_assert_eq!(found, pattern.matches_words(&text));
        }

        #[test]
        fn case_does_not_matter(pattern in "[a-zA-ZÄé*]{0,4}", text in "[a-zA-ZÄé]{0,4}") {
            let pattern = Pattern::new(&pattern);
            prop_assert_eq!(pattern.matches_any_case(&text), pattern.matches(&text.to_lowercase()));
        }

        #[test]
        fn stars_around_find_any_part(before: String, part in "[a-z]{1,5}", after: String) {
            let text = format!("{before}{part}{after}");
            let pattern = format!("*{part}*");
            prop_assert!(whole(&pattern, &text));
        }
    }
}
