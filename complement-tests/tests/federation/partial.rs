//! A room that is joined without most of its members: it is used at once, and the rest is fetched
//! meanwhile.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use complement_tests::peer::{Pdu, Peer, Received, Room};
use complement_tests::{Answer, Client, Server, wait_until};
use serde_json::{Value, json};

use crate::server;

/// A filter by which a client loads members lazily.
pub(crate) const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true}}}"#;

/// A room of a peer with a name and three members, which somebody of the server has joined.
pub(crate) struct Meeting {
    pub(crate) server: Server,
    pub(crate) bob: Client,
    pub(crate) peer: Peer,
    /// Another server in the room.
    pub(crate) other: Peer,
    pub(crate) room: Room,
    /// Whether the peer tells the whole state.
    tells: Arc<AtomicBool>,
}

impl Meeting {
    /// The room is joined in part; the peer names both servers.
    pub(crate) async fn new() -> Self {
        Self::naming(|peer, other| vec![peer.name().to_owned(), other.name().to_owned()]).await
    }

    /// The same where the peer says that these servers are in the room.
    pub(crate) async fn naming(servers: impl Fn(&Peer, &Peer) -> Vec<String>) -> Self {
        let (server, peer, other) = (server(), Peer::start().await, Peer::start().await);
        let bob = server.register("bob").await;
        let room = peer.host("eve", "public");
        room.send(&peer, &peer.user("eve"), "m.room.name", Some(""), json!({ "name": "named" }));
        for (of, user) in [(&peer, "frank"), (&other, "grace")] {
            let user = of.user(user);
            let content = json!({ "membership": "join" });
            room.send(of, &user, "m.room.member", Some(&user), content);
        }
        let tells = Arc::new(AtomicBool::new(false));
        let (hosted, telling) = (room.clone(), Arc::clone(&tells));
        let servers = servers(&peer, &other);
        peer.on(move |request: &Received| {
            let is = |endpoint: &str| request.path.contains(endpoint);
            if is("/state_ids/") && !telling.load(Ordering::SeqCst) {
                return Some((404, json!({ "errcode": "M_NOT_FOUND", "error": "not now" })));
            }
            if !is("/send_join/") || request.query != "omit_members=true" {
                return None;
            }
            let all = hosted.all_state();
            let of_eve = |event: &Value| {
                event["type"] != "m.room.member"
                    || event["state_key"].as_str().is_some_and(|key| key.starts_with("@eve:"))
            };
            let chain: Vec<&Value> = all.iter().filter(|event| of_eve(event)).collect();
            let state: Vec<&Value> =
                all.iter().filter(|event| event["type"] != "m.room.member").collect();
            hosted.add(&Pdu::of(request.body.clone()));
            let body = json!({
                "state": state, "auth_chain": chain, "members_omitted": true,
                "servers_in_room": servers,
            });
            Some((200, body))
        });
        let meeting = Self { server, bob, peer, other, room, tells };
        meeting.comes_in(&meeting.bob).await.ok();
        meeting
    }

    /// Somebody joins by way of the peer.
    pub(crate) async fn comes_in(&self, user: &Client) -> Answer {
        let via = self.peer.name();
        user.post(format!("join/{}?via={via}", self.room.id), json!({})).await
    }

    /// From now on the peer tells the whole state.
    pub(crate) fn tell(&self) {
        self.tells.store(true, Ordering::SeqCst);
    }

    /// From now on the other server tells the state before the join.
    pub(crate) fn other_tells(&self) {
        let state: Vec<Pdu> = self
            .room
            .all_state()
            .into_iter()
            .filter(|event| event["sender"] != self.bob.user_id.as_str())
            .map(Pdu::of)
            .collect();
        self.other.on(move |request: &Received| {
            if request.path.contains("/state_ids/") {
                let ids: Vec<&str> = state.iter().map(|pdu| &*pdu.id).collect();
                return Some((200, json!({ "pdu_ids": ids, "auth_chain_ids": [] })));
            }
            let is_wanted = |pdu: &&Pdu| request.path.ends_with(&format!("/event/{}", pdu.id));
            let pdus = state.iter().find(is_wanted).map(|pdu| [&pdu.json])?;
            Some((200, json!({ "origin": "a.example", "origin_server_ts": 1, "pdus": pdus })))
        });
    }

