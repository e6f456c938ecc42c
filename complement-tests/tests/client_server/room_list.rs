//! Which rooms and aliases are published.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use complement_tests::Server;
use serde_json::json;

#[tokio::test]
async fn a_room_is_published_by_who_may() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let path = ["directory/list/room", room.as_str()];
    assert_eq!(server.anonymous().get(path).await.ok(), json!({ "visibility": "private" }));
    bob.put(path, json!({ "visibility": "public" })).await.fails(403, "M_FORBIDDEN");
    alice.put(path, json!({ "visibility": "public" })).await.ok();
    assert_eq!(bob.get(path).await.ok(), json!({ "visibility": "public" }));
    alice.put(path, json!({ "visibility": "private" })).await.ok();
    assert_eq!(bob.get(path).await.ok(), json!({ "visibility": "private" }));
    let nowhere = ["directory/list/room", "!nowhere:complement.test"];
    alice.get(nowhere).await.fails(404, "M_NOT_FOUND");
    alice.put(nowhere, json!({ "visibility": "public" })).await.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_aliases_of_a_room_are_listed_for_its_members() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let alias = format!("#{}:{}", alice.localpart(), alice.server_name());
    alice.put(["directory/room", &alias], json!({ "room_id": room })).await.ok();
    let listed = alice.get(["rooms", &room, "aliases"]).await.ok();
    assert_eq!(listed, json!({ "aliases": [alias] }));
    bob.get(["rooms", &room, "aliases"]).await.fails(403, "M_FORBIDDEN");
    bob.delete(["directory/room", &alias]).await.fails(403, "M_FORBIDDEN");
    alice.delete(["directory/room", &alias]).await.ok();
    alice.delete(["directory/room", &alias]).await.fails(404, "M_NOT_FOUND");
    for malformed in ["nothing", "#nothing", "!room:complement.test"] {
        let path = ["directory/room", malformed];
        alice.get(path).await.fails(400, "M_INVALID_PARAM");
        alice.put(path, json!({ "room_id": room })).await.fails(400, "M_INVALID_PARAM");
    }
    let answer = alice.get(["rooms", "nothing", "aliases"]).await;
    assert!([400, 403].contains(&answer.status), "{answer}");
}
