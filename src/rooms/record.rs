//! What the room tables hold, and how it is written as bytes.

use std::sync::Arc;

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};

use super::{timeline_key::TimelineKey, visibility::HistoryVisibility};
use crate::storage::{
    intern::{RoomNumber, UserNumber},
    key::{Key, number, take},
    value::{Value, take_part},
};

number! {
    /// Stands for an event within its room: 1, 2, … in the order in which the events came to be
    /// known here. The pair (room, event) is unique.
    EventNumber
}

/// One event as it is stored: what is looked at often, then the canonical JSON.
///
/// The JSON is the event as it goes to other servers, signatures and hashes included, but without
/// `unsigned`. A redacted event is stored in its redacted form: what was removed is gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EventRecord {
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// Who sent it.
    pub(crate) sender: UserNumber,
    /// Who sent it, spelled out: it is needed whenever the event is shown.
    pub(crate) sender_id: OwnedUserId,
    /// Its `type`.
    pub(crate) event_type: String,
    /// Its `state_key`; none for an event that is no state event.
    pub(crate) state_key: Option<String>,
    /// The sender's claim of how deep in the graph it is.
    pub(crate) depth: u64,
    /// The sender's claim of when it was sent, in ms since the Unix epoch.
    pub(crate) origin_server_ts: u64,
    /// The stream position at which it arrived here; 0 for one that no sync tells of: backfilled,
    /// rejected, soft-failed, or an outlier.
    pub(crate) position: u64,
    /// Its place in the timeline if it was fetched later. A live event stands at its position.
    pub(crate) backfill_key: Option<TimelineKey>,
    /// The history visibility in the state it was sent in.
    pub(crate) visibility: HistoryVisibility,
    /// It failed the authorization rules.
    pub(crate) rejected: bool,
    /// It passed the rules when it was sent but no longer when it came here.
    pub(crate) soft_failed: bool,
    /// It is known only because others refer to it; it has no place in the timeline.
    pub(crate) outlier: bool,
    /// The event that redacted it.
    pub(crate) redacted_by: Option<EventNumber>,
    /// The event that it redacts, from wherever the room version keeps that.
    pub(crate) redacts: Option<OwnedEventId>,
    /// The event that held its (type, state key) before it.
    pub(crate) replaces: Option<EventNumber>,
    /// The device that sent it through this server, and its transaction ID.
    pub(crate) transaction: Option<(OwnedDeviceId, OwnedTransactionId)>,
    /// The ID it had while its sender let it wait. Such an event has no transaction.
    pub(crate) delay_id: Option<Box<str>>,
    /// Where `content` is within `json`: its first byte and its length.
    pub(crate) content_at: (u32, u32),
    /// The canonical JSON.
    pub(crate) json: Box<str>,
}

/// An event in memory, for all who read it.
pub(crate) type SharedEvent = Arc<EventRecord>;

const REJECTED: u8 = 1;
const SOFT_FAILED: u8 = 1 << 1;
const OUTLIER: u8 = 1 << 2;
const STATE: u8 = 1 << 3;
const REDACTS: u8 = 1 << 4;
const TRANSACTION: u8 = 1 << 5;
/// The two bits of the history visibility.
const VISIBILITY_SHIFT: u8 = 6;
/// In the place of a position: the timeline key of an event that fills a gap follows the numbers.
const FILLS_GAP: u64 = 1 << 62;

impl EventRecord {
    /// The JSON of its `content`.
    pub(crate) fn content(&self) -> &str {
        let (start, len) = (self.content_at.0 as usize, self.content_at.1 as usize);
        // `from_bytes` refuses a record in which this is no part of the JSON.
        self.json.get(start..start.saturating_add(len)).unwrap_or("{}")
    }

    /// Where it is in the timeline.
    pub(crate) fn timeline_key(&self) -> TimelineKey {
        self.backfill_key.unwrap_or(TimelineKey::live(self.position))
    }

    /// The stream position that its readers' memberships and receipts are held against: its own, or
    /// if it fills a gap the one that the room was at before it.
    pub(crate) fn as_of(&self) -> u64 {
        self.timeline_key().position()
    }

    /// Whether it is a state event.
    pub(crate) fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether it is the state event of this type with this state key.
    pub(crate) fn is_state_of(&self, event_type: &str, state_key: &str) -> bool {
        self.event_type == event_type && self.state_key.as_deref() == Some(state_key)
    }
}

