//! Simplified sliding sync: the client says which rooms it shows, and gets those.
//!
//! There are two forms of it: that which clients use, and that in which it was accepted. What is done
//! is the same; what is said has different names.
//!
//! Proposal: MSC4186,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>

mod connection;
mod deployed;
mod extensions;
mod lists;
mod merged;
mod names;
mod profiles;
mod request;
mod response;
mod room;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use moka::sync::Cache;
use tokio::time::Instant;

use self::{
    connection::{Connections, State},
    lists::DirectRooms,
    request::{Body, Details},
    room::{Reader, Sent},
};
use super::{SyncError, v3::Sync};
use crate::{
    e2ee::Counts,
    rooms::{RoomError, record::UserRoom},
    storage::{
        Changes, RoomChanges, Snapshot, StorageError,
        intern::{RoomNumber, UserNumber},
    },
    users::{presence::Level, session::Session},
};

pub(crate) use self::{
    connection::sliding_position, deployed::Body as DeployedBody, merged::Body as MergedBody,
    response::Response,
};

/// The longest a request waits, whatever the client asks for.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// Of how many rooms it is kept in memory what filters ask for.
const CACHED_ROOMS: u64 = 100_000;

/// Of how many (user, room) it is kept in memory what the user is to the room, 100 bytes each.
const CACHED_STANDINGS: u64 = 200_000;

/// Why a sliding sync is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlidingError {
    /// The connection is not known, or not at that position: the client begins again.
    #[error("the connection is not known at this position")]
    UnknownPosition,
    /// The request is beyond the bounds.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// As with any other sync.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl From<RoomError> for SlidingError {
    fn from(error: RoomError) -> Self {
        Self::Sync(error.into())
    }
}

impl From<StorageError> for SlidingError {
    fn from(error: StorageError) -> Self {
        Self::Sync(error.into())
    }
}

/// Answers sliding syncs.
#[derive(Clone)]
pub(crate) struct Sliding {
    sync: Arc<Sync>,
    connections: Connections,
    /// The types of rooms, which never change.
    room_types: Cache<RoomNumber, Option<String>>,
    /// Rooms that are encrypted: none ever ceases to be.
    encrypted: Cache<RoomNumber, ()>,
    /// Whether others made users leave: as of the position of their member event.
    thrown_out: Cache<(UserNumber, RoomNumber), (u64, bool)>,
    /// What users are to their rooms.
    standings: Cache<UserNumber, Arc<Standing>>,
}

/// How a request is made and answered.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
enum Form {
    /// As clients do it by now.
    #[default]
    Deployed,
    /// As it was accepted.
    Merged,
}

/// What a user is to their rooms, kept while it stays as it is.
struct Standing {
    /// It holds everything up to this position.
    as_of: u64,
    rooms: Vec<(RoomNumber, UserRoom)>,
    direct: DirectRooms,
}

/// A request, in whichever form it came.
#[derive(Debug, Default)]
pub(crate) struct Request {
    form: Form,
    /// Up to where the client has everything; none for a new connection.
    pos: Option<String>,
    /// What the request says of the user.
    presence: Level,
    /// How long to wait for something to happen.
    timeout: Duration,
    /// What is wanted.
    body: Body,
}

/// What is wanted of a room, and why.
#[derive(Debug, Default)]
struct Wanted<'a> {
    details: Details,
    subscribed: bool,
    lists: BTreeSet<&'a str>,
}

/// What an answer is made of.
struct Now<'a> {
    session: &'a Session,
    request: &'a Request,
    state: &'a State,
    told: &'a Counts,
    until: u64,
    /// Nothing else changed.
    only: Option<&'a RoomChanges>,
}

