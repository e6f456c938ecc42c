//! Events that are kept only because others refer to them.

use super::{super::outliers::MONTH_MS, *};
use crate::{
    rooms::ingest::Verdict,
    storage::{
        Batch, Range,
        schema::{EVENTS, OUTLIERS},
    },
};

/// How many are kept.
async fn outliers(server: &TestServer) -> usize {
    let rows = EVENTS.scan(&server.db, &Range::all(), usize::MAX).await.unwrap();
    rows.iter().filter(|(_, event)| event.verdict() == Verdict::Outlier).count()
}

/// Whoever signs events without end that refer to each other fills nobody's disk.
#[tokio::test]
async fn what_one_server_has_kept_of_a_room_is_bounded() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let mut last = joined.last.clone();
    let mut chain = Vec::new();
    for number in 0..20 {
        let auth: Vec<&str> =
            [&*last].into_iter().chain(joined.auth[1..].iter().map(|id| &**id)).collect();
        let mut event = joined.message(&last, "");
        event["type"] = json!("m.room.member");
        event["state_key"] = json!(joined.user);
        event["content"] = json!({ "membership": "join", "displayname": format!("n{number}") });
        event["auth_events"] = json!(auth);
        let (id, event) = peer.sign(event);
        chain.push(event);
        last = id;
    }
    *peer.auth_chain.lock() = chain;
    let room = b.server.rooms().room(joined.room.as_str().try_into().unwrap()).await.unwrap();
    let month = b.clock.now_ms() / MONTH_MS;
    let sender = peer.name().to_owned();
    let is_left = async |(month, kept): (u64, u64)| {
        let mut batch = Batch::new();
        OUTLIERS.put(&mut batch, &(room.number, &*sender), &(month, kept));
        b.db.commit(batch).await.unwrap();
    };
    is_left((month, 19_990)).await;
    let citing = |body: &str| {
        let mut event = joined.message(&joined.last, body);
        event["auth_events"] = json!([joined.auth[1], joined.auth[2], last]);
        event
    };
    let (_, one) = peer.sign(citing("one"));
    let (_, two) = peer.sign(citing("two"));
    let (fence_id, fence) = peer.sign(joined.message(&joined.last, "fence"));
    peer.send(&us, &[&one, &fence]).await.unwrap();
    arrives(&b, &bob, &joined.room, &fence_id).await;
    assert_eq!(outliers(&b).await, 0);

    // A month later there is room for some.
    is_left((month - 1, 20_000)).await;
    let (fence_id, fence) = peer.sign(joined.message(&joined.last, "second fence"));
    peer.send(&us, &[&two, &fence]).await.unwrap();
    arrives(&b, &bob, &joined.room, &fence_id).await;
    assert_eq!(outliers(&b).await, 20);
    let kept = OUTLIERS.get(&b.db, &(room.number, &*sender)).await.unwrap();
    assert_eq!(kept, Some((month, 20)));
}
