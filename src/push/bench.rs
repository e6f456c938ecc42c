//! A door for `benches/push.rs`: a room whose members' rules are asked about messages.

use ruma::{
    OwnedUserId, UserId,
    push::{Action, NewPatternedPushRule, NewPushRule, NewSimplePushRule, Ruleset},
    room_id,
};
use serde_json::json;

use super::{
    compiled::{CompiledRules, Recipient},
    context::RoomContext,
    event::PushEvent,
    rules::server_default,
};
use crate::{
    rooms::{HistoryVisibility, record::EventRecord},
    storage::intern::UserNumber,
};

/// How many rules of each kind those have who have many.
const RULES: usize = 200;

/// A room and the rules of its members.
pub struct Bench {
    members: Vec<(OwnedUserId, CompiledRules)>,
    room: RoomContext,
}

impl Bench {
    /// A room with this many members, with the rules that everybody has or many more.
    pub fn new(members: usize, heavy: bool) -> Self {
        let members = (0..members).filter_map(|number| {
            let user = UserId::parse(format!("@user{number}:bench.example")).ok()?;
            let mut rules = server_default(&user);
            if heavy {
                add(&mut rules, number);
            }
            let rules = CompiledRules::new(&rules);
            Some((user, rules))
        });
        Self { members: members.collect(), room: RoomContext::default() }
    }

    /// Takes a message apart, as it is when it comes from the database, and counts whom it
    /// notifies: everybody but the sender, and one of them is mentioned.
    pub fn message(&self, number: usize) -> usize {
        let event = PushEvent::in_room(room_id!("!room:bench.example"), &record(number), None);
        let notified = self.members.iter().filter(|(user_id, rules)| {
            let recipient = Recipient { user_id, display_name: None, subscribed: false };
            rules.evaluate(&event, &self.room, recipient).is_some_and(|outcome| outcome.notify)
        });
        notified.count()
    }
}

/// Words, rooms and senders of the user's own, none of which the messages are about.
fn add(rules: &mut Ruleset, user: usize) {
    for number in 0..RULES {
        let word = format!("word{user}x{number}");
        let content = NewPatternedPushRule::new(word.clone(), word, vec![Action::Notify]);
        let mut new = vec![NewPushRule::Content(content)];
        if let Ok(room) = format!("!other{number}:bench.example").try_into() {
            new.push(NewPushRule::Room(NewSimplePushRule::new(room, Vec::new())));
        }
        if let Ok(sender) = format!("@other{number}:bench.example").try_into() {
            new.push(NewPushRule::Sender(NewSimplePushRule::new(sender, Vec::new())));
        }
        for rule in new {
            rules.insert(rule, None, None).expect("a new rule has a place");
        }
    }
}

fn record(number: usize) -> EventRecord {
    let body = format!("message {number}: shall we meet at the usual place when the rain is over?");
    let content = json!({
        "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": ["@user1:bench.example"] },
    });
    let json = content.to_string();
    let end = u32::try_from(json.len()).expect("a message is short");
    EventRecord {
        event_id: "$event".try_into().expect("an event ID"),
        sender: UserNumber(1),
        sender_id: "@user0:bench.example".try_into().expect("a user ID"),
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
    }
}
