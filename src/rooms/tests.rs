//! Rooms over the memory engine, with a clock that is moved by hand and seeded randomness.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    api::Direction, server_name,
};
use serde_json::{Value as JsonValue, json, value::RawValue};

use super::{
    Boundary, Change, Draft, EventFilter, NewRoom, PageRequest, Preset, Profile, RoomError, Rooms,
    keys::ServerKey, record::Membership, timeline::Page,
};
use crate::{
    clock::{Clock, Random},
    storage::{
        Db, Range,
        intern::UserNumber,
        schema::{CLOSED_ACCOUNTS, FORWARD_EXTREMITIES, PROFILE_UPDATES, TIMELINE},
    },
    users::session::Session,
};

/// A server with its users.
struct Sim {
    db: Db,
    clock: Clock,
    rooms: Rooms,
    profiles: Arc<Mutex<HashMap<UserNumber, Profile>>>,
}

impl Sim {
    async fn new() -> Self {
        Self::over(Db::in_memory().await).await
    }

    /// As after a restart, if `db` is not new.
    async fn over(db: Db) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let random = Random::seeded(1);
        let key = ServerKey::load(&db, &random, server_name!("localhost")).await.unwrap();
        let profiles = Arc::<Mutex<HashMap<UserNumber, Profile>>>::default();
        let looked_up = Arc::clone(&profiles);
        let rooms = Rooms::new(
            db.clone(),
            clock.clone(),
            random,
            key,
            Box::new(move |user| {
                let profile = looked_up.lock().get(&user).cloned().unwrap_or_default();
                Box::pin(async move { Ok(profile) })
            }),
            64 << 20,
        );
        Self { db, clock, rooms, profiles }
    }

    async fn user(&self, name: &str) -> Session {
        let user_id: OwnedUserId = format!("@{name}:localhost").try_into().unwrap();
        let user = self.db.users().intern(&self.db, &*user_id).await.unwrap();
        Session { user_id, user, device_id: format!("{name}-device").into(), guest: false }
    }

    async fn room(&self, creator: &Session, preset: Preset) -> OwnedRoomId {
        self.rooms.create(creator, &new_room(preset)).await.unwrap()
    }

    async fn change(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        target: &Session,
        change: Change,
    ) -> Result<(), RoomError> {
        self.rooms.change_membership(who, room, &target.user_id, change, None).await
    }

    async fn join(&self, who: &Session, room: &OwnedRoomId) -> Result<(), RoomError> {
        self.change(who, room, who, Change::Join).await
    }

    async fn say(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        text: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        self.rooms.send(who, room, "m.room.message", text.into(), content).await
    }

    async fn state(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        event_type: &str,
        content: JsonValue,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.send_state(who, room, event_type, "", object(content)).await
    }

    async fn page(&self, who: &Session, room: &OwnedRoomId) -> Result<Page, RoomError> {
        self.rooms.messages(who, room, &back(100)).await
    }

    /// The texts of the messages that `who` sees, oldest first.
    async fn texts(&self, who: &Session, room: &OwnedRoomId) -> Vec<String> {
        let page = self.page(who, room).await.unwrap();
        let mut texts: Vec<String> = page
            .chunk
            .iter()
            .filter_map(|event| Some(read(event)["content"]["body"].as_str()?.to_owned()))
            .collect();
        texts.reverse();
        texts
    }
}

pub(super) fn new_room(preset: Preset) -> NewRoom {
    NewRoom {
        version: None,
        preset,
        creation_content: CanonicalJsonObject::new(),
        initial_state: Vec::new(),
        power_levels: CanonicalJsonObject::new(),
        name: None,
        topic: None,
        alias_name: None,
        invite: Vec::new(),
        is_direct: false,
        public: false,
    }
}

fn back(limit: usize) -> PageRequest {
    PageRequest {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit,
        filter: EventFilter::default(),
    }
}

pub(super) fn object(json: JsonValue) -> CanonicalJsonObject {
    serde_json::from_value(json).unwrap()
}

