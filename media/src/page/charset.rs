//! Text in whatever character set it comes in.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// How far into a page its own word about its character set is looked for.
const LOOK_BYTES: usize = 4096;

/// The text of a page: by its byte order mark, by what the answer said, by what the page says, as
/// UTF-8 if it is that, and else as browsers read what says nothing.
pub(super) fn decode<'a>(body: &'a [u8], declared: Option<&str>) -> Cow<'a, str> {
    let encoding = declared
        .and_then(|label| Encoding::for_label(label.as_bytes()))
        .or_else(|| said_by_page(body))
        .unwrap_or_else(|| match std::str::from_utf8(body) {
            Ok(_) => UTF_8,
            // Cut off in the middle of a character.
            Err(error) if error.error_len().is_none() => UTF_8,
            Err(_) => WINDOWS_1252,
        });
    // Prefers the byte order mark.
    encoding.decode(body).0
}

fn said_by_page(body: &[u8]) -> Option<&'static Encoding> {
    let head = body.get(..LOOK_BYTES).unwrap_or(body);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    // `<meta charset="…">`, `<meta … content="text/html; charset=…">`, `<?xml … encoding="…"?>`.
    ["charset", "encoding"].into_iter().find_map(|name| {
        head.match_indices(name).find_map(|(place, _)| {
            let rest = head.get(place + name.len()..)?.trim_start().strip_prefix('=')?;
            let rest = rest.trim_start().trim_start_matches(['"', '\'']);
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_:.".contains(c));
            let label = rest.get(..end.unwrap_or(rest.len()))?;
            Encoding::for_label(label.as_bytes())
        })
    })
}
