//! The ends of a room's graph, whatever is refused.

use super::*;

impl Peer {
    /// Takes in an event over a gap: `from` tells the state before it.
    async fn bridge(&self, from: &Self, room: &OwnedRoomId, pdu: &Pdu) -> Ingested {
        let there = from.room(room).await;
        let told = from.rooms.state_ids_before(&there, pdu.event_id()).await.unwrap();
        let ids: Vec<OwnedEventId> =
            told.auth_chain.into_iter().chain(told.state.clone()).collect();
        let events = from.pdus(room, &ids).await;
        let events: Vec<&Pdu> = events.iter().collect();
        let here = self.room(room).await;
        self.rooms.ingest_outliers(&here, &events).await.unwrap();
        self.rooms.ingest_after_gap(&here, pdu, &told.state).await.unwrap()
    }
}

/// Three servers in a room that bob of the second left and came back to, which the third has not
/// heard of: `(a, b, c, carl, room, join)`.
async fn somebody_came_back() -> (Peer, Peer, Peer, Session, Session, OwnedRoomId, Pdu) {
    let a = Peer::new("a.example").await;
    let (b, c) = (Peer::new("bb.example").await, Peer::new("ccc.example").await);
    let (alice, bob, carl) = (a.user("alice").await, b.user("bob").await, c.user("carl").await);
    let id = public_room(&a, &alice, RoomVersionId::V11).await;
    b.join(&bob, &a, &id).await.unwrap();
    let joined = c.join(&carl, &a, &id).await.unwrap();
    b.receive(&a, &id, &joined.event_id().to_owned()).await;
    b.rooms.change_membership(&bob, &id, &bob.user_id, Change::Leave, None).await.unwrap();
    let left = b.extremities(&id).await;
    assert_eq!(left.len(), 1, "{left:?}");
    for peer in [&a, &c] {
        assert_eq!(new_verdict(&peer.receive(&b, &id, &left[0]).await), Verdict::Accepted);
        assert_eq!(peer.extremities(&id).await, left);
    }
    let back = b.join(&bob, &a, &id).await.unwrap();
    (a, b, c, bob, carl, id, back)
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#soft-failure>
#[tokio::test]
async fn what_only_a_soft_failed_event_refers_to_becomes_an_end_of_the_graph() {
    let (a, b, c, bob, carl, id, back) = somebody_came_back().await;
    let before = c.state(&id).await;
    // For the third he is out.
    let said = b.say(&bob, &id, "here again").await;
    let said = b.pdu(&id, &said).await;
    assert_eq!(new_verdict(&c.bridge(&b, &id, &said).await), Verdict::SoftFailed);
    let missing = c.rooms.backward_extremities(&*c.room(&id).await).await.unwrap();
    assert!(missing.contains(&back.event_id().to_owned()), "{missing:?}");
    assert_eq!(
        new_verdict(&c.receive(&a, &id, &back.event_id().to_owned()).await),
        Verdict::Accepted
    );
    assert_eq!(c.extremities(&id).await, [back.event_id().to_owned()]);
    let mut after = before;
    let member = ("m.room.member".to_owned(), bob.user_id.to_string());
    after.insert(member, back.event_id().to_owned());
    assert_eq!(c.state(&id).await, after);
    c.say(&carl, &id, "welcome").await;
}

/// What is missing behind a refused event that an accepted one refers to is no end.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#soft-failure>
#[tokio::test]
async fn what_an_accepted_event_comes_after_by_way_of_a_soft_failed_one_becomes_no_end() {
    let (a, b, c, bob, carl, id, back) = somebody_came_back().await;
    let said = b.say(&bob, &id, "here again").await;
    let pdu = b.pdu(&id, &said).await;
    assert_eq!(new_verdict(&c.bridge(&b, &id, &pdu).await), Verdict::SoftFailed);
    a.receive(&b, &id, &said).await;
    let alice = a.user("alice").await;
    let answer = a.say(&alice, &id, "welcome").await;
    assert_eq!(new_verdict(&c.receive(&a, &id, &answer).await), Verdict::Accepted);
    let ends = c.extremities(&id).await;
    assert!(ends.contains(&answer), "{ends:?}");
    assert_eq!(
        new_verdict(&c.receive(&a, &id, &back.event_id().to_owned()).await),
        Verdict::Accepted
    );
    assert_eq!(c.extremities(&id).await, ends);
    assert_eq!(c.state(&id).await, a.state(&id).await);
    c.say(&carl, &id, "welcome").await;
}

/// Somebody makes an event, has another refused that refers to it, and sends it then.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
#[tokio::test]
async fn a_rejected_event_takes_no_ends_away() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V10).await;
    b.join(&bob, &a, &id).await.unwrap();
    let room = a.room(&id).await;
    let before = a.state(&id).await;
    let said = b.say(&bob, &id, "soon").await;
    let said = b.pdu(&id, &said).await;
    // There is another end beside it.
    let beside = a.say(&alice, &id, "meanwhile").await;
    let mut lie: JsonValue = serde_json::from_str(said.json()).unwrap();
    lie["type"] = "m.room.name".into();
    lie["state_key"] = "".into();
    lie["content"] = json!({ "name": "Bob's" });
    lie["prev_events"] = json!([said.event_id()]);
    let lie = Pdu::parse(serde_json::from_value(lie).unwrap(), &room.rules).unwrap();
    let told = b.rooms.state_ids_before(&*b.room(&id).await, said.event_id()).await.unwrap().state;
    let outcome = a.rooms.ingest_after_gap(&room, &lie, &told).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Rejected);
    assert_eq!(
        new_verdict(&a.receive(&b, &id, &said.event_id().to_owned()).await),
        Verdict::Accepted
    );
    let mut ends = [said.event_id().to_owned(), beside];
    ends.sort();
    assert_eq!(a.extremities(&id).await, ends);
    assert_eq!(a.state(&id).await, before);
    a.say(&alice, &id, "still here").await;
}

