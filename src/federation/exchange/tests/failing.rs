//! A database that fails for a while.

use super::*;
use crate::storage::{
    Range,
    schema::{STAGED, TableId},
};

#[tokio::test]
async fn an_acknowledged_event_is_taken_in_when_the_database_works_again() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    b.db.fail(Some(TableId::Timeline));
    let (id, event) = peer.sign(joined.message(&joined.last, "patience"));
    assert!(peer.send(&us, &[&event]).await.unwrap().pdus.values().all(Result::is_ok));
    let path = format!("/v3/rooms/{}/event/{id}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(STAGED.scan(&b.db, &Range::all(), 2).await.unwrap().len(), 1);
    b.db.fail(None);
    arrives(&b, &bob, &joined.room, &id).await;
    eventually("an empty queue", async || {
        STAGED.scan(&b.db, &Range::all(), 1).await.unwrap().is_empty()
    })
    .await;
}

/// What counts must not be lost with a transaction that is not taken.
#[tokio::test]
async fn a_message_that_can_not_be_kept_is_not_acknowledged() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let message = json!({
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": joined.user, "type": "m.room.encrypted", "message_id": "one",
            "messages": { bob.user_id.clone(): { "*": { "body": "kept" } } },
        },
    });
    b.db.fail(Some(TableId::ToDevice));
    peer.send_edus("t", &us, &[&message]).await.unwrap_err();
    b.db.fail(None);
    peer.send_edus("t", &us, &[&message]).await.unwrap();
    let (_, answer) = b.get("/v3/sync?timeout=0", Some(&bob)).await;
    assert_eq!(answer["to_device"]["events"][0]["content"]["body"], "kept");
}

/// That others are to hear of it is part of the same change.
#[tokio::test]
async fn a_join_that_can_not_be_sent_on_is_no_join() {
    let Three { network: _network, a, b, c, alice, bob, carol } = Three::new().await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    join(&a, &alice, &room).await;
    b.db.fail(Some(TableId::Forwarded));
    let path = format!("/v3/join/{room}?via=b.example");
    assert_ne!(c.post(&path, Some(&carol), json!({})).await.0, StatusCode::OK);
    assert_eq!(membership(&b, &bob, &room, &carol.user_id).await, Value::Null);
    assert_eq!(membership(&a, &alice, &room, &carol.user_id).await, Value::Null);
}
