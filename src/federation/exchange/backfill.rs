//! History from before this server's time: fetched when somebody here reads back to where it begins.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, ServerName, UInt,
    api::{
        Direction,
        federation::{backfill::get_backfill, event::get_event_by_timestamp},
    },
    uint,
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Exchange,
    gaps::{EVENTS, Extent},
};
use crate::{
    federation::PeerError,
    rooms::{Page, PageRequest, Room, RoomError, pdu::Pdu},
    storage::intern::RoomNumber,
    users::session::Session,
};

/// The most events of one answer that are looked at, which is what is asked for.
const MAX_EVENTS: usize = 100;
/// From how many places of the graph one question goes back.
const MAX_FROM: usize = 20;
/// How many servers are asked; those that are left alone for now don't count.
const MAX_SERVERS: usize = 4;
/// Of how many events of one answer the state before is asked for.
const MAX_STATES: usize = 10;
/// How far missing auth events are followed.
const MAX_AUTH_ROUNDS: usize = 5;
/// How many fetches one page waits for, if nothing of what comes is for the reader.
const MAX_FETCHES: usize = 5;
/// How long a page waits for all of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a fetch goes on, also when no page waits for it any more.
const MAX_DURATION: Duration = Duration::from_mins(2);
/// In how many rooms history is fetched at the same time.
const ROOMS_AT_ONCE: usize = 8;
/// How long a room is left alone when nobody had anything.
const PAUSE_MS: u64 = 30_000;
/// Of how many rooms that is remembered.
const MAX_PAUSED: u64 = 10_000;

/// Whether there is something now that was not there before.
type Fetch = Shared<BoxFuture<'static, bool>>;

/// Fetches that are under way, and rooms in which the last one brought nothing.
pub(super) struct Backfills {
    under_way: Mutex<HashMap<RoomNumber, Fetch>>,
    /// Until when (ms since the Unix epoch).
    paused: Cache<RoomNumber, u64>,
    working: Semaphore,
}

impl Default for Backfills {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            paused: Cache::new(MAX_PAUSED),
            working: Semaphore::new(ROOMS_AT_ONCE),
        }
    }
}

/// Ends a fetch, whatever became of it: the next reader begins another one.
struct Done<'a> {
    backfills: &'a Backfills,
    room: RoomNumber,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.backfills.under_way.lock().remove(&self.room);
    }
}

/// What there is before the beginning of what is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Earlier {
    /// Nothing that could be had.
    Nothing,
    /// Something that could not be had now.
    NotNow,
    /// More than before: it is here now.
    Here,
}

impl Exchange {
    /// A page as [`crate::rooms::Rooms::messages`] gives it; where that comes by a gap, or goes back
    /// to the beginning of what is here, it goes on with what other servers have. If they don't
    /// answer, the page goes over the gap, and ends at the beginning, where the next one may begin.
    ///
    /// # Errors
    /// As [`crate::rooms::Rooms::messages`]; never because of another server.
    pub(crate) async fn messages(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: &PageRequest,
    ) -> Result<Page, RoomError> {
        let until = Instant::now() + PATIENCE;
        let mut page = self.rooms.messages(session, room_id, request).await?;
        for _ in 0..MAX_FETCHES {
            if page.missing.is_empty() {
                return Ok(page);
            }
            let missing = std::mem::take(&mut page.missing);
            match self.fetch_earlier(room_id, missing, until).await? {
                Earlier::Nothing => return Ok(page),
                Earlier::NotNow => break,
                Earlier::Here => page = self.rooms.messages(session, room_id, request).await?,
            }
        }
        page.end = page.end.or(page.edge);
        Ok(page)
    }

