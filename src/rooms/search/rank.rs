//! How well a text fits what is looked for.

use std::collections::BTreeSet;

use super::words;

/// Higher is closer: how large a part of the text the words are, and more if it has them just as
/// they were written. None if one of them is not there.
#[expect(clippy::cast_precision_loss, reason = "a text has a few thousand words at most")]
pub(super) fn rank(text: &str, wanted: &BTreeSet<String>, term: &str) -> Option<f64> {
    let listed = words::list(text);
    let mut missing: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let mut hits = 0;
    for word in listed.iter().filter(|word| wanted.contains(*word)) {
        missing.remove(word.as_str());
        hits += 1;
    }
    if !missing.is_empty() {
        return None;
    }
    let share = f64::from(hits) / (listed.len().max(1) as f64).sqrt();
    let literally = text.to_lowercase().contains(&term.trim().to_lowercase());
    Some(if literally { share + 1.0 } else { share })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(text: &str, term: &str) -> Option<f64> {
        rank(text, &words::wanted(term), term)
    }

    #[test]
    fn the_closer_text_comes_first() {
        let short = ranked("green tea", "green tea").unwrap();
        let long = ranked("there was green tea on the table today", "green tea").unwrap();
        let apart = ranked("the tea on the green table there today", "green tea").unwrap();
        assert!(short > long && long > apart, "{short} {long} {apart}");
    }

    #[test]
    fn all_words_must_be_there() {
        assert_eq!(ranked("green table", "green tea"), None);
    }
}
