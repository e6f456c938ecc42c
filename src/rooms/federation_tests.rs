//! Several servers in one process, each over a memory engine of its own: what one makes the others
//! take in, in any order. Signatures are the network's affair and not looked at here.

mod collection;
mod ends;
mod gaps;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, ServerName};
use serde_json::{Value as JsonValue, json};

use super::{
    Change, NewRoom, Preset, Room, RoomError, Rooms,
    ingest::{Ingested, Verdict},
    keys::ServerKey,
    pdu::Pdu,
    record::Membership,
    tests::{new_room, object},
};
use crate::{
    clock::{Clock, Random},
    storage::{
        Db, Range,
        schema::{CURRENT_STATE, EVENTS, OUTBOX, TIMELINE, WAITING_REDACTIONS},
    },
    users::session::Session,
};

/// A server.
struct Peer {
    name: String,
    db: Db,
    clock: Clock,
    rooms: Rooms,
}

impl Peer {
    async fn new(name: &str) -> Self {
        Self::over(name, Db::in_memory().await).await
    }

    async fn over(name: &str, db: Db) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let random = Random::seeded(name.len() as u64);
        let server_name = <&ServerName>::try_from(name).unwrap();
        let key = ServerKey::load(&db, &random, server_name).await.unwrap();
        let profiles = Box::new(|_| Box::pin(async { Ok(super::Profile::default()) }) as _);
        let rooms = Rooms::new(
            db.clone(),
            clock.clone(),
            random,
            key,
            profiles,
            super::Settings::default(),
        );
        Self { name: name.to_owned(), db, clock, rooms }
    }

    async fn user(&self, name: &str) -> Session {
        let user_id: ruma::OwnedUserId = format!("@{name}:{}", self.name).try_into().unwrap();
        let user = self.db.users().intern(&self.db, &*user_id).await.unwrap();
        Session { user_id, user, device_id: "device".into(), guest: false, appservice: None }
    }

    async fn room(&self, id: &OwnedRoomId) -> Arc<Room> {
        self.rooms.room(id).await.unwrap()
    }

    async fn say(&self, who: &Session, room: &OwnedRoomId, text: &str) -> OwnedEventId {
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        self.rooms.send(who, room, "m.room.message", text.into(), content).await.unwrap()
    }

    async fn set(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        event_type: &str,
        content: JsonValue,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.send_state(who, room, event_type, "", object(content)).await
    }

    /// One of its events, as the network brings it.
    async fn pdu(&self, room: &OwnedRoomId, id: &OwnedEventId) -> Pdu {
        let room = self.room(room).await;
        let (_, record) = self.rooms.pdu(&room, id).await.unwrap().expect("the event is there");
        Pdu::parse(serde_json::from_str(&record.json).unwrap(), &room.rules).unwrap()
    }

    async fn pdus(&self, room: &OwnedRoomId, ids: &[OwnedEventId]) -> Vec<Pdu> {
        let mut pdus = Vec::new();
        for id in ids {
            pdus.push(self.pdu(room, id).await);
        }
        pdus
    }

    /// Takes in an event of another server, and whatever it needs, from there.
    async fn receive(&self, from: &Self, room: &OwnedRoomId, id: &OwnedEventId) -> Ingested {
        let here = self.room(room).await;
        let mut waiting = vec![id.clone()];
        loop {
            let next = waiting.last().unwrap().clone();
            let pdu = from.pdu(room, &next).await;
            let outcome = self.rooms.ingest(&here, &pdu).await.unwrap();
            if let Ingested::Missing { auth_events, prev_events } = outcome {
                let auth = from.pdus(room, &auth_events).await;
                let auth: Vec<&Pdu> = auth.iter().collect();
                self.rooms.ingest_outliers(&here, &auth).await.unwrap();
                waiting.extend(prev_events);
                continue;
            }
            waiting.pop();
            if waiting.is_empty() {
                return outcome;
            }
        }
    }

    /// A user of this server joins a room through another.
    async fn join(
        &self,
        who: &Session,
        through: &Self,
        id: &OwnedRoomId,
    ) -> Result<Pdu, RoomError> {
        let theirs = through.room(id).await;
        let template =
            through.rooms.member_template(&theirs, &who.user_id, Membership::Join).await?;
        let content = object(json!({ "membership": "join" }));
        let (pdu, _) =
            self.rooms.sign_member(template, &theirs.rules, id, &who.user_id, content)?;
        let taken = through.rooms.ingest(&theirs, &pdu).await?;
        assert!(
            matches!(taken, Ingested::New { verdict: Verdict::Accepted, .. }),
            "{taken:?}: {}",
            pdu.json()
        );
        let state = through.rooms.state_ids_before(&theirs, pdu.event_id()).await?;
        let chain = through.pdus(id, &state.auth_chain).await;
        let state = through.pdus(id, &state.state).await;
        self.rooms.join_remote(&theirs.version, &pdu, &state, &chain, None).await?;
        Ok(pdu)
    }

    /// The current state: event IDs by type and state key.
    async fn state(&self, id: &OwnedRoomId) -> BTreeMap<(String, String), OwnedEventId> {
        let room = self.room(id).await;
        let state = self.rooms.state_at(&self.db, &room, u64::MAX).await.unwrap();
        let state = state.into_iter().map(|(_, event)| {
            let key = event.state_key.clone().unwrap();
            ((event.event_type.clone(), key), event.event_id.clone())
        });
        let state: BTreeMap<_, _> = state.collect();
        // The index says the same.
        let range = Range::prefix(&(room.number,));
        let index = CURRENT_STATE.scan(&self.db, &range, usize::MAX).await.unwrap();
        assert_eq!(index.len(), state.len());
        for ((_, event_type, key), number) in index {
            let event = EVENTS.get(&self.db, &(room.number, number)).await.unwrap().unwrap();
            assert_eq!(state.get(&(event_type, key)), Some(&event.event_id));
        }
        state
    }

    async fn extremities(&self, id: &OwnedRoomId) -> Vec<OwnedEventId> {
        let mut tips = self.rooms.forward_extremities(&*self.room(id).await).await.unwrap();
        tips.sort();
        tips
    }

    async fn timeline(&self, id: &OwnedRoomId) -> usize {
        let range = Range::prefix(&(self.room(id).await.number,));
        TIMELINE.scan(&self.db, &range, usize::MAX).await.unwrap().len()
    }
}

