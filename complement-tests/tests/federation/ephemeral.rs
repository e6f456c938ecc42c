//! EDUs of rooms: only servers that are in a room have a say in it.

use complement_tests::peer::{Peer, trusting};
use complement_tests::{Config, Server, ephemeral, wait_until};
use serde_json::{Value, json};

use crate::Meeting;

fn typing(room: &str, user: &str) -> Value {
    let content = json!({ "room_id": room, "user_id": user, "typing": true });
    json!({ "edu_type": "m.typing", "content": content })
}

fn receipt(room: &str, user: &str, event: &str) -> Value {
    let read = json!({ user: { "data": { "ts": 1 }, "event_ids": [event] } });
    json!({ "edu_type": "m.receipt", "content": { room: { "m.read": read } } })
}

/// Who is shown as typing or as having read, once `honest` is.
async fn shown(meeting: &Meeting, kind: &str, honest: &str) -> String {
    let mut sync = meeting.alice.sync();
    sync.until(|response| {
        let content = ephemeral(response, &meeting.room.id, kind)?.to_string();
        content.contains(honest).then_some(content)
    })
    .await
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#edus>
#[tokio::test]
async fn nobody_types_or_reads_for_another_server() {
    let meeting = Meeting::new().await;
    let (server, room) = (&meeting.server, &meeting.room.id);
    let said = meeting.alice.say(room, "read this").await;
    let stranger = Peer::start().await;
    let outsider = stranger.user("mallory");
    for user in [&outsider, &meeting.eve, &meeting.alice.user_id] {
        let edus = [typing(room, user), receipt(room, user, &said)];
        stranger.transact(server, &[], &edus).await.ok();
    }
    let absent = meeting.peer.user("absent");
    for user in [&absent, &meeting.alice.user_id, &meeting.eve] {
        let edus = [typing(room, user), receipt(room, user, &said)];
        meeting.peer.transact(server, &[], &edus).await.ok();
    }
    for kind in ["m.typing", "m.receipt"] {
        let shown = shown(&meeting, kind, &meeting.eve).await;
        for other in [&outsider, &absent] {
            assert!(!shown.contains(other.as_str()), "{shown}");
        }
        if kind == "m.typing" {
            assert!(!shown.contains(&meeting.alice.user_id), "{shown}");
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
#[tokio::test]
async fn a_denied_server_types_and_reads_nothing() {
    let meeting = Meeting::new().await;
    let room = &meeting.room.id;
    let honest = Peer::start().await;
    let list = json!({ "allow": ["*"], "deny": [], "allow_ip_literals": false });
    let said = meeting.alice.say(room, "read this").await;
    meeting.alice.set_state(room, "m.room.server_acl", "", list).await;
    let edus = [typing(room, &meeting.eve), receipt(room, &meeting.eve, &said)];
    meeting.peer.transact(&meeting.server, &[], &edus).await.ok();
    honest.transact(&meeting.server, &[], &[]).await.ok();
    let synced = meeting.alice.sync().now().await;
    for kind in ["m.typing", "m.receipt"] {
        let shown = ephemeral(&synced, room, kind).unwrap_or_default().to_string();
        assert!(!shown.contains(&meeting.eve), "{shown}");
    }
}

#[tokio::test]
async fn rubbish_among_them_harms_nobody_else() {
    let meeting = Meeting::new().await;
    let room = &meeting.room.id;
    let edus = [
        json!("rubbish"),
        json!({ "edu_type": "m.typing" }),
        json!({ "edu_type": "m.typing", "content": { "room_id": 7 } }),
        json!({ "edu_type": "m.receipt", "content": { "!nowhere": { "m.read": [] } } }),
        json!({ "edu_type": "m.presence", "content": { "push": "me" } }),
        typing(room, &meeting.eve),
    ];
    meeting.peer.transact(&meeting.server, &[], &edus).await.ok();
    shown(&meeting, "m.typing", &meeting.eve).await;
}

/// Whoever lets somebody in says at once who is there: that may come before the room is.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#presence>
#[tokio::test]
async fn who_is_there_may_be_said_before_the_join_is_done() {
    let config = Config::default().with("presence.enabled", true);
    let (server, peer) = (Server::start(&trusting(config)), Peer::start().await);
    let bob = server.register("bob").await;
    let (room, eve) = (peer.host("eve", "public"), peer.user("eve"));
    let update = json!({ "user_id": eve, "presence": "unavailable", "last_active_ago": 5 });
    let edu = json!({ "edu_type": "m.presence", "content": { "push": [update] } });
    peer.transact(&server, &[], &[edu]).await.ok();
    bob.post(format!("join/{}?via={}", room.id, peer.name()), json!({})).await.ok();
    wait_until("eve's presence", async || {
        let shown = bob.get(["presence", &eve, "status"]).await;
        (shown.status == 200 && shown.json["presence"] == "unavailable").then_some(())
    })
    .await;
}
