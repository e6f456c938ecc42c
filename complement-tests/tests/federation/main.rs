//! The server among others: what a homeserver driven by hand sends it and asks of it, honest and
//! hostile.

#![allow(
    clippy::indexing_slicing,
    reason = "a missing field of JSON is null, and can be assigned in place"
)]

mod addresses;
mod ephemeral;
mod forks;
mod gaps;
mod inbound;
mod joining;
mod keys;
mod membership;
mod outages;
mod outside;
mod partial;
mod partial_people;
mod partial_resync;
mod policy;
mod questions;
mod reading;
mod requests;
mod resets;
mod servers;

use complement_tests::peer::{Peer, Room, trusting};
use complement_tests::{Client, Config, Server, wait_until};
use serde_json::{Value, json};

/// A server that talks to peers.
fn server() -> Server {
    Server::start(&trusting(Config::default()))
}

/// A public room of a server, with somebody of a peer in it.
struct Meeting {
    server: Server,
    alice: Client,
    peer: Peer,
    room: Room,
    /// The peer's user.
    eve: String,
}

impl Meeting {
    async fn new() -> Self {
        let (server, peer) = (server(), Peer::start().await);
        let alice = server.register("alice").await;
        let body = json!({ "preset": "public_chat", "room_version": "11" });
        let id = alice.create_room(body).await;
        let eve = peer.user("eve");
        let room = Room::join(&peer, &server, &id, &eve).await;
        Self { server, alice, peer, room, eve }
    }

    /// Waits until a client sees the event.
    async fn arrives(&self, event: &str) -> Value {
        wait_until(event, async || {
            let answer = self.alice.get(["rooms", &self.room.id, "event", event]).await;
            (answer.status == 200).then_some(answer.json)
        })
        .await
    }

    /// An event that comes after the last one shows that what came before was dealt with.
    async fn all_is_taken_in(&self) {
        let pdu = self.peer.sign(self.room.message(&self.eve, "fence"));
        self.peer.sends(&self.server, &[&pdu]).await;
        self.arrives(&pdu.id).await;
    }

    /// No client sees the event.
    async fn is_hidden(&self, event: &str) {
        self.all_is_taken_in().await;
        let answer = self.alice.get(["rooms", &self.room.id, "event", event]).await;
        answer.fails(404, "M_NOT_FOUND");
    }
}
