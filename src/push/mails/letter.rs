//! A mail about what is unread, as text and as a web page.
//!
//! Everything in it that others wrote is bounded, free of control characters and, in the web page,
//! escaped.

use std::fmt::Write as _;

use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::Value;

use super::language::Language;
use crate::{config::EmailNotifications, rooms::record::EventRecord};

/// The longest name, in characters.
const MAX_NAME: usize = 100;
/// The longest message, in characters.
const MAX_TEXT: usize = 500;

/// What a mail says.
#[derive(Debug)]
pub(crate) struct Letter {
    user_id: OwnedUserId,
    brand: Option<String>,
    language: Language,
    /// How much is unread in all rooms.
    unread: u64,
    /// The rooms that are shown.
    rooms: Vec<RoomPart>,
    /// How many rooms are not shown.
    hidden: usize,
}

/// What it says of one room.
#[derive(Debug)]
pub(crate) struct RoomPart {
    /// The room.
    pub(crate) id: OwnedRoomId,
    /// What it is called.
    pub(crate) name: Option<String>,
    /// How many events notify the user that they have not read.
    pub(crate) unread: u64,
    /// The user is not in it, but may be.
    pub(crate) is_invite: bool,
    /// The first of these events.
    pub(crate) messages: Vec<Message>,
}

/// One event.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Message {
    sender: String,
    /// None: the server can't read it, or there is none.
    text: Option<String>,
    encrypted: bool,
}

impl Message {
    /// What a mail shows of an event.
    pub(crate) fn of(event: &EventRecord, sender: Option<&str>) -> Self {
        let content: Value = serde_json::from_str(event.content()).unwrap_or_default();
        let text = content.get("body").and_then(Value::as_str);
        Self {
            sender: one_line(sender.unwrap_or(event.sender_id.as_str()), MAX_NAME),
            text: text.map(|text| one_line(text, MAX_TEXT)).filter(|text| !text.is_empty()),
            encrypted: event.event_type == "m.room.encrypted",
        }
    }

    fn text(&self, language: Language) -> &str {
        match &self.text {
            _ if self.encrypted => language.encrypted(),
            Some(text) => text,
            None => language.no_text(),
        }
    }
}

impl RoomPart {
    fn title(&self, language: Language) -> String {
        let name = self.name.as_deref().map(|name| one_line(name, MAX_NAME));
        let name = name.filter(|name| !name.is_empty());
        let name = name.as_deref().unwrap_or(language.a_room());
        if self.is_invite { language.invited_to(name) } else { language.unread_in(name) }
    }

    /// The messages that are shown; an invitation has none.
    fn shown(&self) -> &[Message] {
        if self.is_invite { &[] } else { &self.messages }
    }

    /// How many messages are not shown.
    fn more(&self) -> u64 {
        if self.is_invite {
            return 0;
        }
        self.unread.saturating_sub(self.messages.len().try_into().unwrap_or(u64::MAX))
    }
}

impl Letter {
    /// A letter; `brand` is what it is about in the eyes of the user's client.
    pub(crate) fn new(
        user_id: OwnedUserId,
        brand: Option<&str>,
        lang: &str,
        unread: u64,
        rooms: Vec<RoomPart>,
        hidden: usize,
    ) -> Self {
        let brand = brand.map(|brand| one_line(brand, MAX_NAME));
        Self { user_id, brand, language: Language::of(lang), unread, rooms, hidden }
    }

    fn brand<'a>(&'a self, settings: &'a EmailNotifications) -> &'a str {
        self.brand.as_deref().unwrap_or(&settings.app_name)
    }

    /// The subject names the room that waited longest.
    pub(super) fn subject(&self, settings: &EmailNotifications) -> String {
        let title = self.rooms.first().map(|room| room.title(self.language)).unwrap_or_default();
        let others = self.rooms.len().saturating_sub(1) + self.hidden;
        let others = if others > 0 { self.language.and_others(others) } else { String::new() };
        format!("[{}] {title}{others}", self.brand(settings))
    }

    /// The mail as text.
    pub(super) fn text(&self, settings: &EmailNotifications, unsubscribe: &str) -> String {
        let language = self.language;
        let mut text = format!("{}\r\n", language.in_all(self.user_id.as_str(), self.unread));
        for room in &self.rooms {
            let _ = write!(text, "\r\n{}\r\n", room.title(language));
            for message in room.shown() {
                let _ = write!(text, "  {}: {}\r\n", message.sender, message.text(language));
            }
            if room.more() > 0 {
                let _ = write!(text, "  {}\r\n", language.and_more(room.more()));
            }
            let link = link(settings, &room.id);
            let _ = write!(text, "  {}: {link}\r\n", language.open());
        }
        if self.hidden > 0 {
            let others = language.and_others(self.hidden);
            let _ = write!(text, "\r\n{}\r\n", others.trim_start());
        }
        let _ = write!(text, "\r\n{}: {unsubscribe}\r\n", language.stop());
        text
    }

