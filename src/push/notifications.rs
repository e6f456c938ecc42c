//! What a user was notified of, over all rooms, the latest first.
//!
//! Nothing is kept for it: it is found in the timelines by the rules as they are now, like the
//! unread counts. A page looks at a bounded number of events; where few of them notify it is short,
//! and the next one goes on.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#listing-notifications>

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use ruma::{OwnedRoomId, UserId, push::Action};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{
    Outcome, Unread,
    compiled::{CompiledRules, Recipient},
    context::RoomContext,
    counts::marks,
    event::PushEvent,
    tally::{MAIN, Marks},
};
use crate::{
    rooms::{
        Room, RoomError, Viewer, Visibility,
        record::{EventRecord, Membership, UserRoom},
        subscriptions::{Followed, followed},
    },
    storage::{Snapshot, intern::RoomNumber},
    users::session::Session,
};

/// The most notifications of one page.
const MAX_PAGE: usize = 100;
/// How many events a page looks at.
const MAX_LOOKED_AT: usize = 5_000;
/// How many events of a room are read at a time.
const STEP: usize = 50;

/// One notification.
#[derive(Debug)]
pub(crate) struct Notification {
    /// What the rules do.
    pub(crate) actions: Vec<Action>,
    /// The event, as clients see it.
    pub(crate) event: Box<RawValue>,
    /// The user has read it.
    pub(crate) read: bool,
    /// Its room.
    pub(crate) room_id: OwnedRoomId,
    /// When it was sent, in ms since the Unix epoch.
    pub(crate) ts: u64,
}

/// A page of them.
#[derive(Debug, Default)]
pub(crate) struct Notifications {
    /// The latest first.
    pub(crate) found: Vec<Notification>,
    /// The stream position at which the next page begins, if there may be more.
    pub(crate) next: Option<u64>,
}

/// For whom, and by which rules.
struct Reading<'a> {
    unread: &'a Unread,
    at: &'a Snapshot,
    session: &'a Session,
    rules: Arc<CompiledRules>,
}

/// A room that is read backwards.
struct Source {
    room: Arc<Room>,
    /// Where the user came in.
    since: u64,
    marks: Marks,
    visibility: Visibility,
    context: Arc<RoomContext>,
    display_name: Option<String>,
    /// The threads that the user follows, as far as the rules ask for them.
    followed: Followed,
    /// Events that were read, the latest first.
    ahead: VecDeque<Arc<PushEvent>>,
}

impl Unread {
    /// What a user was notified of, from the stream position `from` backwards.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn notifications(
        &self,
        session: &Session,
        from: Option<u64>,
        limit: usize,
        only_highlights: bool,
    ) -> Result<Notifications, RoomError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let from = from.unwrap_or(u64::MAX).min(self.db.visible_position());
        let at = &self.db.snapshot();
        let (_, rules) = self.rules_of(at, session.user, &session.user_id).await?;
        let reading = Reading { unread: self, at, session, rules };
        let rooms = self.rooms.user_rooms(at, session.user).await?;
        // The room whose last event is the latest comes first: of the others nothing is read before
        // it is their turn.
        let mut turns: BinaryHeap<(u64, usize)> = BinaryHeap::new();
        for (index, (number, row)) in rooms.iter().enumerate() {
            match row.membership {
                Membership::Join => {
                    turns.push((self.rooms.last_position(*number).await?.min(from), index));
                }
                Membership::Invite if row.position <= from => turns.push((row.position, index)),
                _ => {}
            }
        }
        let mut sources: Vec<Option<Source>> = rooms.iter().map(|_| None).collect();
        let mut page = Notifications::default();
        let mut looked_at = 0;
        while let Some((upto, index)) = turns.pop() {
            if page.found.len() == limit || looked_at >= MAX_LOOKED_AT {
                page.next = Some(upto);
                break;
            }
            let Some((number, row)) = rooms.get(index) else { continue };
            let Some(slot) = sources.get_mut(index) else { continue };
            if row.membership == Membership::Invite {
                let invite = reading.invite(*number, row, only_highlights).await?;
                page.found.extend(invite);
                continue;
            }
            let source = match slot {
                Some(source) => source,
                None => slot.insert(reading.source(*number).await?),
            };
            if source.ahead.is_empty() {
                let events = self.look_back(at, &source.room, source.since, upto, STEP).await?;
                looked_at += events.len().max(1);
                source.ahead.extend(events.into_iter().map(|(_, event)| event));
            }
            let Some(event) = source.ahead.pop_front() else { continue };
            if event.position < upto {
                // Others may come before it.
                turns.push((event.position, index));
                source.ahead.push_front(event);
                continue;
            }
            page.found.extend(reading.notification(source, &event, only_highlights).await?);
            if upto > 0 {
                turns.push((upto - 1, index));
            }
        }
        Ok(page)
    }
}

