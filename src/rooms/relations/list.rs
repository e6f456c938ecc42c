//! Listing what relates to an event.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid>

use std::collections::{BTreeMap, HashSet};

use ruma::{EventId, OwnedEventId, RoomId, api::Direction};
use serde_json::value::RawValue;

use super::{Relation, RelationKind};
use crate::{
    rooms::{
        Boundary, Room, Rooms, Viewer, Visibility,
        error::RoomError,
        record::{EventNumber, SharedEvent},
        timeline_key::TimelineKey,
    },
    storage::{Range, Read, schema::RELATIONS, shared_events},
    users::session::Session,
};

/// Events of a page if the request does not say.
const DEFAULT_LIMIT: usize = 20;
/// The most events of a page.
const MAX_LIMIT: usize = 500;
/// How many relations are looked at for a page when few of them are wanted.
const MAX_LOOKED_AT: usize = 5_000;
/// How many steps from the event a listing of indirect relations goes.
pub(crate) const MAX_DEPTH: u32 = 3;
/// How many events with indirect relations are looked at.
const MAX_PARENTS: usize = 1_000;

/// Which relations.
#[derive(Clone, Debug)]
pub(crate) struct RelatedRequest {
    /// Only this `rel_type`.
    pub(crate) rel_type: Option<String>,
    /// Only children of this `type`.
    pub(crate) event_type: Option<String>,
    /// Where the page begins.
    pub(crate) from: Option<Boundary>,
    /// Where it ends at the latest.
    pub(crate) to: Option<Boundary>,
    /// How many events at most.
    pub(crate) limit: Option<usize>,
    /// Which way.
    pub(crate) direction: Direction,
    /// Also what relates to the children, and to theirs.
    pub(crate) recurse: bool,
}

/// A page of relations.
#[derive(Debug)]
pub(crate) struct RelatedPage {
    /// The children, in the direction of the request.
    pub(crate) chunk: Vec<Box<RawValue>>,
    /// Where the next page begins; none if this was the last.
    pub(crate) next: Option<Boundary>,
}

impl RelatedRequest {
    fn wants(&self, relation: &Relation) -> bool {
        self.rel_type.as_ref().is_none_or(|wanted| *wanted == relation.rel_type)
            && self.event_type.as_ref().is_none_or(|wanted| *wanted == relation.event_type)
    }
}

impl Rooms {
    /// A page of the events that relate to `parent` and that the user may see.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if the user may not see the parent.
    pub(crate) async fn related(
        &self,
        session: &Session,
        room_id: &RoomId,
        parent: &EventId,
        request: &RelatedRequest,
    ) -> Result<RelatedPage, RoomError> {
        let unknown = || RoomError::UnknownEvent { event: parent.to_owned() };
        let room = self.room(room_id).await.map_err(|error| match error {
            RoomError::UnknownRoom { .. } => unknown(),
            error => error,
        })?;
        let now = Boundary::at_position(self.db().visible_position());
        let at = self.db().snapshot();
        let visibility = Visibility::load(self, &at, &room, session.user).await?;
        let (_, record) = self.stored(&room, parent).await?;
        if !visibility.allows(&record) {
            return Err(unknown());
        }
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let backward = request.direction == Direction::Backward;
        let (first, last) = if backward {
            (request.to.unwrap_or(Boundary::START), request.from.unwrap_or(now).min(now))
        } else {
            (request.from.unwrap_or(Boundary::START), request.to.unwrap_or(now).min(now))
        };
        let (found, next) = if request.recurse {
            let all = self.descendants(&at, &room, parent, (first, last), request).await?;
            self.page_of(&at, &room, &visibility, all, limit, backward).await?
        } else {
            self.page(&at, &room, parent, (first, last), &visibility, request, limit).await?
        };
        let viewer = Viewer::from(session);
        let chunk = self.client_events(&at, &viewer, &room, &visibility, &found, true).await?;
        // A boundary lies after its event: going back, the next page begins before the last one.
        let next = next.map(|key| if backward { Boundary::before(key) } else { Boundary(key) });
        Ok(RelatedPage { chunk, next })
    }

