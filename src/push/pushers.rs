//! Pushers: where users want to be told of what notifies them.
//!
//! A pusher goes with the device that made it, and when its address turns out to be none any more.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>

use std::sync::{Arc, OnceLock};

use ruma::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{address, new_pusher::NewPusher, webpush::Receiver};
use crate::{
    clock::{Clock, Random},
    outgoing::{Outgoing, Refused},
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICES, PUSH_PROGRESS, PUSHER_OWNERS, PUSHERS},
    },
    users::session::Session,
};

/// How many pushers a user may have.
const MAX_PUSHERS: usize = 50;
/// How many users may be told under one app ID and pushkey.
const MAX_OWNERS: usize = 50;
/// How often a change is tried that others were faster than.
const ATTEMPTS: usize = 10;

/// Which pusher: the user, the app ID and the pushkey.
pub(crate) type PusherKey = (UserNumber, String, String);

/// How a pusher tells.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// By a push gateway.
    Http,
    /// By a push service, as MSC4174 has it.
    #[serde(rename = "org.matrix.msc4174.webpush")]
    Webpush,
    /// By mail.
    Email,
}

/// A pusher.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Pusher {
    /// How it tells.
    pub(crate) kind: Kind,
    /// What its app is called.
    pub(crate) app_display_name: String,
    /// What its device is called.
    pub(crate) device_display_name: String,
    /// Which rules of the device it goes by; no longer of meaning.
    pub(crate) profile_tag: Option<String>,
    /// The language of whoever is told.
    pub(crate) lang: String,
    /// What belongs to its kind.
    pub(crate) data: Map<String, Value>,
    /// Whether it is switched on.
    pub(crate) enabled: bool,
    /// The device that made it.
    pub(crate) device_id: OwnedDeviceId,
    /// When it was set last, in seconds since the Unix epoch.
    pub(crate) set_at: u64,
    /// The stream position at which it was made: it tells of what came after.
    pub(crate) since: u64,
    /// Whether the device has shown that it gets what is sent there; only web push asks that.
    #[serde(default)]
    pub(crate) activation: Option<Activation>,
}

/// A device proves that it gets web push messages by what was in the first of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Activation {
    /// It did.
    pub(crate) done: bool,
    /// What was in the message.
    pub(super) token: String,
    /// Until when it is taken, in ms since the Unix epoch.
    pub(super) expires_ms: u64,
}

impl Pusher {
    /// Whether it tells of anything.
    pub(super) fn is_on(&self) -> bool {
        self.enabled && self.activation.as_ref().is_none_or(|activation| activation.done)
    }

    /// Whether the device is still to show that it gets what is sent there.
    pub(super) fn is_to_be_activated(&self) -> bool {
        self.activation.as_ref().is_some_and(|activation| !activation.done)
    }

    /// The keys of a device that is reached by web push.
    pub(super) fn receiver(&self, pushkey: &str) -> Option<Receiver> {
        Receiver::parse(pushkey, self.data.get("auth")?.as_str()?)
    }

    /// Where its push gateway or push service is.
    pub(super) fn url(&self) -> Option<&str> {
        self.data.get("url")?.as_str()
    }

    /// What mails are to be called after.
    pub(super) fn brand(&self) -> Option<&str> {
        self.data.get("brand")?.as_str().filter(|brand| !brand.trim().is_empty())
    }

    /// Only the IDs of events are to be told, not what is in them.
    pub(super) fn event_id_only(&self) -> bool {
        self.data.get("format").and_then(Value::as_str) == Some("event_id_only")
    }

    /// The device wants no word of counts alone.
    pub(super) fn events_only(&self) -> bool {
        self.data.get("events_only") == Some(&Value::Bool(true))
    }
}

