//! Who is in a room that was joined without most of its members: their devices, what they type and
//! what they read, before they are known and when they are.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use complement_tests::peer::{Peer, Received};
use complement_tests::{Client, Signer, Sync, ephemeral, timeline, wait_until};
use serde_json::{Value, json};

use crate::partial::{LAZY, Meeting};

/// A user of a peer with one device, which is a new one at each change.
struct Owner {
    peer: Peer,
    user: String,
    /// How often something changed.
    changes: Arc<AtomicU64>,
}

impl Owner {
    fn of(peer: &Peer, name: &str) -> Self {
        let (user, changes) = (peer.user(name), Arc::new(AtomicU64::new(1)));
        let (owner, count) = (user.clone(), Arc::clone(&changes));
        peer.on(move |request: &Received| {
            let number = count.load(Ordering::SeqCst);
            let (id, keys) = (device(number), keys(&owner, number));
            if request.path.ends_with(&format!("/user/devices/{owner}")) {
                let devices = [json!({ "device_id": id, "keys": keys })];
                return Some((
                    200,
                    json!({ "user_id": owner, "stream_id": number, "devices": devices }),
                ));
            }
            let is_asked = request.path.ends_with("/user/keys/query")
                && request.body["device_keys"][&owner].is_array();
            is_asked.then(|| (200, json!({ "device_keys": { &owner: { id: keys } } })))
        });
        Self { peer: peer.clone(), user, changes }
    }

    /// There is another device, and its server says so.
    async fn changes_device(&self, meeting: &Meeting) -> String {
        let last = self.changes.fetch_add(1, Ordering::SeqCst);
        let number = last + 1;
        let content = json!({
            "user_id": self.user, "device_id": device(number), "stream_id": number,
            "prev_id": [last], "keys": keys(&self.user, number),
        });
        let edu = json!({ "edu_type": "m.device_list_update", "content": content });
        self.peer.transact(&meeting.server, &[], &[edu]).await.ok();
        device(number)
    }

    /// Whether a client that asks is told of this device.
    async fn has(&self, asking: &Client, device: &str) -> bool {
        let wanted = json!({ "device_keys": { &self.user: [] } });
        let answer = asking.post("keys/query", wanted).await.ok();
        assert!(answer["failures"][self.peer.name()].is_null(), "{answer}");
        answer["device_keys"][&self.user][device]["device_id"] == device
    }

    /// How often all devices were fetched.
    fn fetched(&self) -> usize {
        self.peer.received("/user/devices/").len()
    }
}

fn device(number: u64) -> String {
    format!("DEVICE{number}")
}

fn keys(user: &str, number: u64) -> Value {
    let id = device(number);
    json!({
        "user_id": user, "device_id": id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("curve25519:{id}"): "curve", format!("ed25519:{id}"): "ed" },
        "signatures": {},
    })
}

/// Syncs until the client is told that keys of this user changed.
async fn hears_of(sync: &mut Sync, user: &str) {
    sync.until(|response| is_among(&response["device_lists"]["changed"], user).then_some(())).await;
}

