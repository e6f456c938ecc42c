//! Which application services there are, and which users, rooms and aliases concern them.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use ruma::{OwnedServerName, RoomAliasId, ServerName, UserId};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    protocols::Described,
    registration::{BadRegistrations, Registration, read_all},
    transport::Transport,
};
use crate::{
    outgoing::{Outgoing, OutgoingError},
    storage::{Batch, Db, Range, StorageError, intern::UserNumber, schema::ROOM_ALIASES},
};

/// Of how many users it is kept in memory whom they concern; then all are forgotten.
const MAX_KNOWN_USERS: usize = 1_000_000;
/// How many users and aliases are asked for at the same time: anybody can make up names.
const MAX_QUESTIONS: usize = 32;
/// How many aliases of a room are looked at.
const MAX_ALIASES: usize = 1_000;

/// One application service.
#[derive(Debug)]
pub(crate) struct Service {
    /// What its file says.
    pub(crate) registration: Registration,
    /// Its bot, as tables know it.
    pub(crate) bot: UserNumber,
    /// Its bit in an [`Audience`].
    bit: u128,
    /// It showed that it is there, and nothing was tried since.
    is_back: AtomicBool,
    back: Notify,
    /// What it said of other networks.
    pub(super) described: Described,
}

impl Service {
    /// Its unique name.
    pub(crate) fn id(&self) -> &str {
        &self.registration.id
    }

    /// Whether it may speak for a user: its bot, or one in its namespace.
    pub(crate) fn speaks_for(&self, user: &UserId) -> bool {
        self.registration.bot == user || self.registration.users.contains(user.as_str())
    }

    /// Whether a user is nobody's but its own.
    pub(crate) fn owns(&self, user: &UserId) -> bool {
        self.registration.bot == user || self.registration.users.is_exclusive(user.as_str())
    }

    /// Whether an alias is in its namespace.
    pub(crate) fn has_alias(&self, alias: &RoomAliasId) -> bool {
        self.registration.aliases.contains(alias.as_str())
    }

    /// Whether requests of a user it speaks for are limited.
    pub(crate) fn is_limited(&self, user: &UserId) -> bool {
        self.registration.rate_limited && self.registration.bot != user
    }

    /// It showed that it is there: what waits for it need not wait longer.
    pub(crate) fn note_life(&self) {
        self.is_back.store(true, Ordering::Release);
        self.back.notify_one();
    }

    /// Returns when it showed that it is there.
    pub(super) async fn came_to_life(&self) {
        self.back.notified().await;
    }

    /// Whether it has, since this was asked last.
    pub(super) fn is_back(&self) -> bool {
        self.is_back.swap(false, Ordering::AcqRel)
    }

    /// Whether it is told of anything.
    pub(crate) fn listens(&self) -> bool {
        self.registration.url.is_some()
    }

    /// Whether messages to devices of `user` reach it and no sync: an encrypted bridge holds the
    /// devices of its users itself.
    pub(crate) fn holds_devices_of(&self, user: &UserId) -> bool {
        let registration = &self.registration;
        self.listens()
            && registration.encrypts
            && registration.receives_ephemeral
            && self.owns(user)
    }
}

/// A set of application services.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Audience(u128);

impl Audience {
    /// Who is in both.
    #[must_use]
    pub(crate) fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is nobody in it.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `service` is in it.
    pub(crate) fn contains(self, service: &Service) -> bool {
        self.0 & service.bit != 0
    }
}

/// What a room's audience was found to be, good while these are its members.
#[derive(Debug)]
struct KnownAudience {
    registry: Arc<Registry>,
    members: Arc<[UserNumber]>,
    audience: Audience,
}

/// A room's audience, remembered with the room.
#[derive(Debug, Default)]
pub(crate) struct RoomAudience(Mutex<Option<KnownAudience>>);

impl RoomAudience {
    /// The room's aliases changed.
    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }
}

/// The application services of one reading of the files.
#[derive(Debug)]
pub(crate) struct Registry {
    services: Vec<Arc<Service>>,
    by_token: HashMap<[u8; 32], Arc<Service>>,
    server_name: OwnedServerName,
    users: RwLock<HashMap<UserNumber, Audience>>,
    /// Nobody cares for aliases, which most servers need not look for then.
    no_aliases: bool,
}

impl Registry {
    fn new(services: Vec<Service>, server_name: &ServerName) -> Self {
        let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
        Self {
            by_token: services
                .iter()
                .map(|service| (hash(service.registration.as_token.expose()), Arc::clone(service)))
                .collect(),
            server_name: server_name.to_owned(),
            users: RwLock::default(),
            no_aliases: services.iter().all(|service| service.registration.aliases.is_empty()),
            services,
        }
    }

    /// All of them.
    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// The one with this `as_token`.
    pub(crate) fn with_token(&self, token: &str) -> Option<&Arc<Service>> {
        // By hash: the time that is taken says nothing about tokens.
        self.by_token.get(&hash(token))
    }

    fn those(&self, is: impl Fn(&Service) -> bool) -> Audience {
        let listening = self.services.iter().filter(|service| service.listens() && is(service));
        Audience(listening.fold(0, |bits, service| bits | service.bit))
    }

    /// Those of an audience that are told of what is not kept: receipts, messages to devices.
    pub(crate) fn with_ephemeral(&self, audience: Audience) -> Audience {
        let told = self.those(|service| service.registration.receives_ephemeral);
        Audience(audience.0 & told.0)
    }

    /// Whom a user of this server concerns.
    pub(crate) fn of_user(&self, number: UserNumber, user: &UserId) -> Audience {
        if let Some(known) = self.users.read().get(&number) {
            return *known;
        }
        let audience = if user.server_name() == self.server_name {
            self.those(|service| service.speaks_for(user))
        } else {
            Audience::default()
        };
        let mut users = self.users.write();
        if users.len() >= MAX_KNOWN_USERS {
            users.clear();
        }
        users.insert(number, audience);
        audience
    }