/// Fixed part: flags, then the numbers, big-endian. The texts follow, each with its length; the
/// JSON is the rest.
impl Value for EventRecord {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let key = self.timeline_key();
        out.reserve(256 + self.json.len());
        out.push(
            flag(self.rejected, REJECTED)
                | flag(self.soft_failed, SOFT_FAILED)
                | flag(self.outlier, OUTLIER)
                | flag(self.state_key.is_some(), STATE)
                | flag(self.redacts.is_some(), REDACTS)
                | flag(self.transaction.is_some() || self.delay_id.is_some(), TRANSACTION)
                | (self.visibility as u8) << VISIBILITY_SHIFT,
        );
        for number in [
            self.sender.0,
            self.depth,
            self.origin_server_ts,
            // Positions are below 2⁶², so the two highest bits tell the three apart.
            if key.fills_gap() { FILLS_GAP } else { key.number().cast_unsigned() },
            // No event has the number zero.
            self.redacted_by.map_or(0, |event| event.0),
            self.replaces.map_or(0, |event| event.0),
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.content_at.0.to_be_bytes());
        out.extend_from_slice(&self.content_at.1.to_be_bytes());
        if key.fills_gap() {
            out.extend_from_slice(&key.number().to_be_bytes());
            out.extend_from_slice(&key.place().to_be_bytes());
        }
        put_text(out, self.event_id.as_str());
        put_text(out, self.sender_id.as_str());
        put_text(out, &self.event_type);
        if let Some(state_key) = &self.state_key {
            put_text(out, state_key);
        }
        if let Some(redacts) = &self.redacts {
            put_text(out, redacts.as_str());
        }
        if let Some((device, transaction)) = &self.transaction {
            put_text(out, device.as_str());
            put_text(out, transaction.as_str());
        } else if let Some(delay_id) = &self.delay_id {
            // No device has an empty ID.
            put_text(out, "");
            put_text(out, delay_id);
        }
        out.extend_from_slice(self.json.as_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let flags = u8::decode(&mut rest)?;
        let mut number = || u64::decode(&mut rest);
        let [sender, depth, origin_server_ts, key, redacted_by, replaces] =
            [number()?, number()?, number()?, number()?, number()?, number()?];
        let content_at = (u32::decode(&mut rest)?, u32::decode(&mut rest)?);
        let (position, backfill_key) = if key == FILLS_GAP {
            let number = u64::decode(&mut rest)?.cast_signed();
            (0, Some(TimelineKey::of(number, u64::decode(&mut rest)?)))
        } else {
            let fetched = Some(key.cast_signed()).filter(|number| *number < 0);
            (if fetched.is_some() { 0 } else { key }, fetched.map(TimelineKey::at))
        };
        let mut text = || std::str::from_utf8(take_part(&mut rest)?).ok();
        let event_id = text()?.try_into().ok()?;
        let sender_id = text()?.try_into().ok()?;
        let event_type = text()?.to_owned();
        let state_key = if flags & STATE == 0 { None } else { Some(text()?.to_owned()) };
        let redacts = if flags & REDACTS == 0 { None } else { Some(text()?.try_into().ok()?) };
        let (transaction, delay_id) = match flags & TRANSACTION {
            0 => (None, None),
            _ => match (text()?, text()?) {
                ("", delay_id) => (None, Some(delay_id.into())),
                (device, transaction) => (Some((device.into(), transaction.into())), None),
            },
        };
        let json = std::str::from_utf8(rest).ok()?;
        json.get(content_at.0 as usize..(content_at.0.checked_add(content_at.1)?) as usize)?;
        let event = |number: u64| (number != 0).then_some(EventNumber(number));
        Some(Self {
            event_id,
            sender: UserNumber(sender),
            sender_id,
            event_type,
            state_key,
            depth,
            origin_server_ts,
            position,
            backfill_key,
            visibility: HistoryVisibility::from_bits(flags >> VISIBILITY_SHIFT),
            rejected: flags & REJECTED != 0,
            soft_failed: flags & SOFT_FAILED != 0,
            outlier: flags & OUTLIER != 0,
            redacted_by: event(redacted_by),
            redacts,
            replaces: event(replaces),
            transaction,
            delay_id,
            content_at,
            json: json.into(),
        })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Every text here is part of an event or of a request, whose sizes are far below 4 GiB.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A `membership`, in the order in which tables keep it.
///
/// A user that no member event speaks of has none; that is not the same as having left.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Membership {
    /// `join`
    Join,
    /// `invite`
    Invite,
    /// `knock`
    Knock,
    /// `leave`
    Leave,
    /// `ban`
    Ban,
}

impl Membership {
    /// The membership of that name; none for a name the spec does not know.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "join" => Self::Join,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "leave" => Self::Leave,
            "ban" => Self::Ban,
            _ => return None,
        })
    }

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Join, Self::Invite, Self::Knock, Self::Leave, Self::Ban]
            .into_iter()
            .find(|membership| membership.as_byte() == byte)
    }

    /// As keys hold it.
    pub(crate) fn as_byte(self) -> u8 {
        self as u8
    }
}

impl From<Membership> for MembershipState {
    fn from(membership: Membership) -> Self {
        membership.as_str().into()
    }
}

impl crate::storage::key::AsKey<Self> for Membership {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.as_byte());
    }
}

impl Key for Membership {
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Self::from_byte(u8::decode(input)?)
    }
}

impl Value for Membership {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.push(self.as_byte());
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let membership = Self::decode(&mut bytes)?;
        bytes.is_empty().then_some(membership)
    }
}

