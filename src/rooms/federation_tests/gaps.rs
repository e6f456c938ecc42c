//! Gaps in a room's history, and what fills them.

use ruma::api::Direction;

use super::*;
use crate::rooms::{
    Boundary, EventFilter, PageRequest, pdu::stored_prev_events, record::EventNumber,
};

impl Peer {
    /// The IDs of the events of the timeline, oldest first: each comes after those it refers to.
    async fn line(&self, id: &OwnedRoomId) -> Vec<OwnedEventId> {
        let range = Range::prefix(&(self.room(id).await.number,));
        let rows = TIMELINE.scan(&self.db, &range, usize::MAX).await.unwrap();
        let keys: Vec<(_, EventNumber)> =
            rows.iter().map(|((room, _), number)| (*room, *number)).collect();
        let records = EVENTS.multi_get(&self.db, keys).await.unwrap();
        let records: Vec<_> = records.into_iter().map(Option::unwrap).collect();
        let line: Vec<OwnedEventId> = records.iter().map(|event| event.event_id.clone()).collect();
        for (index, event) in records.iter().enumerate() {
            for parent in stored_prev_events(&event.json) {
                let place = line.iter().position(|other| *other == parent);
                assert!(place.is_none_or(|place| place < index), "{parent} of {line:?}");
            }
        }
        line
    }

    /// The IDs of the events that a page has, and what is missing in it.
    async fn page(
        &self,
        who: &Session,
        id: &OwnedRoomId,
        (from, limit): (Option<Boundary>, usize),
        direction: Direction,
    ) -> (Vec<OwnedEventId>, Vec<OwnedEventId>) {
        let filter = EventFilter::default();
        let request = PageRequest { from, to: None, direction, limit, filter, only_live: false };
        let page = self.rooms.messages(who, id, &request).await.unwrap();
        let events = page.chunk.iter().map(|event| {
            let event: JsonValue = serde_json::from_str(event.get()).unwrap();
            event["event_id"].as_str().unwrap().try_into().unwrap()
        });
        (events.collect(), page.missing)
    }

    /// Takes in earlier events.
    async fn fill(
        &self,
        id: &OwnedRoomId,
        pdus: &[Pdu],
        states: &[(&Pdu, &[OwnedEventId])],
    ) -> usize {
        let states = states.iter().map(|(pdu, state)| (pdu.event_id.clone(), state.to_vec()));
        let room = self.room(id).await;
        self.rooms.insert_backfilled(&room, pdus, &states.collect()).await.unwrap()
    }
}

/// Events of two branches come one after the other, the ends first.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>
#[tokio::test]
async fn what_fills_a_gap_stands_before_what_refers_to_it() {
    let (a, b, c) = (
        Peer::new("a.example").await,
        Peer::new("bb.example").await,
        Peer::new("ccc.example").await,
    );
    let (alice, bob, carl) = (a.user("alice").await, b.user("bob").await, c.user("carl").await);
    let id = public_room(&a, &alice, RoomVersionId::V11).await;
    let joined = c.join(&carl, &a, &id).await.unwrap();
    b.join(&bob, &a, &id).await.unwrap();
    for peer in [&a, &c] {
        let tips = b.extremities(&id).await;
        if peer.rooms.unknown_events(&*peer.room(&id).await, &tips).await.unwrap() == tips {
            peer.receive(&a, &id, &tips[0]).await;
        }
    }
    drop(joined);
    let before = b.say(&bob, &id, "before").await;
    // Both go on without b, and without each other; then they meet.
    let [x1, x2] = [a.say(&alice, &id, "x1").await, a.say(&alice, &id, "x2").await];
    let [y1, y2] = [c.say(&carl, &id, "y1").await, c.say(&carl, &id, "y2").await];
    for event in [&y1, &y2] {
        a.receive(&c, &id, event).await;
    }
    let meeting = a.say(&alice, &id, "we met").await;
    let room = b.room(&id).await;
    let pdu = a.pdu(&id, &meeting).await;
    let state = a.rooms.state_ids_before(&*a.room(&id).await, &meeting).await.unwrap().state;
    b.rooms.ingest_after_gap(&room, &pdu, &state).await.unwrap();
    let after = b.say(&bob, &id, "after").await;

    let (line, since) = (b.line(&id).await, b.db.visible_position());
    assert_eq!(line[line.len() - 3..], [before.clone(), meeting.clone(), after.clone()]);
    let (everything, one) = ((None, 99), (None, 1));
    // Those before its join are missing too.
    let (_, old) = b.page(&bob, &id, everything, Direction::Forward).await;
    let (_, said) = b.rooms.stored(&room, &before).await.unwrap();
    let from_before = (Some(Boundary(said.timeline_key())), 99);
    for (from, direction) in [(everything, Direction::Backward), (from_before, Direction::Forward)]
    {
        let (_, missing) = b.page(&bob, &id, from, direction).await;
        assert_eq!(BTreeSet::from_iter(missing), BTreeSet::from([x2.clone(), y2.clone()]));
    }
    assert_eq!(b.page(&bob, &id, one, Direction::Backward).await, (vec![after.clone()], vec![]));

    let given = |pdu| (pdu, &state[..]);
    let pdus = a.pdus(&id, &[x2.clone(), y2.clone(), x1.clone(), y1.clone()]).await;
    for (index, pdu) in pdus.iter().enumerate() {
        let states = [given(pdu)];
        let states = if index < 2 { &states[..] } else { &[] };
        assert_eq!(b.fill(&id, std::slice::from_ref(pdu), states).await, 1, "{index}");
        assert_eq!(b.fill(&id, std::slice::from_ref(pdu), states).await, 0, "once");
        let line = b.line(&id).await;
        assert_eq!(line[line.len() - 2..], [meeting.clone(), after.clone()]);
        assert_eq!(line[line.len() - 4 - index], before);
    }
    // What is there is found by whoever reads, each event once, and nothing is missing any more.
    let line = b.line(&id).await;
    let (mut back, missing) = b.page(&bob, &id, everything, Direction::Backward).await;
    back.reverse();
    assert_eq!((&back, missing), (&line, old));
    let mut on = Vec::new();
    let (mut from, mut steps) = (Boundary::START, 0);
    while on.len() < line.len() && steps < 99 {
        let request = PageRequest {
            from: Some(from),
            to: None,
            direction: Direction::Forward,
            limit: 2,
            filter: EventFilter::default(),
            only_live: false,
        };
        let page = b.rooms.messages(&bob, &id, &request).await.unwrap();
        let (events, _) = b.page(&bob, &id, (Some(from), 2), Direction::Forward).await;
        on.extend(events);
        let Some(end) = page.end else { break };
        from = end.to_string().parse().unwrap();
        steps += 1;
    }
    assert_eq!(on, line);
    // It is no news, and no end of the graph.
    assert_eq!(b.db.visible_position(), since);
    assert_eq!(b.extremities(&id).await, [after]);
    assert_eq!(b.rooms.check_room(&room).await.unwrap().problems, [""; 0]);
}
