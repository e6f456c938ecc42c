//! Namespaces: identifiers that belong to an application service, by regular expressions.

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;

/// How many expressions one namespace may have.
const MAX_ENTRIES: usize = 1_000;
/// The longest expression.
const MAX_REGEX_BYTES: usize = 1_000;
/// What all expressions of a namespace may take when compiled.
const MAX_COMPILED_BYTES: usize = 4 << 20;

/// One expression of a registration file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    /// Whether nobody else may have what matches.
    #[serde(default)]
    exclusive: bool,
    /// The expression.
    regex: String,
}

/// Users, aliases or rooms of an application service.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    entries: Vec<Entry>,
    /// All of the expressions at once: time grows with the length of the identifier alone.
    matches: RegexSet,
    exclusive: RegexSet,
}

impl Default for Namespace {
    fn default() -> Self {
        Self { entries: Vec::new(), matches: RegexSet::empty(), exclusive: RegexSet::empty() }
    }
}

impl Namespace {
    /// Compiles the expressions, which match from the first character on. They look at bytes:
    /// classes such as `\w` are ASCII's, as identifiers are.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn new(entries: Vec<Entry>) -> Result<Self, String> {
        if entries.len() > MAX_ENTRIES {
            return Err(format!("at most {MAX_ENTRIES} expressions"));
        }
        if let Some(long) = entries.iter().find(|entry| entry.regex.len() > MAX_REGEX_BYTES) {
            let begin: String = long.regex.chars().take(40).collect();
            return Err(format!("{begin:?}… has more than {MAX_REGEX_BYTES} bytes"));
        }
        // One by one first: the error then names the expression.
        for entry in &entries {
            compile([entry]).map_err(|error| format!("{:?}: {error}", entry.regex))?;
        }
        let too_large = |error: String| format!("the expressions together: {error}");
        Ok(Self {
            matches: compile(&entries).map_err(too_large)?,
            exclusive: compile(entries.iter().filter(|entry| entry.exclusive))
                .map_err(too_large)?,
            entries,
        })
    }

    /// Whether an identifier is in it.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.matches.is_match(id.as_bytes())
    }

    /// Whether an identifier is in it and nobody else may have it.
    pub(super) fn is_exclusive(&self, id: &str) -> bool {
        self.exclusive.is_match(id.as_bytes())
    }

    /// The expressions of what nobody else may have.
    pub(super) fn exclusive(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|entry| entry.exclusive).map(|entry| entry.regex.as_str())
    }

    /// Whether this is one of those expressions.
    pub(super) fn has_exclusive(&self, regex: &str) -> bool {
        self.exclusive().any(|one| one == regex)
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn compile<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<RegexSet, String> {
    // As other servers read these files: anchored at the start, not at the end.
    let anchored = entries.into_iter().map(|entry| format!("^(?:{})", entry.regex));
    RegexSetBuilder::new(anchored)
        .unicode(false)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| error.to_string().lines().last().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(regexes: &[(&str, bool)]) -> Result<Namespace, String> {
        let entry = |(regex, exclusive): &(&str, bool)| Entry {
            regex: (*regex).to_owned(),
            exclusive: *exclusive,
        };
        Namespace::new(regexes.iter().map(entry).collect())
    }

    #[test]
    fn expressions_match_from_the_start() {
        let users = namespace(&[("@_irc_.*", true), ("^@bridge_[0-9]+:example\\.org$", false)]);
        let users = users.unwrap();
        assert!(users.contains("@_irc_alice:example.org"));
        assert!(users.contains("@bridge_12:example.org"));
        assert!(!users.contains("@bridge_12:example.org.evil"));
        assert!(!users.contains("@alice_@_irc_:example.org"));
        assert!(users.is_exclusive("@_irc_alice:example.org"));
        assert!(!users.is_exclusive("@bridge_12:example.org"));
    }

    #[test]
    fn an_alternative_at_the_top_is_anchored_too() {
        let users = namespace(&[("@a|@b", true)]).unwrap();
        assert!(users.contains("@b:example.org"));
        assert!(!users.contains("@c:@b"));
    }

    #[test]
    fn nonsense_and_what_is_too_large_are_refused() {
        assert!(namespace(&[("@(", true)]).unwrap_err().contains("\"@(\""));
        assert!(namespace(&[("@(?=x)", true)]).is_err(), "no lookahead");
        assert!(namespace(&[("((a{1000}){1000}){1000}", true)]).is_err());
        assert!(namespace(&[(&"x".repeat(1_001), true)]).is_err());
        assert!(namespace(&vec![("x", true); 1_001]).is_err());
    }

    #[test]
    fn characters_beyond_ascii_are_no_obstacle() {
        let aliases = namespace(&[("#café_.*:example\\.org", true)]).unwrap();
        assert!(aliases.contains("#café_é:example.org"));
        assert!(!aliases.contains("#cafe_:example.org"));
    }
}
