//! What a push gateway is told, and whether it is still worth telling.
//!
//! Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId, push::Action};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use super::{Delivery, lane::Item};
use crate::{
    push::{
        Outcome,
        counts::marks,
        event::PushEvent,
        pushers::{Pusher, PusherKey},
        tally::MAIN,
        webpush::MAX_PAYLOAD_BYTES,
    },
    rooms::{
        Room, RoomError,
        record::{EventRecord, Membership, UserRoom},
        timeline_key::TimelineKey,
    },
    storage::{
        Range, Snapshot,
        intern::UserNumber,
        schema::{EVENTS, MEMBERSHIPS, TIMELINE, USER_ROOMS},
    },
};

/// How many members are named where a room has no name of its own.
const NAMED_MEMBERS: usize = 3;

/// An event that a user is told of.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) event: EventRecord,
    pub(super) room_id: OwnedRoomId,
    pub(super) room_name: Option<String>,
    pub(super) room_alias: Option<String>,
    pub(super) sender_display_name: Option<String>,
    outcome: Outcome,
}

/// The body of a request to a push gateway.
#[derive(Debug, Serialize)]
pub(super) struct Notify<'a> {
    notification: Notification<'a>,
}

/// The content of a web push message.
#[derive(Serialize)]
struct Payload<'a, 'b> {
    #[serde(flatten)]
    notification: &'b Notification<'a>,
    /// What service workers look for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

/// What it says; of a change of the counts alone all that is about an event is missing.
#[derive(Debug, Default, Serialize)]
struct Notification<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a OwnedRoomId>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a OwnedUserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_is_target: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prio: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<[Device<'a>; 1]>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    /// Spec: "Counts whose value is zero should be omitted." Where nothing but the counts is told
    /// it is there all the same: a gateway could not tell a zero from a number that did not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct Device<'a> {
    app_id: &'a str,
    pushkey: &'a str,
    pushkey_ts: u64,
    data: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tweaks: Option<Map<String, Value>>,
}

impl<'a> Device<'a> {
    fn new(key: &'a PusherKey, pusher: &Pusher) -> Self {
        let mut data = pusher.data.clone();
        data.remove("url");
        Self { app_id: &key.1, pushkey: &key.2, pushkey_ts: pusher.set_at, data, tweaks: None }
    }
}

impl<'a> Notify<'a> {
    /// Tells of an event.
    pub(super) fn event(
        key: &'a PusherKey,
        pusher: &Pusher,
        user_id: &UserId,
        notice: &'a Notice,
        unread: u64,
    ) -> Self {
        let event = &notice.event;
        let device = Device::new(key, pusher);
        let counts = Counts { unread: Some(unread).filter(|unread| *unread > 0) };
        let tweaks = tweaks(&notice.outcome.actions);
        // What is encrypted has to be looked at by the device to know.
        let urgent = event.event_type == "m.room.encrypted"
            || notice.outcome.highlight
            || tweaks.contains_key("sound");
        let brief = Notification {
            event_id: Some(&event.event_id),
            room_id: Some(&notice.room_id),
            prio: Some(if urgent { "high" } else { "low" }),
            counts,
            ..Notification::default()
        };
        if pusher.event_id_only() {
            return Self { notification: Notification { devices: Some([device]), ..brief } };
        }
        let is_member = event.event_type == "m.room.member";
        Self {
            notification: Notification {
                event_type: Some(&event.event_type),
                sender: Some(&event.sender_id),
                sender_display_name: notice.sender_display_name.as_deref(),
                room_name: notice.room_name.as_deref(),
                room_alias: notice.room_alias.as_deref(),
                user_is_target: is_member
                    .then(|| event.state_key.as_deref() == Some(user_id.as_str())),
                content: serde_json::from_str(event.content()).ok(),
                devices: Some([Device { tweaks: Some(tweaks), ..device }]),
                ..brief
            },
        }
    }

    /// Whether the device is to be woken for it.
    pub(super) fn is_urgent(&self) -> bool {
        self.notification.prio == Some("high")
    }

    /// The same for a device that gets it without a gateway between: without what is for that, and
    /// without what makes it longer than a push service takes.
    pub(super) fn payload(mut self) -> Vec<u8> {
        let notification = &mut self.notification;
        notification.devices = None;
        let unread = notification.counts.unread;
        let mut payload = Vec::new();
        for _ in 0..3 {
            payload = serde_json::to_vec(&Payload { notification, unread }).unwrap_or_default();
            if payload.len() <= MAX_PAYLOAD_BYTES {
                break;
            }
            if notification.content.take().is_none() {
                (notification.room_name, notification.sender_display_name) = (None, None);
            }
        }
        payload
    }

