//! The rooms of a space, and of the spaces within.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    RoomError,
    elsewhere::{self, Child, Elsewhere, Told, servers_of},
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
/// How many children another server is told of.
const MAX_SERVED: usize = 500;

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

/// A space as it is told to another server.
#[derive(Debug, Serialize)]
pub(crate) struct ServedHierarchy {
    room: Node,
    children: Vec<Arc<Overview>>,
    inaccessible_children: Vec<OwnedRoomId>,
}

#[derive(Debug, Serialize)]
struct Node {
    #[serde(flatten)]
    overview: Arc<Overview>,
    /// The `m.space.child` events, stripped.
    children_state: Vec<Box<RawValue>>,
}

/// Where a room of the hierarchy was found.
enum Found {
    Here(RoomNumber, Arc<Overview>),
    /// Elsewhere; `Told` if it is known what it names.
    Told(Arc<Overview>, Option<Arc<Told>>),
}

/// A room that is still to be listed.
struct Waiting {
    room: OwnedRoomId,
    depth: u64,
    via: Vec<OwnedServerName>,
    /// What the server that told of its parent says of it.
    known: Option<Arc<Overview>>,
}

impl Overviews {
    /// A page of the hierarchy below a space: rooms the user may know of, depth first. Of rooms that
    /// are not here `elsewhere` tells.
    ///
    /// The token says how many rooms were listed, and for which parameters.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] if the user may not know of the space, or nobody does;
    /// [`RoomError::InvalidParam`] for a token of other parameters.
    pub(crate) async fn hierarchy(
        &self,
        session: &Session,
        space: &RoomId,
        request: &HierarchyRequest,
        elsewhere: &dyn Elsewhere,
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
        let root = Waiting { room: space.to_owned(), depth: 0, via: Vec::new(), known: None };
        let mut rooms = Vec::new();
        let mut listed = 0;
        let mut seen: HashSet<OwnedRoomId> = HashSet::from([space.to_owned()]);
        // What comes next is at the end.
        let mut waiting: Vec<Waiting> = vec![root];
        while let Some(next) = waiting.pop() {
            let depth = next.depth;
            let found = self.look_up(&at, session, next, request.suggested_only, elsewhere).await?;
            let Some(found) = found else {
                if depth == 0 {
                    return Err(hidden());
                }
                continue;
            };
            if rooms.len() == limit || listed == MAX_ROOMS {
                let more = listed < MAX_ROOMS;
                let next_batch = more.then(|| request.token(listed));
                return Ok(Hierarchy { rooms, next_batch });
            }
            let (overview, told) = match &found {
                Found::Here(_, overview) => (overview, None),
                Found::Told(overview, told) => (overview, told.as_ref()),
            };
            let children = match &found {
                Found::Here(number, overview) if overview.is_space() => {
                    children(&at, *number, request.suggested_only).await?
                }
                Found::Here(..) | Found::Told(_, None) => Vec::new(),
                Found::Told(_, Some(told)) => {
                    let mut children = told.children.clone();
                    children.retain(|child| child.suggested || !request.suggested_only);
                    children
                }
            };
            if request.max_depth.is_none_or(|most| depth < most) {
                // Reversed, since the last one is taken first.
                for child in children.iter().rev() {
                    let known = told.and_then(|told| told.known.get(&child.room)).cloned();
                    let is_hidden = told.is_some_and(|told| told.hidden.contains(&child.room));
                    let is_here = self.number(&child.room).await?.is_some();
                    if (is_here || !is_hidden) && seen.insert(child.room.clone()) {
                        waiting.push(Waiting {
                            room: child.room.clone(),
                            depth: depth + 1,
                            via: child.via.clone(),
                            known,
                        });
                    }
                }
            }
            listed += 1;
            if listed > skip {
                let overview = Arc::clone(overview);
                let children_state = children.into_iter().map(|child| child.event).collect();
                rooms.push(Node { overview, children_state });
            }
        }
        Ok(Hierarchy { rooms, next_batch: None })
    }

    /// A room of the hierarchy, if the user may know of it: as it is here, or as other servers
    /// describe it.
    async fn look_up(
        &self,
        at: &Snapshot,
        session: &Session,
        wanted: Waiting,
        suggested_only: bool,
        elsewhere: &dyn Elsewhere,
    ) -> Result<Option<Found>, RoomError> {
        let db = self.rooms().db();
        let Waiting { room, via, known, .. } = wanted;
        let here = match self.number(&room).await? {
            Some(number) if self.is_known_now(number).await? => Some(number),
            _ => None,
        };
        let (number, found) = if let Some(number) = here {
            (Some(number), Found::Here(number, self.of(at, number).await?))
        } else {
            let told = match &known {
                // What is no space names nothing.
                Some(known) if !known.is_space() => None,
                _ => {
                    let via = servers_of(&room, via.into_iter());
                    elsewhere.room(&room, &via, suggested_only).await
                }
            };
            let overview = told.as_ref().map(|told| Arc::clone(&told.overview)).or(known);
            let Some(overview) = overview else { return Ok(None) };
            (db.rooms().find(db, &*room).await?, Found::Told(overview, told))
        };
        let (Found::Here(_, overview) | Found::Told(overview, _)) = &found;
        let may_see = self.may_see(at, overview, number, Some(session.user)).await?;
        Ok(may_see.then_some(found))
    }

    /// Whether somebody here is in the room: what is known of it is true now.
    async fn is_known_now(&self, room: RoomNumber) -> Result<bool, RoomError> {
        let room = self.rooms().numbered(room).await?;
        Ok(!room.local_members().is_empty() || self.rooms().other_servers(&room).is_empty())
    }

    /// A space and the rooms that it names, for another server.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], also if the server may not know of the room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>
    pub(crate) async fn hierarchy_for(
        &self,
        server: &ServerName,
        space: &RoomId,
        suggested_only: bool,
    ) -> Result<ServedHierarchy, RoomError> {
        let unknown = || RoomError::UnknownRoom { room: space.to_owned().into() };
        let at = self.rooms().db().snapshot();
        let number = self.number(space).await?.ok_or_else(unknown)?;
        let overview = self.of(&at, number).await?;
        if !self.is_known_now(number).await?
            || !self.server_may_see(&overview, number, server).await?
        {
            return Err(unknown());
        }
        let named = if overview.is_space() {
            children(&at, number, suggested_only).await?
        } else {
            Vec::new()
        };
        let (mut known, mut inaccessible_children) = (Vec::new(), Vec::new());
        for child in named.iter().take(MAX_SERVED) {
            let Some(number) = self.number(&child.room).await? else { continue };
            if !self.is_known_now(number).await? {
                continue;
            }
            let overview = self.of(&at, number).await?;
            if self.server_may_see(&overview, number, server).await? {
                known.push(overview);
            } else {
                inaccessible_children.push(child.room.clone());
            }
        }
        let children_state = named.into_iter().map(|child| child.event).collect();
        let room = Node { overview, children_state };
        Ok(ServedHierarchy { room, children: known, inaccessible_children })
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
async fn children(
    at: &Snapshot,
    space: RoomNumber,
    suggested_only: bool,
) -> Result<Vec<Child>, RoomError> {
    let events = state_of_type(at, space, "m.space.child", MAX_CHILDREN).await?;
    let mut children = Vec::with_capacity(events.len());
    for event in &events {
        children.extend(Child::parse(stripped(event)?));
    }
    children.retain(|child| child.suggested || !suggested_only);
    elsewhere::sort(&mut children);
    Ok(children)
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
