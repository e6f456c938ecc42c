//! Coming into a room of a server that does not play by the rules, and being invited by one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use complement_tests::peer::{Peer, Room};
use complement_tests::{Answer, Client, wait_until};
use serde_json::{Value, json};

use crate::server;

async fn join(client: &Client, room: &Room, peer: &Peer) -> Answer {
    client.post(format!("join/{}?via={}", room.id, peer.name()), json!({})).await
}

#[tokio::test]
async fn a_hosted_room_can_be_joined_and_spoken_in() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    join(&bob, &room, &peer).await.ok();
    assert_eq!(bob.membership(&room.id, &bob.user_id).await, "join");
    assert_eq!(bob.membership(&room.id, &peer.user("eve")).await, "join");
    let said = bob.say(&room.id, "hello").await;
    let got = peer.gets_pdu(|pdu| pdu["content"]["body"] == "hello").await;
    assert_eq!(complement_tests::peer::Pdu::of(got).id, said);
    let content = json!({ "msgtype": "m.text", "body": "welcome" });
    let eve = peer.user("eve");
    let pdu = room.send(&peer, &eve, "m.room.message", None, content);
    peer.sends(&server, &[&pdu]).await;
    bob.sync().until_event(&room.id, &pdu.id).await;
}

/// Nobody is in a room by an answer that is not one.
#[tokio::test]
async fn a_join_fails_on_a_template_that_is_none() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    let template = room.draft(&bob.user_id, "m.room.member", Some(&bob.user_id), json!({}));
    let lies = [
        json!({}),
        json!({ "event": "rubbish", "room_version": "11" }),
        json!({ "event": [], "room_version": "11" }),
        json!({ "event": template, "room_version": "no.such.version" }),
    ];
    for lie in lies {
        peer.answer("/make_join/", 200, lie.clone());
        let answer = join(&bob, &room, &peer).await;
        assert!((400..600).contains(&answer.status), "{lie}: {answer}");
        assert_ne!(answer.status, 500, "{lie}: {answer}");
    }
    assert!(peer.received("/send_join/").is_empty());
    peer.answer("/make_join/", 403, json!({ "errcode": "M_FORBIDDEN", "error": "not you" }));
    join(&bob, &room, &peer).await.fails(403, "M_FORBIDDEN");
}

/// Whatever the other server makes of the event, what is sent back is about this user and room.
#[tokio::test]
async fn a_template_of_something_else_is_not_signed() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    let mut template = room.draft(&bob.user_id, "m.room.power_levels", Some(""), json!({}));
    template["content"] = json!({ "users": { peer.user("eve"): 100 } });
    template["sender"] = json!("@admin:complement.test");
    template["room_id"] = json!("!other:complement.test");
    peer.answer("/make_join/", 200, json!({ "room_version": "11", "event": template }));
    join(&bob, &room, &peer).await;
    for sent in peer.received("/send_join/") {
        let fields = ["type", "sender", "state_key", "room_id"].map(|key| &sent.body[key]);
        let wanted = ["m.room.member", &bob.user_id, &bob.user_id, &room.id];
        assert_eq!(fields, wanted.map(|text| json!(text)).each_ref());
        assert_eq!(sent.body["content"]["membership"], "join");
    }
}

/// The state that comes with a join is checked like everything else.
#[tokio::test]
async fn a_join_fails_on_a_state_that_does_not_hold() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    let state = room.all_state();
    let without = |kind: &str| -> Vec<Value> {
        state.iter().filter(|event| event["type"] != kind).cloned().collect()
    };
    let mut unsigned = state.clone();
    for event in &mut unsigned {
        event["signatures"] = json!({});
    }
    // As somebody would like it to be: the creator is another.
    let mut forged = state.clone();
    for event in forged.iter_mut().filter(|event| event["type"] == "m.room.create") {
        event["sender"] = json!("@mallory:mallory.example");
    }
    let lies =
        [json!([]), json!(without("m.room.create")), json!(unsigned), json!(forged), json!([7])];
    for lie in lies {
        let body = json!({ "state": lie, "auth_chain": lie });
        peer.answer("/send_join/", 200, body.clone());
        let answer = join(&bob, &room, &peer).await;
        assert!((400..600).contains(&answer.status), "{body}: {answer}");
        assert_ne!(answer.status, 500, "{body}: {answer}");
        let joined = bob.get("joined_rooms").await.ok();
        assert_eq!(joined["joined_rooms"], json!([]), "{body}");
    }
    // What failed before does not stand in the way.
    let body = json!({ "state": state, "auth_chain": state });
    peer.answer("/send_join/", 200, body);
    join(&bob, &room, &peer).await.ok();
}

#[tokio::test]
async fn a_join_goes_through_the_next_server_if_one_fails() {
    let (server, peer, broken) = (server(), Peer::start().await, Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    broken.answer("/make_join/", 500, json!({}));
    let path =
        format!("join/{}?via=127.0.0.1:1&via={}&via={}", room.id, broken.name(), peer.name());
    bob.post(path, json!({})).await.ok();
    assert_eq!(broken.received("/make_join/").len(), 1);
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>
#[tokio::test]
async fn an_invitation_counts_if_it_is_one() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "invite");
    let eve = peer.user("eve");
    let invite = |sender: &str, target: &str| {
        let content = json!({ "membership": "invite" });
        peer.sign(room.draft(sender, "m.room.member", Some(target), content))
    };
    let send = async |pdu: &complement_tests::peer::Pdu, version: &str| {
        let path = format!("/_matrix/federation/v2/invite/{}/{}", room.id, pdu.id);
        let body = json!({ "room_version": version, "event": pdu.json, "invite_room_state": [] });
        peer.put(&server, &path, &body).await
    };
    let good = invite(&eve, &bob.user_id);
    let answer = send(&good, "no.such.version").await;
    answer.fails(400, "M_INCOMPATIBLE_ROOM_VERSION");
    let mut unsigned = good.clone();
    unsigned.json["signatures"] = json!({});
    let nobody = invite(&eve, "@nobody:complement.test");
    let elsewhere = invite(&eve, "@bob:elsewhere.example");
    let forged = invite("@bob:complement.test", &bob.user_id);
    for bad in [unsigned, nobody, elsewhere, forged] {
        let answer = send(&bad, "11").await;
        assert!((400..500).contains(&answer.status), "{}: {answer}", bad.json);
    }
    let synced = bob.sync().now().await;
    assert_eq!(synced["rooms"]["invite"], Value::Null, "{synced}");
    let signed = send(&good, "11").await.ok();
    assert!(signed["event"]["signatures"]["complement.test"].is_object(), "{signed}");
    wait_until("the invitation", async || {
        let synced = bob.sync().now().await;
        synced["rooms"]["invite"][&room.id].is_object().then_some(())
    })
    .await;
    // With it the room lets them in.
    room.add(&good);
    join(&bob, &room, &peer).await.ok();
}
