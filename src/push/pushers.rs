//! Pushers: where users want to be told of what notifies them.
//!
//! A pusher goes with the device that made it, and when its address turns out to be none any more.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>

use std::sync::{Arc, OnceLock};

use ruma::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    clock::Clock,
    outgoing::{Outgoing, Refused},
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICES, PUSH_PROGRESS, PUSHER_OWNERS, PUSHERS, USER_THREEPIDS},
    },
    users::session::Session,
};

/// The path of every push gateway.
///
/// Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// The app ID of all pushers that send mail.
pub(crate) const EMAIL_APP_ID: &str = "m.email";
/// The longest pushkey.
const MAX_PUSHKEY_BYTES: usize = 512;
/// The longest app ID, in characters of the spec's grammar, which are bytes.
const MAX_APP_ID_BYTES: usize = 64;
/// The longest name, tag or language.
const MAX_TEXT_BYTES: usize = 1_024;
/// The largest `data`, as JSON.
const MAX_DATA_BYTES: usize = 8_192;
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
}

impl Pusher {
    /// Where its push gateway is.
    pub(super) fn url(&self) -> Option<&str> {
        self.data.get("url")?.as_str()
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

/// A pusher as a client wants it.
#[derive(Debug)]
pub(crate) struct NewPusher {
    /// Of which app.
    pub(crate) app_id: String,
    /// How the app is reached.
    pub(crate) pushkey: String,
    /// `http` or `email`.
    pub(crate) kind: String,
    /// The same of [`Pusher`]; what is not given is missing.
    pub(crate) app_display_name: Option<String>,
    pub(crate) device_display_name: Option<String>,
    pub(crate) profile_tag: Option<String>,
    pub(crate) lang: Option<String>,
    pub(crate) data: Option<Map<String, Value>>,
    /// None: as it was, on if it is new.
    pub(crate) enabled: Option<bool>,
    /// Other users may keep theirs of the same app ID and pushkey.
    pub(crate) append: bool,
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
    /// The server sends no mail.
    #[error("this server sends no mail")]
    NoMail,
    /// The address is not one of the user's.
    #[error("the address is not one of this account's")]
    NotYours,
    /// The user has too many pushers.
    #[error("a user may have at most {MAX_PUSHERS} pushers")]
    TooMany,
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
    db: Db,
    clock: Clock,
    outgoing: Outgoing,
    sends_mail: bool,
    changed: Arc<OnceLock<Changed>>,
}

impl Pushers {
    /// Pushers kept in `db`; their gateways are called by `outgoing`.
    pub(crate) fn new(db: Db, clock: Clock, outgoing: Outgoing, sends_mail: bool) -> Self {
        Self { db, clock, outgoing, sends_mail, changed: Arc::default() }
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

    /// Makes a pusher, or changes the one of the same app ID and pushkey.
    ///
    /// # Errors
    /// [`PusherError`] with what is wrong with it; nothing is changed then.
    pub(crate) async fn set(&self, session: &Session, new: NewPusher) -> Result<(), PusherError> {
        let (append, enabled) = (new.append, new.enabled);
        let (key, mut pusher) = self.checked(session, new).await?;
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            let old = PUSHERS.get(&self.db, &key).await?;
            if let Some(old) = &old {
                pusher.since = old.0.since;
                pusher.enabled = enabled.unwrap_or(old.0.enabled);
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
                    return Ok(());
                }
            }
        }
        Err(StorageError::Precondition { table: PUSHERS.id.name() }.into())
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

    /// What a client wants, if it may.
    async fn checked(
        &self,
        session: &Session,
        new: NewPusher,
    ) -> Result<(PusherKey, Pusher), PusherError> {
        check_ids(&new.app_id, &new.pushkey)?;
        let needed = |value: Option<String>, name| value.ok_or(PusherError::Missing(name));
        let mut pusher = Pusher {
            kind: match new.kind.as_str() {
                "http" => Kind::Http,
                "email" => Kind::Email,
                _ => return Err(PusherError::UnknownKind),
            },
            app_display_name: needed(new.app_display_name, "app_display_name")?,
            device_display_name: needed(new.device_display_name, "device_display_name")?,
            profile_tag: new.profile_tag,
            lang: needed(new.lang, "lang")?,
            data: new.data.ok_or(PusherError::Missing("data"))?,
            enabled: new.enabled.unwrap_or(true),
            device_id: session.device_id.clone(),
            set_at: self.clock.now_ms() / 1_000,
            since: self.db.visible_position(),
        };
        let texts = [
            Some(&pusher.app_display_name),
            Some(&pusher.device_display_name),
            pusher.profile_tag.as_ref(),
            Some(&pusher.lang),
        ];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(PusherError::Invalid("a name, tag or language is too long"));
        }
        if Value::Object(pusher.data.clone()).to_string().len() > MAX_DATA_BYTES {
            return Err(PusherError::Invalid("data is too large"));
        }
        let mut pushkey = new.pushkey;
        match pusher.kind {
            Kind::Http => self.check_gateway(&pusher)?,
            Kind::Email => {
                if !self.sends_mail {
                    return Err(PusherError::NoMail);
                }
                if new.app_id != EMAIL_APP_ID {
                    return Err(PusherError::Invalid("the app_id of mail is m.email"));
                }
                pushkey = pushkey.trim().to_lowercase();
                let address = (session.user, "email", pushkey.as_str());
                if !USER_THREEPIDS.contains(&self.db, &address).await? {
                    return Err(PusherError::NotYours);
                }
                pusher.data.remove("url");
            }
        }
        Ok(((session.user, new.app_id, pushkey), pusher))
    }

    /// Spec: "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`." Without TLS only
    /// where private addresses may be called: the gateway is a machine further.
    fn check_gateway(&self, pusher: &Pusher) -> Result<(), PusherError> {
        let url = pusher.url().ok_or(PusherError::Missing("data.url"))?;
        let url = Url::parse(url).map_err(|_| PusherError::Invalid("data.url is no URL"))?;
        let plain = url.scheme() == "http" && self.outgoing.allows_private();
        if url.scheme() != "https" && !plain {
            return Err(PusherError::Invalid("data.url must begin with https://"));
        }
        if url.path() != GATEWAY_PATH || url.query().is_some() || url.fragment().is_some() {
            return Err(PusherError::Invalid("data.url must end with /_matrix/push/v1/notify"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PusherError::Invalid("data.url must hold no password"));
        }
        Ok(self.outgoing.check(&url)?)
    }
}

/// Whether a pusher may have these.
pub(crate) fn check_ids(app_id: &str, pushkey: &str) -> Result<(), PusherError> {
    let fits = |text: &str, longest| !text.is_empty() && text.len() <= longest;
    if !fits(app_id, MAX_APP_ID_BYTES) {
        return Err(PusherError::Invalid("an app_id has 1 to 64 characters"));
    }
    if !fits(pushkey, MAX_PUSHKEY_BYTES) {
        return Err(PusherError::Invalid("a pushkey has 1 to 512 bytes"));
    }
    Ok(())
}

/// Queues the removal of one pusher. The batch fails if its owners change in the meantime.
async fn queue_removal(db: &Db, batch: &mut Batch, key: &PusherKey) -> Result<(), StorageError> {
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