fn is_among(users: &Value, user: &str) -> bool {
    users.as_array().is_some_and(|users| users.iter().any(|one| one == user))
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>
#[tokio::test]
async fn devices_of_who_is_not_known_yet_are_right_before_and_after() {
    let meeting = Meeting::new().await;
    let frank = Owner::of(&meeting.peer, "frank");
    let bob = &meeting.bob;
    let mut sync = bob.sync().with_filter(LAZY);
    sync.now().await;
    let before = sync.token().expect("a token").to_owned();
    assert!(frank.has(bob, "DEVICE1").await);
    let second = frank.changes_device(&meeting).await;
    assert!(frank.has(bob, &second).await);
    let third = frank.changes_device(&meeting).await;
    meeting.tell();
    // Whoever asked in between is told that there may be something new.
    hears_of(&mut sync, &frank.user).await;
    meeting.is_whole().await;
    let now = sync.token().expect("a token").to_owned();
    let path = format!("keys/changes?from={before}&to={now}");
    let changed = bob.get(path).await.ok()["changed"].clone();
    for user in [&frank.user, &meeting.other.user("grace"), &meeting.peer.user("eve")] {
        assert!(is_among(&changed, user), "{changed}");
    }
    assert!(frank.has(bob, &third).await);
    // From then on the list is kept.
    let fetched = frank.fetched();
    let fourth = frank.changes_device(&meeting).await;
    hears_of(&mut sync, &frank.user).await;
    assert!(frank.has(bob, &fourth).await);
    assert_eq!(frank.fetched(), fetched);
}

#[tokio::test]
async fn devices_of_who_speaks_before_all_are_known_are_heard_of() {
    let meeting = Meeting::new().await;
    let grace = Owner::of(&meeting.other, "grace");
    let bob = &meeting.bob;
    let mut sync = bob.sync().with_filter(LAZY);
    sync.now().await;
    assert!(grace.has(bob, "DEVICE1").await);
    meeting.says(&meeting.other, "grace", "here").await;
    hears_of(&mut sync, &grace.user).await;
    assert!(grace.has(bob, "DEVICE1").await);
    let second = grace.changes_device(&meeting).await;
    hears_of(&mut sync, &grace.user).await;
    assert!(grace.has(bob, &second).await);
    assert!(!meeting.is_shown().await);
    meeting.tell();
    meeting.is_whole().await;
    assert!(grace.has(bob, &second).await);
    let third = grace.changes_device(&meeting).await;
    hears_of(&mut sync, &grace.user).await;
    assert!(grace.has(bob, &third).await);
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>
#[tokio::test]
async fn devices_here_are_told_to_all_servers_of_a_room_in_the_end() {
    let meeting = Meeting::naming(|peer, _| vec![peer.name().to_owned()]).await;
    let (bob, other) = (&meeting.bob, &meeting.other);
    let keys = Signer::of_device(bob).device_keys(bob);
    bob.post("keys/upload", json!({ "device_keys": keys })).await.ok();
    let of = |client: &Client| {
        let (user, device) = (client.user_id.clone(), client.device_id.clone());
        move |update: &Value| update["user_id"] == user && update["device_id"] == device
    };
    let kind = "m.device_list_update";
    let update = meeting.peer.gets_edu(kind, of(bob)).await;
    assert!(update["keys"].is_object(), "{update}");
    let send = "/_matrix/federation/v1/send/";
    assert!(other.received(send).is_empty(), "nobody knows of it");
    meeting.server.kill_and_start_again();
    meeting.tell();
    meeting.is_whole().await;
    other.gets_edu(kind, of(bob)).await;
    let second = bob.log_in_again().await;
    let keys = Signer::of_device(&second).device_keys(&second);
    second.post("keys/upload", json!({ "device_keys": keys })).await.ok();
    for peer in [&meeting.peer, other] {
        peer.gets_edu(kind, of(&second)).await;
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#typing-notifications> and
/// <https://spec.matrix.org/v1.19/server-server-api/#receipts>
#[tokio::test]
async fn who_types_and_reads_is_shown_before_all_members_are_known_and_after() {
    let meeting = Meeting::new().await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    let mut patient = bob.sync();
    patient.now().await;
    let said = bob.say(id, "read this").await;
    let (eve, frank) = (meeting.peer.user("eve"), meeting.peer.user("frank"));
    let grace = meeting.other.user("grace");
    let readers = [&eve, &frank, &grace];
    let mine = |kind: &str, content: Value| json!({ "edu_type": kind, "content": content });
    for (of, users) in [(&meeting.peer, vec![&eve, &frank]), (&meeting.other, vec![&grace])] {
        let edus = users.into_iter().flat_map(|user| {
            let typing = json!({ "room_id": id, "user_id": user, "typing": true });
            let read = json!({ user: { "data": { "ts": 1 }, "event_ids": [said] } });
            [mine("m.typing", typing), mine("m.receipt", json!({ id: { "m.read": read } }))]
        });
        of.transact(&meeting.server, &[], &edus.collect::<Vec<_>>()).await.ok();
    }
    wait_until("who types and reads", async || {
        let response = bob.sync().with_filter(LAZY).now().await;
        let typing = ephemeral(&response, id, "m.typing")?;
        let receipts = ephemeral(&response, id, "m.receipt")?;
        let both = |user: &&String| {
            is_among(&typing["user_ids"], user) && receipts[&said]["m.read"][user].is_object()
        };
        readers.iter().all(both).then_some(())
    })
    .await;
    // What somebody here does goes to all servers that are said to be there.
    bob.put(["rooms", id, "typing", &bob.user_id], json!({ "typing": true, "timeout": 30_000 }))
        .await
        .ok();
    let heard = meeting.says(&meeting.peer, "frank", "and this").await;
    bob.post(["rooms", id, "receipt", "m.read", &heard.id], json!({})).await.ok();
    for peer in [&meeting.peer, &meeting.other] {
        peer.gets_edu("m.typing", |typing| typing["user_id"] == bob.user_id.as_str()).await;
        peer.gets_edu("m.receipt", |receipts| {
            let of_bob = &receipts[id]["m.read"][&bob.user_id];
            is_among(&of_bob["event_ids"], &heard.id)
        })
        .await;
    }
    // A client that counts on all members has it all when they are known, also after a crash.
    assert!(!meeting.is_shown().await);
    meeting.server.kill_and_start_again();
    meeting.tell();
    meeting.is_whole().await;
    let shown = patient
        .until(|response| {
            let room = &response["rooms"]["join"][id];
            room.is_object().then(|| response.clone())
        })
        .await;
    let receipts = ephemeral(&shown, id, "m.receipt").expect("receipts");
    for user in readers {
        assert!(receipts[&said]["m.read"][user].is_object(), "{receipts}");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
#[tokio::test]
async fn a_lazy_client_follows_the_room_and_another_gets_it_when_it_is_whole() {
    let meeting = Meeting::new().await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    let (mut lazy, mut eager) = (bob.sync().with_filter(LAZY), bob.sync());
    let first = lazy.now().await;
    let room = &first["rooms"]["join"][id];
    let state = room["state"]["events"].as_array().expect("a state");
    assert!(state.iter().any(|event| event["type"] == "m.room.name"), "{room}");
    assert!(eager.now().await["rooms"]["join"][id].is_null());
    let said = meeting.says(&meeting.peer, "frank", "early").await;
    // Whoever speaks comes along.
    let frank = meeting.peer.user("frank");
    lazy.until(|response| {
        timeline(response, id).iter().find(|event| event["event_id"] == *said.id)?;
        let state = response["rooms"]["join"][id]["state"]["events"].as_array()?;
        state.iter().find(|event| event["state_key"] == *frank).map(|_| ())
    })
    .await;
    assert!(eager.now().await["rooms"]["join"][id].is_null());
    meeting.tell();
    let shown = eager
        .until(|response| {
            let room = &response["rooms"]["join"][id];
            room.is_object().then(|| room.clone())
        })
        .await;
    // Each member is in it once: in the state or, if it came since, in the timeline.
    for user in [&bob.user_id, &frank, &meeting.peer.user("eve"), &meeting.other.user("grace")] {
        let of_user = |event: &&Value| {
            event["type"] == "m.room.member" && event["state_key"] == user.as_str()
        };
        let events = ["state", "timeline"].map(|part| shown[part]["events"].as_array());
        assert_eq!(events.into_iter().flatten().flatten().filter(of_user).count(), 1, "{shown}");
    }
    lazy.until(|response| {
        let summary = &response["rooms"]["join"][id]["summary"];
        (summary["m.joined_member_count"] == 4).then_some(())
    })
    .await;
    // Neither misses what comes then.
    let late = meeting.says(&meeting.other, "grace", "late").await;
    for sync in [&mut lazy, &mut eager] {
        sync.until_event(id, &late.id).await;
    }
}

/// Sliding sync as a client uses it.
struct Sliding {
    client: Client,
    members: &'static str,
    position: Option<String>,
}

impl Sliding {
    /// One that wants the room's name and these members.
    fn of(client: &Client, members: &'static str) -> Self {
        Self { client: client.clone(), members, position: None }
    }

    async fn next(&mut self, timeout_ms: u64) -> Value {
        let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
        let state = json!([["m.room.name", ""], ["m.room.member", self.members]]);
        let list = json!({ "ranges": [[0, 9]], "timeline_limit": 5, "required_state": state });
        let mut request =
            self.client.post(path, json!({ "conn_id": self.members, "lists": { "all": list } }));
        request = request.query("timeout", &timeout_ms.to_string());
        if let Some(position) = &self.position {
            request = request.query("pos", position);
        }
        let answer = request.await.ok();
        self.position = answer["pos"].as_str().map(str::to_owned);
        answer
    }

    /// Syncs until there is something of a room.
    async fn until_room(&mut self, id: &str) -> Value {
        wait_until("the room", async || {
            let room = self.next(5_000).await["rooms"][id].clone();
            room.is_object().then_some(room)
        })
        .await
    }
}

#[tokio::test]
async fn sliding_sync_shows_the_room_at_once_to_who_does_not_want_all_members() {
    let meeting = Meeting::new().await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    let (mut lazy, mut eager) = (Sliding::of(bob, "$LAZY"), Sliding::of(bob, "*"));
    assert_eq!(lazy.until_room(id).await["name"], "named");
    assert!(eager.next(0).await["rooms"][id].is_null());
    let said = meeting.says(&meeting.peer, "frank", "early").await;
    let shown = lazy.until_room(id).await;
    assert!(shown["timeline"].to_string().contains(&said.id), "{shown}");
    assert!(eager.next(0).await["rooms"][id].is_null());
    meeting.tell();
    let shown = eager.until_room(id).await;
    assert_eq!(shown["initial"], true, "{shown}");
    assert_eq!(shown["joined_count"], 4, "{shown}");
    let grace = meeting.other.user("grace");
    let state = shown["required_state"].as_array().expect("a state");
    assert!(state.iter().any(|event| event["state_key"] == *grace), "{shown}");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>
#[tokio::test]
async fn devices_hear_from_who_is_not_known_yet() {
    let meeting = Meeting::new().await;
    let (bob, frank) = (&meeting.bob, meeting.peer.user("frank"));
    let content = json!({
        "sender": frank, "type": "m.dummy", "message_id": "one",
        "messages": { &bob.user_id: { &bob.device_id: { "hello": "there" } } },
    });
    let edu = json!({ "edu_type": "m.direct_to_device", "content": content });
    meeting.peer.transact(&meeting.server, &[], &[edu]).await.ok();
    let message = bob
        .sync()
        .until(|response| response["to_device"]["events"].as_array()?.first().cloned())
        .await;
    let wanted = json!({ "sender": frank, "type": "m.dummy", "content": { "hello": "there" } });
    assert_eq!(message, wanted);
    assert!(!meeting.is_shown().await);
}
