//! What users do not want to see: people they ignore, invitations, and what they report.

use complement_tests::{Client, Server, ephemeral, timeline};
use serde_json::{Value, json};

async fn set_account_data(who: &Client, kind: &str, content: Value) {
    who.put(["user", &who.user_id, "account_data", kind], content).await.ok();
}

async fn ignore(who: &Client, whom: &[&Client]) {
    let users: serde_json::Map<String, Value> =
        whom.iter().map(|user| (user.user_id.clone(), json!({}))).collect();
    set_account_data(who, "m.ignored_user_list", json!({ "ignored_users": users })).await;
}

/// "the client will no longer receive events sent by that user, with the exception of state events"
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
#[tokio::test]
async fn events_of_ignored_users_are_not_shown_but_their_state_is() {
    let server = Server::shared();
    let (alice, troll) = (server.register("alice").await, server.register("troll").await);
    let room = alice.create_room_with(&[&troll]).await;
    let mut sync = alice.sync();
    sync.now().await;
    ignore(&alice, &[&troll]).await;
    let shout = troll.say(&room, "hey").await;
    let path = ["rooms", room.as_str(), "typing", troll.user_id.as_str()];
    troll.put(path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let path = ["rooms", room.as_str(), "receipt", "m.read", shout.as_str()];
    troll.post(path, json!({})).await.ok();
    troll
        .put(["profile", &troll.user_id, "displayname"], json!({ "displayname": "Troll" }))
        .await
        .ok();
    let mut seen = Vec::new();
    let named = sync
        .until(|response| {
            seen.extend(timeline(response, &room));
            if let Some(typing) = ephemeral(response, &room, "m.typing") {
                assert_eq!(typing["user_ids"], json!([]));
            }
            assert_eq!(ephemeral(response, &room, "m.receipt"), None);
            let state = seen.iter().find(|event| event["content"]["displayname"] == "Troll");
            state.cloned()
        })
        .await;
    assert_eq!(named["type"], "m.room.member");
    assert!(seen.iter().all(|event| event["event_id"] != shout), "{seen:?}");
    let page = alice.get(["rooms", &room, "messages"]).query("dir", "b").await;
    assert!(!page.text.contains(&shout), "{page}");
    alice.get(["rooms", &room, "event", &shout]).await.fails(404, "M_NOT_FOUND");
    // "the server will resume sending events"
    ignore(&alice, &[]).await;
    let again = troll.say(&room, "hello").await;
    sync.until_event(&room, &again).await;
}

/// "Servers must not send room invites from ignored users to clients."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
#[tokio::test]
async fn invitations_by_ignored_users_are_not_shown() {
    let server = Server::shared();
    let (alice, troll) = (server.register("alice").await, server.register("troll").await);
    ignore(&alice, &[&troll]).await;
    let room = troll.create_room(json!({})).await;
    troll.invite(&room, &alice.user_id).await;
    let response = alice.sync().now().await;
    assert_eq!(response["rooms"]["invite"], Value::Null, "{response}");
    ignore(&alice, &[]).await;
    let response = alice.sync().now().await;
    assert!(response["rooms"]["invite"][&room].is_object(), "{response}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>
#[tokio::test]
async fn who_blocks_invitations_is_not_invited() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let early = bob.create_room(json!({})).await;
    bob.invite(&early, &alice.user_id).await;
    let block = json!({ "default_action": "block" });
    set_account_data(&alice, "m.invite_permission_config", block).await;
    let room = bob.create_room(json!({})).await;
    let target = json!({ "user_id": alice.user_id });
    bob.post(["rooms", &room, "invite"], target).await.fails(403, "M_INVITE_BLOCKED");
    bob.put(
        ["rooms", &room, "state", "m.room.member", &alice.user_id],
        json!({ "membership": "invite" }),
    )
    .await
    .fails(403, "M_INVITE_BLOCKED");
    // "It is possible for one of the invited users to be rejected whilst the room creation as a
    // whole succeeds."
    let alone = json!({ "invite": [alice.user_id] });
    bob.post("createRoom", alone).await.fails(403, "M_INVITE_BLOCKED");
    let carol = server.register("carol").await;
    let both = json!({ "invite": [alice.user_id, carol.user_id] });
    let created = bob.create_room(both).await;
    assert_eq!(bob.membership(&created, &carol.user_id).await, "invite");
    bob.get(["rooms", &created, "state", "m.room.member", &alice.user_id])
        .await
        .fails(404, "M_NOT_FOUND");
    // Invitations from before are not shown either, until blocking ends.
    let response = alice.sync().now().await;
    assert_eq!(response["rooms"]["invite"], Value::Null, "{response}");
    set_account_data(&alice, "m.invite_permission_config", json!({})).await;
    let response = alice.sync().now().await;
    assert!(response["rooms"]["invite"][&early].is_object(), "{response}");
    bob.invite(&room, &alice.user_id).await;
}

/// MSC4155: lists of users and servers, tried in their order.
#[tokio::test]
async fn invitations_are_filtered_by_lists() {
    let server = Server::shared();
    let (alice, bob, carl) =
        (server.register("alice").await, server.register("bob").await, server.register("c").await);
    let lists = json!({
        "allowed_users": [carl.user_id],
        "blocked_servers": ["*"],
    });
    set_account_data(&alice, "org.matrix.msc4155.invite_permission_config", lists).await;
    let room = bob.create_room(json!({})).await;
    bob.invite(&room, &carl.user_id).await;
    carl.join(&room).await;
    let target = json!({ "user_id": alice.user_id });
    bob.post(["rooms", &room, "invite"], target).await.fails(403, "M_INVITE_BLOCKED");
    carl.invite(&room, &alice.user_id).await;
    let lists = json!({ "ignored_users": ["@*:*"] });
    set_account_data(&alice, "org.matrix.msc4155.invite_permission_config", lists).await;
    let response = alice.sync().now().await;
    assert_eq!(response["rooms"]["invite"], Value::Null, "hidden, not refused: {response}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>
#[tokio::test]
async fn events_rooms_and_users_are_reported() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "spam").await;
    let reason = json!({ "reason": "spam" });
    alice.post(["rooms", &room, "report", &message], reason.clone()).await.ok();
    alice.post(["rooms", &room, "report", &message], json!({})).await.ok();
    bob.post(["rooms", &room, "report", &message], reason.clone()).await.fails(404, "M_NOT_FOUND");
    // "No membership is needed to report a room."
    bob.post(["rooms", &room, "report"], reason.clone()).await.ok();
    bob.post(["rooms", "!nowhere", "report"], reason.clone()).await.fails(404, "M_NOT_FOUND");
    bob.post(["users", &alice.user_id, "report"], reason).await.ok();
    // Blank or not, there must be a reason.
    let answer = bob.post(["users", &alice.user_id, "report"], json!({})).await;
    answer.fails_as(400, &["M_BAD_JSON", "M_MISSING_PARAM"]);
}
