//! Joining rooms with events of servers that are gone.

use super::*;

const NOTARY: &str = "/_matrix/key/v2/query";

/// Nothing is taken on trust, and one server that is gone does not close the room to others.
#[tokio::test]
async fn a_member_who_can_not_be_checked_is_left_out() {
    let network = Network::default();
    let b = server(&network, "b.example", 2).await;
    let c = server(&network, "c.example", 3).await;
    let (bob, carol) = (b.register("bob").await, c.register("carol").await);
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    join(&c, &carol, &room).await;
    network.disconnect(ruma::server_name!("c.example"));
    let seen_by = async |name: &str, seed: u64| {
        let server = server(&network, name, seed).await;
        let user = server.register("alice").await;
        join(&server, &user, &room).await;
        assert_eq!(membership(&server, &user, &room, &bob.user_id).await, "join");
        membership(&server, &user, &room, &carol.user_id).await
    };
    // Bob's server knows the keys that it once fetched.
    assert_eq!(seen_by("a.example", 1).await, "join");
    network.lose(Some(NOTARY));
    assert_eq!(seen_by("d.example", 4).await, Value::Null);
}

#[tokio::test]
async fn a_room_whose_rules_can_not_be_checked_is_not_joined() {
    let network = Network::default();
    let b = server(&network, "b.example", 2).await;
    let c = server(&network, "c.example", 3).await;
    let (bob, carol) = (b.register("bob").await, c.register("carol").await);
    let room = room(&c, &carol, json!({ "preset": "public_chat" })).await;
    let path = format!("/v3/join/{room}?via=c.example");
    assert_eq!(b.post(&path, Some(&bob), json!({})).await.0, StatusCode::OK);
    // Only who knows all members lets others in.
    let members = format!("/v3/rooms/{room}/members");
    assert_eq!(b.get(&members, Some(&bob)).await.0, StatusCode::OK);
    network.disconnect(ruma::server_name!("c.example"));
    network.lose(Some(NOTARY));
    let a = server(&network, "a.example", 1).await;
    let alice = a.register("alice").await;
    let path = format!("/v3/join/{room}?via=b.example");
    assert_ne!(a.post(&path, Some(&alice), json!({})).await.0, StatusCode::OK);
    let (_, joined) = a.get("/v3/joined_rooms", Some(&alice)).await;
    assert_eq!(joined["joined_rooms"], json!([]));
    // Who knows the keys of servers that are gone helps.
    network.lose(None);
    a.clock.advance(Duration::from_hours(1));
    let (status, answer) = a.post(&path, Some(&alice), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
