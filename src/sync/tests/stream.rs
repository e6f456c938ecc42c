//! Streams: what a client was sent, and what it has.

use super::*;
use crate::sync::{Streams, SyncStream};

impl World {
    fn streams(&self, max_streams_per_user: usize) -> Streams {
        let config = config::Syncing { streams: true, max_streams_per_user };
        Streams::new(self.sync.clone(), &config)
    }
}

fn notes(response: &Value) -> usize {
    response["to_device"]["events"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn messages_to_a_device_stay_until_they_are_acknowledged() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let mut stream = world.streams(1).open(&bob, Request::default()).await.unwrap();
    let next =
        async |stream: &mut SyncStream| serde_json::to_value(stream.next().await.unwrap()).unwrap();
    let before = since(&next(&mut stream).await);
    world.note(&alice, &bob, "1").await;
    let first = next(&mut stream).await;
    world.note(&alice, &bob, "2").await;
    let second = next(&mut stream).await;
    assert_eq!((notes(&first), notes(&second)), (1, 1));
    drop(stream);
    let waiting = async |token: SyncToken| {
        let request = Request { since: Some(token), unconfirmed: true, ..Request::default() };
        notes(&world.sync(&bob, &request).await)
    };
    assert_eq!(waiting(before).await, 2);
    world.sync.acknowledge(&bob, since(&first)).await.unwrap();
    assert_eq!(waiting(before).await, 1);
    world.sync.acknowledge(&bob, since(&second)).await.unwrap();
    assert_eq!(waiting(before).await, 0);
    let from_the_future = SyncToken { position: 1 << 40, to_device: 0 };
    let refusal = world.sync.acknowledge(&bob, from_the_future).await;
    assert!(matches!(refusal, Err(SyncError::FromTheFuture)));
}

#[tokio::test]
async fn a_place_is_free_again_when_its_stream_ends() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let streams = world.streams(2);
    let first = streams.open(&bob, Request::default()).await.unwrap();
    let _second = streams.open(&bob, Request::default()).await.unwrap();
    let third = streams.open(&bob, Request::default()).await;
    assert!(matches!(third, Err(SyncError::TooManyStreams)));
    streams.open(&alice, Request::default()).await.unwrap();
    drop(first);
    streams.open(&bob, Request::default()).await.unwrap();
}

/// Without news there is a pause and then nothing, again and again, and the stream goes on.
#[tokio::test(start_paused = true)]
async fn a_stream_without_news_says_so_and_goes_on() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let room = world.public_room(&alice).await;
    let mut stream = world.streams(1).open(&alice, Request::default()).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    assert!(stream.next().await.unwrap().is_none());
    assert!(stream.next().await.unwrap().is_none());
    world.send(&alice, &room, "hello").await;
    assert!(stream.next().await.unwrap().is_some());
    world.shutdown.start();
    assert!(stream.next().await.unwrap().is_none());
    assert!(stream.is_stopping());
}
