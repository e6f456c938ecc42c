//! What a mail says around the messages, in the language that the pusher asks for.

/// A language that mails are written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Language {
    /// For whoever asks for none of the others.
    English,
    German,
    French,
}

impl Language {
    /// The one of a language tag, such as `de-AT` or `fr_FR`.
    pub(super) fn of(tag: &str) -> Self {
        let primary = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        match primary.as_str() {
            "de" => Self::German,
            "fr" => Self::French,
            _ => Self::English,
        }
    }

    /// Its own tag.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
            Self::French => "fr",
        }
    }

    pub(super) fn unread_in(self, room: &str) -> String {
        match self {
            Self::English => format!("Unread messages in {room}"),
            Self::German => format!("Ungelesene Nachrichten in {room}"),
            Self::French => format!("Messages non lus dans {room}"),
        }
    }

    pub(super) fn invited_to(self, room: &str) -> String {
        match self {
            Self::English => format!("You are invited to {room}"),
            Self::German => format!("Du bist in {room} eingeladen"),
            Self::French => format!("Vous avez une invitation pour {room}"),
        }
    }

    /// After one room, for at least one other.
    pub(super) fn and_others(self, others: usize) -> String {
        match (self, others) {
            (Self::English, 1) => " and 1 other room".to_owned(),
            (Self::English, _) => format!(" and {others} other rooms"),
            (Self::German, 1) => " und 1 weiterer Raum".to_owned(),
            (Self::German, _) => format!(" und {others} weitere Räume"),
            (Self::French, 1) => " et 1 autre salon".to_owned(),
            (Self::French, _) => format!(" et {others} autres salons"),
        }
    }

    /// How much is unread in all.
    pub(super) fn in_all(self, user: &str, unread: u64) -> String {
        match (self, unread) {
            (Self::English, 1) => format!("{user} has 1 unread notification."),
            (Self::English, _) => format!("{user} has {unread} unread notifications."),
            (Self::German, 1) => format!("{user} hat 1 ungelesene Benachrichtigung."),
            (Self::German, _) => format!("{user} hat {unread} ungelesene Benachrichtigungen."),
            (Self::French, 0 | 1) => format!("{user} a {unread} notification non lue."),
            (Self::French, _) => format!("{user} a {unread} notifications non lues."),
        }
    }

    /// After some messages: how many there are besides.
    pub(super) fn and_more(self, more: u64) -> String {
        match self {
            Self::English => format!("and {more} more"),
            Self::German => format!("und {more} weitere"),
            Self::French => format!("et {more} de plus"),
        }
    }

    /// A room that has no name.
    pub(super) fn a_room(self) -> &'static str {
        match self {
            Self::English => "a room",
            Self::German => "einem Raum",
            Self::French => "un salon",
        }
    }

    /// Instead of a message that only the user's devices can read.
    pub(super) fn encrypted(self) -> &'static str {
        match self {
            Self::English => "(encrypted message)",
            Self::German => "(verschlüsselte Nachricht)",
            Self::French => "(message chiffré)",
        }
    }

    /// Instead of an event that has no text.
    pub(super) fn no_text(self) -> &'static str {
        match self {
            Self::English => "(no text)",
            Self::German => "(ohne Text)",
            Self::French => "(sans texte)",
        }
    }

    pub(super) fn open(self) -> &'static str {
        match self {
            Self::English => "Open the room",
            Self::German => "Raum öffnen",
            Self::French => "Ouvrir le salon",
        }
    }

    pub(super) fn stop(self) -> &'static str {
        match self {
            Self::English => "Get no more of these mails",
            Self::German => "Keine solchen Mails mehr bekommen",
            Self::French => "Ne plus recevoir ces messages",
        }
    }
}
