//! Rooms: the event graph, who is in them, what may be read of them.

mod acl;
mod aliases;
pub(crate) mod allowances;
mod append;
mod appservices;
pub(crate) mod auth;
pub(crate) mod auth_record;
pub(crate) mod backfill;
#[cfg(feature = "bench")]
pub mod bench;
mod closed_accounts;
mod commit;
mod create;
mod current;
pub(crate) mod delayed;
pub(crate) mod directory;
mod elsewhere;
pub(crate) mod error;
mod event;
mod event_fields;
pub(crate) mod filter;
mod gaps;
pub(crate) mod hierarchy;
mod indexes;
pub(crate) mod ingest;
mod invites;
mod kept;
pub(crate) mod keys;
mod media_references;
mod membership;
mod neighbours;
pub(crate) mod news;
mod overview;
pub(crate) mod partial;
pub(crate) mod pdu;
pub(crate) mod people;
pub(crate) mod policy;
mod profile;
pub(crate) mod purge;
mod read;
pub(crate) mod receipts;
pub(crate) mod record;
mod redaction;
mod reindex;
pub(crate) mod relations;
pub(crate) mod remote;
pub(crate) mod replay;
pub(crate) mod reports;
mod room;
mod search;
mod send;
pub(crate) mod sent_members;
pub(crate) mod serve;
mod settings;
mod show;
mod standing;
mod state;
pub(crate) mod subscriptions;
mod tail;
mod third_party;
mod timeline;
pub(crate) mod timeline_key;
mod timestamps;
pub(crate) mod typing;
mod upgrade;
mod visibility;
pub(crate) mod whole;
mod writer;

#[cfg(test)]
mod federation_tests;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use moka::sync::Cache;
use ruma::{OwnedRoomId, RoomId, ServerName, UserId};

pub(crate) use create::{DEFAULT_VERSION, NewRoom, Preset, SUPPORTED_VERSIONS};
pub(crate) use elsewhere::{Child, Elsewhere, Told};
pub(crate) use error::RoomError;
pub(crate) use event::{Draft, content};
pub(crate) use event_fields::EventFields;
pub(crate) use filter::EventFilter;
pub(crate) use media_references::are_known as media_are_known;
pub(crate) use membership::Change;
pub(crate) use overview::{Overview, Overviews};
pub(crate) use profile::Profile;
pub(crate) use purge::{Deletion, HistoryEnd, Job, JobId, Outcome, Status, Work};
pub(crate) use read::StateChanges;
pub(crate) use relations::{MAX_DEPTH as MAX_RELATIONS_DEPTH, RelatedRequest};
pub(crate) use room::Room;
#[cfg(feature = "bench")]
pub use search::bench as search_bench;
pub(crate) use search::{
    Around, Field, Found, Group, Hit, Order, Place, SearchRequest, Surroundings,
};
pub(crate) use settings::Settings;
pub(crate) use show::{EventForm, Viewer};
pub(crate) use third_party::is_signed_with;
pub(crate) use timeline::{Page, PageRequest};
pub(crate) use timeline_key::Boundary;
#[cfg(any(test, feature = "bench"))]
pub(crate) use visibility::HistoryVisibility;
pub(crate) use visibility::Visibility;

use crate::{
    appservice::Appservices,
    clock::{Clock, Random},
    storage::{
        Db, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::ROOM_HEADS,
    },
    users::{limits::Limits, session::Session},
};
use allowances::RateOverride;
use kept::Kept;
use keys::ServerKey;
use news::News;
use sent_members::SentMembers;
use state::States;
use writer::{RoomWriter, Sender};

/// Of how many rooms the last position is kept in memory, about 100 bytes each.
const MAX_LAST_POSITIONS: usize = 100_000;
/// How many rooms can be joined through other servers at the same time.
const MAX_JOINING: u64 = 1_000;
/// Of how many users it is kept in memory whether the operator lets them do more or less.
const MAX_OVERRIDES: u64 = 50_000;
/// How often a change is tried that failed because one it was built on did.
const TRIES: usize = 5;
/// How many events that a policy server has signed wait for their rooms' turn, and for how long.
const MAX_APPROVED: u64 = 1_000;
const APPROVED_FOR: Duration = Duration::from_mins(1);

/// Where names and pictures for member events come from.
pub(crate) type Profiles =
    Box<dyn Fn(UserNumber) -> BoxFuture<'static, Result<Profile, StorageError>> + Send + Sync>;

/// The rooms of this server.
#[derive(Clone)]
pub(crate) struct Rooms {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    clock: Clock,
    random: Random,
    key: ServerKey,
    profiles: Profiles,
    settings: Settings,
    loaded: Kept,
    last_positions: quick_cache::sync::Cache<RoomNumber, u64>,
    states: States,
    outbox_changed: tokio::sync::Notify,
    news: News,
    joining: Cache<RoomNumber, Arc<tokio::sync::Mutex<()>>>,
    profile_changed: tokio::sync::Notify,
    account_closed: tokio::sync::Notify,
    /// Who else is told of what happens.
    appservices: OnceLock<Appservices>,
    ask_policy: OnceLock<policy::AskPolicyServer>,
    /// Events that a policy server has signed, until they are appended.
    approved: Cache<policy::MadeOf, pdu::Pdu>,
    limits: Limits,
    rate_overrides: Cache<UserNumber, Option<RateOverride>>,
    media_freed: Arc<tokio::sync::Notify>,
    purge_ordered: tokio::sync::Notify,
    watched: delayed::Watched,
    sent_members: SentMembers,
    became_whole: tokio::sync::Notify,
}

