//! Rooms that the server is not in: invitations refused and withdrawn, knocks made and answered.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>

use complement_tests::peer::{Pdu, Peer, Room};
use complement_tests::{Client, Server};
use serde_json::{Value, json};

use crate::server;

/// A room of a peer, the invitation of somebody of the server to it, and who that is.
async fn invited(server: &Server, peer: &Peer) -> (Room, Pdu, Client) {
    let bob = server.register("bob").await;
    let room = peer.host("eve", "invite");
    let invite = invite(server, peer, &room, &bob).await;
    (room, invite, bob)
}

async fn invite(server: &Server, peer: &Peer, room: &Room, whom: &Client) -> Pdu {
    let content = json!({ "membership": "invite" });
    let eve = peer.user("eve");
    let invite = peer.sign(room.draft(&eve, "m.room.member", Some(&whom.user_id), content));
    let path = format!("/_matrix/federation/v2/invite/{}/{}", room.id, invite.id);
    let body = json!({ "room_version": "11", "event": invite.json, "invite_room_state": [] });
    peer.put(server, &path, &body).await.ok();
    room.add(&invite);
    invite
}

/// In which lists of a first sync the room is.
async fn lists(client: &Client, room: &str) -> Vec<String> {
    let filter = json!({ "room": { "include_leave": true } }).to_string();
    let rooms = client.sync().with_filter(&filter).now().await["rooms"].clone();
    let all = rooms.as_object().into_iter().flatten();
    all.filter(|(_, list)| list.get(room).is_some()).map(|(name, _)| name.clone()).collect()
}

fn membership(room: &Room, peer: &Peer, sender: &str, target: &str, to: &str) -> Pdu {
    peer.sign(room.draft(sender, "m.room.member", Some(target), json!({ "membership": to })))
}

/// Whoever invited somebody may think better of it, and nobody else.
#[tokio::test]
async fn an_invitation_can_be_withdrawn_by_whose_it_was() {
    let (server, peer, other) = (server(), Peer::start().await, Peer::start().await);
    let (room, invite, bob) = invited(&server, &peer).await;
    let eve = peer.user("eve");
    let mut sync = bob.sync();
    sync.until(|response| response["rooms"]["invite"].get(&room.id).map(|_| ())).await;

    let mallory = other.user("mallory");
    let strange = membership(&room, &other, &mallory, &bob.user_id, "leave");
    let mut unfounded =
        room.draft(&eve, "m.room.member", Some(&bob.user_id), json!({ "membership": "leave" }));
    let auth = unfounded["auth_events"].as_array_mut().expect("what authorizes it");
    auth.retain(|id| *id != *invite.id);
    let unfounded = peer.sign(unfounded);
    let mut unsigned = membership(&room, &peer, &eve, &bob.user_id, "leave");
    unsigned.json["signatures"] = json!({});
    let join = membership(&room, &peer, &eve, &bob.user_id, "join");
    for (sender, pdu) in
        [(&other, &strange), (&peer, &unfounded), (&peer, &unsigned), (&peer, &join)]
    {
        let answer = sender.transact(&server, &[pdu], &[]).await.ok();
        assert_eq!(answer["pdus"], json!({}), "{}", pdu.json);
        assert_eq!(lists(&bob, &room.id).await, ["invite"], "{}", pdu.json);
    }

    let leave = membership(&room, &peer, &eve, &bob.user_id, "leave");
    peer.sends(&server, &[&leave]).await;
    sync.until(|response| response["rooms"]["leave"].get(&room.id).map(|_| ())).await;
    assert!(!lists(&bob, &room.id).await.contains(&"invite".to_owned()));
    // Another time may be a better one.
    room.add(&leave);
    self::invite(&server, &peer, &room, &bob).await;
    sync.until(|response| response["rooms"]["invite"].get(&room.id).map(|_| ())).await;
    assert_eq!(lists(&bob, &room.id).await, ["invite"]);
}

/// The server of the room hears of a refusal; if it can't be reached, the invitation ends here.
#[tokio::test]
async fn an_invitation_is_refused_with_or_without_its_server() {
    let (server, peer) = (server(), Peer::start().await);
    let (room, _, bob) = invited(&server, &peer).await;
    let template = room.draft(
        &bob.user_id,
        "m.room.member",
        Some(&bob.user_id),
        json!({ "membership": "leave" }),
    );
    peer.answer("/make_leave/", 200, json!({ "room_version": "11", "event": template }));
    peer.answer("/send_leave/", 200, json!({}));
    bob.post(["rooms", &room.id, "leave"], json!({ "reason": "no time" })).await.ok();
    let sent = &peer.received("/v2/send_leave/")[0].body;
    assert_eq!(sent["content"], json!({ "membership": "leave", "reason": "no time" }));
    assert!(sent["signatures"]["complement.test"].is_object(), "{sent}");
    assert!(!lists(&bob, &room.id).await.contains(&"invite".to_owned()));

    let (room, _, carol) = invited(&server, &peer).await;
    peer.answer("/make_leave/", 500, Value::Null);
    carol.leave(&room.id).await;
    assert!(!lists(&carol, &room.id).await.contains(&"invite".to_owned()));
}

