//! How a stranger's file may be served: as what, and whether a browser may show it.

use crate::kind::Kind;

/// The policy for served files: nothing in them may run, load or talk to anybody.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>
pub const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; \
     plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';";

/// A file's content never changes: it may be kept for a year and need not be asked for again. Only
/// by whoever asked, since a proxy would give it to those without a token.
pub const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";

/// The longest name that is stored, in characters.
const MAX_NAME_CHARS: usize = 255;
/// The longest media type that is stored, in bytes.
const MAX_TYPE_BYTES: usize = 255;

/// For files whose type is unknown or not believed.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// What browsers may show instead of saving it.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// A media type without its parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a file of this type may be shown by a browser.
pub fn may_be_inline(content_type: &str) -> bool {
    INLINE.contains(&essence(content_type).as_str())
}

/// The media type to remember for a file: as declared, if it can be a media type at all.
pub fn stored_type(declared: Option<&str>) -> String {
    declared
        .map(str::trim)
        .filter(|declared| is_media_type(declared))
        .unwrap_or(OCTET_STREAM)
        .to_owned()
}

/// `type/subtype`, perhaps with parameters, fit for a header.
fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let mut parts = text.split(';').next().unwrap_or_default().trim().split('/');
    text.len() <= MAX_TYPE_BYTES
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && parts.next().is_some_and(token)
        && parts.next().is_some_and(token)
        && parts.next().is_none()
}

/// The media type to serve a file as. What claims to be a picture of a known kind and is none of
/// any kind, such as an encrypted or a broken one, is served as bytes.
pub fn served_type<'a>(stored: &'a str, head: &[u8]) -> &'a str {
    let claims_picture = matches!(
        essence(stored).as_str(),
        "image/png" | "image/apng" | "image/jpeg" | "image/gif" | "image/webp" | "image/avif"
    );
    if claims_picture && !Kind::of(head).is_some_and(Kind::is_picture) {
        return OCTET_STREAM;
    }
    stored
}

/// Whether a list of types such as `image/*` and `text/plain` has this one; an empty list has all.
pub fn is_allowed(content_type: &str, allowed: &[String]) -> bool {
    let essence = essence(content_type);
    allowed.is_empty()
        || allowed.iter().any(|pattern| match pattern.strip_suffix("/*") {
            Some(kind) => essence.split('/').next() == Some(kind),
            None => *pattern == essence,
        })
}

/// A name that is only a name: without what separates folders, ends lines or turns the direction of
/// writing, and of bounded length. `None` if nothing is left.
pub fn safe_name(name: &str) -> Option<String> {
    let mut safe = String::new();
    for character in name.chars() {
        match character {
            '/' | '\\' => safe.push('_'),
            c if c.is_control() || is_direction(c) => {}
            c => safe.push(c),
        }
    }
    let safe = safe.trim();
    if safe.is_empty() || safe.chars().all(|c| c == '.') {
        return None;
    }
    let chars = safe.chars().count();
    if chars <= MAX_NAME_CHARS {
        return Some(safe.to_owned());
    }
    // Cut before the extension, which says what the file is.
    let extension = safe.rsplit_once('.').map(|(_, extension)| extension);
    let extension = extension.filter(|extension| extension.chars().count() <= 16);
    let ending = extension.map(|extension| format!(".{extension}")).unwrap_or_default();
    let keep = MAX_NAME_CHARS - ending.chars().count();
    Some(safe.chars().take(keep).collect::<String>() + &ending)
}

/// Marks that make `gpj.exe` look like `exe.jpg`.
fn is_direction(character: char) -> bool {
    matches!(character,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_harmless_types_are_inline() {
        assert!(may_be_inline("image/PNG"));
        assert!(may_be_inline("text/plain; charset=utf-8"));
        for harmful in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/xml",
            "application/pdf",
            "application/javascript",
            "",
            "image/png, text/html",
        ] {
            assert!(!may_be_inline(harmful), "{harmful}");
        }
    }

    #[test]
    fn a_type_that_is_none_becomes_bytes() {
        assert_eq!(stored_type(Some("text/plain; charset=utf-8")), "text/plain; charset=utf-8");
        for bad in [
            None,
            Some(""),
            Some("png"),
            Some("a/b/c"),
            Some("text/html\r\nx: y"),
            Some("é/x"),
            Some("image /png"),
        ] {
            assert_eq!(stored_type(bad), OCTET_STREAM);
        }
    }

    #[test]
    fn what_lies_about_being_a_picture_is_bytes() {
        assert_eq!(served_type("image/png", b"<html><script>"), OCTET_STREAM);
        // A picture of another kind is still a picture.
        assert_eq!(served_type("image/png", b"\xff\xd8\xff\xe0"), "image/png");
        assert_eq!(served_type("text/html", b"<html>"), "text/html");
    }

    #[test]
    fn names_keep_their_script_and_lose_their_tricks() {
        for (name, safe) in [
            ("фото 1.jpg", Some("фото 1.jpg")),
            ("猫の写真.png", Some("猫の写真.png")),
            ("../../etc/passwd", Some(".._.._etc_passwd")),
            ("a\r\nSet-Cookie: x.txt", Some("aSet-Cookie: x.txt")),
            ("invoice\u{202e}gpj.exe", Some("invoicegpj.exe")),
            ("C:\\x.txt", Some("C:_x.txt")),
            ("..", None),
            ("\0", None),
            ("", None),
        ] {
            assert_eq!(safe_name(name).as_deref(), safe);
        }
        let long = safe_name(&format!("{}.jpeg", "ж".repeat(400))).unwrap();
        assert_eq!(long.chars().count(), MAX_NAME_CHARS);
        assert_eq!(long.rsplit('.').next(), Some("jpeg"));
    }

    #[test]
    fn allowed_types_may_name_a_whole_family() {
        let allowed = ["image/*".to_owned(), "text/plain".to_owned()];
        assert!(is_allowed("image/webp", &allowed) && is_allowed("Text/Plain;x=y", &allowed));
        assert!(!is_allowed("text/html", &allowed) && !is_allowed("imagex/png", &allowed));
        assert!(is_allowed("any/thing", &[]));
    }

    proptest! {
        #[test]
        fn any_name_becomes_a_safe_one(name: String) {
            if let Some(safe) = safe_name(&name) {
                prop_assert!(!safe.is_empty() && safe.chars().count() <= MAX_NAME_CHARS);
                prop_assert!(!safe.contains(['/', '\\', '\r', '\n', '\0']));
                prop_assert!(safe != "." && safe != "..");
            }
        }

        #[test]
        fn any_type_is_fit_for_a_header(declared: String) {
            let stored = stored_type(Some(&declared));
            prop_assert!(stored.is_ascii() && !stored.contains(['\r', '\n']));
        }
    }
}