    /// Whom these users concern.
    async fn of_users(&self, db: &Db, users: &[UserNumber]) -> Result<Audience, StorageError> {
        let mut audience = Audience::default();
        let mut unknown = Vec::new();
        {
            let known = self.users.read();
            for user in users {
                match known.get(user) {
                    Some(one) => audience = audience.and(*one),
                    None => unknown.push(*user),
                }
            }
        }
        let names = db.users().names(db, &unknown).await?;
        for (user, name) in unknown.into_iter().zip(names) {
            audience = audience.and(self.of_user(user, &name));
        }
        Ok(audience)
    }

    /// Whom a room concerns: by its ID, its aliases, or because one of its members of this server
    /// does.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn of_room(
        self: &Arc<Self>,
        db: &Db,
        room: &crate::rooms::Room,
    ) -> Result<Audience, StorageError> {
        let members = room.local_members();
        if let Some(known) = &*room.audience.0.lock()
            && Arc::ptr_eq(&known.members, &members)
            && Arc::ptr_eq(&known.registry, self)
        {
            return Ok(known.audience);
        }
        let mut audience = self.those(|one| one.registration.rooms.contains(room.id.as_str()));
        if !self.no_aliases {
            let range = Range::prefix(&(room.number,));
            for ((_, alias), ()) in ROOM_ALIASES.scan(db, &range, MAX_ALIASES).await? {
                audience = audience.and(self.those(|one| one.has_alias(&alias)));
            }
        }
        audience = audience.and(self.of_users(db, &members).await?);
        let known = KnownAudience { registry: Arc::clone(self), members, audience };
        *room.audience.0.lock() = Some(known);
        Ok(audience)
    }

    /// Those in an audience.
    pub(crate) fn named(&self, audience: Audience) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().filter(move |service| audience.contains(service))
    }

    /// Wakes those in an audience once `batch` is visible.
    pub(crate) fn wake(&self, batch: &mut Batch, audience: Audience) {
        batch.wake(self.named(audience).map(|service| service.bot));
    }

    /// Who else has a user to itself.
    pub(crate) fn owner_of_user(&self, user: &UserId) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| service.owns(user))
    }

    /// Who has an alias to itself.
    pub(crate) fn owner_of_alias(&self, alias: &RoomAliasId) -> Option<&Arc<Service>> {
        let is_exclusive =
            |service: &&Arc<Service>| service.registration.aliases.is_exclusive(alias.as_str());
        self.services.iter().find(is_exclusive)
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The application services of this server, as the files say now.
#[derive(Clone)]
pub(crate) struct Appservices {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    server_name: OwnedServerName,
    /// Whether there are any: asked on every request and event.
    any: AtomicBool,
    registry: watch::Sender<Arc<Registry>>,
    transport: Transport,
    /// How many users and aliases are asked for at the same time.
    questions: Semaphore,
}

/// Why the files are not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    /// They are not right.
    #[error(transparent)]
    Bad(#[from] BadRegistrations),
    /// The database failed.
    #[error("cannot keep the users of application services")]
    Storage(#[from] StorageError),
    /// No requests can be made.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
}

impl Appservices {
    /// Those that the files describe.
    ///
    /// # Errors
    /// [`RegistrationError`].
    pub(crate) async fn new(
        files: &[PathBuf],
        server_name: &ServerName,
        db: Db,
        outgoing: &Outgoing,
    ) -> Result<Self, RegistrationError> {
        let none = Arc::new(Registry::new(Vec::new(), server_name));
        let this = Self {
            shared: Arc::new(Shared {
                db,
                server_name: server_name.to_owned(),
                any: AtomicBool::new(false),
                registry: watch::Sender::new(none),
                transport: Transport::new(outgoing)?,
                questions: Semaphore::new(MAX_QUESTIONS),
            }),
        };
        this.reload(files).await?;
        Ok(this)
    }

    /// Reads the files anew; nothing changes if something is wrong with them.
    ///
    /// # Errors
    /// [`RegistrationError`].
    pub(crate) async fn reload(&self, files: &[PathBuf]) -> Result<(), RegistrationError> {
        let db = &self.shared.db;
        let mut services = Vec::new();
        for (place, registration) in
            read_all(files, &self.shared.server_name)?.into_iter().enumerate()
        {
            let bot = db.users().intern(db, &*registration.bot).await?;
            services.push(Service {
                registration,
                bot,
                bit: 1 << place,
                is_back: AtomicBool::new(false),
                back: Notify::new(),
                described: Described::default(),
            });
        }
        self.shared.any.store(!services.is_empty(), Ordering::Release);
        let registry = Arc::new(Registry::new(services, &self.shared.server_name));
        self.shared.registry.send_replace(registry);
        Ok(())
    }

    /// Those there are now; none if there are none.
    pub(crate) fn registry(&self) -> Option<Arc<Registry>> {
        let any = self.shared.any.load(Ordering::Acquire);
        any.then(|| Arc::clone(&self.shared.registry.borrow()))
    }

    /// Learns of every reading of the files.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Registry>> {
        self.shared.registry.subscribe()
    }

    /// The one with this `as_token`.
    pub(crate) fn with_token(&self, token: &str) -> Option<Arc<Service>> {
        self.registry()?.with_token(token).cloned()
    }

    pub(super) fn db(&self) -> &Db {
        &self.shared.db
    }

    pub(super) fn questions(&self) -> &Semaphore {
        &self.shared.questions
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.shared.transport
    }
}