    /// A user of a peer says something.
    pub(crate) async fn says(&self, of: &Peer, user: &str, text: &str) -> Pdu {
        let pdu = of.sign(self.room.message(&of.user(user), text));
        self.room.add(&pdu);
        of.sends(&self.server, &[&pdu]).await;
        self.arrives(&pdu.id).await;
        pdu
    }

    /// Messages go both ways.
    pub(crate) async fn talks(&self, text: &str) {
        let said = self.bob.say(&self.room.id, text).await;
        for peer in [&self.peer, &self.other] {
            let pdu = peer.gets_pdu(|pdu| pdu["content"]["body"] == text).await;
            assert_eq!(Pdu::of(pdu.clone()).id, said);
        }
        self.room.add(&Pdu::of(self.peer.gets_pdu(|pdu| pdu["content"]["body"] == text).await));
        for (of, user) in [(&self.peer, "frank"), (&self.other, "grace")] {
            self.says(of, user, text).await;
        }
    }

    async fn arrives(&self, event: &str) {
        let path = format!("rooms/{}/event/{event}", self.room.id);
        wait_until("an event", async || (self.bob.get(&*path).await.status == 200).then_some(()))
            .await;
    }

    /// Whether a sync without lazily loaded members has the room.
    pub(crate) async fn is_shown(&self) -> bool {
        let answer = self.bob.get("sync?timeout=0").await.ok();
        answer["rooms"]["join"][&self.room.id].is_object()
    }

    pub(crate) async fn is_whole(&self) {
        let members = wait_until("the members", async || {
            let answer = self.bob.get(["rooms", &self.room.id, "joined_members"]).await;
            // So it says if it took too long.
            (answer.status != 503).then(|| answer.ok())
        })
        .await;
        let joined = members["joined"].as_object().expect("members");
        let (eve, frank) = (self.peer.user("eve"), self.peer.user("frank"));
        let wanted = [&self.bob.user_id, &eve, &frank, &self.other.user("grace")];
        assert_eq!(joined.len(), wanted.len(), "{members}");
        assert!(wanted.iter().all(|user| joined.contains_key(*user)), "{members}");
        assert!(self.is_shown().await);
    }
}

#[tokio::test]
async fn a_room_is_used_before_all_of_its_members_are_known() {
    let meeting = Meeting::new().await;
    meeting.talks("at once").await;
    assert!(!meeting.is_shown().await);
    let answer = meeting.bob.sync().with_filter(LAZY).now().await;
    assert!(answer["rooms"]["join"][&meeting.room.id].is_object(), "{answer}");
    // Others are told to ask elsewhere.
    let (id, peer) = (&meeting.room.id, &meeting.other);
    let path = format!("/_matrix/federation/v1/make_join/{id}/{}?ver=11", peer.user("heidi"));
    peer.get(&meeting.server, &path).await.fails(404, "M_NOT_FOUND");
    meeting.tell();
    meeting.is_whole().await;
    meeting.talks("afterwards").await;
    peer.get(&meeting.server, &path).await.ok();
}

#[tokio::test]
async fn the_rest_is_fetched_after_a_sigkill() {
    let meeting = Meeting::new().await;
    meeting.talks("before").await;
    meeting.server.kill_and_start_again();
    meeting.talks("in between").await;
    assert!(!meeting.is_shown().await);
    meeting.tell();
    meeting.is_whole().await;
    meeting.talks("afterwards").await;
}

#[tokio::test]
async fn the_rest_is_fetched_from_another_server_if_the_first_does_not_tell() {
    let meeting = Meeting::new().await;
    meeting.other_tells();
    meeting.is_whole().await;
    assert!(!meeting.peer.received("/state_ids/").is_empty());
}

#[tokio::test]
async fn who_leaves_before_all_members_are_known_has_left() {
    let meeting = Meeting::new().await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    bob.post(format!("rooms/{id}/leave"), json!({})).await.ok();
    for peer in [&meeting.peer, &meeting.other] {
        peer.gets_pdu(|pdu| pdu["content"]["membership"] == "leave").await;
    }
    assert_eq!(bob.get("joined_rooms").await.ok()["joined_rooms"], json!([]));
    assert!(!meeting.is_shown().await);
}
