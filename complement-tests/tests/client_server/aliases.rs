//! Aliases of rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>

use complement_tests::{Client, Server};
use serde_json::json;

fn alias_of(who: &Client, name: &str) -> String {
    format!("#{}-{name}:{}", who.localpart(), who.server_name())
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias>
#[tokio::test]
async fn an_alias_is_made_listed_and_taken_away() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let alias = alias_of(&alice, "tea");
    let path = ["directory/room", alias.as_str()];
    let to = json!({ "room_id": room });
    server.anonymous().get(path).await.fails(404, "M_NOT_FOUND");
    alice.put(path, to.clone()).await.ok();
    assert_eq!(server.anonymous().get(path).await.ok()["room_id"], room);
    // Strangers are not told what there is.
    bob.put(path, to.clone()).await.fails(403, "M_FORBIDDEN");
    let list = ["rooms", room.as_str(), "aliases"];
    assert_eq!(alice.get(list).await.ok()["aliases"], json!([alias]));
    bob.get(list).await.fails(403, "M_FORBIDDEN");
    bob.join(&room).await;
    assert_eq!(bob.get(list).await.ok()["aliases"], json!([alias]));
    bob.put(path, to).await.fails(409, "M_UNKNOWN");

    // Whoever made it may take it away, and whoever may set the canonical one.
    bob.delete(path).await.fails(403, "M_FORBIDDEN");
    alice.delete(path).await.ok();
    server.anonymous().get(path).await.fails(404, "M_NOT_FOUND");
    alice.delete(path).await.fails(404, "M_NOT_FOUND");
    assert_eq!(alice.get(list).await.ok()["aliases"], json!([]));
    let mine = alias_of(&bob, "mine");
    bob.put(["directory/room", &mine], json!({ "room_id": room })).await.ok();
    alice.delete(["directory/room", &mine]).await.ok();
}

#[tokio::test]
async fn aliases_have_their_rules() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let alias = alias_of(&alice, "tea");
    let to = json!({ "room_id": room });
    let anonymous = server.anonymous();
    anonymous.put(["directory/room", &alias], to.clone()).await.fails(401, "M_MISSING_TOKEN");
    anonymous.delete(["directory/room", &alias]).await.fails(401, "M_MISSING_TOKEN");
    for wrong in ["no-alias", "#elsewhere:other.example"] {
        let answer = alice.put(["directory/room", wrong], to.clone()).await;
        assert!([400, 403].contains(&answer.status), "{wrong}: {answer}");
        assert!(answer.errcode().starts_with("M_"), "{answer}");
    }
    let nothing = alice.put(["directory/room", &alias], json!({})).await;
    nothing.fails_as(400, &["M_BAD_JSON", "M_MISSING_PARAM"]);
    let nowhere = json!({ "room_id": "!nowhere:complement.test" });
    let answer = alice.put(["directory/room", &alias], nowhere).await;
    assert!([400, 403, 404].contains(&answer.status), "{answer}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid>
#[tokio::test]
async fn the_directory_is_for_those_with_power() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let path = ["directory/list/room", room.as_str()];
    assert_eq!(server.anonymous().get(path).await.ok()["visibility"], "private");
    let public = json!({ "visibility": "public" });
    bob.put(path, public.clone()).await.fails(403, "M_FORBIDDEN");
    alice.put(path, public).await.ok();
    assert_eq!(server.anonymous().get(path).await.ok()["visibility"], "public");
    let hidden = alice.put(path, json!({ "visibility": "hidden" })).await;
    hidden.fails_as(400, &["M_INVALID_PARAM", "M_BAD_JSON"]);
    alice.put(path, json!({ "visibility": "private" })).await.ok();
    assert_eq!(server.anonymous().get(path).await.ok()["visibility"], "private");
    let nowhere = ["directory/list/room", "!nowhere:complement.test"];
    server.anonymous().get(nowhere).await.fails(404, "M_NOT_FOUND");
}
