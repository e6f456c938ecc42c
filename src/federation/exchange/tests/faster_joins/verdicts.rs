//! What is judged while not all members are known, and again when they are.

use ruma::OwnedEventId;

use super::*;
use crate::rooms::Room;

impl Meeting {
    /// Alice comes in while nobody tells the whole state, and so of Eve, whom Bob has banned. What
    /// made Eve a member once can be had of her server. Alice's join comes with them.
    pub(super) async fn with_a_banned_user() -> (Self, Peer, Joined, String) {
        let it = Self::new().await;
        let b = server_name!("b.example");
        let peer = Peer::new(&it.network, "peer.example", 9).await;
        let eve = peer.join(b, &it.room, "@eve:peer.example").await;
        let body = json!({ "user_id": eve.user });
        let ban = format!("/v3/rooms/{}/ban", it.room);
        assert_eq!(it.b.post(&ban, Some(&it.bob), body).await.0, StatusCode::OK);
        it.network.lose(Some(STATE_IDS));
        it.join().await;
        let path = format!("state/m.room.member/{}?format=event", it.alice.user_id);
        let path = format!("/v3/rooms/{}/{path}", it.room);
        let (_, joined) = it.a.get(&path, Some(&it.alice)).await;
        let mut known = it.known_to_b(&eve.auth).await;
        known.extend(it.chain_at_b(&eve.auth[0]).await);
        *peer.auth_chain.lock() = known;
        (it, peer, eve, text(&joined["event_id"]))
    }

    async fn room_at_b(&self) -> Arc<Room> {
        let id: ruma::OwnedRoomId = self.room.as_str().try_into().unwrap();
        self.b.server.rooms().room(&id).await.unwrap()
    }

    /// Events as b has them.
    async fn known_to_b(&self, ids: &[String]) -> Vec<Value> {
        let ids: Vec<OwnedEventId> = ids.iter().map(|id| id.as_str().try_into().unwrap()).collect();
        let events = self.b.server.rooms().pdus(&*self.room_at_b().await, &ids).await.unwrap();
        events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect()
    }

    /// What authorizes an event at b, directly or not.
    async fn chain_at_b(&self, id: &str) -> Vec<Value> {
        let id: OwnedEventId = id.try_into().unwrap();
        let rooms = self.b.server.rooms();
        let chain = rooms.auth_chain_of(&*self.room_at_b().await, &id).await.unwrap();
        let chain: Vec<String> = chain.iter().map(ToString::to_string).collect();
        self.known_to_b(&chain).await
    }
}

/// Whoever was banned before the join is not known to be as long as not all members are.
#[tokio::test]
async fn what_only_passed_because_not_all_was_known_is_taken_back() {
    let a = server_name!("a.example");
    let (it, mut peer, eve, joined) = Meeting::with_a_banned_user().await;
    let (said, event) = peer.sign(eve.message(&joined, "still here"));
    assert!(peer.send(a, &[&event]).await.unwrap().pdus.values().all(Result::is_ok));
    arrives(&it.a, &it.alice, &it.room, &said).await;
    let honest = send(&it.a, &it.alice, &it.room, "hello?").await;

    it.tell_all().await;
    let path = |event: &str| format!("/v3/rooms/{}/event/{event}", it.room);
    let (status, _) = it.a.get(&path(&said), Some(&it.alice)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "it is rejected now");
    assert_eq!(it.a.get(&path(&honest), Some(&it.alice)).await.0, StatusCode::OK);
    assert_eq!(membership(&it.a, &it.alice, &it.room, &eve.user).await, "ban");
    let (_, page) =
        it.a.get(&format!("/v3/rooms/{}/messages?dir=b&limit=3", it.room), Some(&it.alice)).await;
    assert!(!page.to_string().contains("still here"), "{page}");
}

/// What a server says of somebody while it leaves the others out may be out of date.
#[tokio::test]
async fn what_only_failed_because_not_all_was_known_is_news_then() {
    let it = Meeting::new().await;
    let leave = format!("/v3/rooms/{}/leave", it.room);
    assert_eq!(it.b.post(&leave, Some(&it.dave), json!({})).await.0, StatusCode::OK);
    let member = format!("/v3/rooms/{}/state/m.room.member/{}", it.room, it.dave.user_id);
    let (_, left) = it.b.get(&format!("{member}?format=event"), Some(&it.bob)).await;
    let left = text(&left["event_id"]);
    join(&it.b, &it.dave, &it.room).await;
    let (old, chain) =
        (it.known_to_b(std::slice::from_ref(&left)).await, it.chain_at_b(&left).await);
    change_json(&it.network, &it.b, SEND_JOIN, move |answer| {
        answer["state"].as_array_mut().unwrap().extend(old.clone());
        answer["auth_chain"].as_array_mut().unwrap().extend(chain.clone());
    });
    it.network.lose(Some(STATE_IDS));
    it.join().await;
    assert_eq!(membership(&it.a, &it.alice, &it.room, &it.dave.user_id).await, "leave");
    let said = send(&it.b, &it.dave, &it.room, "unheard").await;
    let after = send(&it.b, &it.bob, &it.room, "heard").await;
    arrives(&it.a, &it.alice, &it.room, &after).await;
    let path = format!("/v3/rooms/{}/event/{said}", it.room);
    assert_eq!(it.a.get(&path, Some(&it.alice)).await.0, StatusCode::NOT_FOUND);
    let lazy = it.sync(&format!("&filter={LAZY}")).await;
    assert!(!lazy.to_string().contains(&said), "{lazy}");

    it.tell_all().await;
    assert_eq!(it.a.get(&path, Some(&it.alice)).await.0, StatusCode::OK);
    assert_eq!(membership(&it.a, &it.alice, &it.room, &it.dave.user_id).await, "join");
    let since = text(&lazy["next_batch"]);
    let lazy = it.sync(&format!("&filter={LAZY}&since={since}")).await;
    let timeline = &lazy["rooms"]["join"][&it.room]["timeline"];
    let told = timeline["events"].as_array().unwrap().iter();
    let told: Vec<String> = told.map(|event| text(&event["event_id"])).collect();
    assert_eq!(told, [said], "{lazy}");
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.b, &it.bob).await);
}
