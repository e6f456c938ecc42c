//! Identity servers: inviting whoever has an address, and saying whose one is.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#third-party-invites>

use complement_tests::{Client, Config, IdentityServer, Server, must_match, text};
use reqwest::Method;
use serde_json::{Value, json};

const BOB: &str = "bob@mail.test";
const KIND: &str = "m.room.third_party_invite";

async fn server() -> (Server, IdentityServer) {
    let identity = IdentityServer::start().await;
    (Server::start(&identity.trusted_by(Config::default())), identity)
}

/// The invitation of an address that waits in a room; none if there is none.
async fn waiting(client: &Client, room: &str) -> Option<Value> {
    let state = client.get(["rooms", room, "state"]).await.ok();
    let events = state.as_array().unwrap();
    events.iter().find(|event| event["type"] == KIND).cloned()
}

/// The whole circle: an address is invited, its owner proves that it is theirs, and is invited.
#[tokio::test]
async fn an_invited_address_becomes_an_invited_user_when_it_is_bound() {
    let (server, identity) = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "name": "Tea", "preset": "private_chat" })).await;
    let invite = ["rooms", &room, "invite"];
    alice.post(invite, identity.invitation("Bob@Mail.test")).await.ok();

    let asked = &identity.asked("POST /store-invite")[0].body;
    must_match(
        asked,
        &json!({
            "medium": "email", "address": BOB, "room_id": room, "sender": alice.user_id,
            "room_name": "Tea", "room_join_rules": "invite",
            "sender_display_name": alice.localpart(),
        }),
    );
    let event = waiting(&alice, &room).await.unwrap();
    assert_eq!(event["content"]["display_name"], "b...@...");
    let key = &event["content"]["public_keys"][0];
    assert_eq!(event["content"]["public_key"], key["public_key"]);
    assert_eq!(event["content"]["key_validity_url"], key["key_validity_url"]);
    assert!(!event.to_string().contains(BOB), "the address is nobody's business: {event}");

    bob.post("account/3pid/bind", identity.proof(BOB)).await.ok();
    assert_eq!(identity.owner(BOB), Some(bob.user_id.clone()));
    identity.tells(&server, BOB, &bob).await.ok();
    let invited = alice.state(&room, "m.room.member", &bob.user_id).await;
    must_match(
        &invited,
        &json!({
            "membership": "invite",
            "third_party_invite": { "display_name": "b...@...", "signed": { "mxid": bob.user_id } },
        }),
    );
    assert_eq!(identity.asked("GET /pubkey/isvalid?public_key=").len(), 1);
    bob.join(&room).await;
    let seen = bob.sync().now().await;
    assert!(seen["rooms"]["join"][&room].is_object(), "{seen}");
}