    /// The mail as a web page.
    pub(super) fn html(&self, settings: &EmailNotifications, unsubscribe: &str) -> String {
        let language = self.language;
        let mut html = format!(
            "<!DOCTYPE html>\r\n<html lang=\"{}\"><head><meta charset=\"utf-8\">\
             <title>{}</title></head>\r\n\
             <body style=\"font-family: sans-serif; max-width: 40em; margin: auto\">\r\n\
             <h1 style=\"font-size: 1.3em\">{}</h1>\r\n<p>{}</p>\r\n",
            language.tag(),
            escaped(&self.subject(settings)),
            escaped(self.brand(settings)),
            escaped(&language.in_all(self.user_id.as_str(), self.unread)),
        );
        for room in &self.rooms {
            let title = escaped(&room.title(language));
            let _ = write!(html, "<h2 style=\"font-size: 1.1em\">{title}</h2>\r\n");
            for message in room.shown() {
                let (sender, text) = (escaped(&message.sender), escaped(message.text(language)));
                let _ = write!(html, "<p><b>{sender}</b>: {text}</p>\r\n");
            }
            if room.more() > 0 {
                let _ = write!(html, "<p>{}</p>\r\n", escaped(&language.and_more(room.more())));
            }
            let link = escaped(&link(settings, &room.id));
            let _ = write!(html, "<p><a href=\"{link}\">{}</a></p>\r\n", language.open());
        }
        if self.hidden > 0 {
            let others = language.and_others(self.hidden);
            let _ = write!(html, "<p>{}</p>\r\n", escaped(others.trim_start()));
        }
        let _ = write!(
            html,
            "<hr>\r\n<p><a href=\"{}\">{}</a></p>\r\n</body></html>\r\n",
            escaped(unsubscribe),
            language.stop()
        );
        html
    }
}

/// Where a room is opened.
fn link(settings: &EmailNotifications, room: &RoomId) -> String {
    let public = room.matrix_to_uri().to_string();
    match (&settings.client_url, public.split_once("#/")) {
        (Some(client), Some((_, room))) => {
            format!("{}/#/room/{room}", client.trim_end_matches('/'))
        }
        _ => public,
    }
}

/// A text of others as one line that is not too long.
fn one_line(text: &str, longest: usize) -> String {
    // Also what would turn the direction of what follows.
    let hidden = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text
        .chars()
        .filter(|c| !hidden(*c))
        .map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c })
        .take(longest + 1)
        .collect();
    let plain = plain.trim();
    if plain.chars().count() > longest {
        let mut cut: String = plain.chars().take(longest).collect();
        cut.push('…');
        return cut;
    }
    plain.to_owned()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, user_id};

    use super::*;

    fn message(sender: &str, text: Option<&str>) -> Message {
        let text = text.map(|text| one_line(text, MAX_TEXT));
        Message { sender: sender.to_owned(), text, encrypted: false }
    }

    fn room(name: &str, unread: u64, messages: Vec<Message>) -> RoomPart {
        let id = owned_room_id!("!room:a.example");
        RoomPart { id, name: Some(name.to_owned()), unread, is_invite: false, messages }
    }

    fn letter(lang: &str, rooms: Vec<RoomPart>, hidden: usize) -> Letter {
        Letter::new(user_id!("@alice:a.example").to_owned(), None, lang, 7, rooms, hidden)
    }

    #[test]
    fn what_others_wrote_stays_text() {
        let evil = "<img src=x onerror=alert(1)>\r\n\r\nBcc: all@a.example\u{202e}";
        let letter = letter("en", vec![room(evil, 1, vec![message("<b>Bob</b>", Some(evil))])], 0);
        let settings = EmailNotifications::default();
        let html = letter.html(&settings, "https://a.example/?a=1&b=\"2\"");
        assert!(!html.contains("<img") && !html.contains("<b>Bob"), "{html}");
        assert!(html.contains("&lt;b&gt;Bob&lt;/b&gt;"), "{html}");
        assert!(html.contains("href=\"https://a.example/?a=1&amp;b=&quot;2&quot;\""), "{html}");
        assert!(!letter.subject(&settings).contains(char::is_control));
        assert!(!letter.text(&settings, "").contains("\nBcc"), "a line of its own");
        assert!(!html.contains('\u{202e}'));
    }

    #[test]
    fn a_letter_counts_and_leads_to_its_rooms() {
        let mut settings = EmailNotifications::default();
        let messages = vec![message("Bob", Some("hello")), message("Bob", None)];
        let letter = letter("en-GB", vec![room("Cooking", 5, messages)], 2);
        assert_eq!(
            letter.subject(&settings),
            "[Matrix] Unread messages in Cooking and 2 other rooms"
        );
        let text = letter.text(&settings, "https://a.example/stop");
        for part in [
            "@alice:a.example has 7 unread notifications.",
            "  Bob: hello\r\n  Bob: (no text)\r\n  and 3 more\r\n",
            "https://matrix.to/#/!room:a.example\r\n",
            "https://a.example/stop\r\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        settings.client_url = Some("https://app.example/".to_owned());
        let html = letter.html(&settings, "");
        assert!(html.contains("\"https://app.example/#/room/!room:a.example\""), "{html}");
    }

    #[test]
    fn languages_and_brands_are_the_pushers() {
        let settings = EmailNotifications::default();
        let mut invite = room("Kochen", 1, Vec::new());
        invite.is_invite = true;
        let user = user_id!("@alice:a.example").to_owned();
        let letter = Letter::new(user, Some("Element\n"), "de_AT", 1, vec![invite], 0);
        assert_eq!(letter.subject(&settings), "[Element] Du bist in Kochen eingeladen");
        let text = letter.text(&settings, "");
        assert!(text.contains("hat 1 ungelesene Benachrichtigung."), "{text}");
        assert_eq!(Language::of("fr"), Language::French);
        assert_eq!(Language::of("tlh"), Language::English);
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(one_line("  a\tb\nc ", 10), "a b c");
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("äöü", 3), "äöü");
    }
}
