//! States that nothing needs any more are collected, and nothing else is.

use std::time::Duration;

use super::*;
use crate::{
    rooms::HistoryEnd,
    storage::schema::{EVENT_STATES, STATE_HASHES, STATE_SNAPSHOTS},
};

/// A room of three servers, each of which changes something beside the others.
struct Forks {
    peers: [Peer; 3],
    users: Vec<Session>,
    id: OwnedRoomId,
    made: Vec<(usize, OwnedEventId)>,
}

impl Forks {
    async fn new() -> Self {
        let peers =
            [Peer::new("a.example").await, Peer::new("bb.example").await, Peer::new("ccc").await];
        let mut users = Vec::new();
        for peer in &peers {
            users.push(peer.user("one").await);
        }
        let id = public_room(&peers[0], &users[0], RoomVersionId::V11).await;
        for (peer, user) in peers.iter().zip(&users).skip(1) {
            peer.join(user, &peers[0], &id).await.unwrap();
            let last = peers[0].extremities(&id).await.remove(0);
            for other in peers.iter().take(2) {
                if other.rooms.room(&id).await.is_ok() {
                    other.receive(&peers[0], &id, &last).await;
                }
            }
        }
        let mut forks = Self { peers, users, id, made: Vec::new() };
        let levels: serde_json::Map<String, JsonValue> =
            forks.users.iter().map(|user| (user.user_id.to_string(), 100.into())).collect();
        forks.set(0, "m.room.power_levels", json!({ "users": levels })).await;
        forks.meet().await;
        forks
    }

    async fn set(&mut self, by: usize, event_type: &str, content: JsonValue) -> OwnedEventId {
        self.peers[by].clock.advance(Duration::from_millis(1));
        let event = self.peers[by].set(&self.users[by], &self.id, event_type, content).await;
        self.made.push((by, event.as_ref().unwrap().clone()));
        event.unwrap()
    }

    async fn receive(&self, to: usize, from: usize, event: &OwnedEventId) {
        self.peers[to].receive(&self.peers[from], &self.id, event).await;
    }

    /// All hear of everything.
    async fn meet(&mut self) {
        for (from, event) in std::mem::take(&mut self.made) {
            for to in 0..3 {
                self.receive(to, from, &event).await;
            }
        }
    }

    /// The second server takes in a message that was sent in a state which it never had itself.
    async fn fork(&mut self, round: usize) {
        let topic = self.set(0, "m.room.topic", json!({ "topic": round })).await;
        let name = self.set(1, "m.room.name", json!({ "name": round })).await;
        let avatar = self.set(2, "m.room.avatar", json!({ "url": format!("mxc://a/{round}") }));
        let avatar = avatar.await;
        self.receive(1, 2, &avatar).await;
        self.receive(0, 1, &name).await;
        let text = format!("both {round}");
        let message = self.peers[0].say(&self.users[0], &self.id, &text).await;
        self.receive(1, 0, &topic).await;
        self.receive(1, 0, &message).await;
        self.made.push((0, message));
        self.meet().await;
        let end = self.peers[1].say(&self.users[1], &self.id, &format!("end {round}")).await;
        self.made.push((1, end));
        self.meet().await;
    }

    async fn problems(&self, of: usize) -> Vec<String> {
        let peer = &self.peers[of];
        peer.rooms.check_room(&peer.room(&self.id).await).await.unwrap().problems
    }

    /// Removes the messages of the second server up to the last.
    async fn purge(&self) {
        let peer = &self.peers[1];
        let last = peer.extremities(&self.id).await.remove(0);
        let key = peer.rooms.key_of_end(&self.id, &HistoryEnd::Event(last)).await.unwrap();
        peer.rooms.order_history_purge(&self.id, key, true).await.unwrap();
        peer.rooms.carry_out_jobs().await.unwrap();
    }
}

/// Rows of snapshots, of event states, and of hashes.
async fn rows(peer: &Peer) -> [usize; 3] {
    [
        STATE_SNAPSHOTS.scan(&peer.db, &Range::all(), usize::MAX).await.unwrap().len(),
        EVENT_STATES.scan(&peer.db, &Range::all(), usize::MAX).await.unwrap().len(),
        STATE_HASHES.scan(&peer.db, &Range::all(), usize::MAX).await.unwrap().len(),
    ]
}