/// Whose address is known already is invited like everybody else, and no mail is written.
#[tokio::test]
async fn the_owner_of_a_known_address_is_invited_at_once() {
    let (server, identity) = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    identity.knows(BOB, &bob.user_id);
    identity.changes_pepper();
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    assert_eq!(alice.membership(&room, &bob.user_id).await, "invite");
    assert!(waiting(&alice, &room).await.is_none());
    assert!(identity.asked("POST /store-invite").is_empty());
    // The address itself is told to nobody.
    let asked = &identity.asked("POST /lookup")[0].body;
    assert!(asked["algorithm"] == "sha256" && !asked.to_string().contains(BOB), "{asked}");

    alice
        .post(["rooms", &room, "invite"], identity.invitation("no address"))
        .await
        .fails(400, "M_INVALID_PARAM");
    bob.join(&room).await;
    let again = alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await;
    again.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn addresses_are_invited_while_a_room_is_created() {
    let (server, identity) = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    identity.knows(BOB, &bob.user_id);
    let both = [identity.invitation(BOB), identity.invitation("carol@mail.test")];
    let room = alice.create_room(json!({ "invite_3pid": both, "is_direct": true })).await;
    assert_eq!(alice.state(&room, "m.room.member", &bob.user_id).await["is_direct"], true);
    let event = waiting(&alice, &room).await.unwrap();
    assert_eq!(event["state_key"], "carol_at_mail.test");

    let mut bad = identity.invitation(BOB);
    bad["id_server"] = json!("https://id.example");
    let answer = alice.post("createRoom", json!({ "invite_3pid": [bad] })).await;
    answer.fails(400, "M_INVALID_PARAM");
    let many = vec![identity.invitation(BOB); 21];
    let answer = alice.post("createRoom", json!({ "invite_3pid": many })).await;
    answer.fails(400, "M_INVALID_PARAM");
}

/// A client that was given the signature itself comes in by it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin>
#[tokio::test]
async fn a_signed_token_lets_its_owner_join() {
    let (server, identity) = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let room = alice.create_room(json!({})).await;
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    let signed = identity.signed(BOB, &bob.user_id);
    let body = json!({ "third_party_signed": signed });
    eve.post(["rooms", &room, "join"], body.clone()).await.fails(403, "M_FORBIDDEN");
    let mut forged = signed;
    forged["mxid"] = json!(eve.user_id);
    let forged = json!({ "third_party_signed": forged });
    eve.post(["join", &room], forged).await.fails(403, "M_FORBIDDEN");
    bob.post(["join", &room], body).await.ok();
    assert_eq!(alice.membership(&room, &bob.user_id).await, "join");
}

/// What was not signed by the identity server of the invitation, or was taken back, invites nobody.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#verifying-the-invite>
#[tokio::test]
async fn forged_and_revoked_invitations_are_refused() {
    let (server, identity) = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    let other = IdentityServer::start().await;
    let unsigned = {
        let mut signed = identity.signed(BOB, &bob.user_id);
        signed["signatures"] = json!({});
        signed
    };
    let mut forged = vec![unsigned];
    for (pointer, value) in [("/mxid", &alice.user_id), ("/token", &"other".to_owned())] {
        let mut signed = identity.signed(BOB, &bob.user_id);
        *signed.pointer_mut(pointer).unwrap() = json!(value);
        forged.push(signed);
    }
    for signed in forged {
        let answer = identity.tells_signed(&server, BOB, &bob, signed).await;
        answer.fails(403, "M_FORBIDDEN");
    }
    // Signed, but by somebody else.
    let room2 = alice.create_room(json!({})).await;
    let mut elsewhere = other.invitation(BOB);
    elsewhere["id_server"] = json!(identity.name());
    alice.post(["rooms", &room2, "invite"], elsewhere).await.ok();

    identity.revokes_keys();
    identity.tells(&server, BOB, &bob).await.fails(403, "M_FORBIDDEN");

    // The room takes the invitation back: an empty event stands where it was.
    let event = waiting(&alice, &room).await.unwrap();
    alice.set_state(&room, KIND, &text(&event, "/state_key"), json!({})).await;
    identity.tells(&server, BOB, &bob).await.fails(403, "M_FORBIDDEN");
    for room in [&room, &room2] {
        let path = ["rooms", room, "state", "m.room.member", &bob.user_id];
        alice.get(path).await.fails(404, "M_NOT_FOUND");
    }
    // Nobody is invited who is not here.
    let body = json!({ "medium": "email", "address": BOB, "mxid": "@nobody:complement.test",
        "invites": [] });
    let path = "/_matrix/federation/v1/3pid/onbind";
    let answer = server.anonymous().request(Method::PUT, path).json(&body).await;
    answer.fails(403, "M_FORBIDDEN");
}

/// Whoever may not invite has no mail written either.
#[tokio::test]
async fn inviting_an_address_needs_the_power_to_invite() {
    let (server, identity) = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let invite = ["rooms", room.as_str(), "invite"];
    bob.post(invite, identity.invitation(BOB)).await.fails(403, "M_FORBIDDEN");
    bob.join(&room).await;
    bob.post(invite, identity.invitation(BOB)).await.fails(403, "M_FORBIDDEN");
    bob.post(["rooms", "!no", "invite"], identity.invitation(BOB)).await.fails(404, "M_NOT_FOUND");
    bob.anonymous().post(invite, identity.invitation(BOB)).await.fails(401, "M_MISSING_TOKEN");
    assert!(identity.asked("").is_empty());
}

/// What an identity server has against it is told, but not as if it were this server's word.
/// Spec: <https://spec.matrix.org/v1.19/identity-service-api/#terms-of-service>
#[tokio::test]
async fn refusals_of_the_identity_server_are_passed_on() {
    let (server, identity) = server().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let invite = ["rooms", room.as_str(), "invite"];
    let mut body = identity.invitation(BOB);
    body["id_access_token"] = json!("old");
    // `M_UNKNOWN_TOKEN` would have the client log out.
    alice.post(invite, body).await.fails(403, "M_UNAUTHORIZED");
    let terms = r#"{ "errcode": "M_TERMS_NOT_SIGNED", "error": "Please accept our terms" }"#;
    for question in ["GET /hash_details", "POST /store-invite"] {
        identity.answers(question, 403, terms);
        let refused = alice.post(invite, identity.invitation(BOB)).await;
        refused.fails(403, "M_TERMS_NOT_SIGNED");
        let details = r#"{ "lookup_pepper": "matrixrocks0", "algorithms": ["sha256"] }"#;
        identity.answers("GET /hash_details", 200, details);
    }
    let in_use = r#"{ "errcode": "M_THREEPID_IN_USE", "error": "", "mxid": "@a:b" }"#;
    identity.answers("POST /store-invite", 400, in_use);
    alice.post(invite, identity.invitation(BOB)).await.fails(400, "M_THREEPID_IN_USE");
    assert!(waiting(&alice, &room).await.is_none());
}

/// Answers that are too long, no JSON, lead elsewhere, or can't be an invitation get nowhere.
#[tokio::test]
async fn nonsense_from_an_identity_server_changes_nothing() {
    let (server, identity) = server().await;
    let victim = IdentityServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let invite = async || {
        let answer = alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await;
        answer.fails(502, "M_UNKNOWN");
    };
    identity.answers("POST /store-invite", 200, &format!("\"{}\"", "x".repeat(1 << 20)));
    invite().await;
    identity.answers("POST /store-invite", 200, "<html>");
    invite().await;
    identity.answers("POST /store-invite", 500, "");
    invite().await;
    let location = format!("https://{}/_matrix/identity/v2/store-invite", victim.name());
    identity.answers_with("POST /store-invite", 307, vec![("location", location)], "");
    invite().await;
    assert!(victim.asked("").is_empty(), "redirects are not followed");
    let key = json!({ "public_key": "k", "key_validity_url": "https://id.example" });
    for stored in [
        json!({ "token": "a/b", "display_name": "b", "public_keys": [key] }),
        json!({ "token": "", "display_name": "b", "public_keys": [key] }),
        json!({ "token": "t", "display_name": "b", "public_keys": [] }),
        json!({ "token": "t", "display_name": "b", "public_keys": vec![&key; 9] }),
        json!({ "token": "t", "display_name": "b".repeat(3_000), "public_keys": [key] }),
    ] {
        identity.answers("POST /store-invite", 200, &stored.to_string());
        invite().await;
    }
    identity.answers("POST /lookup", 200, r#"{ "mappings": 1 }"#);
    invite().await;
    let unknown = r#"{ "lookup_pepper": "p", "algorithms": ["md5"] }"#;
    identity.answers("GET /hash_details", 200, unknown);
    invite().await;
    assert!(waiting(&alice, &room).await.is_none());
}

/// A stranger's identity server may not be a door into the operator's network.
#[tokio::test]
async fn private_addresses_are_refused_unless_they_are_named() {
    let identity = IdentityServer::start().await;
    let config = identity.trusted_by(Config::default());
    let none = config.clone().with("identity.trusted_servers", Vec::<String>::new());
    let server = Server::start(&none);
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let invite = ["rooms", room.as_str(), "invite"];
    alice.post(invite, identity.invitation(BOB)).await.fails(502, "M_UNKNOWN");
    alice.post("account/3pid/bind", identity.proof(BOB)).await.fails(502, "M_UNKNOWN");
    let mut local = identity.invitation(BOB);
    local["id_server"] = json!(identity.name().replace("127.0.0.1", "localhost"));
    alice.post(invite, local).await.fails(502, "M_UNKNOWN");
    assert!(identity.asked("").is_empty());

    // Where the key is asked for is the identity server's word, too.
    let server = Server::start(&config);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let victim = IdentityServer::start().await;
    let room = alice.create_room(json!({})).await;
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    let event = waiting(&alice, &room).await.unwrap();
    let mut content = event["content"].clone();
    let url = format!("https://{}/pubkey/isvalid", victim.name());
    content["key_validity_url"] = json!(url);
    content["public_keys"][0]["key_validity_url"] = json!(url);
    alice.set_state(&room, KIND, &text(&event, "/state_key"), content).await;
    identity.tells(&server, BOB, &bob).await.fails(502, "M_UNKNOWN");
    assert!(victim.asked("").is_empty());

    let only = config.with("identity.only_trusted", true);
    let server = Server::start(&only);
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    let stranger = alice.post(["rooms", &room, "invite"], victim.invitation(BOB)).await;
    stranger.fails(400, "M_SERVER_NOT_TRUSTED");
    assert!(victim.asked("").is_empty());
}

/// Which server an address was bound at is remembered; the request to unbind it is signed.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind>
#[tokio::test]
async fn an_address_is_bound_and_unbound_again() {
    let (server, identity) = server().await;
    let alice = server.register("alice").await;
    let mut unproved = identity.proof(BOB);
    unproved["sid"] = json!("unknown");
    alice.post("account/3pid/bind", unproved).await.fails(404, "M_NO_VALID_SESSION");
    let address = json!({ "medium": "email", "address": BOB });
    let unbind = async |body: &Value| {
        let answer = alice.post("account/3pid/unbind", body.clone()).await.ok();
        text(&answer, "/id_server_unbind_result")
    };
    assert_eq!(unbind(&address).await, "no-support", "nobody knows where it is bound");
    alice.post("account/3pid/bind", identity.proof(BOB)).await.ok();
    // It is no address of the account for that.
    assert_eq!(alice.get("account/3pid").await.ok(), json!({ "threepids": [] }));

    server.kill_and_start_again();
    assert_eq!(unbind(&address).await, "success");
    assert_eq!(identity.owner(BOB), None);
    let asked = &identity.asked("POST /3pid/unbind")[0];
    assert!(identity.is_signed(asked, &server).await, "{asked:?}");
    assert_eq!(unbind(&address).await, "no-support", "it is forgotten");

    // What the identity server has against it is told; one that can't unbind does not support it.
    let at = json!({ "medium": "email", "address": BOB, "id_server": identity.name() });
    alice.post("account/3pid/unbind", at.clone()).await.fails(404, "M_NOT_FOUND");
    identity.answers("POST /3pid/unbind", 404, "not here");
    assert_eq!(unbind(&at).await, "no-support");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn addresses_are_unbound_with_the_account_and_one_by_one() {
    let (server, identity) = server().await;
    let alice = server.register("alice").await;
    alice.post("account/3pid/bind", identity.proof(BOB)).await.ok();
    alice.post("account/3pid/bind", identity.proof("a@mail.test")).await.ok();
    let delete = async |address: &str| {
        let body = json!({ "medium": "email", "address": address });
        let answer = alice.post("account/3pid/delete", body).await.ok();
        text(&answer, "/id_server_unbind_result")
    };
    assert_eq!(delete("other@mail.test").await, "no-support");
    assert_eq!(delete("a@mail.test").await, "success");
    assert_eq!(identity.owner("a@mail.test"), None);
    assert_eq!(identity.owner(BOB), Some(alice.user_id.clone()));

    let answer = alice.with_password(Method::POST, "account/deactivate", json!({})).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "success");
    assert_eq!(identity.owner(BOB), None);

    // Nothing to unbind is success as well; a server that does not answer is not.
    let carol = server.register("carol").await;
    let answer = carol.with_password(Method::POST, "account/deactivate", json!({})).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "success");
    let dave = server.register("dave").await;
    dave.post("account/3pid/bind", identity.proof(BOB)).await.ok();
    identity.answers("POST /3pid/unbind", 503, "");
    let answer = dave.with_password(Method::POST, "account/deactivate", json!({})).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "no-support");
}