impl Sliding {
    /// Sliding syncs over the same areas as `sync`.
    pub(crate) fn new(sync: Arc<Sync>) -> Self {
        // Positions go on above those of the process before.
        let connections = Connections::new(sync.db.visible_position());
        Self {
            sync,
            connections,
            room_types: Cache::new(CACHED_ROOMS),
            encrypted: Cache::new(CACHED_ROOMS),
            thrown_out: Cache::new(CACHED_ROOMS),
            standings: Cache::builder()
                .weigher(|_, standing: &Arc<Standing>| {
                    u32::try_from(standing.rooms.len() + 1).unwrap_or(u32::MAX)
                })
                .max_capacity(CACHED_STANDINGS)
                .build(),
        }
    }

    /// What there is to tell since the client's position: at once if there is something, or when
    /// something happens, or nothing when the time is over.
    ///
    /// # Errors
    /// [`SlidingError::UnknownPosition`] for a position that is not, or no longer, known;
    /// [`SlidingError::Invalid`] for a request beyond the bounds.
    pub(crate) async fn answer(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<Response, SlidingError> {
        request.body.check()?;
        let deadline = Instant::now() + request.timeout.min(LONGEST_WAIT);
        let conn_id = request.body.conn_id.clone();
        let key = (session.user, session.device_id.clone(), request.form, conn_id);
        let state = self.connections.state(&key, request.pos.as_deref())?;
        self.note_delivered(session, request).await?;
        if request.pos.is_some() {
            self.sync.receipts.acknowledge(session, state.position);
        }
        let _there = self.sync.presence.syncing(session, request.presence);
        // Subscribed before reading: what is committed in between wakes too.
        let waiter = self.sync.db.wait_for(session.user);
        let told = self.sync.e2ee.keys.told(session.user, &session.device_id).await?;
        let asked = request.body.asked();
        // Whether everything up to the client's position was looked at for what it asks for now.
        let seen = request.pos.is_some() && state.asked == asked && has_inbox(request, &state)?;
        loop {
            // The position first: what is remembered has everything up to it.
            let until = self.sync.db.visible_position();
            let changes =
                if seen { waiter.changes_after(state.position) } else { Changes::Anything };
            let (mut response, new, news) = if changes == Changes::Nothing {
                let fewer_keys =
                    request.body.wants_keys() && self.sync.has_fewer_keys(session, &told).await?;
                if !fewer_keys && self.sync.wait(session, &waiter, deadline).await? {
                    continue;
                }
                (self.nothing(session, request, &state).await?, Arc::clone(&state), true)
            } else {
                let only = match &changes {
                    Changes::InRooms(only) => Some(only),
                    _ => None,
                };
                let now = Now { session, request, state: &state, told: &told, until, only };
                let (response, new) = Box::pin(self.now(now)).await?;
                let first = request.pos.is_none();
                let news = first || !response.is_empty() || new.lists != state.lists;
                (response, Arc::new(State { asked, ..new }), news)
            };
            if news || !self.sync.wait(session, &waiter, deadline).await? {
                response.pos = self.connections.keep(key, request.pos.as_deref(), new);
                return Ok(response);
            }
        }
    }

    /// The answer when there is nothing to tell.
    async fn nothing(
        &self,
        session: &Session,
        request: &Request,
        state: &State,
    ) -> Result<Response, SlidingError> {
        let extensions = self.no_extensions(session, &request.body.extensions).await?;
        Ok(Response {
            form: request.form,
            pos: String::new(),
            txn_id: request.body.txn_id.clone(),
            lists: state.lists.clone(),
            rooms: BTreeMap::new(),
            extensions,
        })
    }

    /// What there is to tell at this moment, and what the client has then.
    async fn now(&self, now: Now<'_>) -> Result<(Response, State), SlidingError> {
        let Now { session, request, state, told, until, only } = now;
        let (body, form) = (&request.body, request.form);
        // Taken after the position: it holds everything up to it.
        let at = self.sync.db.snapshot();
        let standing = self.standing(&at, session, until, only).await?;
        let (user_rooms, direct) = (&standing.rooms, &standing.direct);
        let (entries, gone) = self.entries(&at, session, form, until, user_rooms, state).await?;

        let mut wanted: BTreeMap<RoomNumber, Wanted<'_>> = BTreeMap::new();
        let (mut lists, mut matching) = (BTreeMap::new(), BTreeMap::new());
        for (name, list) in &body.lists {
            // What filters ask for is no message, nor is it told of by one.
            let known = only.and_then(|_| state.matching.get(name));
            let (members, numbers) =
                self.filtered(&at, session, &entries, direct, (list, known), until).await?;
            matching.extend(numbers.map(|numbers| (name.clone(), numbers)));
            for (first, last) in &list.ranges {
                let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
                let count = index(last - first).saturating_add(1);
                for entry in members.iter().skip(index(*first)).take(count) {
                    let room = wanted.entry(entry.number).or_default();
                    room.details.add(&list.details);
                    room.lists.insert(name);
                }
            }
            lists.insert(name.clone(), response::List { count: members.len() });
        }
        for (room_id, details) in &body.room_subscriptions {
            if let Some(number) = self.sync.db.rooms().find(&self.sync.db, &**room_id).await? {
                let room = wanted.entry(number).or_default();
                room.details.add(details);
                room.subscribed = true;
            }
        }

        let mut new = State {
            position: until,
            rooms: state.rooms.clone(),
            lists: lists.clone(),
            matching,
            typing: BTreeSet::new(),
            profiles: body.extensions.profiles.clone(),
            asked: state.asked,
        };
        let mut rooms = BTreeMap::new();
        let reader = Reader {
            sync: &self.sync,
            at: &at,
            form,
            session,
            until,
            state,
            direct,
            settled: only.is_some(),
        };
        let mut initial = BTreeSet::new();
        for entry in &entries {
            let Some(wanted) = wanted.get(&entry.number) else { continue };
            if let Some(Sent { id, room, state: sent }) = reader.room(entry, wanted).await? {
                if let Some(room) = room {
                    if room.common.initial {
                        initial.insert(entry.number);
                    }
                    rooms.insert(id, room);
                }
                new.rooms.insert(entry.number, Arc::new(sent));
            }
        }
        for entry in &gone {
            if let Some((id, room)) = reader.gone(entry).await? {
                rooms.insert(id, room);
            }
            new.rooms.remove(&entry.number);
        }
        let window = extensions::Window {
            at: &at,
            session,
            since: request.pos.as_ref().map(|_| state.position),
            until,
            rooms: user_rooms,
            known: &new.rooms,
            initial: &initial,
            wanted: &wanted,
            before: state,
            form,
            only,
            told,
        };
        let (extensions, typing) = self.extensions(&window, &body.extensions).await?;
        new.typing = typing;
        let txn_id = body.txn_id.clone();
        Ok((Response { form, pos: String::new(), txn_id, lists, rooms, extensions }, new))
    }

    /// What the user is to their rooms: from memory if nothing but messages came since.
    async fn standing(
        &self,
        at: &Snapshot,
        session: &Session,
        until: u64,
        only: Option<&RoomChanges>,
    ) -> Result<Arc<Standing>, SlidingError> {
        let holds =
            |standing: &Arc<Standing>| only.is_some_and(|only| standing.as_of >= only.settled);
        if let Some(standing) = self.standings.get(&session.user).filter(holds) {
            return Ok(standing);
        }
        let rooms = self.sync.rooms.user_rooms(at, session.user).await?;
        let direct = self.direct_rooms(at, session.user).await?;
        let standing = Arc::new(Standing { as_of: until, rooms, direct });
        self.standings.insert(session.user, Arc::clone(&standing));
        Ok(standing)
    }
}

/// Whether the device has all messages up to its position, or does not ask for them.
fn has_inbox(request: &Request, state: &State) -> Result<bool, SlidingError> {
    let inbox = &request.body.extensions.to_device;
    Ok(!inbox.is_on() || inbox.position()?.is_some_and(|since| since >= state.position))
}