fn read(event: &RawValue) -> JsonValue {
    serde_json::from_str(event.get()).unwrap()
}

fn is_forbidden<T>(outcome: &Result<T, RoomError>) -> bool {
    matches!(outcome, Err(RoomError::Forbidden { .. }))
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn a_new_room_begins_with_the_events_of_the_spec_in_its_order() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    for version in super::create::SUPPORTED_VERSIONS {
        let new = NewRoom {
            version: Some(version.clone()),
            name: Some("Tea".to_owned()),
            topic: Some("Leaves".to_owned()),
            alias_name: Some(format!("tea{version}")),
            invite: vec![bob.user_id.clone()],
            is_direct: true,
            initial_state: vec![Draft::state(
                "m.room.history_visibility",
                "",
                object(json!({ "history_visibility": "joined" })),
            )],
            ..new_room(Preset::Private)
        };
        let room = sim.rooms.create(&alice, &new).await.unwrap();
        let mut page = sim.page(&alice, &room).await.unwrap();
        page.chunk.reverse();
        let events: Vec<JsonValue> = page.chunk.iter().map(|event| read(event)).collect();
        let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(
            types,
            [
                "m.room.create",
                "m.room.member",
                "m.room.power_levels",
                "m.room.canonical_alias",
                "m.room.join_rules",
                "m.room.guest_access",
                "m.room.history_visibility",
                "m.room.name",
                "m.room.topic",
                "m.room.member",
            ]
        );
        assert_eq!(events[0]["content"]["room_version"], version.as_str());
        assert_eq!(events[0]["room_id"], room.as_str());
        assert_eq!(events[6]["content"]["history_visibility"], "joined");
        assert_eq!(events[9]["content"]["is_direct"], true);
        assert_eq!(events[9]["state_key"], "@bob:localhost");
        // Version 12 rooms are named after their create event, and creators are above every level.
        let named_after_it = room.as_str()[1..] == events[0]["event_id"].as_str().unwrap()[1..];
        assert_eq!(named_after_it, version == RoomVersionId::V12);
        let own_level = &events[2]["content"]["users"]["@alice:localhost"];
        assert_eq!(own_level.is_null(), version == RoomVersionId::V12);
        // One extremity, after ten events.
        let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
        let range = Range::prefix(&(number,));
        assert_eq!(FORWARD_EXTREMITIES.scan(&sim.db, &range, 10).await.unwrap().len(), 1);
        assert_eq!(TIMELINE.scan(&sim.db, &Range::prefix(&(number,)), 99).await.unwrap().len(), 10);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn a_room_that_cannot_begin_as_asked_is_not_made_at_all() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let new = NewRoom {
        version: Some(RoomVersionId::V11),
        name: Some("Tea".to_owned()),
        power_levels: object(json!({ "users": { "@alice:localhost": 10 } })),
        ..new_room(Preset::Private)
    };
    let outcome = sim.rooms.create(&alice, &new).await;
    assert!(matches!(outcome, Err(RoomError::InvalidRoomState { .. })));
    assert!(sim.rooms.joined_rooms(alice.user).await.unwrap().is_empty());

    let version = Some("org.example.unheard".try_into().unwrap());
    let old = sim.rooms.create(&alice, &NewRoom { version, ..new_room(Preset::Private) }).await;
    assert!(matches!(old, Err(RoomError::UnsupportedRoomVersion { .. })));

    let alias_name = Some("tea".to_owned());
    let named = NewRoom { alias_name, ..new_room(Preset::Private) };
    sim.rooms.create(&alice, &named).await.unwrap();
    let again = sim.rooms.create(&alice, &named).await;
    assert!(matches!(again, Err(RoomError::AliasTaken { creating: true, .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
#[tokio::test]
async fn rooms_made_in_the_same_moment_are_different_rooms() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let first = sim.room(&alice, Preset::Private).await;
    let second = sim.room(&alice, Preset::Private).await;
    assert_ne!(first, second);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>
#[tokio::test]
async fn who_may_come_in_and_who_may_throw_out() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let room = sim.room(&alice, Preset::Private).await;
    assert!(is_forbidden(&sim.join(&bob, &room).await), "bob is not invited");
    sim.change(&alice, &room, &bob, Change::Invite).await.unwrap();
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let invited = sim.rooms.user_room(bob.user, number).await.unwrap().unwrap();
    assert_eq!(invited.membership, Membership::Invite);
    let stripped: Vec<JsonValue> = serde_json::from_str(&invited.stripped_state).unwrap();
    assert!(stripped.iter().any(|event| event["type"] == "m.room.create"));
    assert!(stripped.iter().all(|event| event.get("event_id").is_none()));

    sim.join(&bob, &room).await.unwrap();
    let last = sim.rooms.last_position(number).await.unwrap();
    sim.join(&bob, &room).await.unwrap();
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last, "he was there already");
    assert_eq!(sim.rooms.numbered(number).await.unwrap().local_members().len(), 2);

    assert!(is_forbidden(&sim.change(&bob, &room, &alice, Change::Kick).await));
    assert!(is_forbidden(&sim.change(&alice, &room, &carl, Change::Kick).await));
    sim.change(&alice, &room, &bob, Change::Ban).await.unwrap();
    assert!(is_forbidden(&sim.join(&bob, &room).await));
    assert!(is_forbidden(&sim.say(&bob, &room, "hello?").await));
    assert!(is_forbidden(&sim.change(&alice, &room, &carl, Change::Unban).await));
    sim.change(&alice, &room, &bob, Change::Unban).await.unwrap();
    assert_eq!(sim.rooms.numbered(number).await.unwrap().local_members().len(), 1);
    let members = sim.rooms.members(&sim.db, number, Membership::Leave).await.unwrap();
    assert_eq!(members, [bob.user]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
#[tokio::test]
async fn a_restricted_room_lets_in_the_members_of_the_rooms_it_names() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let club = sim.room(&alice, Preset::Public).await;
    let back_room = sim.room(&alice, Preset::Private).await;
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": club }],
    });
    sim.state(&alice, &back_room, "m.room.join_rules", rule).await.unwrap();
    sim.join(&bob, &club).await.unwrap();
    sim.join(&bob, &back_room).await.unwrap();
    assert!(is_forbidden(&sim.join(&carl, &back_room).await));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
#[tokio::test]
async fn guests_join_only_where_guests_may() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let guest = Session { guest: true, ..sim.user("guest").await };
    let room = sim.room(&alice, Preset::Public).await;
    assert!(matches!(sim.join(&guest, &room).await, Err(RoomError::GuestAccess)));
    let open = json!({ "guest_access": "can_join" });
    sim.state(&alice, &room, "m.room.guest_access", open).await.unwrap();
    sim.join(&guest, &room).await.unwrap();
    let outcome = sim.change(&guest, &room, &alice, Change::Kick).await;
    assert!(matches!(outcome, Err(RoomError::GuestAccess)));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_retry_is_answered_with_the_event_that_was_made() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let first = sim.say(&alice, &room, "once").await.unwrap();
    // Also when the retries race each other, and on a server that was restarted.
    let sim = Sim::over(sim.db.clone()).await;
    let (again, other, same_other) = tokio::join!(
        sim.say(&alice, &room, "once"),
        sim.say(&alice, &room, "other"),
        sim.say(&alice, &room, "other"),
    );
    assert_eq!(again.unwrap(), first);
    assert_eq!(other.unwrap(), same_other.unwrap());
    assert_eq!(sim.texts(&alice, &room).await, ["once", "other"]);

    let phone = Session { device_id: "phone".into(), ..alice.clone() };
    assert_ne!(sim.say(&phone, &room, "once").await.unwrap(), first, "another device");

    // The device that chose it sees its transaction ID, and nobody else does.
    let transaction = async |who: &Session| {
        read(&sim.rooms.event(who, &room, &first).await.unwrap())["unsigned"]["transaction_id"]
            .clone()
    };
    assert_eq!(transaction(&alice).await, "once");
    assert!(transaction(&phone).await.is_null());
}

#[tokio::test]
async fn many_who_send_at_once_make_one_line_of_events() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let before = sim.page(&alice, &room).await.unwrap().chunk.len();
    let mut sending = Vec::new();
    for user in 0..16 {
        let user = sim.user(&format!("user{user}")).await;
        let (rooms, room) = (sim.rooms.clone(), room.clone());
        sending.push(tokio::spawn(async move {
            rooms.change_membership(&user, &room, &user.user_id, Change::Join, None).await.unwrap();
            for n in 0..4 {
                let txn = format!("txn{n}");
                let content = object(json!({ "body": n }));
                let sent = rooms
                    .send(&user, &room, "m.room.message", txn.as_str().into(), content.clone())
                    .await;
                // The same again, as an impatient client would.
                let again =
                    rooms.send(&user, &room, "m.room.message", txn.as_str().into(), content).await;
                assert_eq!(sent.unwrap(), again.unwrap());
            }
        }));
    }
    for task in sending {
        task.await.unwrap();
    }
    let mut page = sim.page(&alice, &room).await.unwrap();
    assert_eq!(page.chunk.len(), before + 16 * 5);
    page.chunk.reverse();
    // Each is deeper than the one before it, and refers to it.
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let loaded = sim.rooms.numbered(number).await.unwrap();
    let line = sim
        .rooms
        .timeline(&sim.db, &loaded, Boundary(0), Boundary(i64::MAX), 999, Direction::Forward)
        .await
        .unwrap();
    for pair in line.windows(2) {
        let [(_, _, parent), (_, _, event)] = pair else { unreachable!() };
        let json: JsonValue = serde_json::from_str(&event.json).unwrap();
        assert_eq!(json["prev_events"], json!([parent.event_id]));
        assert_eq!(event.depth, parent.depth + 1);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
#[tokio::test]
async fn redaction_takes_the_content_and_says_why() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    for version in super::create::SUPPORTED_VERSIONS {
        let new = NewRoom { version: Some(version.clone()), ..new_room(Preset::Public) };
        let room = sim.rooms.create(&alice, &new).await.unwrap();
        sim.join(&bob, &room).await.unwrap();
        let rude = sim.say(&bob, &room, "rude").await.unwrap();
        let fine = sim.say(&alice, &room, "fine").await.unwrap();
        let outcome = sim.rooms.redact(&bob, &room, &fine, "r0".into(), None).await;
        assert!(is_forbidden(&outcome), "bob has not the power");
        let redaction =
            sim.rooms.redact(&alice, &room, &rude, "r1".into(), Some("rude")).await.unwrap();
        let again = sim.rooms.redact(&alice, &room, &rude, "r1".into(), Some("rude")).await;
        assert_eq!(again.unwrap(), redaction, "a retry");

        let event = read(&sim.rooms.event(&bob, &room, &rude).await.unwrap());
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!(because["event_id"], redaction.as_str());
        assert_eq!(because["content"]["reason"], "rude");
        // Clients find what was redacted in both places, whatever the version.
        assert_eq!(because["redacts"], rude.as_str());
        assert_eq!(because["content"]["redacts"], rude.as_str());

        let no = <&ruma::EventId>::try_from("$no").unwrap();
        let missing = sim.rooms.redact(&alice, &room, no, "r2".into(), None).await;
        assert!(matches!(missing, Err(RoomError::UnknownEvent { .. })));
    }
}

/// Redacting a state event changes what later events are judged by.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#redactions>
#[tokio::test]
async fn a_redacted_name_is_gone_from_the_state_and_the_membership_stays() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let name = sim.state(&alice, &room, "m.room.name", json!({ "name": "Tea" })).await.unwrap();
    sim.rooms.redact(&alice, &room, &name, "r1".into(), None).await.unwrap();
    let content = sim.rooms.readable_state_event(&alice, &room, "m.room.name", "", false).await;
    assert_eq!(content.unwrap().get(), "{}");
    let key = alice.user_id.as_str();
    let member = sim.rooms.readable_state_event(&alice, &room, "m.room.member", key, true).await;
    let member: OwnedEventId =
        read(&member.unwrap())["event_id"].as_str().unwrap().try_into().unwrap();
    sim.rooms.redact(&alice, &room, &member, "r2".into(), None).await.unwrap();
    sim.say(&alice, &room, "still here").await.unwrap();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-5>
#[tokio::test]
async fn history_is_shown_by_the_visibility_at_each_event() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let room = sim.room(&alice, Preset::Private).await;
    let set = async |visibility: &str| {
        let content = json!({ "history_visibility": visibility });
        sim.state(&alice, &room, "m.room.history_visibility", content).await.unwrap();
    };
    set("joined").await;
    sim.say(&alice, &room, "joined").await.unwrap();
    set("invited").await;
    sim.say(&alice, &room, "before the invitation").await.unwrap();
    sim.change(&alice, &room, &bob, Change::Invite).await.unwrap();
    sim.say(&alice, &room, "after the invitation").await.unwrap();
    set("shared").await;
    let shared = sim.say(&alice, &room, "shared").await.unwrap();
    assert!(matches!(sim.page(&carl, &room).await, Err(RoomError::NotInRoom { .. })));
    let unseen = sim.rooms.event(&carl, &room, &shared).await;
    assert!(matches!(unseen, Err(RoomError::UnknownEvent { .. })));
    sim.join(&bob, &room).await.unwrap();
    sim.say(&alice, &room, "to all").await.unwrap();
    let seen = ["after the invitation", "shared", "to all"];
    assert_eq!(sim.texts(&bob, &room).await, seen);
    // Who leaves keeps what they saw, and sees nothing more.
    sim.change(&bob, &room, &bob, Change::Leave).await.unwrap();
    sim.say(&alice, &room, "behind his back").await.unwrap();
    assert_eq!(sim.texts(&bob, &room).await, seen);
    let name = sim.state(&alice, &room, "m.room.name", json!({ "name": "Us" })).await;
    name.unwrap();
    let state = sim.rooms.readable_state_event(&bob, &room, "m.room.name", "", false).await;
    assert!(matches!(state, Err(RoomError::NoSuchState)), "named after he left");
    sim.rooms.forget(&bob, &room).await.unwrap();
    assert!(matches!(sim.page(&bob, &room).await, Err(RoomError::NotInRoom { .. })));
    // What is for all to read is for carl too, from then on.
    set("world_readable").await;
    sim.say(&alice, &room, "read all about it").await.unwrap();
    assert_eq!(sim.texts(&carl, &room).await, ["read all about it"]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition_both_ways() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    for n in 0..25 {
        sim.say(&alice, &room, &n.to_string()).await.unwrap();
    }
    let mut all: Vec<JsonValue> =
        sim.page(&alice, &room).await.unwrap().chunk.iter().map(|event| read(event)).collect();
    for direction in [Direction::Backward, Direction::Forward] {
        let mut read_so_far = Vec::new();
        let mut request = PageRequest { direction, ..back(7) };
        loop {
            let page = sim.rooms.messages(&alice, &room, &request).await.unwrap();
            assert!(page.chunk.len() <= 7);
            read_so_far.extend(page.chunk.iter().map(|event| read(event)));
            let Some(end) = page.end else { break };
            // As a client would: the token is text.
            request.from = Some(end.to_string().parse().unwrap());
        }
        assert_eq!(read_so_far, all);
        all.reverse();
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>
#[tokio::test]
async fn a_filter_is_applied_before_the_limit_and_members_come_with_their_messages() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    sim.say(&bob, &room, "first").await.unwrap();
    for n in 0..30 {
        sim.say(&alice, &room, &n.to_string()).await.unwrap();
    }
    let filter: ruma::api::client::filter::RoomEventFilter = serde_json::from_value(json!({
        "types": ["m.room.mess*"],
        "senders": ["@bob:localhost"],
        "lazy_load_members": true,
    }))
    .unwrap();
    let request = PageRequest { filter: filter.into(), ..back(1) };
    let page = sim.rooms.messages(&alice, &room, &request).await.unwrap();
    assert_eq!(page.chunk.len(), 1);
    assert_eq!(read(&page.chunk[0])["content"]["body"], "first");
    assert_eq!(page.state.len(), 1);
    assert_eq!(read(&page.state[0])["state_key"], "@bob:localhost");
}

#[tokio::test]
async fn state_at_a_position_is_what_it_was_then() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let id = sim.room(&alice, Preset::Private).await;
    let number = sim.db.rooms().find(&sim.db, &*id).await.unwrap().unwrap();
    let room = sim.rooms.numbered(number).await.unwrap();
    let mut history = Vec::new();
    for name in ["a", "b", "c"] {
        let position = sim.rooms.last_position(number).await.unwrap();
        let state = sim.rooms.state_at(&sim.db, &room, position).await.unwrap();
        history.push((position, state));
        sim.state(&alice, &id, "m.room.name", json!({ "name": name })).await.unwrap();
    }
    for (position, state) in &history {
        let now = sim.rooms.state_at(&sim.db, &room, *position).await.unwrap();
        assert_eq!(now, *state);
        for (_, event) in state {
            let key = event.state_key.as_deref().unwrap();
            let single =
                sim.rooms.state_event_at(&sim.db, &room, &event.event_type, key, *position).await;
            assert_eq!(single.unwrap().as_ref(), Some(event));
        }
    }
    // Of what changed twice, the delta tells the last.
    let delta = sim.rooms.state_delta(&sim.db, &room, history[0].0, u64::MAX).await.unwrap();
    assert_eq!(delta.len(), 1);
    assert_eq!(delta[0].1.content(), r#"{"name":"c"}"#);
    let shown = sim.rooms.readable_state_event(&alice, &id, "m.room.name", "", true).await.unwrap();
    assert_eq!(read(&shown)["unsigned"]["prev_content"], json!({ "name": "b" }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information>
#[tokio::test]
async fn a_changed_name_reaches_the_rooms_once() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let profile = Profile { displayname: Some("Alice".to_owned()), avatar_url: None };
    sim.profiles.lock().insert(alice.user, profile);
    let mut batch = crate::storage::Batch::new();
    PROFILE_UPDATES.put(&mut batch, &alice.user, &());
    sim.db.commit(batch).await.unwrap();
    sim.rooms.drain_profile_updates().await.unwrap();
    let members = sim.rooms.joined_members(&alice, &room).await.unwrap();
    assert_eq!(members[0].1.displayname.as_deref(), Some("Alice"));
    assert!(!PROFILE_UPDATES.contains(&sim.db, &alice.user).await.unwrap());
    let last = sim.rooms.last_position(number).await.unwrap();
    sim.rooms.propagate_profile(alice.user, &members[0].1).await.unwrap();
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last);
}

/// What was interrupted goes on after a restart, and rooms that were left already are left alone.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn a_closed_account_leaves_all_its_rooms_also_after_an_interruption() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let left = sim.room(&alice, Preset::Public).await;
    let joined = sim.room(&alice, Preset::Public).await;
    let invited = sim.room(&alice, Preset::Private).await;
    let knocked = sim.room(&alice, Preset::Private).await;
    let banned = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &left).await.unwrap();
    sim.join(&bob, &joined).await.unwrap();
    sim.change(&alice, &invited, &bob, Change::Invite).await.unwrap();
    let rule = json!({ "join_rule": "knock" });
    sim.state(&alice, &knocked, "m.room.join_rules", rule).await.unwrap();
    sim.change(&bob, &knocked, &bob, Change::Knock).await.unwrap();
    sim.change(&alice, &banned, &bob, Change::Ban).await.unwrap();
    let mut batch = crate::storage::Batch::new();
    CLOSED_ACCOUNTS.put(&mut batch, &bob.user, &());
    sim.db.commit(batch).await.unwrap();
    sim.change(&bob, &left, &bob, Change::Leave).await.unwrap();
    let number = sim.db.rooms().find(&sim.db, &*left).await.unwrap().unwrap();
    let last = sim.rooms.last_position(number).await.unwrap();

    let sim = Sim::over(sim.db.clone()).await;
    sim.rooms.drain_closed_accounts().await.unwrap();
    for room in [&left, &joined, &invited, &knocked, &banned] {
        let room = sim.rooms.room(room).await.unwrap();
        let row = sim.rooms.user_room(bob.user, room.number).await.unwrap().unwrap();
        let expected = if room.id == banned { Membership::Ban } else { Membership::Leave };
        assert_eq!(row.membership, expected);
    }
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last);
    assert!(!CLOSED_ACCOUNTS.contains(&sim.db, &bob.user).await.unwrap());
    assert_eq!(sim.rooms.joined_rooms(alice.user).await.unwrap().len(), 5);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>
#[tokio::test]
async fn an_alias_leads_to_one_room_and_is_taken_away_by_who_may() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let alias = <&ruma::RoomAliasId>::try_from("#tea:localhost").unwrap();
    let canonical = json!({ "alias": alias });
    let early = sim.state(&alice, &room, "m.room.canonical_alias", canonical.clone()).await;
    assert!(matches!(early, Err(RoomError::BadAlias { .. })));
    sim.rooms.create_alias(&alice, alias, &room).await.unwrap();
    sim.state(&alice, &room, "m.room.canonical_alias", canonical).await.unwrap();
    assert_eq!(sim.rooms.resolve(alias).await.unwrap(), room);
    let again = sim.rooms.create_alias(&bob, alias, &room).await;
    assert!(matches!(again, Err(RoomError::AliasTaken { creating: false, .. })));
    assert!(is_forbidden(&sim.rooms.delete_alias(&bob, alias).await));
    assert_eq!(sim.rooms.aliases(&bob, &room).await.unwrap(), [alias]);
    sim.rooms.delete_alias(&alice, alias).await.unwrap();
    assert!(matches!(sim.rooms.resolve(alias).await, Err(RoomError::UnknownAlias { .. })));
}

#[tokio::test]
async fn members_are_filtered_and_read_as_of_a_position() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    let alone = sim.db.visible_position();
    sim.join(&bob, &room).await.unwrap();
    sim.clock.advance(Duration::from_secs(1));
    sim.change(&bob, &room, &bob, Change::Leave).await.unwrap();
    let members = async |at, is, not| {
        sim.rooms.member_events(&alice, &room, at, is, not).await.unwrap().len()
    };
    assert_eq!(members(None, None, None).await, 2);
    assert_eq!(members(None, Some("join"), None).await, 1);
    assert_eq!(members(None, None, Some("join")).await, 1);
    assert_eq!(members(Some(alone), None, None).await, 1);
    assert_eq!(sim.rooms.joined_room_ids(bob.user).await.unwrap(), Vec::<OwnedRoomId>::new());
    assert!(matches!(
        sim.rooms.joined_members(&bob, &room).await,
        Err(RoomError::NotInRoom { .. })
    ));
    let stranger = UserId::parse("@far:elsewhere.example").unwrap();
    let outcome = sim.rooms.change_membership(&alice, &room, &stranger, Change::Invite, None).await;
    assert!(matches!(outcome, Err(RoomError::RemoteUser { .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>
#[tokio::test]
async fn an_upgraded_room_goes_on_elsewhere_with_its_name_bans_and_aliases() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    for (from, to) in [
        (RoomVersionId::V10, RoomVersionId::V12),
        (RoomVersionId::V12, RoomVersionId::V11),
        (RoomVersionId::V1, RoomVersionId::V10),
    ] {
        let alias_name = Some(format!("tea{from}"));
        let version = Some(from.clone());
        let new = NewRoom { version, alias_name, public: true, ..new_room(Preset::Public) };
        let old = sim.rooms.create(&alice, &new).await.unwrap();
        sim.join(&bob, &old).await.unwrap();
        sim.state(&alice, &old, "m.room.name", json!({ "name": "Tea" })).await.unwrap();
        sim.change(&alice, &old, &carl, Change::Ban).await.unwrap();
        assert!(is_forbidden(&sim.rooms.upgrade(&bob, &old, &to, &[]).await));

        let room = sim.rooms.upgrade(&alice, &old, &to, &[]).await.unwrap();
        let state = async |room: &OwnedRoomId, event_type: &str, key: &str| {
            let content = sim.rooms.readable_state_event(&alice, room, event_type, key, false);
            read(&content.await.unwrap())
        };
        let create = state(&room, "m.room.create", "").await;
        assert_eq!(create["predecessor"]["room_id"], old.as_str());
        assert_eq!(create["predecessor"]["event_id"].is_null(), to == RoomVersionId::V12);
        assert_eq!(state(&room, "m.room.name", "").await["name"], "Tea");
        assert_eq!(state(&room, "m.room.join_rules", "").await["join_rule"], "public");
        assert_eq!(state(&room, "m.room.member", "@carl:localhost").await["membership"], "ban");
        let levels = state(&room, "m.room.power_levels", "").await;
        assert_eq!(
            levels["users"]["@alice:localhost"].as_i64(),
            (to != RoomVersionId::V12).then_some(100)
        );
        let tombstone = state(&old, "m.room.tombstone", "").await;
        assert_eq!(tombstone["replacement_room"], room.as_str());
        assert_eq!(state(&old, "m.room.power_levels", "").await["events_default"], 50);
        let alias = ruma::RoomAliasId::parse(format!("#tea{from}:localhost")).unwrap();
        assert_eq!(sim.rooms.resolve(&alias).await.unwrap(), room);
        assert_eq!(state(&room, "m.room.canonical_alias", "").await["alias"], alias.as_str());
        assert_eq!(state(&old, "m.room.canonical_alias", "").await, json!({}));
        assert!(sim.rooms.is_public(&room).await.unwrap());
        assert!(!sim.rooms.is_public(&old).await.unwrap());
        assert!(is_forbidden(&sim.say(&bob, &old, "still here?").await));
        sim.join(&bob, &room).await.unwrap();
        sim.say(&bob, &room, "here").await.unwrap();
    }
    let unheard = "org.example.unheard".try_into().unwrap();
    let room = sim.room(&alice, Preset::Private).await;
    let outcome = sim.rooms.upgrade(&alice, &room, &unheard, &[]).await;
    assert!(matches!(outcome, Err(RoomError::UnsupportedRoomVersion { .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#pdus>
#[tokio::test]
async fn after_many_changes_at_once_what_is_stored_follows_from_the_events() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let id = sim.room(&alice, Preset::Public).await;
    let mut tasks = Vec::new();
    for user in 0..16 {
        let user = sim.user(&format!("user{user}")).await;
        let (rooms, id, alice) = (sim.rooms.clone(), id.clone(), alice.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..3 {
                let me = &user.user_id;
                rooms.change_membership(&user, &id, me, Change::Join, None).await.unwrap();
                let content = object(json!({ "body": round }));
                let txn = format!("txn{round}");
                let kind = "m.room.message";
                rooms.send(&user, &id, kind, txn.as_str().into(), content).await.unwrap();
                let levels = object(json!({ "users": { me.as_str(): round } }));
                rooms.send_state(&alice, &id, "m.room.power_levels", "", levels).await.unwrap();
                rooms.change_membership(&user, &id, me, Change::Leave, None).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let room = sim.rooms.room(&id).await.unwrap();
    let findings = sim.rooms.check_room(&room).await.unwrap();
    assert_eq!(findings.problems, Vec::<String>::new());
    assert!(findings.events >= 16 * 3 * 4);
    // The same, read from the tables alone.
    let sim = Sim::over(sim.db.clone()).await;
    let room = sim.rooms.room(&id).await.unwrap();
    assert!(sim.rooms.check_room(&room).await.unwrap().problems.is_empty());
}
