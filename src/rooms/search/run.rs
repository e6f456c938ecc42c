//! Carrying a search out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, api::Direction};
use serde_json::value::RawValue;

use super::{Field, Group, Order, Place, edited, postings::matching, rank::rank, text_of, words};
use crate::{
    rooms::{
        Boundary, EventFilter, Room, RoomError, Rooms, Viewer, Visibility,
        profile::Profile,
        record::{EventNumber, EventRecord, Membership, SharedEvent},
        relations::Frame,
        timeline_key::TimelineKey,
    },
    storage::{
        Snapshot,
        intern::RoomNumber,
        schema::{BUNDLED, EVENTS},
    },
    users::session::Session,
};

/// Results of a page if nothing is said of it, and at most.
const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: usize = 100;
/// How many words are looked for: the first by their letters.
const MAX_WANTED: usize = 20;
/// How many events with all the words are considered: the latest of each room, and of all.
const MAX_IN_ROOM: usize = 5_000;
const MAX_CANDIDATES: usize = 20_000;
/// How many of them are ranked: the latest.
const MAX_RANKED: usize = 1_000;
/// How many are read for one page before it is sent, full or not.
const MAX_READ: usize = 5_000;
/// How many are read at a time.
const STEP: usize = 50;
/// The most events on either side of a result.
const MAX_AROUND: usize = 20;

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) struct SearchRequest {
    /// Words, all of which are to be there.
    pub(crate) term: String,
    /// Where.
    pub(crate) fields: Vec<Field>,
    /// In which events, and how many.
    pub(crate) filter: EventFilter,
    /// In which order.
    pub(crate) order: Order,
    /// What is wanted besides the results.
    pub(crate) around: Option<Around>,
    /// Whether the state of the rooms is wanted.
    pub(crate) with_state: bool,
    /// The last result of the page before.
    pub(crate) after: Option<Place>,
}

/// What is wanted around a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// How many events before it.
    pub(crate) before: usize,
    /// How many events after it.
    pub(crate) after: usize,
    /// Whether the names and pictures of the senders are wanted.
    pub(crate) profiles: bool,
}

/// Results.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The page.
    pub(crate) hits: Vec<Hit>,
    /// About how many there are on all pages.
    pub(crate) count: usize,
    /// What to mark in the texts.
    pub(crate) highlights: Vec<String>,
    /// Whether there may be a page after this.
    pub(crate) more: bool,
    /// The state of the rooms on this page, if wanted.
    pub(crate) state: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

/// A result.
#[derive(Debug)]
pub(crate) struct Hit {
    /// Where the next page goes on if this is the last.
    pub(crate) place: Place,
    /// How well it fits.
    pub(crate) rank: f64,
    /// Its room.
    pub(crate) room_id: OwnedRoomId,
    /// Its room, as a part of the results.
    pub(crate) room: Group,
    /// Its sender.
    pub(crate) sender_id: OwnedUserId,
    /// Its sender, as a part of the results.
    pub(crate) sender: Group,
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// The event.
    pub(crate) event: Box<RawValue>,
    /// What is around it, if wanted.
    pub(crate) surroundings: Option<Surroundings>,
}

/// What is around a result.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// What came before it, latest first.
    pub(crate) before: Vec<Box<RawValue>>,
    /// What came after it, earliest first.
    pub(crate) after: Vec<Box<RawValue>>,
    /// Where what comes before begins.
    pub(crate) start: Boundary,
    /// Where what comes after begins.
    pub(crate) end: Boundary,
    /// The senders as they were then, if wanted.
    pub(crate) profiles: Vec<(OwnedUserId, Profile)>,
}

/// An event that has the words, and fits.
struct Match {
    place: Place,
    rank: f64,
    record: SharedEvent,
}

/// One search on its way.
struct Search<'a> {
    rooms: &'a Rooms,
    session: &'a Session,
    request: &'a SearchRequest,
    at: Snapshot,
    wanted: BTreeSet<String>,
    upto: TimelineKey,
    group: Option<Group>,
    /// The rooms that were looked into; none if the user may read nothing there.
    known: HashMap<RoomNumber, Option<(Arc<Room>, Visibility)>>,
}