    /// The event closest to a time as [`crate::rooms::Rooms::event_at`] finds it; where what is here
    /// does not go back so far, what other servers have is fetched, so far as one request may. Where
    /// that does not suffice, it is what another server in the room says.
    ///
    /// # Errors
    /// As [`crate::rooms::Rooms::event_at`]; never because of another server.
    pub(crate) async fn event_at(
        &self,
        session: &Session,
        room_id: &RoomId,
        ts_ms: u64,
        direction: Direction,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let until = Instant::now() + PATIENCE;
        let mut earlier = Earlier::Here;
        for _ in 0..MAX_FETCHES {
            let here = self.rooms.event_at(session, room_id, ts_ms, direction).await;
            let is_sure = match (&here, direction) {
                (Err(RoomError::NoEventThen), Direction::Backward) => false,
                // What lies before may be closer, unless this is not the first that is here.
                (Ok((_, at_ms)), Direction::Forward) => {
                    let before = at_ms.saturating_sub(1);
                    let backward = Direction::Backward;
                    self.rooms.event_at(session, room_id, before, backward).await.is_ok()
                }
                _ => true,
            };
            if is_sure || earlier != Earlier::Here {
                if here.is_err() && earlier == Earlier::NotNow {
                    return self.event_elsewhere(room_id, ts_ms, direction, until).await;
                }
                return here;
            }
            let room = self.rooms.room(room_id).await?;
            let missing = self.rooms.missing_before_all(&room).await?;
            earlier = self.fetch_earlier(room_id, missing, until).await?;
        }
        match self.rooms.event_at(session, room_id, ts_ms, direction).await {
            Err(RoomError::NoEventThen) => {
                self.event_elsewhere(room_id, ts_ms, direction, until).await
            }
            here => here,
        }
    }

    /// What other servers in the room say.
    async fn event_elsewhere(
        &self,
        room_id: &RoomId,
        ts_ms: u64,
        direction: Direction,
        until: Instant,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let room = self.rooms.room(room_id).await?;
        let ts = UInt::try_from(ts_ms).unwrap_or(UInt::MAX);
        let ts = MilliSecondsSinceUnixEpoch(ts);
        for server in self.rooms.other_servers(&room).iter().take(MAX_SERVERS) {
            let room_id = room_id.to_owned();
            let request = get_event_by_timestamp::v1::Request::new(room_id, ts, direction);
            let answer = self.federation.ask(server, request, EVENTS);
            match tokio::time::timeout_at(until, answer).await {
                Ok(Ok(answer)) => {
                    return Ok((answer.event_id, answer.origin_server_ts.0.into()));
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "no event at a time"),
                Err(_) => break,
            }
        }
        Err(RoomError::NoEventThen)
    }

    /// Fetches missing events of a room and what lies before them, or waits until who does so
    /// already has done it.
    async fn fetch_earlier(
        &self,
        room_id: &RoomId,
        missing: Vec<OwnedEventId>,
        until: Instant,
    ) -> Result<Earlier, RoomError> {
        let room = self.rooms.room(room_id).await?;
        // Nobody tells a server that is not in the room.
        let is_alone = self.rooms.other_servers(&room).is_empty();
        if !self.federation.is_enabled() || is_alone || room.local_members().is_empty() {
            return Ok(Earlier::Nothing);
        }
        if missing.is_empty() {
            return Ok(Earlier::Nothing);
        }
        let backfills = &self.shared.backfills;
        let paused = backfills.paused.get(&room.number);
        if paused.is_some_and(|until_ms| self.clock.now_ms() < until_ms) {
            return Ok(Earlier::NotNow);
        }
        let fetch = {
            let mut under_way = backfills.under_way.lock();
            let fetch = under_way.entry(room.number).or_insert_with(|| self.begin(room, missing));
            fetch.clone()
        };
        let came = tokio::time::timeout_at(until, fetch).await.unwrap_or(false);
        Ok(if came { Earlier::Here } else { Earlier::NotNow })
    }

