//! Reading a room's events in order, page by page.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>

use std::{collections::BTreeSet, sync::Arc};

use ruma::{EventId, OwnedEventId, RoomId, api::Direction};
use serde_json::value::RawValue;

use super::{
    Rooms,
    error::RoomError,
    filter::EventFilter,
    record::{EventNumber, EventRecord, SharedEvent},
    room::Room,
    show::Viewer,
    tail,
    timeline_key::{Boundary, TimelineKey},
    visibility::Visibility,
};
use crate::{
    storage::{Range, Read, schema::TIMELINE, shared_events},
    users::session::Session,
};

/// The most events of one page.
const MAX_LIMIT: usize = 1_000;
/// How many events are looked at for one page before it is sent, full or not.
const MAX_LOOKED_AT: usize = 5_000;

/// Which page.
#[derive(Clone, Debug)]
pub(crate) struct PageRequest {
    /// Where it begins; none: at the end that lies opposite to the direction.
    pub(crate) from: Option<Boundary>,
    /// Where it ends at the latest.
    pub(crate) to: Option<Boundary>,
    /// Which way.
    pub(crate) direction: Direction,
    /// How many events at most, at least one.
    pub(crate) limit: usize,
    /// Which events.
    pub(crate) filter: EventFilter,
    /// Without those that were fetched later, which are no news.
    pub(crate) only_live: bool,
}

/// A page of a timeline.
#[derive(Debug)]
pub(crate) struct Page {
    /// Where it begins.
    pub(crate) start: Boundary,
    /// Where the next one begins; none if there is nothing more that way.
    pub(crate) end: Option<Boundary>,
    /// Where it ends, if it goes back to the beginning of what is here: other servers may have more.
    pub(crate) edge: Option<Boundary>,
    /// Events that belong to it, or where it ends, and are not here: other servers may have them.
    pub(crate) missing: Vec<OwnedEventId>,
    /// The events, in the direction of the request.
    pub(crate) chunk: Vec<Box<RawValue>>,
    /// The member events of their senders, if only members that matter are wanted.
    pub(crate) state: Vec<Box<RawValue>>,
}

/// An event and its surroundings.
#[derive(Debug)]
pub(crate) struct Context {
    /// The event.
    pub(crate) event: Box<RawValue>,
    /// What came before it, latest first.
    pub(crate) before: Vec<Box<RawValue>>,
    /// What came after it, earliest first.
    pub(crate) after: Vec<Box<RawValue>>,
    /// The room's state at the last event.
    pub(crate) state: Vec<Box<RawValue>>,
    /// Where what comes before begins.
    pub(crate) start: Boundary,
    /// Where what comes after begins.
    pub(crate) end: Boundary,
}

/// Events with their timeline keys, and whether there may be more.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) events: Vec<(TimelineKey, SharedEvent)>,
    /// The key of the last event that was looked at; none if the end was reached.
    last_key: Option<TimelineKey>,
    /// Where the end is, if it was reached going back.
    edge: Option<Boundary>,
}

/// An event is not there.
struct Missing;

