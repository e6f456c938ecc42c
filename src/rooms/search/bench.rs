//! A door for `benches/search.rs`: the words of messages are made rows of a change.

use serde_json::json;

use super::index;
use crate::{
    rooms::{
        HistoryVisibility,
        record::{EventNumber, EventRecord},
        timeline_key::TimelineKey,
    },
    storage::{
        Batch,
        intern::{RoomNumber, UserNumber},
    },
};

/// A message as the send path has it when it comes to its words.
pub struct Message(EventRecord);

impl Message {
    /// One with this body.
    ///
    /// # Panics
    /// If the body is longer than 4 GiB.
    pub fn new(body: &str) -> Self {
        let json = json!({ "msgtype": "m.text", "body": body }).to_string();
        let end = u32::try_from(json.len()).expect("a message is short");
        Self(EventRecord {
            event_id: "$event".try_into().expect("an event ID"),
            sender: UserNumber(1),
            sender_id: "@user:bench.example".try_into().expect("a user ID"),
            event_type: "m.room.message".to_owned(),
            state_key: None,
            depth: 1,
            origin_server_ts: 1,
            position: 1,
            backfill_key: None,
            visibility: HistoryVisibility::Shared,
            rejected: false,
            soft_failed: false,
            outlier: false,
            redacted_by: None,
            redacts: None,
            replaces: None,
            transaction: None,
            delay_id: None,
            content_at: (0, end),
            json: json.into(),
        })
    }

    /// Adds its rows to a change, and gives that up. Whether there were any.
    pub fn index(&self, position: u64) -> bool {
        let mut batch = Batch::new();
        index(
            &mut batch,
            RoomNumber(1),
            TimelineKey::live(position),
            EventNumber(position),
            &self.0,
        );
        !batch.is_empty()
    }

    /// How many rows those are.
    pub fn words(&self) -> usize {
        super::words_of(&self.0).len()
    }
}
