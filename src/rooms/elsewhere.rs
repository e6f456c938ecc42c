//! Rooms that are not here, as other servers describe them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::future::BoxFuture;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::overview::Overview;

/// How many servers that may be in a room are named.
const MAX_SERVERS: usize = 5;

/// A room that another server told of, with what it knows of the rooms that this one names, if it
/// is a space.
#[derive(Debug)]
pub(crate) struct Told {
    /// The room.
    pub(crate) overview: Arc<Overview>,
    /// Its `m.space.child` events, stripped.
    pub(crate) children: Vec<Child>,
    /// Those of them that the other server knows.
    pub(crate) known: HashMap<OwnedRoomId, Arc<Overview>>,
    /// Those that it does not tell this server about.
    pub(crate) hidden: HashSet<OwnedRoomId>,
}

/// Who tells of rooms that are not here.
pub(crate) trait Elsewhere: Send + Sync {
    /// A room as one of these servers describes it; none if nobody does.
    fn room<'a>(
        &'a self,
        room: &'a RoomId,
        via: &'a [OwnedServerName],
        suggested_only: bool,
    ) -> BoxFuture<'a, Option<Arc<Told>>>;
}

/// A room that a space names.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// Which.
    pub(crate) room: OwnedRoomId,
    /// Servers that may be in it.
    pub(crate) via: Vec<OwnedServerName>,
    /// Where it stands among the others, if the event says so.
    pub(super) order: Option<String>,
    /// Of the event, in ms since the Unix epoch.
    pub(super) origin_server_ts: u64,
    /// Whether the space recommends it.
    pub(super) suggested: bool,
    /// The event, stripped.
    pub(super) event: Box<RawValue>,
}

#[derive(Deserialize)]
struct ChildContent {
    via: Vec<String>,
    #[serde(default)]
    order: Option<serde_json::Value>,
    #[serde(default)]
    suggested: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ChildEvent {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    #[serde(default)]
    origin_server_ts: u64,
    content: ChildContent,
}

/// The longest `order` that counts.
const MAX_ORDER: usize = 50;

impl Child {
    /// The size of its event.
    pub(crate) fn bytes(&self) -> usize {
        self.event.get().len()
    }

    /// Reads a stripped `m.space.child` event. None if it is no such event, or names no server.
    pub(crate) fn parse(event: Box<RawValue>) -> Option<Self> {
        let read: ChildEvent = serde_json::from_str(event.get()).ok()?;
        if read.event_type != "m.space.child" || read.content.via.is_empty() {
            return None;
        }
        let via = read.content.via.iter();
        let via = via.filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
        let order = read.content.order.as_ref().and_then(|order| order.as_str());
        Some(Self {
            room: RoomId::parse(&read.state_key).ok()?,
            via: via.take(MAX_SERVERS).collect(),
            order: order.filter(|order| is_valid_order(order)).map(str::to_owned),
            origin_server_ts: read.origin_server_ts,
            suggested: read.content.suggested == Some(true.into()),
            event,
        })
    }
}

/// The children in the order in which they are shown: those with an order first, then the oldest,
/// then by room ID.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>
pub(super) fn sort(children: &mut [Child]) {
    children.sort_by(|a, b| {
        let key =
            |child: &Child| (child.order.is_none(), child.order.clone(), child.origin_server_ts);
        key(a).cmp(&key(b)).then_with(|| a.room.cmp(&b.room))
    });
}

fn is_valid_order(order: &str) -> bool {
    order.len() <= MAX_ORDER && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

/// Servers that may be in a room: these, and the one that made its ID.
pub(crate) fn servers_of(
    room: &RoomId,
    via: impl Iterator<Item = OwnedServerName>,
) -> Vec<OwnedServerName> {
    let mut servers: Vec<OwnedServerName> = Vec::new();
    for server in via.chain(room.server_name().map(ToOwned::to_owned)) {
        if !servers.contains(&server) && servers.len() < MAX_SERVERS {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn child(room: &str, order: Option<&str>, at: u64) -> Child {
        let event = json!({
            "type": "m.space.child", "state_key": room, "origin_server_ts": at,
            "content": { "via": ["a.example"], "order": order },
        });
        Child::parse(to_raw_value(&event).unwrap()).unwrap()
    }

    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>
    #[test]
    fn children_have_an_order() {
        let long = "x".repeat(51);
        let mut children = [
            child("!d:a.example", Some(&long), 7),
            child("!c:a.example", None, 5),
            child("!b:a.example", Some("b"), 9),
            child("!a:a.example", Some("a"), 9),
            child("!e:a.example", None, 5),
        ];
        sort(&mut children);
        let order: Vec<&str> = children.iter().map(|child| child.room.as_str()).collect();
        let wanted =
            ["!a:a.example", "!b:a.example", "!c:a.example", "!e:a.example", "!d:a.example"];
        assert_eq!(order, wanted);
    }

    #[test]
    fn an_event_without_servers_names_no_child() {
        for content in [json!({}), json!({ "via": [] }), json!({ "via": "a.example" })] {
            let event = json!({ "type": "m.space.child", "state_key": "!a:b", "content": content });
            assert!(Child::parse(to_raw_value(&event).unwrap()).is_none(), "{event}");
        }
    }
}
