//! Unread counts: how many events notify a user in a room, beyond what they have read.
//!
//! A message writes nothing for its readers. What is unread follows from the timeline, the user's
//! receipts and rules, and is counted when somebody asks: memory keeps the counts of the last time
//! and only what came since is looked at. The events are read and taken apart once for all members.
//! When much was counted, the counts are written down, so that a restart does not count it again.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use quick_cache::sync::Cache;
use ruma::{OwnedEventId, OwnedUserId, UserId, events::receipt::ReceiptType};

use super::{
    PushRules,
    audience::Known,
    compiled::{CompiledRules, Outcome, Recipient},
    context::RoomContext,
    event::PushEvent,
    look::{self, Looks, STEP},
    tally::{MAIN, Marks, Recount, Tally},
};
use crate::{
    rooms::{
        Room, RoomError, Rooms,
        record::{EventNumber, Membership},
        subscriptions::{Followed, followed},
    },
    storage::{
        Batch, Db, Json, Range, Read,
        intern::{RoomNumber, UserNumber},
        schema::{MEMBERSHIPS, RECEIPTS, UNREAD},
    },
    users::Ignored,
};

/// Of how many (user, room) the counts are kept in memory.
const MAX_TALLIES: usize = 50_000;
/// How many events are kept taken apart.
const MAX_EVENTS: usize = 2_000;
/// Of how many users the rules are kept taken apart.
const MAX_RULES: usize = 5_000;
/// Of how many rooms it is kept what conditions ask of them.
const MAX_CONTEXTS: usize = 5_000;
/// Of how many (user, room) it is kept what counting depends on.
const MAX_READERS: usize = 20_000;
/// How many of the latest events are counted; more than these are not told apart.
const MAX_COUNTED: usize = 20_000;
/// Counts are written down when this many events were looked at for them.
const WRITE_AFTER: usize = 500;
/// How many changes of a user's membership are looked at.
const MAX_MEMBERSHIPS: usize = 200;

/// Counts what users have not read, and finds what notifies them.
#[derive(Clone)]
pub(crate) struct Unread {
    pub(super) db: Db,
    pub(super) rooms: Rooms,
    pub(super) rules: PushRules,
    pub(super) memory: Arc<Memory>,
}

/// What is kept in memory, since nothing is as often asked for.
pub(super) struct Memory {
    tallies: Cache<(UserNumber, RoomNumber), Arc<Tally>>,
    pub(super) events: Cache<(RoomNumber, EventNumber), Arc<PushEvent>>,
    pub(super) compiled: Cache<UserNumber, Known>,
    pub(super) contexts: Cache<RoomNumber, Arc<RoomContext>>,
    readers: Cache<(UserNumber, RoomNumber), Arc<Reader>>,
    pub(super) looks: Looks,
}

/// Whose counts.
#[derive(Clone, Copy)]
pub(crate) struct Whose<'a> {
    /// The user.
    pub(crate) user: UserNumber,
    /// The same.
    pub(crate) user_id: &'a UserId,
    /// The position of their member event.
    pub(crate) member: u64,
    /// Since this position nothing changed for them but messages, receipts and typing, if that is
    /// known.
    pub(crate) settled: Option<u64>,
    /// The position of the last receipt in the room, if that is known.
    pub(crate) receipts: Option<u64>,
}

/// One user looking at one room: what it depends on whether an event notifies them.
pub(super) struct Reader {
    /// It holds everything up to this position.
    as_of: u64,
    user_id: OwnedUserId,
    rules_position: u64,
    rules: Arc<CompiledRules>,
    context: Arc<RoomContext>,
    ignored: Ignored,
    display_name: Option<String>,
    followed: HashSet<OwnedEventId>,
}

impl Unread {
    /// Counts over these areas.
    pub(crate) fn new(db: Db, rooms: Rooms, rules: PushRules) -> Self {
        let memory = Memory {
            tallies: Cache::new(MAX_TALLIES),
            events: Cache::new(MAX_EVENTS),
            compiled: Cache::new(MAX_RULES),
            contexts: Cache::new(MAX_CONTEXTS),
            readers: Cache::new(MAX_READERS),
            looks: look::looks(),
        };
        Self { db, rooms, rules, memory: Arc::new(memory) }
    }