/// Why a pusher was not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PusherError {
    /// Something must be said that was not.
    #[error("missing parameter: {0}")]
    Missing(&'static str),
    /// Something is not as it must be.
    #[error("{0}")]
    Invalid(&'static str),
    /// There is no such kind of pusher.
    #[error("there are no pushers of this kind")]
    UnknownKind,
    /// It leads into a private network.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The user has too many pushers.
    #[error("a user may have at most {MAX_PUSHERS} pushers")]
    TooMany,
    /// The address is none of the user's own.
    #[error("this address does not belong to the account")]
    ForeignAddress,
    /// There is no pusher to activate.
    #[error("there is no such pusher")]
    NotFound,
    /// What is to activate it is something else.
    #[error("this is not what was sent to activate the pusher")]
    WrongToken,
    /// What is to activate it came too late.
    #[error("what was sent to activate the pusher has expired")]
    Expired,
    /// Too many users are told under the same pushkey.
    #[error("a pushkey may stand for at most {MAX_OWNERS} users")]
    TooManyOwners,
    /// The database failed.
    #[error("cannot read or write pushers")]
    Storage(#[from] StorageError),
}

/// Told whose pushers changed.
pub(crate) type Changed = Box<dyn Fn(UserNumber) + Send + Sync>;

/// The pushers of all users of this server.
#[derive(Clone)]
pub(crate) struct Pushers {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) outgoing: Outgoing,
    /// There may be pushers that tell by mail.
    pub(super) by_mail: bool,
    changed: Arc<OnceLock<Changed>>,
}

impl Pushers {
    /// Pushers kept in `db`; their gateways are called by `outgoing`.
    pub(crate) fn new(db: Db, clock: Clock, random: Random, outgoing: Outgoing) -> Self {
        Self { db, clock, random, outgoing, by_mail: false, changed: Arc::default() }
    }

    /// The same, with pushers that tell by mail if there can be any.
    #[must_use]
    pub(crate) fn by_mail(self, by_mail: bool) -> Self {
        Self { by_mail, ..self }
    }

    /// Calls `changed` with whoever's pushers change from now on. Set once, when the server is put
    /// together.
    pub(crate) fn when_changed(&self, changed: Changed) {
        self.changed.get_or_init(|| changed);
    }

    /// Tells that a user's pushers may have changed.
    pub(crate) fn tell(&self, user: UserNumber) {
        if let Some(changed) = self.changed.get() {
            changed(user);
        }
    }

    /// A user's pushers.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn of_user(
        &self,
        user: UserNumber,
    ) -> Result<Vec<(PusherKey, Pusher)>, StorageError> {
        let rows = PUSHERS.scan(&self.db, &Range::prefix(&(user,)), usize::MAX).await?;
        Ok(rows.into_iter().map(|(key, Json(pusher))| (key, pusher)).collect())
    }

    /// One pusher.
    pub(super) async fn get(&self, key: &PusherKey) -> Result<Option<Pusher>, StorageError> {
        Ok(PUSHERS.get(&self.db, key).await?.map(|Json(pusher)| pusher))
    }

    /// Makes a pusher, or changes the one of the same app ID and pushkey. Whether it has to be
    /// activated now.
    ///
    /// # Errors
    /// [`PusherError`] with what is wrong with it; nothing is changed then.
    pub(crate) async fn set(&self, session: &Session, new: NewPusher) -> Result<bool, PusherError> {
        let (append, enabled) = (new.append, new.enabled);
        let (key, mut pusher) = self.checked(session, new)?;
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            let old = PUSHERS.get(&self.db, &key).await?;
            if let Some(old) = &old {
                pusher.since = old.0.since;
                pusher.enabled = enabled.unwrap_or(old.0.enabled);
                let same = |name| pusher.data.get(name) == old.0.data.get(name);
                let done = old.0.activation.as_ref().is_some_and(|activation| activation.done);
                if done && same("url") && same("auth") {
                    pusher.activation.clone_from(&old.0.activation);
                }
                PUSHERS.require_equals(&mut batch, &key, old);
            } else {
                let own = Range::prefix(&(key.0,));
                if PUSHERS.scan(&self.db, &own, MAX_PUSHERS).await?.len() >= MAX_PUSHERS {
                    return Err(PusherError::TooMany);
                }
                PUSHERS.require_absent(&mut batch, &key);
            }
            // The device may be on its way out.
            let device = (session.user, &*session.device_id);
            if let Some(row) = DEVICES.get(&self.db, &device).await? {
                DEVICES.require_equals(&mut batch, &device, &row);
            }
            if pusher.kind == Kind::Email {
                address::require(&self.db, &mut batch, key.0, &key.2).await?;
            }
            let others = self.take_over(&mut batch, &key, append).await?;
            PUSHERS.put(&mut batch, &key, &Json(pusher.clone()));
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    for other in others {
                        self.tell(other);
                    }
                    self.tell(key.0);
                    return Ok(pusher.is_to_be_activated());
                }
            }
        }
        Err(StorageError::Precondition { table: PUSHERS.id.name() }.into())
    }

    /// A device got what was sent to activate its pusher.
    ///
    /// # Errors
    /// [`PusherError::NotFound`], [`PusherError::WrongToken`], [`PusherError::Expired`].
    pub(crate) async fn activate(
        &self,
        user: UserNumber,
        app_id: &str,
        token: &str,
    ) -> Result<(), PusherError> {
        let rows = PUSHERS.scan(&self.db, &Range::prefix(&(user, app_id)), usize::MAX).await?;
        let rows = rows.into_iter().filter(|(_, pusher)| pusher.0.activation.is_some());
        let rows: Vec<(PusherKey, Json<Pusher>)> = rows.collect();
        if rows.is_empty() {
            return Err(PusherError::NotFound);
        }
        for (key, old) in rows {
            let Some(activation) = old.0.activation.clone().filter(|known| known.token == token)
            else {
                continue;
            };
            if activation.done {
                return Ok(());
            }
            if activation.expires_ms <= self.clock.now_ms() {
                return Err(PusherError::Expired);
            }
            let activation = Some(Activation { done: true, ..activation });
            let since = self.db.visible_position();
            let mut batch = Batch::new();
            PUSHERS.put(&mut batch, &key, &Json(Pusher { since, activation, ..old.0.clone() }));
            PUSHERS.require_equals(&mut batch, &key, &old);
            self.db.commit(batch).await?;
            self.tell(user);
            return Ok(());
        }
        Err(PusherError::WrongToken)
    }

    /// Adds the user to those who are told under the pushkey, or puts them in the place of the
    /// others, whom it gives back.
    async fn take_over(
        &self,
        batch: &mut Batch,
        (user, app_id, pushkey): &PusherKey,
        append: bool,
    ) -> Result<Vec<UserNumber>, PusherError> {
        let place = (app_id.as_str(), pushkey.as_str());
        let old = PUSHER_OWNERS.get(&self.db, &place).await?;
        match &old {
            Some(old) => PUSHER_OWNERS.require_equals(batch, &place, old),
            None => PUSHER_OWNERS.require_absent(batch, &place),
        }
        let mut owners = old.map_or_else(Vec::new, |Json(owners)| owners);
        let mut others = Vec::new();
        if !append {
            others = owners.iter().filter(|owner| **owner != user.0).copied().collect();
            owners.retain(|owner| *owner == user.0);
        }
        let others: Vec<UserNumber> = others.into_iter().map(UserNumber).collect();
        for other in &others {
            let key = (*other, place.0, place.1);
            PUSHERS.delete(batch, &key);
            PUSH_PROGRESS.delete(batch, &key);
        }
        if !owners.contains(&user.0) {
            owners.push(user.0);
        }
        if owners.len() > MAX_OWNERS {
            return Err(PusherError::TooManyOwners);
        }
        PUSHER_OWNERS.put(batch, &place, &Json(owners));
        Ok(others)
    }

    /// Removes a pusher, if it is there.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn remove(&self, key: &PusherKey) -> Result<(), StorageError> {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            queue_removal(&self.db, &mut batch, key).await?;
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.tell(key.0);
                    return Ok(());
                }
            }
        }
        Err(StorageError::Precondition { table: PUSHERS.id.name() })
    }
}

