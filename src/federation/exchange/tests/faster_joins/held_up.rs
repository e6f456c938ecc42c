//! What may happen in a room before all of its members are known has a bound, and what rested on
//! what was not known is judged again.

use super::*;
use crate::{
    rooms::Room,
    storage::schema::{EVENT_IDS, EVENTS},
};

impl Meeting {
    /// The room as a has it.
    async fn here(&self) -> std::sync::Arc<Room> {
        let id: ruma::OwnedRoomId = self.room.as_str().try_into().unwrap();
        self.a.server.rooms().room(&id).await.unwrap()
    }

    async fn says(&self, text: &str) -> StatusCode {
        let path = format!("/v3/rooms/{}/send/m.room.message/{text}", self.room);
        self.a.put(&path, &self.alice, json!({ "msgtype": "m.text", "body": text })).await.0
    }

    async fn is_rejected(&self, event: &str) -> Option<bool> {
        let event: ruma::OwnedEventId = event.try_into().unwrap();
        let (room, number) = EVENT_IDS.get(&self.a.db, &event).await.unwrap()?;
        Some(EVENTS.get(&self.a.db, &(room, number)).await.unwrap().unwrap().rejected)
    }
}

#[tokio::test]
async fn no_more_comes_in_than_can_be_judged_again() {
    let it = Meeting::joined_in_part().await;
    assert_eq!(it.says("first").await, StatusCode::OK);
    it.here().await.pretend_partial_events(1);
    assert_eq!(it.says("second").await, StatusCode::SERVICE_UNAVAILABLE);
    let unheard = send(&it.b, &it.bob, &it.room, "unheard").await;
    arrives(&it.c, &it.carol, &it.room, &unheard).await;
    // What is no message still passes: whoever wants to can go.
    let name = format!("/v3/rooms/{}/state/m.room.member/{}", it.room, it.alice.user_id);
    let body = json!({ "membership": "join", "displayname": "A" });
    assert_eq!(it.a.put(&name, &it.alice, body).await.0, StatusCode::OK);
    assert_eq!(it.is_rejected(&unheard).await, None);

    it.tell_all().await;
    assert_eq!(it.says("third").await, StatusCode::OK);
    let heard = send(&it.b, &it.bob, &it.room, "heard").await;
    arrives(&it.a, &it.alice, &it.room, &heard).await;
    arrives(&it.a, &it.alice, &it.room, &unheard).await;
}

#[tokio::test]
async fn what_was_let_in_already_has_a_bound_too() {
    let it = Meeting::joined_in_part().await;
    let from_b = send(&it.b, &it.bob, &it.room, "from-b").await;
    arrives(&it.a, &it.alice, &it.room, &from_b).await;
    let here = it.here().await;
    let rooms = it.b.server.rooms();
    let there = rooms.room(&here.id).await.unwrap();
    it.network.disconnect(server_name!("a.example"));
    let late = send(&it.b, &it.bob, &it.room, "late").await;
    let late: ruma::OwnedEventId = late.as_str().try_into().unwrap();
    let json = rooms.pdus(&there, std::slice::from_ref(&late)).await.unwrap().remove(0);
    let pdu = crate::rooms::pdu::Pdu::parse(serde_json::from_str(json.get()).unwrap(), &here.rules)
        .unwrap();
    here.pretend_partial_events(2);
    let refused = it.a.server.rooms().ingest(&here, &pdu).await.unwrap_err();
    assert!(matches!(refused, crate::rooms::RoomError::NotWhole { .. }), "{refused:?}");
    here.pretend_partial_events(1);
    it.a.server.rooms().ingest(&here, &pdu).await.unwrap();
    arrives(&it.a, &it.alice, &it.room, late.as_str()).await;
}

/// The count is on disk with what it counts.
#[tokio::test]
async fn a_restart_does_not_begin_to_count_anew() {
    let it = Meeting::joined_in_part().await;
    it.here().await.pretend_partial_events(1);
    let name = format!("/v3/rooms/{}/state/m.room.member/{}", it.room, it.alice.user_id);
    let body = json!({ "membership": "join", "displayname": "A" });
    assert_eq!(it.a.put(&name, &it.alice, body).await.0, StatusCode::OK);
    let Meeting { network, a, b, c, alice, bob, carol, dave, room } = it;
    let clock = a.clock.clone();
    let a = TestServer::among(&network, &config("a.example"), a.crashed().await, clock, 1).await;
    let it = Meeting { network, a, b, c, alice, bob, carol, dave, room };
    assert_eq!(it.says("more").await, StatusCode::SERVICE_UNAVAILABLE);
}

/// A banned user changes her name, and says something that rests on a second change of it, which is
/// only in the events that authorize it.
#[tokio::test]
async fn what_others_refer_to_is_judged_again_with_them() {
    let (it, mut peer, eve, joined) = Meeting::with_a_banned_user().await;
    let a = server_name!("a.example");
    let rename = |auth: &[String], after: &str, name: &str| {
        let mut event = eve.message(after, "");
        event["type"] = json!("m.room.member");
        event["state_key"] = json!(eve.user);
        event["content"] = json!({ "membership": "join", "displayname": name });
        event["auth_events"] = json!(auth);
        peer.sign(event)
    };
    let (first, first_event) = rename(&eve.auth, &joined, "1");
    let authorized_by = |member: &str| {
        let mut auth = eve.auth.clone();
        auth[0] = member.to_owned();
        auth
    };
    let (second, second_event) = rename(&authorized_by(&first), &first, "2");
    let mut message = eve.message(&first, "still here");
    message["auth_events"] = json!(authorized_by(&second));
    let (said, message) = peer.sign(message);
    peer.auth_chain.lock().push(second_event);
    assert!(peer.send(a, &[&first_event]).await.unwrap().pdus.values().all(Result::is_ok));
    arrives(&it.a, &it.alice, &it.room, &first).await;
    assert!(peer.send(a, &[&message]).await.unwrap().pdus.values().all(Result::is_ok));
    eventually("the message", async || it.is_rejected(&said).await.is_some()).await;
    let marks = async || {
        let mut marks = Vec::new();
        for event in [&first, &second, &said] {
            marks.push(it.is_rejected(event).await);
        }
        marks
    };
    assert_eq!(marks().await[..2], [Some(false), Some(false)]);
    it.tell_all().await;
    assert_eq!(marks().await, [Some(true), Some(true), Some(true)]);
}
