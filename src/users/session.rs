//! Who is behind an access token, and how tokens come and go.

mod devices;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};

pub(crate) use self::devices::is_acceptable_device_id;
use self::devices::{cut, new_device_id};
use super::{
    activity::Activities,
    masquerade::Acting,
    rows::{Device, Token, TokenKind},
    standing::Standing,
    token::TokenUse,
};
use crate::{
    api::extract::Caller,
    appservice::{Appservices, Service},
    clock::{Clock, Random},
    push,
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICE_TOKENS, DEVICES, TOKENS},
    },
};

/// How long an access token lives whose client can refresh it.
pub(crate) const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// How many tokens are kept in memory.
const CACHED_TOKENS: usize = 50_000;
/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;

/// A user on a device, as an access token proves it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The user.
    pub(crate) user_id: OwnedUserId,
    /// The same, as tables know it.
    pub(crate) user: UserNumber,
    /// The device the token was given to.
    pub(crate) device_id: OwnedDeviceId,
    /// Guests may do little.
    pub(crate) guest: bool,
    /// The application service that speaks for the user.
    pub(crate) appservice: Option<Acting>,
}

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// There is no token.
    #[error("no access token")]
    Missing,
    /// The token was never given, has expired or was logged out.
    #[error("unknown access token")]
    Unknown {
        /// The device may log in again and keep its keys.
        soft_logout: bool,
    },
    /// An application service names a user who is not in its namespace.
    #[error("the application service may not speak for {user}")]
    NotYours {
        /// Who.
        user: String,
    },
    /// An application service names a user who has no account.
    #[error("{user} has no account that is in use")]
    NoAccount {
        /// Who.
        user: OwnedUserId,
    },
    /// An application service names a device that its user does not have.
    #[error("the user has no device {device}")]
    UnknownDevice {
        /// Which.
        device: OwnedDeviceId,
    },
    /// The request is for a device, and an application service named none.
    #[error("device_id must be given")]
    NoDevice,
    /// An application service's token does not end.
    #[error("an application service can't be logged out")]
    NotToBeLoggedOut,
    /// It can't be known.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The sessions of this server's users.
#[derive(Clone)]
pub(crate) struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    clock: Clock,
    random: Random,
    known: Cache<[u8; 32], Arc<Known>>,
    standings: Cache<UserNumber, Standing>,
    /// Raised by every removal, before it empties the cache: whoever has read a token before does
    /// not leave it in the cache after.
    removals: AtomicU64,
    activities: Activities,
    /// What is told of devices that are gone.
    removed: OnceLock<DeviceRemoved>,
    appservices: OnceLock<Appservices>,
}

/// Told of a device that was removed, so that what is known of it in memory is forgotten.
pub(crate) type DeviceRemoved = Box<dyn Fn(UserNumber, &DeviceId) + Send + Sync>;

/// An access token that was used.
struct Known {
    session: Session,
    expires_ms: Option<u64>,
    /// When it was last noted as active, in ms since the Unix epoch.
    noted_ms: AtomicU64,
}

/// Whom a new session is for.
pub(crate) struct NewSession {
    /// The user.
    pub(crate) user: UserNumber,
    /// The device to log in on; none: a new one.
    pub(crate) device_id: Option<OwnedDeviceId>,
    /// What a new device is called.
    pub(crate) display_name: Option<String>,
    /// Whether the client can refresh tokens.
    pub(crate) refresh: bool,
    /// Whether it is a guest's.
    pub(crate) guest: bool,
}

/// Tokens for a device.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// For requests.
    pub(crate) access_token: String,
    /// For a new access token, if the client can do that.
    pub(crate) refresh_token: Option<String>,
    /// How long the access token lives; none: until it is logged out.
    pub(crate) expires_in: Option<Duration>,
    /// The device.
    pub(crate) device_id: OwnedDeviceId,
}

/// Tokens that end with a batch: forgotten in memory once it is committed.
#[derive(Debug, Default)]
#[must_use = "tokens stay valid in memory until this is given to `Sessions::commit`"]
pub(crate) struct Ended(Vec<[u8; 32]>);