    /// What a joined user has not read in a room, of what happened up to the stream position
    /// `until`.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn count(
        &self,
        at: &impl Read,
        room: &Room,
        whose: Whose<'_>,
        until: u64,
    ) -> Result<Arc<Tally>, RoomError> {
        let Whose { user, user_id, member, settled, receipts } = whose;
        let key = (user, room.number);
        let known = self.memory.tallies.get(&key);
        let unmoved = known.as_ref().filter(|known| receipts.is_some_and(|at| at <= known.until));
        let marks = match unmoved {
            Some(known) => known.marks.clone(),
            None => marks(at, room.number, user).await?,
        };
        let reader = settled.and_then(|settled| {
            self.memory.readers.get(&key).filter(|reader| reader.as_of >= settled)
        });
        let (rules_position, rules) = match &reader {
            Some(reader) => (reader.rules_position, Arc::clone(&reader.rules)),
            None => self.rules_of(at, user, user_id).await?,
        };
        // Subscribing to a thread changes which of its events count, as a change of the rules does.
        let mut threads = Followed::default();
        if reader.is_none() && rules.need_subscriptions() {
            threads = followed(at, user, room.number).await?;
        }
        let rules_position = rules_position.max(threads.position);
        let known = match known {
            Some(known) => Some(known),
            None => UNREAD.get(at, &key).await?.map(|Json(tally)| Arc::new(tally)),
        };
        let known = known.filter(|known| known.rules == rules_position);
        if let Some(known) = known.as_ref().filter(|known| known.until >= until)
            && known.marks == marks
        {
            return Ok(Arc::clone(known));
        }
        let reader = if let Some(reader) = reader {
            reader
        } else {
            let mut reader = self.reader(at, room, user, user_id, rules).await?;
            (reader.as_of, reader.rules_position) = (until, rules_position);
            reader.followed = threads.threads;
            let reader = Arc::new(reader);
            if settled.is_some() {
                self.memory.readers.insert(key, Arc::clone(&reader));
            }
            reader
        };
        let mut since = known.as_ref().map_or(0, |known| known.since);
        if known.as_ref().is_none_or(|known| known.member != member) {
            since = self.joined_since(at, room.number, user).await?;
        }
        // Of a room left and joined again only what came after the last time counts.
        let known = known.filter(|known| known.since == since);
        let mut tally = known.map(|known| Tally::clone(&known)).unwrap_or_default();
        (tally.rules, tally.member, tally.since) = (rules_position, member, since);
        let mut looked_at = 0;
        let recount = match tally.until {
            0 => Recount::Everything,
            _ => tally.read(marks.clone()),
        };
        match recount {
            Recount::Nothing => {}
            Recount::Threads(threads) => {
                looked_at += self.recount(at, room, &reader, &mut tally, &threads).await?;
            }
            Recount::Everything => {
                tally.until = since.max(marks.all);
                tally.marks = marks;
                tally.threads.clear();
            }
        }
        looked_at += self.extend(at, room, &reader, &mut tally, until).await?;
        let tally = Arc::new(tally);
        self.memory.tallies.insert(key, Arc::clone(&tally));
        if looked_at >= WRITE_AFTER {
            let mut batch = Batch::unsynced();
            UNREAD.put(&mut batch, &key, &Json(Tally::clone(&tally)));
            self.db.commit(batch).await?;
        }
        Ok(tally)
    }

    /// Counts on from where the counts end.
    async fn extend(
        &self,
        at: &impl Read,
        room: &Room,
        reader: &Reader,
        tally: &mut Tally,
        until: u64,
    ) -> Result<usize, RoomError> {
        let mut looked_at = 0;
        let (mut upto, after) = (until, tally.until);
        let mut found = Vec::new();
        // The latest first, so that of too many the old ones are left out.
        while looked_at < MAX_COUNTED && upto > after {
            let events = self.look(at, room, after, upto).await?;
            let exhausted = events.len() < STEP;
            looked_at += events.len();
            for (position, event) in events.iter() {
                upto = position.saturating_sub(1);
                let redacts_counted = event.redacts && !tally.threads.is_empty();
                if redacts_counted {
                    // What it redacts may have been counted.
                    let marks = std::mem::take(&mut tally.marks);
                    tally.until = tally.since.max(marks.all);
                    tally.marks = marks;
                    tally.threads.clear();
                    return Box::pin(self.extend(at, room, reader, tally, until)).await;
                }
                if let Some(outcome) = reader.notified(event) {
                    let thread = event.thread.as_ref().map_or(MAIN, |thread| thread.as_str());
                    if event.position > tally.marks.of(thread) {
                        found.push((thread.to_owned(), outcome.highlight));
                    }
                }
            }
            if exhausted {
                break;
            }
        }
        for (thread, highlight) in found {
            tally.add(&thread, highlight);
        }
        tally.until = tally.until.max(until);
        Ok(looked_at)
    }

    /// Counts some threads anew, each after a position and up to where the counts end.
    async fn recount(
        &self,
        at: &impl Read,
        room: &Room,
        reader: &Reader,
        tally: &mut Tally,
        threads: &BTreeMap<String, u64>,
    ) -> Result<usize, RoomError> {
        let mut looked_at = 0;
        let first = threads.values().copied().min().unwrap_or(tally.until);
        let (mut upto, after) = (tally.until, first);
        while looked_at < MAX_COUNTED && upto > after {
            let events = self.look(at, room, after, upto).await?;
            let exhausted = events.len() < STEP;
            looked_at += events.len();
            for (position, event) in events.iter() {
                upto = position.saturating_sub(1);
                let thread = event.thread.as_ref().map_or(MAIN, |thread| thread.as_str());
                let wanted = threads.get(thread).is_some_and(|read| event.position > *read);
                if let Some(outcome) = reader.notified(event).filter(|_| wanted) {
                    tally.add(thread, outcome.highlight);
                }
            }
            if exhausted {
                break;
            }
        }
        Ok(looked_at)
    }

    pub(super) async fn reader(
        &self,
        at: &impl Read,
        room: &Room,
        user: UserNumber,
        user_id: &UserId,
        rules: Arc<CompiledRules>,
    ) -> Result<Reader, RoomError> {
        let mut display_name = None;
        if rules.needs_display_name() {
            display_name = self.display_name(at, room, user_id).await?;
        }
        Ok(Reader {
            as_of: 0,
            user_id: user_id.to_owned(),
            rules_position: 0,
            rules,
            context: self.context(at, room).await?,
            ignored: Ignored::load(at, user).await?,
            display_name,
            followed: HashSet::new(),
        })
    }

    /// The stream position at which the user came into the room the last time.
    pub(super) async fn joined_since(
        &self,
        at: &impl Read,
        room: RoomNumber,
        user: UserNumber,
    ) -> Result<u64, RoomError> {
        let range = Range::prefix(&(room, user));
        let rows = MEMBERSHIPS.scan_back(at, &range, MAX_MEMBERSHIPS).await?;
        let joined = rows.into_iter().take_while(|(_, membership)| *membership == Membership::Join);
        let since = joined.last().map_or(0, |((.., position), _)| position);
        Ok(since)
    }
}

