//! The rooms of a space, and of the spaces within.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    RoomError,
    event::push_text,
    overview::{Overview, Overviews, state_of_type},
    record::EventRecord,
    show::raw,
};
use crate::{
    storage::{Snapshot, intern::RoomNumber},
    users::session::Session,
};

/// Rooms of a page if the request does not say.
const DEFAULT_LIMIT: usize = 50;
/// The most rooms of a page.
const MAX_LIMIT: usize = 50;
/// How many rooms of a hierarchy are listed in all.
const MAX_ROOMS: usize = 5_000;
/// How many children of one space are looked at.
const MAX_CHILDREN: usize = 2_000;
/// The longest `order` that counts.
const MAX_ORDER: usize = 50;

/// Which part of a hierarchy.
#[derive(Clone, Debug, Default)]
pub(crate) struct HierarchyRequest {
    /// The token of a page.
    pub(crate) from: Option<String>,
    /// How many rooms at most.
    pub(crate) limit: Option<usize>,
    /// How many steps from the space; none: all the way.
    pub(crate) max_depth: Option<u64>,
    /// Only children that are suggested.
    pub(crate) suggested_only: bool,
}

/// A page of a hierarchy, the space itself first.
#[derive(Debug, Serialize)]
pub(crate) struct Hierarchy {
    rooms: Vec<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Node {
    #[serde(flatten)]
    overview: Arc<Overview>,
    /// The `m.space.child` events, stripped.
    children_state: Vec<Box<RawValue>>,
}

/// A room that a space names.
struct Child {
    room: OwnedRoomId,
    order: Option<String>,
    event: EventRecord,
}

#[derive(Deserialize)]
struct ChildContent {
    via: Vec<String>,
    #[serde(default)]
    order: Option<serde_json::Value>,
    #[serde(default)]
    suggested: Option<serde_json::Value>,
}

impl Overviews {
    /// A page of the hierarchy below a space: rooms the user may know of, depth first.
    ///
    /// The token says how many rooms were listed, and for which parameters.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] if the user may not know of the space, or it is not here;
    /// [`RoomError::InvalidParam`] for a token of other parameters.
    pub(crate) async fn hierarchy(
        &self,
        session: &Session,
        space: &RoomId,
        request: &HierarchyRequest,
    ) -> Result<Hierarchy, RoomError> {
        let skip = match &request.from {
            Some(from) => request.listed_before(from).ok_or_else(|| RoomError::InvalidParam {
                why: "this is no token of this hierarchy".to_owned(),
            })?,
            None => 0,
        };
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let hidden = || RoomError::NotInRoom { room: space.to_owned() };
        let at = self.rooms().db().snapshot();
        let number = self.number(space).await?.ok_or_else(hidden)?;
        let overview = self.of(&at, number).await?;
        if !self.may_see(&at, &overview, number, Some(session.user)).await? {
            return Err(hidden());
        }
        let mut rooms = Vec::new();
        let mut listed = 0;
        let mut seen: HashSet<OwnedRoomId> = HashSet::from([space.to_owned()]);
        // What comes next is at the end.
        let mut waiting: Vec<(OwnedRoomId, u64)> = vec![(space.to_owned(), 0)];
        while let Some((room, depth)) = waiting.pop() {
            let Some(number) = self.number(&room).await? else { continue };
            let overview = self.of(&at, number).await?;
            if !self.may_see(&at, &overview, number, Some(session.user)).await? {
                continue;
            }
            if rooms.len() == limit || listed == MAX_ROOMS {
                let more = listed < MAX_ROOMS;
                let next_batch = more.then(|| request.token(listed));
                return Ok(Hierarchy { rooms, next_batch });
            }
            let is_space = overview.room_type.as_deref() == Some("m.space");
            let children = if is_space {
                children(&at, number, request.suggested_only).await?
            } else {
                Vec::new()
            };
            if request.max_depth.is_none_or(|most| depth < most) {
                // Reversed, since the last one is taken first.
                for child in children.iter().rev() {
                    if seen.insert(child.room.clone()) {
                        waiting.push((child.room.clone(), depth + 1));
                    }
                }
            }
            listed += 1;
            if listed > skip {
                let children_state = children
                    .iter()
                    .map(|child| stripped(&child.event))
                    .collect::<Result<_, _>>()?;
                rooms.push(Node { overview, children_state });
            }
        }
        Ok(Hierarchy { rooms, next_batch: None })
    }
}

impl HierarchyRequest {
    fn token(&self, listed: usize) -> String {
        let depth = self.max_depth.map_or_else(|| "x".to_owned(), |depth| depth.to_string());
        format!("h1_{listed}_{depth}_{}", u8::from(self.suggested_only))
    }

    /// How many rooms were listed before; none if the token is none, or one of other parameters.
    fn listed_before(&self, token: &str) -> Option<usize> {
        let listed = token.strip_prefix("h1_")?.split('_').next()?.parse().ok()?;
        (self.token(listed) == token).then_some(listed)
    }
}

/// The children of a space, in the order in which they are shown.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space>
async fn children(
    at: &Snapshot,
    space: RoomNumber,
    suggested_only: bool,
) -> Result<Vec<Child>, RoomError> {
    let events = state_of_type(at, space, "m.space.child", MAX_CHILDREN).await?;
    let mut children: Vec<Child> = events
        .into_iter()
        .filter_map(|event| {
            let room = RoomId::parse(event.state_key.as_deref()?).ok()?;
            let content: ChildContent = serde_json::from_str(event.content()).ok()?;
            let suggested = content.suggested == Some(true.into());
            if content.via.is_empty() || (suggested_only && !suggested) {
                return None;
            }
            let order = content.order.as_ref().and_then(|order| order.as_str());
            let order = order.filter(|order| is_valid_order(order)).map(str::to_owned);
            Some(Child { room, order, event })
        })
        .collect();
    children.sort_by(|a, b| {
        // Those with an order first, then the oldest, then by room ID.
        let key = |child: &Child| {
            (child.order.is_none(), child.order.clone(), child.event.origin_server_ts)
        };
        key(a).cmp(&key(b)).then_with(|| a.room.cmp(&b.room))
    });
    Ok(children)
}

fn is_valid_order(order: &str) -> bool {
    order.len() <= MAX_ORDER && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

fn stripped(event: &EventRecord) -> Result<Box<RawValue>, RoomError> {
    let mut out = String::from("{\"content\":");
    out.push_str(event.content());
    out.push_str(",\"origin_server_ts\":");
    out.push_str(&event.origin_server_ts.to_string());
    out.push_str(",\"sender\":");
    push_text(&mut out, event.sender_id.as_str());
    out.push_str(",\"state_key\":");
    push_text(&mut out, event.state_key.as_deref().unwrap_or_default());
    out.push_str(",\"type\":");
    push_text(&mut out, &event.event_type);
    out.push('}');
    raw(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_parameters() {
        let request = HierarchyRequest { max_depth: Some(2), ..HierarchyRequest::default() };
        let token = request.token(50);
        assert_eq!(request.listed_before(&token), Some(50));
        let other = HierarchyRequest { suggested_only: true, ..request.clone() };
        assert_eq!(other.listed_before(&token), None);
        for rubbish in ["", "h1_", "h1_x_2_0", "h1_050_2_0", "h1_50_2_0_1"] {
            assert_eq!(request.listed_before(rubbish), None, "{rubbish}");
        }
    }
}