impl Ended {
    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl Sessions {
    /// Sessions kept in `db`.
    pub(crate) fn new(db: Db, clock: Clock, random: Random) -> Self {
        Self {
            shared: Arc::new(Shared {
                activities: Activities::new(db.clone()),
                db,
                clock,
                random,
                known: Cache::new(CACHED_TOKENS),
                standings: Cache::new(CACHED_TOKENS),
                removals: AtomicU64::new(0),
                removed: OnceLock::new(),
                appservices: OnceLock::new(),
            }),
        }
    }

    /// Calls `removed` with every device that goes from now on. Set once, when the server is put
    /// together.
    pub(crate) fn when_removed(&self, removed: DeviceRemoved) {
        self.shared.removed.get_or_init(|| removed);
    }

    /// Lets application services in. Set once, when the server is put together.
    pub(crate) fn let_in(&self, appservices: Appservices) {
        self.shared.appservices.get_or_init(|| appservices);
    }

    /// The application service with this token.
    pub(crate) fn appservice(&self, token: &str) -> Option<Arc<Service>> {
        self.shared.appservices.get()?.with_token(token)
    }

    pub(super) fn db(&self) -> &Db {
        &self.shared.db
    }

    /// When and from where devices were active.
    pub(crate) fn activities(&self) -> &Activities {
        &self.shared.activities
    }

    /// Who is behind `token`. The caller is noted as the device's last activity, now and then.
    ///
    /// # Errors
    /// [`AuthError::Unknown`] if the token opens nothing, or no longer.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        caller: &Caller,
    ) -> Result<Session, AuthError> {
        const UNKNOWN: AuthError = AuthError::Unknown { soft_logout: false };
        let hash = TokenUse::Access.hash(token).ok_or(UNKNOWN)?;
        let known = match self.shared.known.get(&hash) {
            Some(known) => known,
            None => self.read(hash).await?.ok_or(UNKNOWN)?,
        };
        let now = self.shared.clock.now_ms();
        // The device still exists: it may refresh, or log in again and keep its keys.
        // Spec: https://spec.matrix.org/v1.19/client-server-api/#soft-logout
        if known.expires_ms.is_some_and(|expires| expires <= now) {
            return Err(AuthError::Unknown { soft_logout: true });
        }
        self.shared.activities.note(&known.session, caller, now, &known.noted_ms);
        Ok(known.session.clone())
    }

    /// What is known of users' standings.
    pub(super) fn standings(&self) -> &Cache<UserNumber, Standing> {
        &self.shared.standings
    }