    /// The relations of these kinds within the window, in order.
    #[expect(clippy::too_many_arguments, reason = "the sides of a window")]
    async fn children(
        &self,
        at: &impl Read,
        room: &Room,
        parent: &EventId,
        kinds: &[RelationKind],
        (after, upto): (Boundary, Boundary),
        limit: usize,
        direction: Direction,
    ) -> Result<Vec<(TimelineKey, Relation)>, RoomError> {
        let mut found = Vec::new();
        for kind in kinds {
            let range = Range::prefix(&(room.number, parent, *kind))
                .after(&(room.number, parent, *kind, after.0))
                .upto(&(room.number, parent, *kind, upto.0));
            let rows = match direction {
                Direction::Forward => RELATIONS.scan(at, &range, limit).await?,
                Direction::Backward => RELATIONS.scan_back(at, &range, limit).await?,
            };
            found.extend(rows.into_iter().map(|((.., key), row)| (key, row)));
        }
        match direction {
            Direction::Forward => found.sort_by_key(|(key, _)| *key),
            Direction::Backward => found.sort_by_key(|(key, _)| std::cmp::Reverse(*key)),
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads on until there are enough; the key of the last one if there may be more.
    #[expect(clippy::too_many_arguments, reason = "a page has this many sides")]
    async fn page(
        &self,
        at: &impl Read,
        room: &Room,
        parent: &EventId,
        (mut after, mut upto): (Boundary, Boundary),
        visibility: &Visibility,
        request: &RelatedRequest,
        limit: usize,
    ) -> Result<(Vec<SharedEvent>, Option<TimelineKey>), RoomError> {
        let kinds = match &request.rel_type {
            Some(rel_type) => vec![RelationKind::named(rel_type)],
            None => RelationKind::ALL.to_vec(),
        };
        let mut found = Vec::new();
        let mut looked_at = 0;
        loop {
            let step = (limit + 1).max(50);
            let rows = self
                .children(at, room, parent, &kinds, (after, upto), step, request.direction)
                .await?;
            let exhausted = rows.len() < step;
            let numbers: Vec<EventNumber> = rows.iter().map(|(_, row)| row.event).collect();
            let records = shared_events(at, room.number, &numbers).await?;
            let mut last = None;
            for ((key, row), record) in rows.into_iter().zip(records) {
                if found.len() == limit {
                    return Ok((found, last));
                }
                looked_at += 1;
                last = Some(key);
                let record = record.filter(|record| visibility.allows(record));
                found.extend(record.filter(|_| request.wants(&row)));
            }
            let Some(last) = last.filter(|_| !exhausted) else { return Ok((found, None)) };
            if looked_at >= MAX_LOOKED_AT || found.len() == limit {
                return Ok((found, Some(last)));
            }
            match request.direction {
                Direction::Forward => after = Boundary(last),
                Direction::Backward => upto = Boundary::before(last),
            }
        }
    }

    /// What relates to an event, also by way of others, by timeline key. The filters apply to what
    /// is listed, not to the ways there.
    async fn descendants(
        &self,
        at: &impl Read,
        room: &Room,
        parent: &EventId,
        (after, upto): (Boundary, Boundary),
        request: &RelatedRequest,
    ) -> Result<BTreeMap<TimelineKey, Relation>, RoomError> {
        let everything = (Boundary::START, Boundary::END);
        let mut found = BTreeMap::new();
        let mut known: HashSet<OwnedEventId> = HashSet::from([parent.to_owned()]);
        let mut parents = vec![parent.to_owned()];
        for depth in 1..=MAX_DEPTH {
            let mut children = Vec::new();
            for parent in &parents {
                if children.len() >= MAX_LOOKED_AT {
                    break;
                }
                let all = &RelationKind::ALL;
                let step = MAX_LOOKED_AT - children.len();
                let rows =
                    self.children(at, room, parent, all, everything, step, Direction::Backward);
                children.extend(rows.await?);
            }
            parents.clear();
            if depth < MAX_DEPTH {
                let numbers: Vec<EventNumber> = children.iter().map(|(_, row)| row.event).collect();
                let records = shared_events(at, room.number, &numbers).await?;
                for record in records.into_iter().flatten() {
                    if known.len() < MAX_PARENTS && known.insert(record.event_id.clone()) {
                        parents.push(record.event_id.clone());
                    }
                }
            }
            found.extend(
                children
                    .into_iter()
                    .filter(|(key, row)| *key > after.0 && *key <= upto.0 && request.wants(row)),
            );
        }
        Ok(found)
    }

    /// The first `limit` of these that the user may see; the key of the last if there are more.
    async fn page_of(
        &self,
        at: &impl Read,
        room: &Room,
        visibility: &Visibility,
        relations: BTreeMap<TimelineKey, Relation>,
        limit: usize,
        backward: bool,
    ) -> Result<(Vec<SharedEvent>, Option<TimelineKey>), RoomError> {
        let mut rows: Vec<(TimelineKey, Relation)> = relations.into_iter().collect();
        if backward {
            rows.reverse();
        }
        let mut found = Vec::new();
        let mut last = None;
        for step in rows.chunks(limit.max(50)) {
            let numbers: Vec<EventNumber> = step.iter().map(|(_, row)| row.event).collect();
            let records = shared_events(at, room.number, &numbers).await?;
            for ((key, _), record) in step.iter().zip(records) {
                if found.len() == limit {
                    return Ok((found, last));
                }
                last = Some(*key);
                found.extend(record.filter(|record| visibility.allows(record)));
            }
        }
        Ok((found, None))
    }
}
