//! The words of a text, as they are stored and looked for.
//!
//! Words are those of Unicode's segmentation (UAX 29), in compatibility form and lower case. Scripts
//! that put no spaces between words (Chinese, Japanese, Thai and others) are taken two characters
//! at a time, each pair overlapping the next: what is looked for is found wherever it begins, and
//! no dictionary has to know it.

use std::collections::BTreeSet;

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// The longest word, in characters; what is longer is cut off, in texts and in what is looked for.
const MAX_WORD_CHARS: usize = 40;
/// How many different words of a text count: the first.
const MAX_WORDS: usize = 300;
/// How many words count at all, for how often a word is in a text.
const MAX_LISTED: usize = 3_000;

/// The different words of a text.
pub(super) fn words(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in list(text) {
        if found.len() == MAX_WORDS {
            break;
        }
        found.insert(word);
    }
    found
}

/// The words of a text in their order. A run without spaces gives its pairs and its characters.
pub(super) fn list(text: &str) -> Vec<String> {
    let text: String = text.nfkc().flat_map(char::to_lowercase).collect();
    let mut found = Vec::new();
    let mut run: Vec<char> = Vec::new();
    let mut run_end = 0;
    for (start, word) in text.unicode_word_indices() {
        if found.len() >= MAX_LISTED {
            return found;
        }
        if word.chars().next().is_some_and(is_spaceless) {
            // The words of one run touch each other.
            if start != run_end {
                add_run(&mut found, &run);
                run.clear();
            }
            run.extend(word.chars());
            run_end = start + word.len();
        } else {
            add_run(&mut found, &run);
            run.clear();
            found.push(word.chars().take(MAX_WORD_CHARS).collect());
        }
    }
    add_run(&mut found, &run);
    found.truncate(MAX_LISTED);
    found
}

fn add_run(found: &mut Vec<String>, run: &[char]) {
    found.extend(run.windows(2).map(|pair| pair.iter().collect()));
    // One character alone is looked for as well.
    found.extend(run.iter().map(char::to_string));
}

/// What is looked for: like [`words`], without the single characters of longer runs, which say no
/// more than their pairs.
pub(super) fn wanted(text: &str) -> BTreeSet<String> {
    let all = words(text);
    let pairs: Vec<&String> = all.iter().filter(|word| is_pair(word)).collect();
    let within_a_pair = |word: &String| {
        let mut chars = word.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) if is_spaceless(char) => {
                pairs.iter().any(|pair| pair.contains(char))
            }
            _ => false,
        }
    };
    all.iter().filter(|word| !within_a_pair(word)).cloned().collect()
}

fn is_pair(word: &str) -> bool {
    word.chars().count() == 2 && word.chars().next().is_some_and(is_spaceless)
}

/// Whether the script puts no spaces between words.
fn is_spaceless(char: char) -> bool {
    matches!(char,
        '\u{E00}'..='\u{EFF}'         // Thai, Lao
        | '\u{1000}'..='\u{109F}'     // Myanmar
        | '\u{1780}'..='\u{17FF}'     // Khmer
        | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30FF}'     // Hiragana, Katakana
        | '\u{31F0}'..='\u{31FF}'
        | '\u{3400}'..='\u{4DBF}'     // Han
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(text: &str) -> Vec<String> {
        words(text).into_iter().collect()
    }

    #[test]
    fn words_are_in_lower_case_and_without_punctuation() {
        assert_eq!(sorted("Tea, GREEN tea! room42"), ["green", "room42", "tea"]);
        assert_eq!(sorted("Ёлка (Zoë)"), ["zoë", "ёлка"]);
        assert!(sorted(" …!? ").is_empty());
    }

    #[test]
    fn one_letter_is_the_same_however_it_is_written() {
        assert_eq!(words("cafe\u{301}"), words("café"));
        assert_eq!(words("ＴＥＡ ﾊﾞｽ"), words("tea バス"), "fullwidth and halfwidth");
    }

    #[test]
    fn scripts_without_spaces_are_found_in_the_middle() {
        let text = words("我喜欢喝绿茶tea");
        for term in ["绿茶", "喜欢", "喝", "喝绿茶", "tea"] {
            assert!(wanted(term).is_subset(&text), "{term}");
        }
        assert!(!wanted("红茶").is_subset(&text));
        assert!(wanted("京都").is_subset(&words("東京都に住む")), "pairs overlap");
        assert!(wanted("ชาเขียว").is_subset(&words("ฉันชอบชาเขียว")));
        assert!(!words("茶。緑").contains("茶緑"), "what does not touch is no pair");
    }

    #[test]
    fn what_is_looked_for_is_as_little_as_says_it_all() {
        let pairs: Vec<String> = wanted("喝绿茶").into_iter().collect();
        assert_eq!(pairs, ["喝绿", "绿茶"]);
    }

    proptest! {
        #[test]
        fn any_text_has_few_short_words(text: String) {
            let words = words(&text);
            prop_assert!(words.len() <= MAX_WORDS);
            prop_assert!(words.iter().all(|word| word.len() <= 4 * MAX_WORD_CHARS));
            prop_assert!(words.iter().all(|word| !word.contains('\0')));
        }

        #[test]
        fn a_text_is_found_by_itself(text in "[a-zA-Z 茶緑京都東]{1,30}") {
            prop_assert!(wanted(&text).is_subset(&words(&text)));
        }
    }
}