fn new_verdict(outcome: &Ingested) -> Verdict {
    match outcome {
        Ingested::New { verdict, .. } => *verdict,
        other => panic!("{other:?}"),
    }
}

async fn public_room(peer: &Peer, creator: &Session, version: RoomVersionId) -> OwnedRoomId {
    let new = NewRoom { version: Some(version), ..new_room(Preset::Public) };
    peer.rooms.create(creator, &new).await.unwrap()
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>
#[tokio::test]
async fn a_room_of_every_version_is_joined_through_another_server() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    for version in super::SUPPORTED_VERSIONS {
        let id = public_room(&a, &alice, version.clone()).await;
        a.say(&alice, &id, &format!("before {version}")).await;
        let join = b.join(&bob, &a, &id).await.unwrap();
        assert_eq!(a.state(&id).await, b.state(&id).await, "version {version}");
        assert_eq!(b.extremities(&id).await, [join.event_id().to_owned()]);
        assert_eq!(b.rooms.joined_room_ids(bob.user).await.unwrap().last(), Some(&id));
        assert_eq!(a.rooms.other_servers(&*a.room(&id).await), ["bb.example"]);
        assert_eq!(b.rooms.other_servers(&*b.room(&id).await), ["a.example"]);
        // Both go on, and what one says reaches the other.
        let hello = b.say(&bob, &id, &format!("hello {version}")).await;
        assert_eq!(new_verdict(&a.receive(&b, &id, &hello).await), Verdict::Accepted);
        let welcome = a.say(&alice, &id, &format!("welcome {version}")).await;
        assert_eq!(new_verdict(&b.receive(&a, &id, &welcome).await), Verdict::Accepted);
        assert_eq!(a.extremities(&id).await, b.extremities(&id).await);
        // Each has an outbox row for what its own user sent while there was somebody to send to.
        let again = b.receive(&a, &id, &welcome).await;
        assert_eq!(again, Ingested::Known(Verdict::Accepted));
    }
    assert_eq!(OUTBOX.scan(&a.db, &Range::all(), 99).await.unwrap().len(), 12);
    assert_eq!(OUTBOX.scan(&b.db, &Range::all(), 99).await.unwrap().len(), 12);
    // All of it is there after a restart.
    let b = Peer::over("bb.example", b.db.clone()).await;
    for id in b.rooms.joined_room_ids(bob.user).await.unwrap() {
        assert_eq!(a.state(&id).await, b.state(&id).await);
        b.clock.advance(std::time::Duration::from_secs(1));
        let later = b.say(&bob, &id, "after the restart").await;
        assert_eq!(new_verdict(&a.receive(&b, &id, &later).await), Verdict::Accepted);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution>
#[tokio::test]
async fn servers_that_were_apart_agree_when_they_meet_again() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V11).await;
    b.join(&bob, &a, &id).await.unwrap();
    let levels = json!({ "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 50 } });
    let promoted = a.set(&alice, &id, "m.room.power_levels", levels).await.unwrap();
    b.receive(&a, &id, &promoted).await;
    // Apart: both change the name, and bob is taken down while he does.
    let name = a.set(&alice, &id, "m.room.name", json!({ "name": "Alice's" })).await.unwrap();
    let levels = json!({ "users": { alice.user_id.as_str(): 100 } });
    let demoted = a.set(&alice, &id, "m.room.power_levels", levels).await.unwrap();
    b.clock.advance(std::time::Duration::from_mins(1));
    let other = b.set(&bob, &id, "m.room.name", json!({ "name": "Bob's" })).await.unwrap();
    let topic = b.set(&bob, &id, "m.room.topic", json!({ "topic": "Bob's" })).await.unwrap();

    // a knows that bob lost his power: what he sends is soft-failed there.
    assert_eq!(new_verdict(&a.receive(&b, &id, &topic).await), Verdict::SoftFailed);
    assert_eq!(new_verdict(&b.receive(&a, &id, &demoted).await), Verdict::Accepted);
    assert_eq!(a.state(&id).await, b.state(&id).await);
    let state = b.state(&id).await;
    assert_eq!(state.get(&("m.room.name".to_owned(), String::new())), Some(&name));
    assert!(!state.contains_key(&("m.room.topic".to_owned(), String::new())), "{other} {topic}");
    // On b, the change of the name by resolution is a change since before the meeting.
    let room = b.room(&id).await;
    let now = b.db.visible_position();
    let delta = b.rooms.state_delta(&b.db, &room, now - 1, now).await.unwrap();
    assert!(delta.iter().any(|(_, event)| event.event_id == name));
    // A new event of either side makes them one again.
    let end = b.say(&bob, &id, "all right").await;
    assert_eq!(new_verdict(&a.receive(&b, &id, &end).await), Verdict::Accepted);
    assert_eq!(a.extremities(&id).await, [end]);
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#soft-failure>
#[tokio::test]
async fn a_message_sent_around_a_ban_is_soft_failed_and_no_extremity() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V12).await;
    b.join(&bob, &a, &id).await.unwrap();
    a.rooms.change_membership(&alice, &id, &bob.user_id, Change::Ban, None).await.unwrap();
    let tips = a.extremities(&id).await;
    let evasion = b.say(&bob, &id, "you can't ban me").await;
    assert_eq!(new_verdict(&a.receive(&b, &id, &evasion).await), Verdict::SoftFailed);
    assert_eq!(a.extremities(&id).await, tips);
    let again = b.say(&bob, &id, "still here").await;
    let shown = a.timeline(&id).await;
    assert_eq!(new_verdict(&a.receive(&b, &id, &again).await), Verdict::SoftFailed);
    assert_eq!(a.timeline(&id).await, shown);
    // b hears of the ban; bob is out there too.
    let ban = tips.into_iter().next().unwrap();
    assert_eq!(new_verdict(&b.receive(&a, &id, &ban).await), Verdict::Accepted);
    assert!(b.rooms.joined_rooms(bob.user).await.unwrap().is_empty());
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
#[tokio::test]
async fn events_against_the_rules_are_kept_as_rejected_and_not_shown() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V10).await;
    b.join(&bob, &a, &id).await.unwrap();
    let room = a.room(&id).await;
    let say = b.say(&bob, &id, "fine").await;
    let fine = b.pdu(&id, &say).await;
    let lie = |change: &dyn Fn(&mut JsonValue)| {
        let mut json: JsonValue = serde_json::from_str(fine.json()).unwrap();
        change(&mut json);
        Pdu::parse(serde_json::from_value(json).unwrap(), &room.rules).unwrap()
    };
    let shown = a.timeline(&id).await;
    // bob has not the power to change the name.
    let name = lie(&|json| {
        json["type"] = "m.room.name".into();
        json["state_key"] = "".into();
        json["content"] = json!({ "name": "Bob's" });
    });
    let outcome = a.rooms.ingest(&room, &name).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Rejected);
    assert_eq!(a.rooms.ingest(&room, &name).await.unwrap(), Ingested::Known(Verdict::Rejected));
    // Nobody comes without parents.
    let orphan = lie(&|json| json["prev_events"] = json!([]));
    assert_eq!(new_verdict(&a.rooms.ingest(&room, &orphan).await.unwrap()), Verdict::Rejected);
    // He does not cite what he has to.
    let uncited = lie(&|json| json["auth_events"] = json!([]));
    assert_eq!(new_verdict(&a.rooms.ingest(&room, &uncited).await.unwrap()), Verdict::Rejected);
    // What is not there is asked for.
    let gap = lie(&|json| json["prev_events"] = json!(["$nobody-knows"]));
    let outcome = a.rooms.ingest(&room, &gap).await.unwrap();
    let Ingested::Missing { auth_events, prev_events } = outcome else { panic!("{outcome:?}") };
    assert_eq!((auth_events.len(), prev_events.len()), (0, 1));
    assert_eq!(a.timeline(&id).await, shown);
    // An event that comes after a rejected one is judged by its own parents' state.
    let after = lie(&|json| json["prev_events"] = json!([name.event_id()]));
    let outcome = a.rooms.ingest(&room, &after).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    // With the state before it told by another server, one with unknown parents is taken in.
    let state = a.rooms.state_ids_before(&room, after.event_id()).await.unwrap().state;
    let outcome = a.rooms.ingest_after_gap(&room, &gap, &state).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    assert_eq!(a.rooms.backward_extremities(&room).await.unwrap(), ["$nobody-knows"]);
    // Past the gap, another room's event is none of this one's.
    let other = lie(&|json| json["room_id"] = "!other:a.example".into());
    assert!(matches!(a.rooms.ingest(&room, &other).await, Err(RoomError::BadEvent { .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions>
#[tokio::test]
async fn a_redaction_that_comes_before_its_target_is_carried_out_when_that_comes() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V11).await;
    b.join(&bob, &a, &id).await.unwrap();
    let (at_a, at_b) = (a.room(&id).await, b.room(&id).await);
    let redact = async |target: &OwnedEventId| {
        let transaction = format!("redact {target}");
        a.rooms.redact(&alice, &id, target, transaction.as_str().into(), None).await.unwrap()
    };
    let redacted_by = async |peer: &Peer, target: &OwnedEventId| {
        let room = peer.room(&id).await;
        let (_, record) = peer.rooms.pdu(&room, target).await.unwrap().unwrap();
        let gone = !record.json.contains("secret");
        assert_eq!(gone, record.redacted_by.is_some());
        let by = record.redacted_by?;
        let by = EVENTS.get(&peer.db, &(room.number, by)).await.unwrap().unwrap();
        Some(by.event_id)
    };
    let waiting = async |peer: &Peer| {
        WAITING_REDACTIONS.scan(&peer.db, &Range::all(), usize::MAX).await.unwrap().len()
    };
    // A redaction by bob, who may redact what his own server's users sent.
    let by_bob = async |target: &OwnedEventId| {
        let fine = b.say(&bob, &id, &format!("before {target}")).await;
        let mut json: JsonValue = serde_json::from_str(b.pdu(&id, &fine).await.json()).unwrap();
        json["type"] = "m.room.redaction".into();
        json["content"] = json!({ "redacts": target });
        Pdu::parse(serde_json::from_value(json).unwrap(), &at_b.rules).unwrap()
    };

    // The redaction comes without what it refers to, then its target.
    let first = a.say(&alice, &id, "the first secret").await;
    let target = a.pdu(&id, &first).await;
    let redaction = redact(&first).await;
    let state = a.rooms.state_ids_before(&at_a, &redaction).await.unwrap().state;
    let pdu = a.pdu(&id, &redaction).await;
    let outcome = b.rooms.ingest_after_gap(&at_b, &pdu, &state).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    assert_eq!(waiting(&b).await, 1);
    let outcome = b.rooms.ingest(&at_b, &target).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    assert_eq!(redacted_by(&b, &first).await.as_ref(), Some(&redaction));
    assert_eq!(waiting(&b).await, 0);

    // Both come in one change.
    let second = a.say(&alice, &id, "the second secret").await;
    let target = a.pdu(&id, &second).await;
    let redaction = redact(&second).await;
    let both = [target, a.pdu(&id, &redaction).await];
    let new = b.rooms.insert_backfilled(&at_b, &both, &BTreeMap::new()).await.unwrap();
    assert_eq!(new, 2);
    assert_eq!(redacted_by(&b, &second).await.as_ref(), Some(&redaction));

    // bob has not the power to redact what alice wrote, whichever comes first.
    let third = a.say(&alice, &id, "the third secret").await;
    let outcome = b.rooms.ingest(&at_b, &by_bob(&third).await).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    assert_eq!(new_verdict(&b.receive(&a, &id, &third).await), Verdict::Accepted);
    assert_eq!(redacted_by(&b, &third).await, None);

    // What users of his server wrote he may, also if a restart lies between the two.
    let own = b.say(&bob, &id, "a secret of bob's").await;
    let redaction = by_bob(&own).await;
    let state = b.rooms.state_ids_before(&at_b, &own).await.unwrap().state;
    let outcome = a.rooms.ingest_after_gap(&at_a, &redaction, &state).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    let a = Peer::over("a.example", a.db.clone()).await;
    let own_pdu = b.pdu(&id, &own).await;
    a.rooms.ingest_after_gap(&a.room(&id).await, &own_pdu, &state).await.unwrap();
    assert_eq!(redacted_by(&a, &own).await.as_deref(), Some(redaction.event_id()));
}

/// Random changes on three servers that hear of each other in random order: in the end all have
/// the same state, and it is what resolution over the ends of the graph gives.
#[tokio::test]
async fn whatever_the_order_of_arrival_all_servers_come_to_the_same_state() {
    for seed in 0..2 {
        for version in [RoomVersionId::V12, RoomVersionId::V11, RoomVersionId::V2] {
            simulate(seed, &version).await;
        }
    }
}

async fn simulate(seed: u64, version: &RoomVersionId) {
    let mut random = StdRng::seed_from_u64(seed);
    let peers = [
        Peer::new("a.example").await,
        Peer::new("bb.example").await,
        Peer::new("ccc.example").await,
    ];
    let mut users = Vec::new();
    for peer in &peers {
        users.push([peer.user("one").await, peer.user("two").await]);
    }
    let id = public_room(&peers[0], &users[0][0], version.clone()).await;
    for (peer, own) in peers.iter().zip(&users).skip(1) {
        peer.join(&own[0], &peers[0], &id).await.unwrap();
    }
    // What each made that the others may not have heard of.
    let mut made: Vec<(usize, OwnedEventId)> = Vec::new();
    for tip in peers[0].extremities(&id).await {
        made.push((0, tip));
    }
    for step in 0..40 {
        let at = random.random_range(0..3_usize);
        let (peer, own) = (&peers[at], &users[at]);
        peer.clock.advance(std::time::Duration::from_millis(random.random_range(0..50)));
        let who = &own[random.random_range(0..2_usize)];
        let anybody = &users[random.random_range(0..3_usize)][random.random_range(0..2_usize)];
        let outcome = match random.random_range(0..8) {
            0 => {
                let mut levels = serde_json::Map::new();
                if *version != RoomVersionId::V12 {
                    levels.insert(users[0][0].user_id.to_string(), 100.into());
                }
                levels.entry(anybody.user_id.as_str()).or_insert(50.into());
                let content = json!({ "users": levels });
                peer.set(who, &id, "m.room.power_levels", content).await
            }
            1 => peer.set(who, &id, "m.room.name", json!({ "name": step })).await,
            2 => {
                let rule = ["public", "invite"][random.random_range(0..2_usize)];
                peer.set(who, &id, "m.room.join_rules", json!({ "join_rule": rule })).await
            }
            3 => membership(peer, who, &id, anybody, Change::Kick).await,
            4 => membership(peer, who, &id, anybody, Change::Ban).await,
            5 => membership(peer, who, &id, who, Change::Leave).await,
            6 => membership(peer, who, &id, who, Change::Join).await,
            _ => peer.set(who, &id, "m.room.topic", json!({ "topic": step })).await,
        };
        if let Ok(event) = outcome {
            made.push((at, event));
        }
        if random.random_range(0..3) == 0 && !made.is_empty() {
            let (from, event) = made[random.random_range(0..made.len())].clone();
            let to = random.random_range(0..3_usize);
            peers[to].receive(&peers[from], &id, &event).await;
        }
    }
    for (from, event) in &made {
        for to in &peers {
            to.receive(&peers[*from], &id, event).await;
        }
    }
    // Soft failure is each server's own view; an event of each that comes after all the others
    // brings them together.
    let mut ends = Vec::new();
    for peer in &peers {
        let findings = peer.rooms.check_room(&peer.room(&id).await).await.unwrap();
        assert_eq!(findings.problems, Vec::<String>::new(), "seed {seed}");
        ends.push((peer.extremities(&id).await, peer.state(&id).await));
    }
    for (one, other) in ends.iter().zip(ends.iter().skip(1)) {
        if one.0 == other.0 {
            assert_eq!(one.1, other.1, "seed {seed}");
        }
    }
}

async fn membership(
    peer: &Peer,
    who: &Session,
    id: &OwnedRoomId,
    target: &Session,
    change: Change,
) -> Result<OwnedEventId, RoomError> {
    let before = peer.state(id).await;
    peer.rooms.change_membership(who, id, &target.user_id, change, None).await?;
    let key = ("m.room.member".to_owned(), target.user_id.to_string());
    let event = peer.state(id).await.remove(&key);
    event.filter(|event| before.get(&key) != Some(event)).ok_or(RoomError::NoSuchState)
}
