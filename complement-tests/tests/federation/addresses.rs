//! Invitations of addresses, whose owners turn out to be users of other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use complement_tests::peer::{Peer, trusting};
use complement_tests::{Config, IdentityServer, Server};
use serde_json::{Value, json};

const BOB: &str = "bob@mail.test";

/// Their server asks for the invitation with what the identity server signed, and gets it signed.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid>
#[tokio::test]
async fn the_owner_of_an_invited_address_is_invited_at_their_server() {
    let (identity, peer) = (IdentityServer::start().await, Peer::start().await);
    let server = Server::start(&identity.trusted_by(trusting(Config::default())));
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "room_version": "11" })).await;
    alice.post(["rooms", &room, "invite"], identity.invitation(BOB)).await.ok();
    let bob = peer.user("bob");
    let asked = peer.clone();
    peer.on(move |request| {
        request.path.contains("/v2/invite/").then(|| {
            let mut event = request.body["event"].clone();
            asked.countersign(&mut event);
            (200, json!({ "event": event }))
        })
    });
    let exchange = async |room: &str, signed: Value| {
        let invite = json!({ "display_name": "bob", "signed": signed });
        let body = json!({
            "type": "m.room.member", "room_id": room, "sender": alice.user_id, "state_key": bob,
            "content": { "membership": "invite", "third_party_invite": invite },
        });
        let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{room}");
        peer.put(&server, &path, &body).await
    };
    let signed = identity.signed(BOB, &bob);
    let mut forged = signed.clone();
    forged["signatures"] = json!({});
    exchange(&room, forged).await.fails(403, "M_FORBIDDEN");
    exchange(&room, identity.signed(BOB, &peer.user("mallory"))).await.has_status(403);
    assert!(peer.received("/invite/").is_empty());

    exchange(&room, signed).await.ok();
    assert_eq!(peer.received("/v2/invite/").len(), 1);
    assert_eq!(alice.membership(&room, &bob).await, "invite");
}