impl Rooms {
    /// Finds events that the user may see by the words in them.
    ///
    /// # Errors
    /// [`RoomError::SearchDisabled`].
    pub(crate) async fn search(
        &self,
        session: &Session,
        request: &SearchRequest,
    ) -> Result<Found, RoomError> {
        if !self.settings().search.enabled {
            return Err(RoomError::SearchDisabled);
        }
        let now = Boundary::at_position(self.db().visible_position());
        let mut search = Search {
            rooms: self,
            session,
            request,
            at: self.db().snapshot(),
            wanted: words::wanted(&request.term).into_iter().take(MAX_WANTED).collect(),
            upto: request.after.map_or(now.0, |place| place.upto.min(now.0)),
            group: request.after.and_then(|place| place.group),
            known: HashMap::new(),
        };
        search.run().await
    }
}

impl Search<'_> {
    async fn run(&mut self) -> Result<Found, RoomError> {
        let filter = &self.request.filter;
        let limit = filter.limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT)
        });
        let candidates = self.candidates().await?;
        let seen = self.request.after.map_or(0, |place| place.seen);
        let count = match self.request.order {
            Order::Recent => seen + candidates.len(),
            Order::Rank => candidates.len(),
        };
        let (mut matches, mut more) = match self.request.order {
            Order::Recent => self.latest(&candidates, limit).await?,
            Order::Rank => self.best(&candidates).await?,
        };
        more |= matches.len() > limit;
        matches.truncate(limit);
        for (index, found) in matches.iter_mut().enumerate() {
            found.place.seen = seen + index + 1;
        }
        let mut state = BTreeMap::new();
        if self.request.with_state {
            for room_id in self.rooms_of(&matches)? {
                let shown = self.rooms.readable_state(self.session, &room_id).await?;
                state.insert(room_id, shown);
            }
        }
        let mut hits = Vec::with_capacity(matches.len());
        for found in matches {
            hits.push(self.hit(found).await?);
        }
        let highlights = self.wanted.iter().cloned().collect();
        Ok(Found { hits, count, highlights, more, state })
    }

    /// The events that have all the words, in the rooms that the user was ever in: latest first.
    async fn candidates(&self) -> Result<Vec<(TimelineKey, RoomNumber, EventNumber)>, RoomError> {
        let mut found = Vec::new();
        if self.wanted.is_empty() {
            return Ok(found);
        }
        let after = self.request.after.filter(|_| self.request.order == Order::Recent);
        for (room, row) in self.rooms.user_rooms(&self.at, self.session.user).await? {
            let was_there =
                matches!(row.membership, Membership::Join | Membership::Leave | Membership::Ban);
            let elsewhere = matches!(self.group, Some(Group::Room(only)) if only != room);
            if !was_there || row.forgotten || elsewhere {
                continue;
            }
            // Results of one moment are ordered by room, the highest first.
            let upto = match after {
                Some(place) if room < place.room => place.key,
                Some(place) => place.key.before(),
                None => TimelineKey::MAX,
            };
            let upto = upto.min(self.upto);
            let events = matching(&self.at, room, &self.wanted, upto, MAX_IN_ROOM).await?;
            found.extend(events.into_iter().map(|(key, number)| (key, room, number)));
        }
        found.sort_unstable_by_key(|(key, room, _)| std::cmp::Reverse((*key, *room)));
        found.truncate(MAX_CANDIDATES);
        Ok(found)
    }

    /// The first that the user may see, and whether there may be more.
    async fn latest(
        &mut self,
        candidates: &[(TimelineKey, RoomNumber, EventNumber)],
        limit: usize,
    ) -> Result<(Vec<Match>, bool), RoomError> {
        let mut found = Vec::new();
        for (step, some) in candidates.chunks(STEP).enumerate() {
            if found.len() > limit || step * STEP >= MAX_READ {
                return Ok((found, true));
            }
            found.extend(self.matches(some).await?);
        }
        Ok((found, false))
    }

    /// All that the user may see of the latest, in the order of their rank.
    async fn best(
        &mut self,
        candidates: &[(TimelineKey, RoomNumber, EventNumber)],
    ) -> Result<(Vec<Match>, bool), RoomError> {
        let ranked = candidates.get(..MAX_RANKED).unwrap_or(candidates);
        let mut found = Vec::new();
        for some in ranked.chunks(STEP) {
            found.extend(self.matches(some).await?);
        }
        found.sort_by(|a, b| a.place.cmp(&b.place));
        if let Some(after) = &self.request.after {
            found.retain(|found| after.cmp(&found.place).is_lt());
        }
        Ok((found, false))
    }

    /// The room, if the user may read something there.
    async fn room(
        &mut self,
        number: RoomNumber,
    ) -> Result<Option<(Arc<Room>, Visibility)>, RoomError> {
        if let Some(known) = self.known.get(&number) {
            return Ok(known.clone());
        }
        let room = self.rooms.numbered(number).await?;
        let visibility = Visibility::load(self.rooms, &self.at, &room, self.session.user).await?;
        let wanted = visibility.may_read() && self.request.filter.wants_room(&room.id);
        let found = wanted.then_some((room, visibility));
        self.known.insert(number, found.clone());
        Ok(found)
    }

    /// Those of some events that are found by what they now say, in their order.
    async fn matches(
        &mut self,
        some: &[(TimelineKey, RoomNumber, EventNumber)],
    ) -> Result<Vec<Match>, RoomError> {
        let keys = some.iter().map(|(_, room, number)| (*room, *number));
        let records = EVENTS.multi_get(&self.at, keys).await?;
        let records: Vec<Option<SharedEvent>> =
            records.into_iter().map(|record| record.map(Arc::new)).collect();
        let with_ids = some
            .iter()
            .zip(&records)
            .filter_map(|((_, room, _), record)| Some((*room, &*record.as_ref()?.event_id)));
        // Most messages were never edited.
        let marked = BUNDLED.multi_get(&self.at, with_ids).await?;
        let mut marked = marked.into_iter();
        let mut found = Vec::new();
        for ((key, number, _), record) in some.iter().zip(records) {
            let Some(record) = record else { continue };
            let may_be_edited = marked.next().flatten().is_some();
            let Some((room, visibility)) = self.room(*number).await? else { continue };
            if !visibility.allows(&record)
                || !Field::of(&record).is_some_and(|field| self.request.fields.contains(&field))
            {
                continue;
            }
            let Some((rank, record)) =
                self.as_it_is(&room, &visibility, record, may_be_edited).await?
            else {
                continue;
            };
            let in_group = match self.group {
                Some(Group::Sender(sender)) => record.sender == sender,
                Some(Group::Room(_)) | None => true,
            };
            if !in_group || !self.request.filter.wants(&record) {
                continue;
            }
            let place = Place {
                order: self.request.order,
                rank,
                key: *key,
                room: *number,
                upto: self.upto,
                seen: 0,
                group: self.group,
            };
            found.push(Match { place, rank, record });
        }
        Ok(found)
    }

    /// The message that an event is now shown as, if that still has the words: of an edit the
    /// message that it edits.
    async fn as_it_is(
        &self,
        room: &Room,
        visibility: &Visibility,
        record: SharedEvent,
        may_be_edited: bool,
    ) -> Result<Option<(f64, SharedEvent)>, RoomError> {
        let viewer = Viewer::from(self.session);
        let frame =
            Frame { viewer: &viewer, room, visibility, now_ms: self.rooms.clock().now_ms() };
        let fits = |record: &EventRecord| {
            text_of(record).and_then(|text| rank(&text, &self.wanted, &self.request.term))
        };
        if let Some(original) = edited(&record) {
            let original = match self.rooms.stored(room, &original).await {
                Ok((_, original)) => original,
                Err(RoomError::UnknownEvent { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            // One that has the words itself has its own row.
            if !visibility.allows(&original) || fits(&original).is_some() {
                return Ok(None);
            }
            let last = self.rooms.replacement(&self.at, frame, &original).await?;
            let is_last = last.is_some_and(|last| last.event_id == record.event_id);
            return Ok(fits(&record).filter(|_| is_last).map(|rank| (rank, Arc::new(original))));
        }
        let last = if may_be_edited {
            self.rooms.replacement(&self.at, frame, &record).await?
        } else {
            None
        };
        Ok(fits(last.as_ref().unwrap_or(&record)).map(|rank| (rank, record)))
    }

    fn rooms_of(&self, matches: &[Match]) -> Result<BTreeSet<OwnedRoomId>, RoomError> {
        matches.iter().map(|found| Ok(self.known(found.place.room)?.0.id.clone())).collect()
    }

    /// A room that something was found in.
    fn known(&self, number: RoomNumber) -> Result<&(Arc<Room>, Visibility), RoomError> {
        let known = self.known.get(&number).and_then(Option::as_ref);
        known.ok_or(RoomError::Corrupt { what: "a search" })
    }

    async fn hit(&self, found: Match) -> Result<Hit, RoomError> {
        let Match { place, rank, record } = found;
        let (room, visibility) = self.known(place.room)?;
        let surroundings = match self.request.around {
            Some(around) => Some(self.around(room, visibility, &record, around).await?),
            None => None,
        };
        let mut shown = self.show(room, visibility, std::slice::from_ref(&record)).await?;
        Ok(Hit {
            place,
            rank,
            room_id: room.id.clone(),
            room: Group::Room(room.number),
            sender_id: record.sender_id.clone(),
            sender: Group::Sender(record.sender),
            event_id: record.event_id.clone(),
            event: shown.pop().ok_or(RoomError::Corrupt { what: "an event" })?,
            surroundings,
        })
    }

    async fn show(
        &self,
        room: &Room,
        visibility: &Visibility,
        events: &[SharedEvent],
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let viewer = Viewer::from(self.session);
        self.rooms.client_events(&self.at, &viewer, room, visibility, events, true).await
    }

    async fn around(
        &self,
        room: &Room,
        visibility: &Visibility,
        record: &SharedEvent,
        around: Around,
    ) -> Result<Surroundings, RoomError> {
        let key = record.timeline_key();
        let any = |_: &EventRecord| true;
        let look = async |range, limit: usize, direction| {
            let limit = limit.min(MAX_AROUND);
            self.rooms.look(&self.at, room, visibility, range, limit, direction, any).await
        };
        let range = (Boundary::START, Boundary::before(key));
        let before = look(range, around.before, Direction::Backward).await?.events;
        let range = (Boundary(key), Boundary(self.upto));
        let after = look(range, around.after, Direction::Forward).await?.events;
        let start = Boundary::before(before.last().map_or(key, |(key, _)| *key));
        let end = Boundary(after.last().map_or(key, |(key, _)| *key));
        let mut profiles = Vec::new();
        if around.profiles {
            let mut all: Vec<(TimelineKey, SharedEvent)> = vec![(key, Arc::clone(record))];
            all.extend(before.iter().chain(&after).cloned());
            for (_, member) in self.rooms.senders(&self.at, room, &all).await? {
                if let Some(user) = member.state_key.as_deref().and_then(|key| key.try_into().ok())
                {
                    profiles.push((user, Profile::in_content(member.content())));
                }
            }
        }
        let records = |events: Vec<(TimelineKey, SharedEvent)>| -> Vec<SharedEvent> {
            events.into_iter().map(|(_, event)| event).collect()
        };
        Ok(Surroundings {
            before: self.show(room, visibility, &records(before)).await?,
            after: self.show(room, visibility, &records(after)).await?,
            start,
            end,
            profiles,
        })
    }
}