    /// Tells how much is unread.
    pub(super) fn counts(key: &'a PusherKey, pusher: &Pusher, unread: u64) -> Self {
        Self {
            notification: Notification {
                counts: Counts { unread: Some(unread) },
                devices: Some([Device::new(key, pusher)]),
                ..Notification::default()
            },
        }
    }
}

/// The tweaks among the actions.
fn tweaks(actions: &[Action]) -> Map<String, Value> {
    let mut tweaks = Map::new();
    for action in actions {
        let Ok(Value::Object(mut tweak)) = serde_json::to_value(action) else { continue };
        let Some(Value::String(name)) = tweak.remove("set_tweak") else { continue };
        // Spec: "If a `highlight` tweak is given with no value, its value is defined to be `true`."
        let value = tweak.remove("value").unwrap_or(Value::Bool(true));
        tweaks.insert(name, value);
    }
    tweaks
}

impl Delivery {
    /// The event as a user is to be told of it now; none if they need not be any more: it was read
    /// or redacted, they left, or their rules are others by now.
    pub(super) async fn notice(
        &self,
        user: UserNumber,
        user_id: &UserId,
        item: Item,
    ) -> Result<Option<Notice>, RoomError> {
        let at = self.db.snapshot();
        let key = (user, item.room);
        let Some(row) = USER_ROOMS.get(&at, &key).await? else { return Ok(None) };
        if row.membership == Membership::Invite {
            return self.invite_notice(&at, user, user_id, item, &row).await;
        }
        if row.membership != Membership::Join {
            return Ok(None);
        }
        let room = self.rooms.numbered(item.room).await?;
        let Some(event) = self.event_at(&at, item).await? else { return Ok(None) };
        let range = Range::prefix(&(item.room, user)).before(&(
            item.room,
            user,
            item.position.saturating_add(1),
        ));
        let then = MEMBERSHIPS.scan_back(&at, &range, 1).await?;
        if then.first().is_none_or(|(_, membership)| *membership != Membership::Join) {
            return Ok(None);
        }
        let pushed = self.unread.event(&at, &room, &event).await?;
        let thread = pushed.thread.as_ref().map_or(MAIN, |thread| thread.as_str());
        if marks(&at, item.room, user).await?.of(thread) >= item.position {
            return Ok(None);
        }
        let (_, rules) = self.unread.rules_of(&at, user, user_id).await?;
        let reader = self.unread.reader(&at, &room, user, user_id, rules).await?;
        let Some(outcome) = reader.notified(&pushed).cloned() else { return Ok(None) };
        let (room_name, room_alias) = self.names(&at, &room, user).await?;
        let sender_display_name = self.unread.display_name(&at, &room, &event.sender_id).await?;
        let room_id = room.id.clone();
        Ok(Some(Notice { event, room_id, room_name, room_alias, sender_display_name, outcome }))
    }

    async fn event_at(&self, at: &Snapshot, item: Item) -> Result<Option<EventRecord>, RoomError> {
        let key = TimelineKey::live(item.position);
        let Some(number) = TIMELINE.get(at, &(item.room, key)).await? else { return Ok(None) };
        Ok(EVENTS.get(at, &(item.room, number)).await?)
    }

    /// The same for an invitation: what is known of the room is what came with it.
    async fn invite_notice(
        &self,
        at: &Snapshot,
        user: UserNumber,
        user_id: &UserId,
        item: Item,
        row: &UserRoom,
    ) -> Result<Option<Notice>, RoomError> {
        // Others may have happened since.
        if row.position != item.position {
            return Ok(None);
        }
        let event = self.unread.invitation(at, user, item.room, row).await?;
        let Some(event) = event else { return Ok(None) };
        let room_id = self.rooms.room_id(item.room).await?;
        let pushed = PushEvent::in_room(&room_id, &event, None);
        let outcome = self.unread.invite_outcome(at, user, user_id, &pushed).await?;
        let Some(outcome) = outcome else { return Ok(None) };
        let stripped: Vec<Value> = serde_json::from_str(&row.stripped_state).unwrap_or_default();
        let of = |event_type: &str, state_key: &str, field: &str| {
            let is = |event: &&Value, key: &str, text: &str| {
                event.get(key).and_then(Value::as_str) == Some(text)
            };
            let found = stripped
                .iter()
                .find(|event| is(event, "type", event_type) && is(event, "state_key", state_key))?;
            let text = found.get("content")?.get(field)?.as_str()?;
            Some(text.to_owned()).filter(|text| !text.is_empty())
        };
        let sender_display_name = of("m.room.member", event.sender_id.as_str(), "displayname");
        let room_alias = of("m.room.canonical_alias", "", "alias");
        let room_name = of("m.room.name", "", "name").or_else(|| room_alias.clone());
        Ok(Some(Notice { event, room_id, room_name, room_alias, sender_display_name, outcome }))
    }

    /// What a room is called to a user, and its alias: without a name of its own it is called by
    /// those who are in it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#calculating-the-display-name-for-a-room>
    async fn names(
        &self,
        at: &Snapshot,
        room: &Room,
        user: UserNumber,
    ) -> Result<(Option<String>, Option<String>), RoomError> {
        let text = async |event_type: &str, field: &str| -> Result<Option<String>, RoomError> {
            let event = self.rooms.current_state_event(at, room, event_type, "").await?;
            let content = event
                .and_then(|event| serde_json::from_str::<Map<String, Value>>(event.content()).ok());
            let text = content.as_ref().and_then(|content| content.get(field)?.as_str());
            Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
        };
        let alias = text("m.room.canonical_alias", "alias").await?;
        if let Some(name) = text("m.room.name", "name").await?.or_else(|| alias.clone()) {
            return Ok((Some(name), alias));
        }
        let mut others = self.rooms.members(at, room.number, Membership::Join).await?;
        others.extend(self.rooms.members(at, room.number, Membership::Invite).await?);
        others.retain(|other| *other != user);
        let count = others.len();
        others.truncate(NAMED_MEMBERS);
        let mut names = Vec::new();
        for id in self.db.users().names(&self.db, &others).await? {
            let name = self.unread.display_name(at, room, &id).await?;
            names.push(name.unwrap_or_else(|| id.to_string()));
        }
        let last = if count > names.len() {
            Some(format!("{} others", count - names.len()))
        } else {
            names.pop()
        };
        let name = match (names.is_empty(), last) {
            (true, last) => last,
            (false, Some(last)) => Some(format!("{} and {last}", names.join(", "))),
            (false, None) => None,
        };
        Ok((name, alias))
    }
}