impl Reading<'_> {
    fn user_id(&self) -> &UserId {
        &self.session.user_id
    }

    async fn source(&self, number: RoomNumber) -> Result<Source, RoomError> {
        let (unread, at, user) = (self.unread, self.at, self.session.user);
        let room = unread.rooms.numbered(number).await?;
        let mut display_name = None;
        if self.rules.needs_display_name() {
            display_name = unread.display_name(at, &room, self.user_id()).await?;
        }
        let mut threads = Followed::default();
        if self.rules.need_subscriptions() {
            threads = followed(at, user, number).await?;
        }
        Ok(Source {
            since: unread.joined_since(at, number, user).await?,
            marks: marks(at, number, user).await?,
            visibility: unread.rooms.visibility(at, &room, user).await?,
            context: unread.context(at, &room).await?,
            display_name,
            followed: threads,
            ahead: VecDeque::new(),
            room,
        })
    }

    /// The event as a notification, if it is one.
    async fn notification(
        &self,
        source: &Source,
        event: &PushEvent,
        only_highlights: bool,
    ) -> Result<Option<Notification>, RoomError> {
        let name = source.display_name.as_deref();
        let followed = |root| source.followed.threads.contains(root);
        let subscribed = event.thread.as_ref().is_some_and(followed);
        let recipient = Recipient { user_id: self.user_id(), display_name: name, subscribed };
        let outcome = self.rules.evaluate(event, &source.context, recipient);
        let Some(outcome) = outcome.filter(|outcome| wanted(outcome, only_highlights)) else {
            return Ok(None);
        };
        let record =
            crate::rooms::relations::event_of(self.at, source.room.number, &event.event_id).await?;
        let shown =
            |record: &EventRecord| record.redacted_by.is_none() && source.visibility.allows(record);
        let Some(record) = record.filter(shown) else { return Ok(None) };
        let thread = event.thread.as_ref().map_or(MAIN, |thread| thread.as_str());
        let ts = record.origin_server_ts;
        let viewer = Viewer::from(self.session);
        let (room, visibility, records) = (&source.room, &source.visibility, [Arc::new(record)]);
        let rooms = &self.unread.rooms;
        let events =
            rooms.client_events(self.at, &viewer, room, visibility, &records, false).await?;
        Ok(events.into_iter().next().map(|shown| Notification {
            actions: outcome.actions.clone(),
            event: shown,
            read: source.marks.of(thread) >= event.position,
            room_id: room.id.clone(),
            ts,
        }))
    }

    /// An invitation that waits, if it notifies.
    async fn invite(
        &self,
        number: RoomNumber,
        row: &UserRoom,
        only_highlights: bool,
    ) -> Result<Option<Notification>, RoomError> {
        let Some(invited) = self.unread.invitation(self.at, self.session.user, number, row).await?
        else {
            return Ok(None);
        };
        let room_id = self.unread.rooms.room_id(number).await?;
        let event = PushEvent::in_room(&room_id, &invited, None);
        let recipient =
            Recipient { user_id: self.user_id(), display_name: None, subscribed: false };
        let outcome = self.rules.evaluate(&event, &RoomContext::default(), recipient);
        let Some(outcome) = outcome.filter(|outcome| wanted(outcome, only_highlights)) else {
            return Ok(None);
        };
        let shown = to_raw_value(&json!({
            "content": event.content,
            "event_id": invited.event_id,
            "origin_server_ts": invited.origin_server_ts,
            "sender": invited.sender_id,
            "state_key": invited.state_key,
            "type": invited.event_type,
        }));
        Ok(Some(Notification {
            actions: outcome.actions.clone(),
            event: shown.map_err(|_| RoomError::Corrupt { what: "an invitation" })?,
            read: false,
            room_id,
            ts: invited.origin_server_ts,
        }))
    }
}

fn wanted(outcome: &Outcome, only_highlights: bool) -> bool {
    outcome.notify && (outcome.highlight || !only_highlights)
}