impl Rooms {
    /// The events of a room after the place `after` and up to `upto`, with their timeline keys; at
    /// most `limit`, from the start or the end of the range.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn timeline(
        &self,
        at: &impl Read,
        room: &Room,
        after: Boundary,
        upto: Boundary,
        limit: usize,
        direction: Direction,
    ) -> Result<Vec<(TimelineKey, EventNumber, SharedEvent)>, RoomError> {
        let backward = direction == Direction::Backward;
        if backward && let Some(rows) = room.tail.latest(after.0, upto.0, limit) {
            if let Ok(events) = self.rows_events(at, room, rows).await? {
                return Ok(events);
            }
            // One of them is gone, or came to nothing.
            room.tail.forget();
        }
        let range = Range::prefix(&(room.number,))
            .after(&(room.number, after.0))
            .upto(&(room.number, upto.0));
        let rows = if backward {
            TIMELINE.scan_back(at, &range, limit).await?
        } else {
            TIMELINE.scan(at, &range, limit).await?
        };
        let rows: Vec<tail::Row> = rows.into_iter().map(|((_, key), event)| (key, event)).collect();
        let last = rows.first().map(|(key, _)| key.position());
        if backward && last.is_some() && last == self.shared.last_positions.get(&room.number) {
            // Whoever reads the end now is not the last one to.
            self.read_tail(room).await?;
        }
        self.rows_events(at, room, rows)
            .await?
            .map_err(|_| RoomError::Corrupt { what: "a timeline names an unknown event" })
    }

    /// Keeps the end of a room's timeline in memory.
    async fn read_tail(&self, room: &Room) -> Result<(), RoomError> {
        let Some(unread) = room.tail.unread(&room.in_flight) else { return Ok(()) };
        let range = Range::prefix(&(room.number,));
        let rows = TIMELINE.scan_back(self.db(), &range, tail::READ).await?;
        room.tail.keep(&unread, rows.into_iter().map(|((_, key), event)| (key, event)).collect());
        Ok(())
    }

    /// The events that rows of a timeline name, if all of them are there.
    async fn rows_events(
        &self,
        at: &impl Read,
        room: &Room,
        rows: Vec<tail::Row>,
    ) -> Result<Result<Vec<(TimelineKey, EventNumber, SharedEvent)>, Missing>, RoomError> {
        let numbers: Vec<EventNumber> = rows.iter().map(|(_, event)| *event).collect();
        let records = shared_events(at, room.number, &numbers).await?;
        let found = rows.into_iter().zip(records);
        Ok(found.map(|((key, number), record)| Ok((key, number, record.ok_or(Missing)?))).collect())
    }

    /// A page of a room's timeline: the events that the user may see and asked for.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] if they never were in the room and it is not for all to read.
    pub(crate) async fn messages(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: &PageRequest,
    ) -> Result<Page, RoomError> {
        let (room, at, visibility, now) = self.open_timeline(session, room_id).await?;
        let backward = request.direction == Direction::Backward;
        let start = request.from.unwrap_or(if backward { now } else { Boundary::START });
        let (after, upto) = if backward {
            (request.to.unwrap_or(Boundary::START), start.min(now))
        } else {
            (start, request.to.unwrap_or(now).min(now))
        };
        let wanted = |event: &EventRecord| {
            request.filter.wants(event) && (event.position > 0 || !request.only_live)
        };
        let seen = if request.filter.wants_room(&room.id) {
            let limit = request.limit.clamp(1, MAX_LIMIT);
            let limit = request
                .filter
                .limit
                .map_or(limit, |most| limit.min(usize::try_from(most).unwrap_or(MAX_LIMIT).max(1)));
            self.look(&at, &room, &visibility, (after, upto), limit, request.direction, wanted)
                .await?
        } else {
            Seen::default()
        };
        let edge = seen.edge.filter(|_| request.to.is_none());
        let read = match seen.last_key {
            None => (after, upto),
            Some(last) if backward => (Boundary::before(last), upto),
            Some(last) => (after, Boundary(last)),
        };
        let mut missing = Vec::new();
        if !request.only_live {
            missing = self.missing_within(&at, &room, read, request.direction).await?;
            if missing.is_empty() && edge.is_some() {
                missing = self.missing_before_all(&room).await?;
            }
        }
        let viewer = Viewer::from(session);
        // A boundary lies after its event: going back, the next page begins before the last one.
        let end =
            seen.last_key.map(|key| if backward { Boundary::before(key) } else { Boundary(key) });
        let mut state = Vec::new();
        if request.filter.lazy_load_members {
            state = self.senders(&at, &room, &seen.events).await?;
            if !request.filter.redundant_members {
                let (from, end) = (request.from.map(|from| from.0), end.map(|end| end.0));
                state = self.not_sent_yet(session, &room, (from, end), state);
            }
        }
        let state: Vec<SharedEvent> = state.into_iter().map(|(_, event)| event).collect();
        let state = self.client_events(&at, &viewer, &room, &visibility, &state, true).await?;
        let events: Vec<SharedEvent> = seen.events.into_iter().map(|(_, event)| event).collect();
        let chunk = self.client_events(&at, &viewer, &room, &visibility, &events, true).await?;
        Ok(Page { start, end, edge, missing, chunk, state })
    }

    /// An event with what was before and after it: at most `limit` events in all.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if the user may not see it.
    pub(crate) async fn context(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_id: &EventId,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Context, RoomError> {
        let room = self.readable(room_id).await?;
        let (_, event) = self.stored(&room, event_id).await?;
        // Taken after the event was found: they have it.
        let now = Boundary::at_position(self.db().visible_position());
        let at = self.db().snapshot();
        let visibility = Visibility::load(self, &at, &room, session.user).await?;
        if !visibility.allows(&event) {
            return Err(RoomError::UnknownEvent { event: event_id.to_owned() });
        }
        let event = Arc::new(event);
        let viewer = Viewer::from(session);
        let key = event.timeline_key();
        let limit = limit.min(MAX_LIMIT);
        let wanted = |event: &EventRecord| filter.wants(event);
        let range = (Boundary::START, Boundary::before(key));
        let before = self
            .look(&at, &room, &visibility, range, limit / 2, Direction::Backward, wanted)
            .await?;
        let range = (Boundary(key), now);
        let after = self
            .look(&at, &room, &visibility, range, limit - limit / 2, Direction::Forward, wanted)
            .await?;
        let start = Boundary::before(before.events.last().map_or(key, |(key, _)| *key));
        let end = Boundary(after.events.last().map_or(key, |(key, _)| *key));
        let last = after.events.last().map_or(&event, |(_, event)| event);
        let mut state = match last.position {
            // What was fetched from before this server came has no position.
            0 => self.state_after_event(&at, &room, &last.event_id).await?,
            position => self.state_at(&at, &room, position).await?,
        };
        // "The filter is only applied to events_before, events_after, and state."
        state.retain(|(_, event)| filter.wants(event));
        if filter.lazy_load_members {
            let mut senders: BTreeSet<&str> = [event.sender_id.as_str()].into();
            senders.extend(before.events.iter().map(|(_, event)| event.sender_id.as_str()));
            senders.extend(after.events.iter().map(|(_, event)| event.sender_id.as_str()));
            state.retain(|(_, event)| {
                event.event_type != "m.room.member"
                    || event.state_key.as_deref().is_some_and(|key| senders.contains(key))
            });
        }
        let only = |events: Vec<(TimelineKey, SharedEvent)>| -> Vec<SharedEvent> {
            events.into_iter().map(|(_, event)| event).collect()
        };
        let state: Vec<SharedEvent> = state.into_iter().map(|(_, event)| event).collect();
        let show = async |events: &[SharedEvent]| {
            self.client_events(&at, &viewer, &room, &visibility, events, true).await
        };
        Ok(Context {
            before: show(&only(before.events)).await?,
            after: show(&only(after.events)).await?,
            state: show(&state).await?,
            event: show(std::slice::from_ref(&event))
                .await?
                .pop()
                .ok_or(RoomError::Corrupt { what: "an event" })?,
            start,
            end,
        })
    }

    /// Reads on until there are enough events that are visible and wanted.
    #[expect(clippy::too_many_arguments, reason = "a page has this many sides")]
    pub(super) async fn look(
        &self,
        at: &impl Read,
        room: &Room,
        visibility: &Visibility,
        (mut after, mut upto): (Boundary, Boundary),
        limit: usize,
        direction: Direction,
        wanted: impl Fn(&EventRecord) -> bool,
    ) -> Result<Seen, RoomError> {
        let mut seen = Seen::default();
        if limit == 0 {
            return Ok(seen);
        }
        let mut looked_at = 0;
        loop {
            let step = (limit - seen.events.len()).clamp(20, MAX_LIMIT);
            let rows = self.timeline(at, room, after, upto, step, direction).await?;
            let exhausted = rows.len() < step;
            for (key, _, event) in rows {
                seen.last_key = Some(key);
                looked_at += 1;
                if wanted(&event) && visibility.allows(&event) {
                    seen.events.push((key, event));
                    if seen.events.len() == limit {
                        return Ok(seen);
                    }
                }
            }
            if exhausted {
                let lowest = seen.last_key.take().map(Boundary::before);
                if direction == Direction::Backward {
                    seen.edge = Some(lowest.unwrap_or(upto));
                }
                return Ok(seen);
            }
            let Some(last) = seen.last_key.filter(|_| looked_at < MAX_LOOKED_AT) else {
                return Ok(seen);
            };
            match direction {
                Direction::Forward => after = Boundary(last),
                Direction::Backward => upto = Boundary::before(last),
            }
        }
    }

    /// The member events of the senders of these events, as they were at the earliest of them; of
    /// those who came later, as they were at the last, and of those who were gone when this server
    /// came, as they are now.
    pub(super) async fn senders(
        &self,
        at: &impl Read,
        room: &Room,
        events: &[(TimelineKey, SharedEvent)],
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        let positions = || events.iter().map(|(_, event)| event.as_of());
        let (Some(earliest), Some(last)) = (positions().min(), positions().max()) else {
            return Ok(Vec::new());
        };
        let mut missing: BTreeSet<&str> =
            events.iter().map(|(_, event)| event.sender_id.as_str()).collect();
        let mut members = Vec::with_capacity(missing.len());
        for position in [earliest, last, u64::MAX] {
            let keys: Vec<&str> = missing.iter().copied().collect();
            let found = self.state_numbers_at(at, room, "m.room.member", &keys, position).await?;
            for (number, member) in self.records(at, room, found).await? {
                missing.remove(member.state_key.as_deref().unwrap_or_default());
                members.push((number, member));
            }
        }
        Ok(members)
    }

    /// Those of these members that the device has not from the pages before the one that begins and
    /// ends there.
    fn not_sent_yet(
        &self,
        session: &Session,
        room: &Room,
        (from, end): (Option<TimelineKey>, Option<TimelineKey>),
        mut members: Vec<(EventNumber, SharedEvent)>,
    ) -> Vec<(EventNumber, SharedEvent)> {
        let sent = self.sent_members();
        let mut sending = sent.begin(session, Some(room.number), from);
        members.retain(|(number, _)| !sending.has(room.number, *number));
        for (number, _) in &members {
            sending.send(room.number, *number);
        }
        if let Some(end) = end {
            sent.finish(sending, end);
        }
        members
    }
}