    /// Reads a token that is not in memory; its first use ends those it replaces.
    async fn read(&self, hash: [u8; 32]) -> Result<Option<Arc<Known>>, StorageError> {
        let shared = &self.shared;
        for _ in 0..ATTEMPTS {
            let removals = shared.removals.load(Ordering::Acquire);
            let Some(Json(token)) = TOKENS.get(&shared.db, &hash).await? else { return Ok(None) };
            let TokenKind::Access { expires_ms, ref replaces, guest } = token.kind else {
                return Ok(None);
            };
            let alive = expires_ms.is_none_or(|expires| expires > shared.clock.now_ms());
            if alive && !replaces.is_empty() {
                // Spec: "The old refresh token remains valid until the new access token or refresh
                // token is used, at which point the old refresh token is revoked."
                let kind = TokenKind::Access { expires_ms, replaces: Vec::new(), guest };
                let mut batch = Batch::new();
                TOKENS.require_equals(&mut batch, &hash, &Json(token.clone()));
                TOKENS.put(&mut batch, &hash, &Json(Token { kind, ..token.clone() }));
                let ended = end(&mut batch, token.user, &token.device_id, replaces);
                match self.commit(batch, ended).await {
                    // Whether it was done here or by a request at the same time: look again.
                    Ok(()) | Err(StorageError::Precondition { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            let known = Arc::new(Known {
                session: Session {
                    user_id: shared.db.users().name(&shared.db, token.user).await?,
                    user: token.user,
                    device_id: token.device_id,
                    guest,
                    appservice: None,
                },
                expires_ms,
                noted_ms: AtomicU64::new(0),
            });
            shared.known.insert(hash, Arc::clone(&known));
            // It may have been removed since it was read.
            if shared.removals.load(Ordering::Acquire) != removals {
                shared.known.remove(&hash);
            }
            return Ok(Some(known));
        }
        Err(StorageError::Precondition { table: TOKENS.id.name() })
    }

    /// Commits a batch that ends tokens.
    ///
    /// # Errors
    /// [`StorageError`] if nothing was committed: the tokens stay.
    pub(crate) async fn commit(&self, batch: Batch, ended: Ended) -> Result<(), StorageError> {
        self.shared.db.commit(batch).await?;
        if !ended.0.is_empty() {
            self.shared.removals.fetch_add(1, Ordering::AcqRel);
            for hash in &ended.0 {
                self.shared.known.remove(hash);
            }
        }
        Ok(())
    }

    /// Queues tokens for a device, which is made if it is not there. Tokens the device had end.
    ///
    /// The batch fails with [`StorageError::Precondition`] if the device changes in the meantime.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices>
    pub(crate) async fn open(
        &self,
        batch: &mut Batch,
        new: NewSession,
    ) -> Result<(Tokens, Ended), StorageError> {
        let shared = &self.shared;
        let device_id = new.device_id.unwrap_or_else(|| new_device_id(&shared.random));
        let key = (new.user, &*device_id);
        let old = DEVICES.get(&shared.db, &key).await?;
        let ended = match &old {
            Some(_) => {
                let hashes = self.hashes(new.user, &device_id).await?;
                push::queue_device_removal(&shared.db, batch, new.user, &device_id).await?;
                end(batch, new.user, &device_id, &hashes)
            }
            None => Ended::default(),
        };
        let mut device = if let Some(old) = &old {
            DEVICES.require_equals(batch, &key, old);
            old.0.clone()
        } else {
            DEVICES.require_absent(batch, &key);
            Device {
                display_name: new.display_name.map(cut),
                created_ms: shared.clock.now_ms(),
                tokens_given: 0,
            }
        };
        device.tokens_given += 1;
        DEVICES.put(batch, &key, &Json(device));
        let tokens = self.give(batch, new.user, device_id, new.refresh, new.guest, Vec::new());
        Ok((tokens.0, ended))
    }

    /// Queues new tokens, which replace those of `replaces` once they are used. Also their hashes.
    fn give(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        device_id: OwnedDeviceId,
        refresh: bool,
        guest: bool,
        replaces: Vec<[u8; 32]>,
    ) -> (Tokens, Vec<[u8; 32]>) {
        let (access_token, access) = self.generate(TokenUse::Access);
        let lifetime = refresh.then_some(ACCESS_TOKEN_LIFETIME);
        let expires_ms = lifetime.map(|lifetime| self.shared.clock.now_ms() + millis(lifetime));
        let kind = TokenKind::Access { expires_ms, replaces: replaces.clone(), guest };
        put(batch, access, Token { user, device_id: device_id.clone(), kind });
        let mut hashes = vec![access];
        let refresh_token = refresh.then(|| {
            let (refresh_token, hash) = self.generate(TokenUse::Refresh);
            let kind = TokenKind::Refresh { access, replaces, next: Vec::new() };
            put(batch, hash, Token { user, device_id: device_id.clone(), kind });
            hashes.push(hash);
            refresh_token
        });
        (Tokens { access_token, refresh_token, expires_in: lifetime, device_id }, hashes)
    }

    fn generate(&self, for_use: TokenUse) -> (String, [u8; 32]) {
        let token = for_use.generate(&self.shared.random);
        let hash = for_use.hash(&token).expect("a token that was just made has the right form");
        (token, hash)
    }

    /// Exchanges a refresh token for new tokens.
    ///
    /// The old ones stay valid until one of the new ones is used, so an answer that is lost on the
    /// way costs nothing: the exchange can be repeated.
    ///
    /// # Errors
    /// [`AuthError::Unknown`] if the refresh token opens nothing.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
    pub(crate) async fn refresh(&self, refresh_token: &str) -> Result<Tokens, AuthError> {
        const UNKNOWN: AuthError = AuthError::Unknown { soft_logout: false };
        let hash = TokenUse::Refresh.hash(refresh_token).ok_or(UNKNOWN)?;
        for _ in 0..ATTEMPTS {
            let Some(Json(old)) = TOKENS.get(&self.shared.db, &hash).await? else {
                return Err(UNKNOWN);
            };
            let TokenKind::Refresh { access, replaces, next } = &old.kind else {
                return Err(UNKNOWN);
            };
            let key = (old.user, &*old.device_id);
            let Some(device) = DEVICES.get(&self.shared.db, &key).await? else {
                return Err(UNKNOWN);
            };
            let mut batch = Batch::new();
            TOKENS.require_equals(&mut batch, &hash, &Json(old.clone()));
            DEVICES.require_equals(&mut batch, &key, &device);
            let Json(mut device) = device;
            device.tokens_given += 1;
            DEVICES.put(&mut batch, &key, &Json(device));
            // This is its first use, or a repetition: what an earlier exchange gave was never used,
            // or this token would be gone.
            let ended = end(&mut batch, old.user, &old.device_id, replaces).and(end(
                &mut batch,
                old.user,
                &old.device_id,
                next,
            ));
            let (tokens, next) = self.give(
                &mut batch,
                old.user,
                old.device_id.clone(),
                true,
                false,
                vec![hash, *access],
            );
            let kind = TokenKind::Refresh { access: *access, replaces: Vec::new(), next };
            TOKENS.put(&mut batch, &hash, &Json(Token { kind, ..old }));
            match self.commit(batch, ended).await {
                Err(StorageError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(tokens),
            }
        }
        Err(StorageError::Precondition { table: TOKENS.id.name() }.into())
    }

    async fn hashes(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Vec<[u8; 32]>, StorageError> {
        let range = Range::prefix(&(user, device_id));
        let rows = DEVICE_TOKENS.scan(&self.shared.db, &range, usize::MAX).await?;
        Ok(rows.into_iter().map(|((_, _, hash), ())| hash).collect())
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn put(batch: &mut Batch, hash: [u8; 32], token: Token) {
    DEVICE_TOKENS.put(batch, &(token.user, &*token.device_id, hash), &());
    TOKENS.put(batch, &hash, &Json(token));
}

fn end(batch: &mut Batch, user: UserNumber, device_id: &DeviceId, hashes: &[[u8; 32]]) -> Ended {
    for hash in hashes {
        TOKENS.delete(batch, hash);
        DEVICE_TOKENS.delete(batch, &(user, device_id, *hash));
    }
    Ended(hashes.to_vec())
}

#[cfg(test)]
mod tests;
