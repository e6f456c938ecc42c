//! The threads of a room, the one with the latest event first.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads>

use std::sync::Arc;

use ruma::{EventId, RoomId};

use super::{RelatedPage, RelationKind};
use crate::{
    rooms::{
        Boundary, Room, Rooms, Viewer, Visibility,
        error::RoomError,
        record::{EventRecord, SharedEvent},
        redaction::emptied,
        timeline_key::TimelineKey,
    },
    storage::{
        Range, Read,
        intern::UserNumber,
        schema::{EVENT_IDS, RELATIONS, THREAD_EVENTS, THREAD_PARTICIPANTS},
        shared_events,
    },
    users::session::Session,
};

/// Threads of a page if the request does not say.
const DEFAULT_LIMIT: usize = 20;
/// The most threads of a page.
const MAX_LIMIT: usize = 100;
/// How many events of threads are looked at for a page.
const MAX_LOOKED_AT: usize = 5_000;
/// How many rows one step takes.
const STEP: usize = 200;

impl Rooms {
    /// A page of a room's threads, only those that the user took part in if `participated`.
    ///
    /// Read from the latest thread event backwards; a root is listed where its latest event stands.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(crate) async fn threads(
        &self,
        session: &Session,
        room_id: &RoomId,
        from: Option<Boundary>,
        limit: Option<usize>,
        participated: bool,
    ) -> Result<RelatedPage, RoomError> {
        let (room, at, visibility, now) = self.open_timeline(session, room_id).await?;
        let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let mut upto = from.unwrap_or(now).min(now);
        let mut roots: Vec<SharedEvent> = Vec::new();
        let mut looked_at = 0;
        let next = 'rows: loop {
            let range = Range::prefix(&(room.number,)).upto(&(room.number, upto.0));
            let rows = THREAD_EVENTS.scan_back(&at, &range, STEP).await?;
            let exhausted = rows.len() < STEP;
            for ((_, key), root) in rows {
                if roots.len() == limit || looked_at == MAX_LOOKED_AT {
                    break 'rows Some(upto);
                }
                looked_at += 1;
                upto = Boundary::before(key);
                if self.latest_of(&at, &room, &root).await? != Some(key) {
                    continue;
                }
                let Some(record) = self.root(&at, &room, &visibility, &root).await? else {
                    continue;
                };
                if !participated || takes_part(&at, &room, session.user, &record).await? {
                    roots.push(record);
                }
            }
            if exhausted {
                break None;
            }
        };
        let viewer = Viewer::from(session);
        let chunk = self.client_events(&at, &viewer, &room, &visibility, &roots, true).await?;
        Ok(RelatedPage { chunk, next })
    }

    /// The timeline key of the latest event of a thread.
    async fn latest_of(
        &self,
        at: &impl Read,
        room: &Room,
        thread: &EventId,
    ) -> Result<Option<TimelineKey>, RoomError> {
        let range = Range::prefix(&(room.number, thread, RelationKind::Thread));
        let latest = RELATIONS.scan_back(at, &range, 1).await?.pop();
        Ok(latest.map(|((.., key), _)| key))
    }

    /// The root of a thread, if it is here and the user may see it.
    async fn root(
        &self,
        at: &impl Read,
        room: &Room,
        visibility: &Visibility,
        thread: &EventId,
    ) -> Result<Option<SharedEvent>, RoomError> {
        let Some((in_room, number)) = EVENT_IDS.get(at, thread).await? else { return Ok(None) };
        if in_room != room.number {
            return Ok(None);
        }
        match shared_events(at, in_room, &[number]).await?.pop().flatten() {
            // As a client shows it that puts threads together by itself.
            Some(record) if visibility.ignores(&record) => {
                let visible = visibility.allows_whoever_sent(&record);
                visible
                    .then(|| emptied(Arc::unwrap_or_clone(record), &room.rules).map(Arc::new))
                    .transpose()
            }
            record => Ok(record.filter(|record| visibility.allows(record))),
        }
    }
}

/// Whether the user sent the root or an event of the thread.
async fn takes_part(
    at: &impl Read,
    room: &Room,
    user: UserNumber,
    first: &EventRecord,
) -> Result<bool, RoomError> {
    let own = (room.number, &*first.event_id, user);
    Ok(first.sender == user
        || !THREAD_PARTICIPANTS.scan(at, &Range::prefix(&own), 1).await?.is_empty())
}
