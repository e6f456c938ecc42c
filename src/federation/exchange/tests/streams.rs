//! Answers to joins that are read as they come, whatever comes.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::{servers::change_answers, *};

const SEND_JOIN: &str = "/_matrix/federation/v2/send_join";
/// The most bytes of an answer that are read.
const MAX_BYTES: usize = 256 << 20;

/// A room on b, which c is in too.
struct Place {
    network: Network,
    a: TestServer,
    b: TestServer,
    _c: TestServer,
    alice: TestUser,
    bob: TestUser,
    room: String,
}

impl Place {
    async fn new() -> Self {
        let Three { network, a, b, c, alice, bob, carol } = Three::new().await;
        let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
        join(&c, &carol, &room).await;
        let members = format!("/v3/rooms/{room}/members");
        assert_eq!(c.get(&members, Some(&carol)).await.0, StatusCode::OK);
        Self { network, a, b, _c: c, alice, bob, room }
    }

    /// What b answers to joins is what becomes of the right answer.
    fn answers(&self, change: impl Fn(String) -> Body + Clone + Send + Sync + 'static) {
        change_answers(&self.network, &self.b, SEND_JOIN, change);
    }

    async fn join(&self, via: &str) -> (StatusCode, Value) {
        let path = format!("/v3/join/{}?{via}", self.room);
        self.a.post(&path, Some(&self.alice), json!({})).await
    }

    async fn is_joined(&self) -> bool {
        let (_, joined) = self.a.get("/v3/joined_rooms", Some(&self.alice)).await;
        joined["joined_rooms"] == json!([self.room])
    }

    /// The join comes to nothing, and does when it is answered as it should be.
    async fn refuses_then_joins(&self) {
        let (status, answer) = self.join("via=b.example").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer}");
        assert!(!self.is_joined().await);
        self.answers(Body::from);
        self.a.clock.advance(Duration::from_hours(1));
        let (status, answer) = self.join("via=b.example").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(self.is_joined().await);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let it = Place::new().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    it.answers(move |_| {
        let element = Bytes::from(format!("\"{}\",", "x".repeat(200_000)));
        let counted = Arc::clone(&counted);
        let forever = stream::repeat(element).map(move |piece| {
            counted.fetch_add(piece.len(), Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(piece)
        });
        let begin = stream::iter([Ok(Bytes::from_static(b"{\"auth_chain\":[],\"state\":["))]);
        Body::from_stream(begin.chain(forever))
    });
    it.refuses_then_joins().await;
    let sent = sent.load(Ordering::Relaxed);
    assert!((MAX_BYTES / 2..MAX_BYTES + (1 << 20)).contains(&sent), "{sent}");
}

#[tokio::test]
async fn an_answer_of_events_without_number_is_given_up() {
    let it = Place::new().await;
    it.answers(|_| {
        let elements = Bytes::from("0,".repeat(4_096));
        let forever = stream::repeat(Ok::<_, std::convert::Infallible>(elements));
        let begin = stream::iter([Ok(Bytes::from_static(b"{\"auth_chain\":[],\"state\":["))]);
        Body::from_stream(begin.chain(forever))
    });
    it.refuses_then_joins().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer_and_another_server_is_asked() {
    let it = Place::new().await;
    it.answers(|answer| Body::from(answer[..answer.len() * 2 / 3].to_owned()));
    let (status, answer) = it.join("via=b.example").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer}");
    assert!(!it.is_joined().await);
    it.a.clock.advance(Duration::from_hours(1));
    let (status, answer) = it.join("via=b.example&via=c.example").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(membership(&it.b, &it.bob, &it.room, &it.alice.user_id).await, "join");
}

#[tokio::test]
async fn garbage_in_the_middle_of_an_answer_is_no_answer() {
    let it = Place::new().await;
    it.answers(|answer| Body::from(answer.replacen("},{", "},}{", 1)));
    it.refuses_then_joins().await;
}

/// Time is the runtime's: it jumps to when nobody waits any longer.
#[tokio::test(start_paused = true)]
async fn an_answer_that_stops_is_not_waited_for_without_end() {
    let it = Place::new().await;
    it.answers(|answer| {
        let begin = Bytes::from(answer.as_bytes()[..100].to_vec());
        let begin = stream::iter([Ok::<_, std::convert::Infallible>(begin)]);
        Body::from_stream(begin.chain(stream::pending()))
    });
    it.refuses_then_joins().await;
}

/// One byte at a time keeps nobody waiting for ever either.
#[tokio::test(start_paused = true)]
async fn an_answer_that_drips_is_given_up() {
    let it = Place::new().await;
    it.answers(|_| {
        let drip = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(b" "))
        });
        Body::from_stream(drip)
    });
    it.refuses_then_joins().await;
}

/// What can't be an event does not keep anybody out.
#[tokio::test]
async fn an_event_of_ten_megabytes_is_passed_over() {
    let it = Place::new().await;
    it.answers(|answer| {
        let large = format!("\"state\":[{{\"type\":\"{}\"}},", "x".repeat(10 << 20));
        assert!(answer.contains("\"state\":["), "{answer}");
        Body::from(answer.replacen("\"state\":[", &large, 1))
    });
    let (status, answer) = it.join("via=b.example").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(membership(&it.a, &it.alice, &it.room, &it.bob.user_id).await, "join");
}

/// Several batches are checked side by side.
#[tokio::test]
async fn a_large_state_comes_whole() {
    const SLOTS: usize = 1_200;
    let it = Place::new().await;
    for slot in 0..SLOTS {
        let path = format!("/v3/rooms/{}/state/org.example.slot/{slot}", it.room);
        let content = json!({ "value": slot });
        assert_eq!(it.b.put(&path, &it.bob, content).await.0, StatusCode::OK);
    }
    let (status, answer) = it.join("via=b.example").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let path = format!("/v3/rooms/{}/state", it.room);
    let (_, state) = it.a.get(&path, Some(&it.alice)).await;
    let slots = state.as_array().unwrap().iter();
    let slots = slots.filter(|event| event["type"] == "org.example.slot").filter(|event| {
        event["state_key"].as_str() == Some(event["content"]["value"].to_string().as_str())
    });
    assert_eq!(slots.count(), SLOTS);
}
