//! Following a user's `/sync`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::Client;

/// One client's sequence of syncs, each from where the last one ended.
pub struct Sync {
    client: Client,
    since: Option<String>,
    filter: Option<String>,
}

impl Sync {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, since: None, filter: None }
    }

    /// Uses a filter: its ID, or itself as JSON.
    #[must_use]
    pub fn with_filter(mut self, filter: &str) -> Self {
        self.filter = Some(filter.to_owned());
        self
    }

    /// Goes on from a token of before.
    #[must_use]
    pub fn from(mut self, since: &str) -> Self {
        self.since = Some(since.to_owned());
        self
    }

    /// The token to go on from; none before the first sync.
    pub fn token(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// The next response, waited for up to `timeout_ms`.
    pub async fn next(&mut self, timeout_ms: u64) -> Value {
        let mut request = self.client.get("sync").query("timeout", &timeout_ms.to_string());
        if let Some(since) = &self.since {
            request = request.query("since", since);
        }
        if let Some(filter) = &self.filter {
            request = request.query("filter", filter);
        }
        let response = request.await.ok();
        self.since = Some(crate::text(&response, "/next_batch"));
        response
    }

    /// What there is now, without waiting.
    pub async fn now(&mut self) -> Value {
        self.next(0).await
    }

    /// Syncs until `find` finds what it looks for in a response.
    pub async fn until<T>(&mut self, mut find: impl FnMut(&Value) -> Option<T>) -> T {
        let limit = Duration::from_secs(30);
        let end = Instant::now() + limit;
        let mut last = Value::Null;
        while Instant::now() < end {
            last = self.next(5_000).await;
            if let Some(found) = find(&last) {
                return found;
            }
        }
        panic!(
            "{} did not sync what was expected in {limit:?}; last: {last:#}",
            self.client.user_id
        )
    }

    /// Syncs until the timeline of `room` brings the event `event_id`; returns the event.
    pub async fn until_event(&mut self, room: &str, event_id: &str) -> Value {
        self.until(|response| {
            timeline(response, room).iter().find(|event| event["event_id"] == event_id).cloned()
        })
        .await
    }
}

/// The timeline of a joined room in a sync response; empty if the room is not in it.
pub fn timeline(response: &Value, room: &str) -> Vec<Value> {
    response["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default()
}

/// The content of an ephemeral event of a joined room in a sync response.
pub fn ephemeral(response: &Value, room: &str, event_type: &str) -> Option<Value> {
    let events = response["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == event_type).map(|event| event["content"].clone())
}