/// Queues the removal of one pusher. The batch fails if its owners change in the meantime.
pub(super) async fn queue_removal(
    db: &Db,
    batch: &mut Batch,
    key: &PusherKey,
) -> Result<(), StorageError> {
    let (user, app_id, pushkey) = key;
    PUSHERS.delete(batch, key);
    PUSH_PROGRESS.delete(batch, key);
    let place = (app_id.as_str(), pushkey.as_str());
    let Some(old) = PUSHER_OWNERS.get(db, &place).await? else { return Ok(()) };
    PUSHER_OWNERS.require_equals(batch, &place, &old);
    let Json(mut owners) = old;
    owners.retain(|owner| *owner != user.0);
    if owners.is_empty() {
        PUSHER_OWNERS.delete(batch, &place);
    } else {
        PUSHER_OWNERS.put(batch, &place, &Json(owners));
    }
    Ok(())
}

/// Queues the removal of the pushers that a device made: it is logged out.
///
/// # Errors
/// [`StorageError`] if the database fails.
pub(crate) async fn queue_device_removal(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    device_id: &DeviceId,
) -> Result<(), StorageError> {
    for (key, Json(pusher)) in PUSHERS.scan(db, &Range::prefix(&(user,)), usize::MAX).await? {
        if pusher.device_id == device_id {
            queue_removal(db, batch, &key).await?;
        }
    }
    Ok(())
}