/// Somebody knocks at a room of another server, is turned away there, and knocks again.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>
#[tokio::test]
async fn a_knock_elsewhere_is_heard_and_answered() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "knock");
    let hosted = room.clone();
    peer.on(move |request| {
        if request.path.contains("/make_knock/") {
            let user = request.last();
            let content = json!({ "membership": "knock" });
            let event = hosted.draft(user, "m.room.member", Some(user), content);
            return Some((200, json!({ "room_version": "11", "event": event })));
        }
        request.path.contains("/send_knock/").then(|| {
            hosted.add(&Pdu::of(request.body.clone()));
            let name = json!({
                "type": "m.room.name", "state_key": "", "sender": "@eve:elsewhere.example",
                "content": { "name": "Behind the door" },
            });
            (200, json!({ "knock_room_state": [name] }))
        })
    });
    let mut sync = bob.sync();
    for round in 1..=2 {
        let body = json!({ "reason": "it rains" });
        bob.post(format!("knock/{}?via={}", room.id, peer.name()), body).await.ok();
        let heard = peer.received("/send_knock/");
        assert_eq!(heard.len(), round);
        let knock = &heard[round - 1].body;
        assert_eq!(knock["content"]["membership"], "knock");
        assert_eq!(knock["content"]["reason"], "it rains");
        let seen = sync.until(|response| response["rooms"]["knock"].get(&room.id).cloned()).await;
        let state = seen["knock_state"]["events"].as_array().expect("what is known of it");
        assert!(state.iter().any(|event| event["content"]["name"] == "Behind the door"), "{seen}");

        let no = membership(&room, &peer, &peer.user("eve"), &bob.user_id, "leave");
        peer.sends(&server, &[&no]).await;
        sync.until(|response| response["rooms"]["leave"].get(&room.id).map(|_| ())).await;
        assert!(!lists(&bob, &room.id).await.contains(&"knock".to_owned()));
        room.add(&no);
    }
}

/// What one of the room says to whom it invites comes to their server, and to no other.
#[tokio::test]
async fn whoever_is_no_longer_invited_is_told_so() {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "room_version": "11" })).await;
    let eve = peer.user("eve");
    let invited = peer.clone();
    peer.on(move |request| {
        request.path.contains("/v2/invite/").then(|| {
            let mut event = request.body["event"].clone();
            invited.countersign(&mut event);
            (200, json!({ "event": event }))
        })
    });
    alice.invite(&room, &eve).await;
    alice.say(&room, "a secret").await;
    alice.post(["rooms", &room, "kick"], json!({ "user_id": eve })).await.ok();
    let told = peer.gets_pdu(|pdu| pdu["content"]["membership"] == "leave").await;
    assert_eq!(told["state_key"], eve);
    let sent = peer.received("/_matrix/federation/v1/send/");
    assert!(sent.iter().all(|sent| !sent.body.to_string().contains("a secret")));
}

/// Servers of the first days invite by the first version of the endpoint, into rooms of their time.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid>
#[tokio::test]
async fn an_invitation_of_the_first_days_is_taken() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = format!("!old:{}", peer.name());
    let invite = |name: &str| {
        let cited = json!([[format!("$earlier:{}", peer.name()), { "sha256": "AAAA" }]]);
        let id = format!("${name}:{}", peer.name());
        let event = json!({
            "event_id": id, "type": "m.room.member", "room_id": room, "sender": peer.user("eve"),
            "state_key": bob.user_id, "content": { "membership": "invite" }, "depth": 7,
            "origin_server_ts": 1_700_000_000_000_u64, "prev_events": cited, "auth_events": cited,
        });
        (id, peer.sign(event).json)
    };
    let put = async |id: &str, event: &Value| {
        peer.put(&server, &format!("/_matrix/federation/v1/invite/{room}/{id}"), event).await
    };
    let (id, event) = invite("one");
    put("$another:elsewhere.example", &event).await.fails(400, "M_INVALID_PARAM");
    let config = ["user", &bob.user_id, "account_data", "m.invite_permission_config"];
    bob.put(config, json!({ "default_action": "block" })).await.ok();
    put(&id, &event).await.fails(403, "M_INVITE_BLOCKED");
    bob.put(config, json!({})).await.ok();
    let answer = put(&id, &event).await.ok();
    assert_eq!(answer[0], 200, "{answer}");
    assert!(answer[1]["event"]["signatures"]["complement.test"].is_object(), "{answer}");
    assert_eq!(lists(&bob, &room).await, ["invite"]);
}