    /// Begins a fetch in a task of its own: it is of use also if its reader is gone.
    fn begin(&self, room: Arc<Room>, missing: Vec<OwnedEventId>) -> Fetch {
        let exchange = self.clone();
        let task = tokio::spawn(async move {
            let backfills = &exchange.shared.backfills;
            let _done = Done { backfills, room: room.number };
            let fetch = async {
                let _permit = backfills.working.acquire().await.ok()?;
                Some(exchange.backfill(&room, missing).await)
            };
            let came = match tokio::time::timeout(MAX_DURATION, fetch).await {
                Ok(Some(Ok(came))) => came,
                Ok(Some(Err(error))) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(room = %room.id, error, "earlier events can't be stored");
                    false
                }
                Ok(None) | Err(_) => false,
            };
            if came {
                backfills.paused.invalidate(&room.number);
            } else {
                backfills.paused.insert(room.number, exchange.clock.now_ms() + PAUSE_MS);
            }
            came
        });
        task.map(|came| came.unwrap_or(false)).boxed().shared()
    }

    /// Asks one server after another; whether one had something.
    async fn backfill(
        &self,
        room: &Arc<Room>,
        mut from: Vec<OwnedEventId>,
    ) -> Result<bool, RoomError> {
        let mut servers: Vec<OwnedServerName> = self.rooms.other_servers(room);
        // Not always the same ones.
        rotate(&mut from, self.federation.spread());
        rotate(&mut servers, self.federation.spread());
        from.truncate(MAX_FROM);
        let mut asked = 0;
        for server in &servers {
            match self.backfill_from(room, &from, server).await {
                Ok(0) => asked += 1,
                Ok(_) => return Ok(true),
                Err(Failed::Peer(PeerError::Paused { .. })) => {}
                Err(Failed::Peer(error)) => {
                    tracing::debug!(%server, %error, "no earlier events");
                    asked += 1;
                }
                Err(Failed::Room(error)) => return Err(error),
            }
            if asked == MAX_SERVERS {
                break;
            }
        }
        Ok(false)
    }

    /// How many events came from `server`.
    async fn backfill_from(
        &self,
        room: &Arc<Room>,
        from: &[OwnedEventId],
        server: &ServerName,
    ) -> Result<usize, Failed> {
        let limit = uint!(100);
        let request = get_backfill::v1::Request::new(room.id.clone(), from.to_vec(), limit);
        let answer = self.federation.ask(server, request, EVENTS).await.map_err(Failed::Peer)?;
        let events = answer.pdus.get(..answer.pdus.len().min(MAX_EVENTS)).unwrap_or_default();
        let mut pdus = self.verified(room, events, server).await;
        let ids: Vec<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        let unplaced = self.rooms.unplaced_events(room, &ids).await?;
        pdus.retain(|pdu| unplaced.iter().any(|id| id == pdu.event_id()));
        // Of others nobody knows that they belong there: what lies behind events that are here
        // belongs elsewhere.
        let asked_for = behind(&pdus, from);
        pdus.retain(|pdu| asked_for.contains(pdu.event_id()));
        let needed = self.rooms.needed_for_backfill(room, &pdus).await?;
        let mut missing = needed.auth_events;
        for _ in 0..MAX_AUTH_ROUNDS {
            if missing.is_empty() {
                break;
            }
            missing = self.fetch_outliers(room, missing, server).await?;
        }
        let mut states = BTreeMap::new();
        for event in needed.states.into_iter().take(MAX_STATES) {
            if let Some(state) = self.fetch_state(room, &event, server, Extent::Bounded).await? {
                states.insert(event, state);
            }
        }
        Ok(self.rooms.insert_backfilled(room, &pdus, &states).await?)
    }
}

/// Why nothing came.
enum Failed {
    Peer(PeerError),
    Room(RoomError),
}

impl From<RoomError> for Failed {
    fn from(error: RoomError) -> Self {
        Self::Room(error)
    }
}

/// The IDs of `from` and of what these refer to, and so on, as far as they are among these events.
pub(super) fn behind(pdus: &[Pdu], from: &[OwnedEventId]) -> HashSet<OwnedEventId> {
    let by_id: HashMap<&EventId, &Pdu> = pdus.iter().map(|pdu| (pdu.event_id(), pdu)).collect();
    let mut next: Vec<&EventId> = from.iter().map(|id| &**id).collect();
    let mut found = HashSet::new();
    while let Some(id) = next.pop() {
        if let Some(pdu) = by_id.get(id)
            && found.insert(id.to_owned())
        {
            next.extend(pdu.prev_events().iter().map(|id| &**id));
        }
    }
    found
}

fn rotate<T>(items: &mut [T], by: u64) {
    if let Ok(count) = u64::try_from(items.len())
        && let Some(by) = by.checked_rem(count)
    {
        items.rotate_left(usize::try_from(by).unwrap_or_default());
    }
}
