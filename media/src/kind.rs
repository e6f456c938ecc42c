//! What a file is, by its first bytes. Nobody's word is taken for it.

/// Kinds of files that something is done with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// PNG, animated or not.
    Png,
    /// JPEG.
    Jpeg,
    /// GIF, animated or not.
    Gif,
    /// WebP, animated or not.
    Webp,
    /// AVIF.
    Avif,
    /// MP4 and `QuickTime`.
    Mp4,
    /// `WebM` and Matroska.
    Matroska,
    /// Ogg, with sound or pictures.
    Ogg,
}

impl Kind {
    /// The kind of a file that begins like this; `None` if it is none of these.
    pub fn of(head: &[u8]) -> Option<Self> {
        let at = |place: usize, text: &[u8]| head.get(place..).is_some_and(|h| h.starts_with(text));
        if at(0, b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if at(0, b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if at(0, b"GIF87a") || at(0, b"GIF89a") {
            Some(Self::Gif)
        } else if at(0, b"RIFF") && at(8, b"WEBP") {
            Some(Self::Webp)
        } else if at(4, b"ftypavif") || at(4, b"ftypavis") {
            Some(Self::Avif)
        } else if at(4, b"ftyp") {
            Some(Self::Mp4)
        } else if at(0, b"\x1a\x45\xdf\xa3") {
            Some(Self::Matroska)
        } else if at(0, b"OggS") {
            Some(Self::Ogg)
        } else {
            None
        }
    }

    /// The usual media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Avif => "image/avif",
            Self::Mp4 => "video/mp4",
            Self::Matroska => "video/webm",
            Self::Ogg => "video/ogg",
        }
    }

    /// Whether it is a picture.
    pub fn is_picture(self) -> bool {
        self.content_type().starts_with("image/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        for (head, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], Some(Kind::Png)),
            (b"\xff\xd8\xff\xe0", Some(Kind::Jpeg)),
            (b"GIF89a", Some(Kind::Gif)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some(Kind::Webp)),
            (b"RIFF\x10\0\0\0WAVE", None),
            (b"\0\0\0\x20ftypisom", Some(Kind::Mp4)),
            (b"\0\0\0\x20ftypavif", Some(Kind::Avif)),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\">", None),
            (b"GIF", None),
            (b"", None),
        ] {
            assert_eq!(Kind::of(head), kind, "{head:?}");
        }
    }
}