impl Reader {
    /// What the rules do, if it is to notify.
    pub(super) fn notified(&self, event: &PushEvent) -> Option<&Outcome> {
        if event.redacted || (event.state_key.is_none() && self.ignored.contains(&event.sender)) {
            return None;
        }
        let recipient = Recipient {
            user_id: &self.user_id,
            display_name: self.display_name.as_deref(),
            subscribed: event.thread.as_ref().is_some_and(|root| self.followed.contains(root)),
        };
        self.rules.evaluate(event, &self.context, recipient).filter(|outcome| outcome.notify)
    }
}

/// Up to where a user has read a room: of public and private receipts the later one.
pub(super) async fn marks(
    at: &impl Read,
    room: RoomNumber,
    user: UserNumber,
) -> Result<Marks, RoomError> {
    let mut marks = Marks::default();
    for ((_, _, kind, thread), Json(receipt)) in
        RECEIPTS.scan(at, &Range::prefix(&(room, user)), usize::MAX).await?
    {
        if kind != ReceiptType::Read.as_str() && kind != ReceiptType::ReadPrivate.as_str() {
            continue;
        }
        let position = receipt.event_position;
        if thread.is_empty() {
            marks.all = marks.all.max(position);
        } else {
            let mark = marks.threads.entry(thread).or_default();
            *mark = (*mark).max(position);
        }
    }
    Ok(marks)
}