impl Rooms {
    /// The rooms in `db`, whose events this server signs with `key`.
    pub(crate) fn new(
        db: Db,
        clock: Clock,
        random: Random,
        key: ServerKey,
        profiles: Profiles,
        settings: Settings,
    ) -> Self {
        let memory_bytes = settings.memory_bytes;
        let limits = Limits::new(&settings.rate_limits, clock.clone());
        let shared = Shared {
            db,
            clock,
            random,
            key,
            profiles,
            settings,
            loaded: Kept::new(memory_bytes / 2),
            last_positions: quick_cache::sync::Cache::new(MAX_LAST_POSITIONS),
            states: States::new(memory_bytes / 2),
            outbox_changed: tokio::sync::Notify::new(),
            news: News::default(),
            joining: Cache::new(MAX_JOINING),
            profile_changed: tokio::sync::Notify::new(),
            account_closed: tokio::sync::Notify::new(),
            appservices: OnceLock::new(),
            ask_policy: OnceLock::new(),
            approved: Cache::builder()
                .max_capacity(MAX_APPROVED)
                .time_to_live(APPROVED_FOR)
                .build(),
            limits,
            rate_overrides: Cache::new(MAX_OVERRIDES),
            media_freed: Arc::default(),
            purge_ordered: tokio::sync::Notify::new(),
            watched: delayed::Watched::default(),
            sent_members: SentMembers::default(),
            became_whole: tokio::sync::Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn db(&self) -> &Db {
        &self.shared.db
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    fn key(&self) -> &ServerKey {
        &self.shared.key
    }

    /// This server's name.
    pub(crate) fn server_name(&self) -> &ServerName {
        self.shared.key.server_name()
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }

    /// The room with this ID.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`] if it is not here.
    pub(crate) async fn room(&self, id: &RoomId) -> Result<Arc<Room>, RoomError> {
        let unknown = || RoomError::UnknownRoom { room: id.to_owned().into() };
        let number = self.db().rooms().find(self.db(), id).await?.ok_or_else(unknown)?;
        self.loaded(number).await?.ok_or_else(unknown)
    }

    /// The room with this number.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if there is none: numbers come from tables.
    pub(crate) async fn numbered(&self, number: RoomNumber) -> Result<Arc<Room>, RoomError> {
        self.loaded(number).await?.ok_or(RoomError::Corrupt { what: "a room that is not there" })
    }

    async fn loaded(&self, number: RoomNumber) -> Result<Option<Arc<Room>>, RoomError> {
        let loaded = &self.shared.loaded;
        loop {
            let load = Room::load(self.db(), number, self.server_name());
            let room = match loaded.get(number, load).await {
                Ok(room) => room,
                Err(error) => {
                    return match &*error {
                        None => Ok(None),
                        Some(_) => Err(RoomError::NotLoaded { cause: error }),
                    };
                }
            };
            if !room.has_failed() {
                return Ok(Some(room));
            }
            // What was queued before the failure may still come true: it is read when it is done.
            while room.in_flight.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            loaded.forget(number).await;
        }
    }

    /// Waits for the turn to change `room`.
    async fn writer(&self, room: &Arc<Room>) -> Result<RoomWriter, RoomError> {
        let mut room = Arc::clone(room);
        loop {
            let writer = RoomWriter::new(self, Arc::clone(&room)).await?;
            if !writer.room.has_failed() {
                return Ok(writer);
            }
            drop(writer);
            room = self.numbered(room.number).await?;
        }
    }

    /// Makes a change, again if one that it was built on failed, or if a policy server had to be asked
    /// about it.
    async fn retried<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, RoomError>
    where
        F: Future<Output = Result<T, RoomError>>,
    {
        for _ in 1..TRIES {
            match attempt().await {
                Err(RoomError::Storage(StorageError::Precondition { table }))
                    if table == ROOM_HEADS.id.name() => {}
                Err(RoomError::Unapproved(asked)) => self.ask_about(*asked).await?,
                outcome => return outcome,
            }
        }
        attempt().await
    }

    /// Notes that something of `room` has this position. Before it is visible, so that nobody sees
    /// the position and an unchanged room.
    pub(crate) fn note_last_position(&self, room: RoomNumber, position: u64) {
        self.shared.last_positions.insert(room, position);
    }

    /// The stream position of the last event of `room`, or a later one: an event on its way to disk
    /// counts. In memory; read from the timeline when it is not there.
    pub(crate) async fn last_position(&self, room: RoomNumber) -> Result<u64, RoomError> {
        if let Some(position) = self.shared.last_positions.get(&room) {
            return Ok(position);
        }
        let stored = room::stored_last_position(self.db(), room).await?;
        // What a writer noted in the meantime is newer.
        self.shared.last_positions.get_or_insert_with(&room, || Ok(stored))
    }

    /// Keeps indexes whole and removes what is to go, for as long as it is polled.
    pub(crate) async fn run_upkeep(self) {
        tokio::join!(
            self.clone().run_search_upkeep(),
            self.clone().run_media_references(),
            self.clone().run_retention(),
            self.clone().run_collection(),
            self.run_purges(),
        );
    }

    /// Which member events devices have.
    pub(crate) fn sent_members(&self) -> &SentMembers {
        &self.shared.sent_members
    }

    /// Told when there is something new for other servers.
    pub(crate) fn outbox_changed(&self) -> &tokio::sync::Notify {
        &self.shared.outbox_changed
    }

    /// Where something happened.
    pub(crate) fn news(&self) -> &News {
        &self.shared.news
    }

    /// The ID of a room that a table names.
    pub(crate) async fn room_id(&self, room: RoomNumber) -> Result<OwnedRoomId, RoomError> {
        Ok(self.db().rooms().name(self.db(), room).await?)
    }
}

impl<'a> From<&'a Session> for Sender<'a> {
    fn from(session: &'a Session) -> Self {
        Self { id: &session.user_id, number: session.user }
    }
}
