//! Profiles.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use complement_tests::{Client, Server, must_match};
use reqwest::Method;
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname>
#[tokio::test]
async fn name_and_avatar_can_be_set_and_read_by_anybody() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    set(&alice, "displayname", json!("Alice A.")).await;
    set(&alice, "avatar_url", json!("mxc://complement.test/picture")).await;
    let anonymous = server.anonymous();
    must_match(
        &anonymous.get(["profile", &alice.user_id]).await.ok(),
        &json!({ "displayname": "Alice A.", "avatar_url": "mxc://complement.test/picture" }),
    );
    assert_eq!(
        anonymous.get(["profile", &alice.user_id, "displayname"]).await.ok(),
        json!({ "displayname": "Alice A." })
    );
    assert_eq!(
        anonymous.get(["profile", &alice.user_id, "avatar_url"]).await.ok(),
        json!({ "avatar_url": "mxc://complement.test/picture" })
    );
}

/// Own fields hold any JSON.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname>
#[tokio::test]
async fn custom_fields_hold_any_json() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for value in
        [json!("text"), json!([1, { "a": true }]), json!({ "deep": { "er": "x" } }), json!(7)]
    {
        set(&alice, "org.example.field", value.clone()).await;
        assert_eq!(
            server.get(["profile", &alice.user_id, "org.example.field"]).await.ok(),
            json!({ "org.example.field": value })
        );
    }
    set(&alice, "m.tz", json!("Europe/London")).await;
    must_match(
        &server.get(["profile", &alice.user_id]).await.ok(),
        &json!({ "m.tz": "Europe/London", "org.example.field": 7 }),
    );
}

/// Deleting a field leaves the others; deleting it again is no error.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3profileuseridkeyname>
#[tokio::test]
async fn a_field_can_be_deleted() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    set(&alice, "org.example.field", json!("x")).await;
    set(&alice, "displayname", json!("Alice A.")).await;
    let path = ["profile", alice.user_id.as_str(), "org.example.field"];
    alice.delete(path).await.ok();
    server.get(path).await.fails(404, "M_NOT_FOUND");
    must_match(
        &server.get(["profile", &alice.user_id]).await.ok(),
        &json!({ "displayname": "Alice A." }),
    );
    alice.delete(path).await.ok();
}

/// A new user has a profile; unknown users have none.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuserid>
#[tokio::test]
async fn unknown_users_have_no_profile() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    server.get(["profile", &alice.user_id]).await.ok();
    let unknown = format!("@{}-unknown:{}", alice.localpart(), alice.server_name());
    server.get(["profile", &unknown]).await.fails(404, "M_NOT_FOUND");
    server.get(["profile", &unknown, "displayname"]).await.fails(404, "M_NOT_FOUND");
}

/// Only the user changes it.
#[tokio::test]
async fn profiles_of_others_cannot_be_changed() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let path = ["profile", alice.user_id.as_str(), "displayname"];
    mallory.put(path, json!({ "displayname": "Mallory" })).await.fails(403, "M_FORBIDDEN");
    mallory.delete(path).await.fails(403, "M_FORBIDDEN");
    server
        .anonymous()
        .put(path, json!({ "displayname": "Nobody" }))
        .await
        .fails(401, "M_MISSING_TOKEN");
}

/// The body must hold the field that the path names, under a name of the grammar.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname>
#[tokio::test]
async fn malformed_profile_changes_are_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let put = async |key: &str, body: Value| {
        let answer = alice.put(["profile", &alice.user_id, key], body).await;
        (answer.status, answer.errcode().to_owned())
    };
    let refusal = |errcode: &str| (400, errcode.to_owned());
    assert_eq!(put("org.example.a", json!({})).await, refusal("M_MISSING_PARAM"));
    assert_eq!(
        put("org.example.a", json!({ "org.example.b": 1 })).await,
        refusal("M_MISSING_PARAM")
    );
    let long = format!("org.example.{}", "x".repeat(250));
    assert_eq!(put(&long, json!({ &long: 1 })).await, refusal("M_KEY_TOO_LARGE"));
    assert_eq!(put("Not A Key", json!({ "Not A Key": 1 })).await, refusal("M_INVALID_PARAM"));
    assert_eq!(put("org.example.a", json!([1])).await, refusal("M_BAD_JSON"));
    let path = ["profile", alice.user_id.as_str(), "Not A Key"];
    alice.delete(path).await.fails(400, "M_INVALID_PARAM");
}

/// A profile stays below 64 KiB in all.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname>
#[tokio::test]
async fn a_profile_is_limited_in_size() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    set(&alice, "org.example.first", json!("x".repeat(40_000))).await;
    let path = ["profile", alice.user_id.as_str(), "org.example.second"];
    let body = json!({ "org.example.second": "x".repeat(40_000) });
    alice.put(path, body).await.fails(400, "M_PROFILE_TOO_LARGE");
    server.get(path).await.fails(404, "M_NOT_FOUND");
}

/// A changed name shows in the user's member events, also to those who sync.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information>
#[tokio::test]
async fn a_new_name_shows_in_joined_rooms() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    let mut sync = bob.sync();
    sync.now().await;
    set(&alice, "displayname", json!("Alice in this room too")).await;
    let content = sync
        .until(|response| {
            complement_tests::timeline(response, &room)
                .iter()
                .find(|event| event["state_key"] == alice.user_id)
                .map(|event| event["content"].clone())
        })
        .await;
    must_match(&content, &json!({ "membership": "join", "displayname": "Alice in this room too" }));
    must_match(&bob.state(&room, "m.room.member", &alice.user_id).await, &content);
}

/// Who joins later brings name and avatar along.
#[tokio::test]
async fn the_profile_is_in_the_member_event_of_a_join() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    set(&alice, "displayname", json!("Alice A.")).await;
    set(&alice, "avatar_url", json!("mxc://complement.test/picture")).await;
    let room = bob.create_room_with(&[&alice]).await;
    must_match(
        &bob.state(&room, "m.room.member", &alice.user_id).await,
        &json!({ "displayname": "Alice A.", "avatar_url": "mxc://complement.test/picture" }),
    );
}

async fn set(user: &Client, key: &str, value: Value) {
    let path = ["profile", user.user_id.as_str(), key];
    user.request(Method::PUT, path).json(&json!({ key: value })).await.ok();
}