/// Where IDs are chosen, two events can come after each other.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v1/#event-ids>
#[tokio::test]
async fn events_that_come_after_each_other_leave_an_end() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V1).await;
    b.join(&bob, &a, &id).await.unwrap();
    let room = a.room(&id).await;
    let before = a.state(&id).await;
    let said = b.say(&bob, &id, "the first").await;
    let said = b.pdu(&id, &said).await;
    let circle = |own: &str, other: &str| {
        let mut json: JsonValue = serde_json::from_str(said.json()).unwrap();
        json["event_id"] = own.into();
        json["prev_events"] = json!([[other, {}]]);
        Pdu::parse(serde_json::from_value(json).unwrap(), &room.rules).unwrap()
    };
    let told = b.rooms.state_ids_before(&*b.room(&id).await, said.event_id()).await.unwrap().state;
    let (first, second) = ("$first:bb.example", "$second:bb.example");
    let mut events = vec![circle(first, second)];
    // The first one takes the place of what was there by way of one that comes after that.
    let mut joint: JsonValue = serde_json::from_str(said.json()).unwrap();
    joint["event_id"] = "$joint:bb.example".into();
    joint["prev_events"] = json!([[first, {}], [a.extremities(&id).await[0], {}]]);
    events.push(Pdu::parse(serde_json::from_value(joint).unwrap(), &room.rules).unwrap());
    let mut last = circle(second, "$joint:bb.example");
    last.depth += 1;
    let outcome = a.rooms.ingest_after_gap(&room, &events[0], &told).await.unwrap();
    assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    for pdu in [&events[1], &last] {
        let outcome = a.rooms.ingest(&room, pdu).await.unwrap();
        assert_eq!(new_verdict(&outcome), Verdict::Accepted);
    }
    assert_eq!(a.extremities(&id).await, [second]);
    assert_eq!(a.state(&id).await, before);
    a.say(&alice, &id, "still here").await;
}
