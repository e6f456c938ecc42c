//! An event that both this crate and the independent resolver understand.

use std::sync::Arc;

use ruma_common::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
};
use ruma_events::TimelineEventType;
use ruma_state_res::Event;
use serde_json::{Value, value::RawValue};
use state_resolution::{EventInput, EventIx, Room};

#[derive(Debug, Clone)]
pub struct Pdu {
    pub event_id: OwnedEventId,
    pub room_id: Option<OwnedRoomId>,
    pub sender: OwnedUserId,
    pub ts: u64,
    pub depth: u64,
    pub event_type: TimelineEventType,
    pub type_name: String,
    pub state_key: Option<String>,
    pub content: Value,
    pub raw: Arc<RawValue>,
    pub prev: Vec<OwnedEventId>,
    pub auth: Vec<OwnedEventId>,
    pub rejected: bool,
}

impl Pdu {
    pub fn key(&self) -> (String, String) {
        (self.type_name.clone(), self.state_key.clone().unwrap_or_default())
    }

    pub fn set_content(&mut self, content: Value) {
        self.raw = serde_json::value::to_raw_value(&content).unwrap().into();
        self.content = content;
    }

    pub fn input(&self) -> EventInput<'_> {
        EventInput {
            event_id: self.event_id.as_str(),
            room_id: self.room_id.as_ref().map(|id| id.as_str()),
            event_type: &self.type_name,
            state_key: self.state_key.as_deref(),
            sender: self.sender.as_str(),
            origin_server_ts: self.ts.try_into().unwrap(),
            depth: self.depth.try_into().unwrap(),
            prev_events: self.prev.iter().map(|id| id.as_str()).collect(),
            auth_events: self.auth.iter().map(|id| id.as_str()).collect(),
            redacts: None,
            content: self.content.as_object().unwrap(),
            rejected: self.rejected,
        }
    }

    pub fn insert(&self, room: &mut Room) -> EventIx {
        room.insert(&self.input()).unwrap()
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(u32::try_from(self.ts).unwrap().into())
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.raw
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

pub fn event_id(id: &str) -> OwnedEventId {
    EventId::parse(id).unwrap()
}