/// What a user is to a room, from the user's side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct UserRoom {
    /// The current membership.
    pub(crate) membership: Membership,
    /// The member event.
    pub(crate) event: EventNumber,
    /// The stream position of the member event.
    pub(crate) position: u64,
    /// The user left and forgot the room.
    pub(crate) forgotten: bool,
    /// The user was joined just before this member event (a departure that sync shows as `leave`,
    /// and not a refused invitation or one that was withdrawn).
    pub(crate) was_joined: bool,
    /// For an invitation or a knock: the stripped state events, a JSON array. Otherwise empty.
    pub(crate) stripped_state: Box<str>,
}

const FORGOTTEN: u8 = 1;
const WAS_JOINED: u8 = 1 << 1;

impl Value for UserRoom {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.push(self.membership.as_byte());
        out.push(
            if self.forgotten { FORGOTTEN } else { 0 }
                | if self.was_joined { WAS_JOINED } else { 0 },
        );
        out.extend_from_slice(&self.event.0.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(self.stripped_state.as_bytes());
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let membership = Membership::decode(&mut bytes)?;
        let flags = u8::decode(&mut bytes)?;
        let event = EventNumber::decode(&mut bytes)?;
        let position = u64::decode(&mut bytes)?;
        Some(Self {
            membership,
            event,
            position,
            forgotten: flags & FORGOTTEN != 0,
            was_joined: flags & WAS_JOINED != 0,
            stripped_state: std::str::from_utf8(bytes).ok()?.into(),
        })
    }
}

/// What never changes about a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RoomRecord {
    /// The room version.
    pub(crate) version: RoomVersionId,
    /// The create event.
    pub(crate) create: u64,
}

/// Where an alias leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AliasRecord {
    /// The room.
    pub(crate) room: RoomNumber,
    /// Who made it: may also delete it.
    pub(crate) creator: UserNumber,
}

impl Value for AliasRecord {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.room.0.to_be_bytes());
        out.extend_from_slice(&self.creator.0.to_be_bytes());
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let record = Self {
            room: RoomNumber::decode(&mut bytes)?,
            creator: UserNumber::decode(&mut bytes)?,
        };
        bytes.is_empty().then_some(record)
    }
}

/// The Ed25519 key pair this server signs events with.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct SigningKeyRecord {
    /// The `0` in `ed25519:0`.
    pub(crate) version: String,
    /// The seed, 32 bytes.
    pub(crate) seed: [u8; 32],
}

impl Value for SigningKeyRecord {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seed);
        out.extend_from_slice(self.version.as_bytes());
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let seed = take(&mut bytes, 32)?.try_into().ok()?;
        Some(Self { version: std::str::from_utf8(bytes).ok()?.to_owned(), seed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{owned_event_id, owned_user_id};

    use super::*;

    fn record() -> EventRecord {
        EventRecord {
            event_id: owned_event_id!("$a"),
            sender: UserNumber(7),
            sender_id: owned_user_id!("@alice:localhost"),
            event_type: "m.room.name".to_owned(),
            state_key: Some(String::new()),
            depth: 3,
            origin_server_ts: 1_000,
            position: 12,
            backfill_key: None,
            visibility: HistoryVisibility::Invited,
            rejected: false,
            soft_failed: true,
            outlier: false,
            redacted_by: Some(EventNumber(9)),
            redacts: Some(owned_event_id!("$b")),
            replaces: None,
            transaction: Some(("DEVICE".into(), "txn".into())),
            delay_id: None,
            content_at: (11, 14),
            json: r#"{"content":{"name":"tea"},"depth":3}"#.into(),
        }
    }

    fn bytes(value: &impl Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.to_bytes(&mut out);
        out
    }

    #[test]
    fn records_round_trip() {
        let event = record();
        assert_eq!(event.content(), r#"{"name":"tea"}"#);
        assert_eq!(EventRecord::from_bytes(&bytes(&event)), Some(event));
        for key in [TimelineKey::at(-3), TimelineKey::of(11, 4), TimelineKey::of(-3, 1)] {
            let backfilled = EventRecord { position: 0, backfill_key: Some(key), ..record() };
            assert_eq!(backfilled.timeline_key(), key);
            assert_eq!(EventRecord::from_bytes(&bytes(&backfilled)), Some(backfilled));
        }
        let user_room = UserRoom {
            membership: Membership::Invite,
            event: EventNumber(4),
            position: 5,
            forgotten: false,
            was_joined: true,
            stripped_state: "[]".into(),
        };
        assert_eq!(UserRoom::from_bytes(&bytes(&user_room)), Some(user_room));
    }

    #[test]
    fn a_content_outside_the_json_is_refused() {
        let event = EventRecord { content_at: (30, 300), ..record() };
        assert_eq!(EventRecord::from_bytes(&bytes(&event)), None);
    }

    proptest! {
        #[test]
        fn rubbish_is_no_record(rubbish: Vec<u8>) {
            let _ = EventRecord::from_bytes(&rubbish);
            let _ = UserRoom::from_bytes(&rubbish);
        }
    }
}