#[tokio::test]
async fn states_that_only_removed_events_had_are_collected() {
    let mut forks = Forks::new().await;
    for round in 0..12 {
        forks.fork(round).await;
    }
    let before = rows(&forks.peers[1]).await;
    let collect = async |peer: &Peer| peer.rooms.collect_states(Duration::ZERO).await.unwrap();
    assert_eq!(collect(&forks.peers[1]).await, 0, "nothing was removed yet");
    forks.purge().await;
    let state = forks.peers[1].state(&forks.id).await;
    let collected = collect(&forks.peers[1]).await;
    let after = rows(&forks.peers[1]).await;
    assert!(collected >= 6, "{collected}");
    assert_eq!(before[0] - after[0], collected);
    assert!(after[1] < before[1] && after[2] < before[2], "{before:?} {after:?}");
    assert_eq!(collect(&forks.peers[1]).await, 0, "once");
    assert_eq!(forks.problems(1).await, [""; 0]);
    assert_eq!(forks.peers[1].state(&forks.id).await, state);

    // What is in memory is as good as what is on disk, and the room goes on.
    for round in 20..23 {
        forks.fork(round).await;
    }
    assert_eq!(forks.problems(1).await, [""; 0]);
    let db = forks.peers[1].db.clone();
    forks.peers[1] = Peer::over("bb.example", db).await;
    assert_eq!(forks.problems(1).await, [""; 0]);
    assert_eq!(forks.peers[1].state(&forks.id).await, forks.peers[0].state(&forks.id).await);
    forks.fork(30).await;
    assert_eq!(forks.problems(1).await, [""; 0]);
}

/// Collecting takes its time; whoever writes meanwhile may come to states that were there before.
#[tokio::test]
async fn a_room_is_written_to_while_its_states_are_collected() {
    let mut forks = Forks::new().await;
    for round in 0..12 {
        forks.fork(round).await;
    }
    forks.purge().await;
    let rooms = forks.peers[1].rooms.clone();
    let collecting =
        tokio::spawn(async move { rooms.collect_states(Duration::from_millis(20)).await });
    // The same changes again lead to the same states again, some of which are being collected.
    for round in [3, 4, 5, 11, 10] {
        forks.fork(round).await;
    }
    assert!(collecting.await.unwrap().unwrap() > 0);
    assert_eq!(forks.problems(1).await, [""; 0]);
    let db = forks.peers[1].db.clone();
    forks.peers[1] = Peer::over("bb.example", db).await;
    forks.fork(40).await;
    assert_eq!(forks.problems(1).await, [""; 0]);
    assert_eq!(forks.peers[1].state(&forks.id).await, forks.peers[0].state(&forks.id).await);
}

/// What was never shown is not kept longer than what was.
#[tokio::test]
async fn refused_messages_go_with_the_history_of_their_time() {
    let (a, b) = (Peer::new("a.example").await, Peer::new("bb.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let id = public_room(&a, &alice, RoomVersionId::V11).await;
    b.join(&bob, &a, &id).await.unwrap();
    a.rooms.change_membership(&alice, &id, &bob.user_id, Change::Ban, None).await.unwrap();
    let around = b.say(&bob, &id, "around the ban").await;
    assert_eq!(new_verdict(&a.receive(&b, &id, &around).await), Verdict::SoftFailed);
    let room = a.room(&id).await;
    let is_kept = async || {
        a.rooms.unknown_events(&room, std::slice::from_ref(&around)).await.unwrap().is_empty()
    };
    let purge = async || {
        let end = HistoryEnd::Event(a.say(&alice, &id, "new").await);
        let key = a.rooms.key_of_end(&id, &end).await.unwrap();
        a.rooms.order_history_purge(&id, key, false).await.unwrap();
        a.rooms.carry_out_jobs().await.unwrap();
    };
    purge().await;
    assert!(is_kept().await, "it came when what stays was sent");
    a.clock.advance(Duration::from_secs(1));
    let later = a.say(&alice, &id, "later").await;
    let key = a.rooms.key_of_end(&id, &HistoryEnd::Event(later)).await.unwrap();
    a.rooms.order_history_purge(&id, key, false).await.unwrap();
    a.rooms.carry_out_jobs().await.unwrap();
    assert!(!is_kept().await);
    assert_eq!(a.rooms.check_room(&room).await.unwrap().problems, [""; 0]);
}
