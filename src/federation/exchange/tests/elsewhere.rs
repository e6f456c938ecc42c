//! Directories, spaces and summaries of other servers.

use super::*;

async fn named(server: &TestServer, user: &TestUser, name: &str, preset: &str) -> String {
    let visibility = if preset == "public_chat" { "public" } else { "private" };
    let body = json!({ "preset": preset, "name": name, "visibility": visibility });
    room(server, user, body).await
}

async fn space(server: &TestServer, user: &TestUser, children: &[(&str, &str)]) -> String {
    let body = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let space = room(server, user, body).await;
    for (order, (child, via)) in children.iter().enumerate() {
        let path = format!("/v3/rooms/{space}/state/m.space.child/{child}");
        let content = json!({ "via": [via], "order": order.to_string() });
        assert_eq!(server.put(&path, user, content).await.0, StatusCode::OK);
    }
    space
}

fn rooms_of(answer: &Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_array().unwrap().iter();
    rooms.map(|room| room["room_id"].as_str().unwrap()).collect()
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#published-room-directory>
#[tokio::test]
async fn the_directory_of_another_server_is_asked_for_its_own_users() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let chess = named(&b, &bob, "Chess", "public_chat").await;
    let go = named(&b, &bob, "Go", "public_chat").await;
    named(&b, &bob, "Secret", "private_chat").await;

    let (status, answer) = a.get("/v3/publicRooms?server=b.example", Some(&alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let ids: Vec<&Value> =
        answer["chunk"].as_array().unwrap().iter().map(|room| &room["room_id"]).collect();
    assert_eq!(ids, [&json!(chess), &json!(go)]);
    let (_, first) = a.get("/v3/publicRooms?server=b.example&limit=1", Some(&alice)).await;
    let next = first["next_batch"].as_str().unwrap();
    let path = format!("/v3/publicRooms?server=b.example&limit=1&since={next}");
    assert_eq!(a.get(&path, Some(&alice)).await.1["chunk"][0]["room_id"], json!(go));
    let body = json!({ "filter": { "generic_search_term": "che" } });
    let (_, found) = a.post("/v3/publicRooms?server=b.example", Some(&alice), body).await;
    assert_eq!(found["chunk"].as_array().unwrap().len(), 1, "{found}");

    let (status, _) = a.get("/v3/publicRooms?server=b.example", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "nobody has others asked anonymously");
    let (status, _) = a.get("/v3/publicRooms?server=gone.example", Some(&alice)).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>
#[tokio::test]
async fn a_space_of_another_server_shows_its_rooms_and_is_remembered() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let open = named(&b, &bob, "Open", "public_chat").await;
    let closed = named(&b, &bob, "Closed", "private_chat").await;
    let ours = named(&a, &alice, "Ours", "public_chat").await;
    let inner = space(&b, &bob, &[(&open, "b.example")]).await;
    let children = [(&*inner, "b.example"), (&closed, "b.example"), (&ours, "a.example")];
    let outer = space(&b, &bob, &children).await;
    // A space here that leads there, without anybody being in it.
    let root = space(&a, &alice, &[(&outer, "b.example")]).await;

    let path = format!("/v1/rooms/{root}/hierarchy");
    let (status, answer) = a.get(&path, Some(&alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(rooms_of(&answer), [&*root, &outer, &inner, &open, &ours]);
    assert_eq!(answer["rooms"][1]["children_state"].as_array().unwrap().len(), 3);
    assert_eq!(answer["rooms"][3]["name"], "Open");

    let b_name = ruma::server_name!("b.example");
    let asked = network.count(b_name, "/_matrix/federation/v1/hierarchy");
    assert_eq!(asked, 2, "one question for each space");
    assert_eq!(rooms_of(&a.get(&path, Some(&alice)).await.1).len(), 5);
    assert_eq!(network.count(b_name, "/_matrix/federation/v1/hierarchy"), asked);

    let direct = format!("/v1/rooms/{outer}/hierarchy?max_depth=1");
    let (_, answer) = a.get(&direct, Some(&alice)).await;
    assert_eq!(rooms_of(&answer), [&*outer, &inner, &ours]);
    let (status, _) = a.get(&format!("/v1/rooms/{closed}/hierarchy"), Some(&alice)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

/// Whoever is invited may know of a room, and so may their server.
#[tokio::test]
async fn a_closed_room_is_told_of_to_the_server_of_whom_it_invites() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let mallory = a.register("mallory").await;
    let closed = named(&b, &bob, "Closed", "private_chat").await;
    let path = format!("/v1/room_summary/{closed}?via=b.example");
    assert_eq!(a.get(&path, Some(&alice)).await.0, StatusCode::NOT_FOUND);
    let invite = json!({ "user_id": alice.user_id });
    let to = format!("/v3/rooms/{closed}/invite");
    assert_eq!(b.post(&to, Some(&bob), invite).await.0, StatusCode::OK);
    let (status, answer) = a.get(&path, Some(&alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["name"], &answer["membership"]), (&json!("Closed"), &json!("invite")));
    // The same answer is not for everybody here.
    assert_eq!(a.get(&path, Some(&mallory)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(a.get(&path, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_summary_is_asked_for_where_the_alias_leads() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let body = json!({ "preset": "public_chat", "name": "Chess", "room_alias_name": "chess" });
    let chess = room(&b, &bob, body).await;
    let path = "/v1/room_summary/%23chess:b.example";
    let (status, answer) = a.get(path, Some(&alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["room_id"], json!(chess));
    assert_eq!(answer["membership"], "leave");
}
