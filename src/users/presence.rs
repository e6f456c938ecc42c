//! Who is online: gathered in memory from what devices do, and told to others now and then.
//!
//! Of each user only when they were last active, and their status message, is kept on disk, written
//! late and unsynced.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#presence>

mod elsewhere;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, presence::PresenceState};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

pub(crate) use elsewhere::RemoteStatus;

use super::session::Session;
use crate::{
    clock::Clock,
    config,
    e2ee::joined_rooms,
    rooms::record::Membership,
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, Range, Read, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{LAST_SEEN, ROOM_MEMBERS},
    },
};

/// A device that has not asked for anything in this time, and waits for nothing, is offline.
const OFFLINE_AFTER_MS: u64 = 30_000;
/// Somebody who is online but did nothing in this time is idle.
const IDLE_AFTER_MS: u64 = 5 * 60_000;
/// Whoever did something in this time is active now.
const ACTIVE_MS: u64 = 60_000;
/// What another server said of somebody holds for this time if it says nothing more.
const REMOTE_FOR_MS: u64 = 30 * 60_000;
/// The longest status message; a longer one is refused.
pub(crate) const MAX_STATUS_BYTES: usize = 1_024;

/// Why presence is not set or told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PresenceError {
    /// Others' presence is set by themselves.
    #[error("the presence of others can't be set")]
    NotOwn,
    /// It is nobody who shares a room with the one who asks.
    #[error("you share no room with this user, or presence is off")]
    NotVisible,
    /// The state is none that the spec knows.
    #[error("this is no presence state")]
    UnknownState,
    /// The status message is too long.
    #[error("a status message may have at most {MAX_STATUS_BYTES} bytes")]
    TooLong,
    /// The database failed.
    #[error("cannot read presence")]
    Storage(#[from] StorageError),
}

/// How much somebody is there; of several devices the greatest counts.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Level {
    /// Not there.
    #[default]
    Offline,
    /// There, but not doing anything.
    Unavailable,
    /// There.
    Online,
}

/// What others are told of somebody.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Status {
    /// How much they are there.
    pub(crate) level: Level,
    /// Whether they did something just now.
    pub(crate) currently_active: bool,
    /// What they say of themselves.
    pub(crate) message: Option<String>,
}

/// What is kept of somebody who is not there.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastSeen {
    /// In ms since the Unix epoch.
    pub(crate) active_ms: u64,
    /// The status message.
    pub(crate) message: Option<String>,
}

/// Called with the users of this server whom others are to be told of.
type Told = Box<dyn Fn(Vec<UserNumber>) + Send + Sync>;

/// The presence of this server's users, and of those of other servers with whom they share rooms.
#[derive(Clone)]
pub(crate) struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    clock: Clock,
    settings: config::Presence,
    told: OnceLock<Told>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    people: HashMap<UserNumber, Person>,
    /// Who changed at which stream position; everybody stands here once.
    changes: BTreeMap<u64, BTreeSet<UserNumber>>,
}

#[derive(Default)]
struct Person {
    devices: BTreeMap<OwnedDeviceId, Device>,
    /// Of somebody on another server: what that said, and when it did.
    remote: Option<(Level, bool, u64)>,
    /// When other servers were told last of somebody here.
    reminded_ms: u64,
    message: Option<String>,
    active_ms: u64,
    /// What others were told last, and at which position.
    told: Status,
    position: u64,
}

#[derive(Default)]
struct Device {
    level: Level,
    seen_ms: u64,
    /// How many of its requests wait.
    waiting: usize,
}

/// A request of a device that waits: as long as it does, the device is there.
pub(crate) struct Waiting {
    presence: Presence,
    user: UserNumber,
    device_id: OwnedDeviceId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.presence.shared.clock.now_ms();
        let mut known = self.presence.shared.known.lock();
        let person = known.people.get_mut(&self.user);
        if let Some(device) = person.and_then(|person| person.devices.get_mut(&self.device_id)) {
            device.waiting = device.waiting.saturating_sub(1);
            device.seen_ms = now;
        }
    }
}

impl Level {
    /// The level of that name; none for one that the spec does not know.
    pub(crate) fn named(state: &PresenceState) -> Option<Self> {
        match state {
            PresenceState::Online => Some(Self::Online),
            PresenceState::Unavailable => Some(Self::Unavailable),
            PresenceState::Offline => Some(Self::Offline),
            _ => None,
        }
    }

    /// Its name.
    pub(crate) fn state(self) -> PresenceState {
        match self {
            Self::Online => PresenceState::Online,
            Self::Unavailable => PresenceState::Unavailable,
            Self::Offline => PresenceState::Offline,
        }
    }
}

impl Person {
    /// What there is to tell of them at this time.
    fn status(&self, now: u64) -> Status {
        if let Some((level, currently_active, heard_ms)) = self.remote {
            let is_over = now.saturating_sub(heard_ms) > REMOTE_FOR_MS;
            let level = if is_over { Level::Offline } else { level };
            let currently_active = currently_active && level == Level::Online;
            return Status { level, currently_active, message: self.message.clone() };
        }
        let idle = now.saturating_sub(self.active_ms) > IDLE_AFTER_MS;
        let level = self
            .devices
            .values()
            .map(|device| {
                let gone = now.saturating_sub(device.seen_ms) > OFFLINE_AFTER_MS;
                match device.level {
                    _ if gone && device.waiting == 0 => Level::Offline,
                    Level::Online if idle => Level::Unavailable,
                    level => level,
                }
            })
            .max()
            .unwrap_or_default();
        let currently_active =
            level == Level::Online && now.saturating_sub(self.active_ms) <= ACTIVE_MS;
        Status { level, currently_active, message: self.message.clone() }
    }
}

/// What there is to tell of a user as an `m.presence` event.
pub(crate) fn presence_event(
    user_id: &ruma::UserId,
    status: &Status,
    ago: Option<u64>,
) -> Box<RawValue> {
    let mut content = json!({
        "presence": status.level.state(),
        "currently_active": status.currently_active,
    });
    if let Some(content) = content.as_object_mut() {
        content.extend(ago.map(|ago| ("last_active_ago".to_owned(), ago.into())));
        let message = status.message.clone().map(serde_json::Value::from);
        content.extend(message.map(|message| ("status_msg".to_owned(), message)));
    }
    let event = json!({ "type": "m.presence", "sender": user_id, "content": content });
    serde_json::value::to_raw_value(&event).expect("a JSON value has string keys only")
}

impl Presence {
    /// Nobody is there yet.
    pub(crate) fn new(db: Db, clock: Clock, settings: config::Presence) -> Self {
        let (told, known) = (OnceLock::new(), Mutex::default());
        Self { shared: Arc::new(Shared { db, clock, settings, told, known }) }
    }

    /// Tells others what changed, again and again, until the server stops.
    pub(crate) async fn keep_telling(self, stopping: Stopping) {
        if !self.shared.settings.enabled {
            return;
        }
        let every = Duration::from_secs(self.shared.settings.interval_s.max(1));
        loop {
            let stop = tokio::time::timeout(every, stopping.wait()).await.is_ok();
            if let Err(error) = self.tell().await {
                tracing::warn!(%error, "changes of presence were not told");
            }
            if stop {
                return;
            }
        }
    }

    /// Notes that a device syncs, and that it is there until the answer drops: not for a sync in the
    /// background (`offline`), which is no sign of anybody.
    pub(crate) fn syncing(&self, session: &Session, level: Level) -> Option<Waiting> {
        if !self.shared.settings.enabled || level == Level::Offline {
            return None;
        }
        let now = self.shared.clock.now_ms();
        let mut known = self.shared.known.lock();
        let person = known.people.entry(session.user).or_default();
        if level == Level::Online {
            person.active_ms = now;
        }
        let device = person.devices.entry(session.device_id.clone()).or_default();
        device.level = level;
        device.seen_ms = now;
        device.waiting += 1;
        drop(known);
        let (user, device_id) = (session.user, session.device_id.clone());
        Some(Waiting { presence: self.clone(), user, device_id })
    }

    /// Sets what a user says of themselves.
    ///
    /// # Errors
    /// [`PresenceError::NotOwn`], [`PresenceError::UnknownState`], [`PresenceError::TooLong`].
    pub(crate) fn set(
        &self,
        session: &Session,
        of: &ruma::UserId,
        state: &PresenceState,
        message: Option<String>,
    ) -> Result<(), PresenceError> {
        if of != session.user_id {
            return Err(PresenceError::NotOwn);
        }
        let level = Level::named(state).ok_or(PresenceError::UnknownState)?;
        let message = message.filter(|message| !message.is_empty());
        if message.as_ref().is_some_and(|message| message.len() > MAX_STATUS_BYTES) {
            return Err(PresenceError::TooLong);
        }
        if !self.shared.settings.enabled {
            return Ok(());
        }
        let now = self.shared.clock.now_ms();
        let mut known = self.shared.known.lock();
        let person = known.people.entry(session.user).or_default();
        person.message = message;
        if level == Level::Online {
            person.active_ms = now;
        }
        let device = person.devices.entry(session.device_id.clone()).or_default();
        device.level = level;
        device.seen_ms = now;
        Ok(())
    }

    /// What there is to tell of a user, and how long ago they were active, in ms.
    ///
    /// # Errors
    /// [`PresenceError::NotVisible`] unless they share a room, or it is the user who asks.
    pub(crate) async fn of(
        &self,
        session: &Session,
        user_id: &ruma::UserId,
    ) -> Result<(Status, Option<u64>), PresenceError> {
        let db = &self.shared.db;
        let user = db.users().find(db, user_id).await?.ok_or(PresenceError::NotVisible)?;
        let mine: BTreeSet<RoomNumber> =
            joined_rooms(db, session.user).await?.into_iter().collect();
        if !self.shared.settings.enabled
            || (user != session.user && !self.is_seen(db, &mine, user).await?)
        {
            return Err(PresenceError::NotVisible);
        }
        if let Some(known) = self.status(user) {
            return Ok(known);
        }
        let seen = LAST_SEEN.get(db, &user).await?.map(|Json(seen)| seen);
        let now = self.shared.clock.now_ms();
        let ago = seen.as_ref().map(|seen| now.saturating_sub(seen.active_ms));
        let message = seen.and_then(|seen| seen.message);
        Ok((Status { message, ..Status::default() }, ago))
    }

    /// What there is to tell of somebody who was here since the start, and how long ago they were
    /// active, in ms.
    pub(crate) fn status(&self, user: UserNumber) -> Option<(Status, Option<u64>)> {
        let now = self.shared.clock.now_ms();
        let known = self.shared.known.lock();
        let person = known.people.get(&user)?;
        let ago = (person.active_ms != 0).then(|| now.saturating_sub(person.active_ms));
        Some((person.status(now), ago))
    }

    /// Who changed after `since` and up to `until`; without `since` everybody who is there.
    pub(crate) fn changed(&self, since: Option<u64>, until: u64) -> Vec<UserNumber> {
        let known = self.shared.known.lock();
        match since {
            Some(since) if since >= until => Vec::new(),
            Some(since) => known
                .changes
                .range(since + 1..=until)
                .flat_map(|(_, users)| users)
                .copied()
                .collect(),
            None => {
                let there = |(user, person): (&UserNumber, &Person)| {
                    (person.told.level != Level::Offline).then_some(*user)
                };
                let mut users: Vec<_> = known.people.iter().filter_map(there).collect();
                users.sort_unstable();
                users
            }
        }
    }

    /// Whether `user` shares one of these rooms, and it is not too large for presence.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn is_seen(
        &self,
        at: &impl Read,
        rooms: &BTreeSet<RoomNumber>,
        user: UserNumber,
    ) -> Result<bool, StorageError> {
        for room in joined_rooms(at, user).await? {
            if rooms.contains(&room) && self.members(at, room).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who is in a room; none if it is too large for presence.
    async fn members(
        &self,
        at: &impl Read,
        room: RoomNumber,
    ) -> Result<Option<Vec<UserNumber>>, StorageError> {
        let most = self.shared.settings.max_room_members;
        let members = Range::prefix(&(room, Membership::Join));
        let rows = ROOM_MEMBERS.scan(at, &members, most.saturating_add(1)).await?;
        let members = rows.into_iter().map(|((_, _, user), _)| user).collect::<Vec<_>>();
        Ok(Some(members).filter(|members| members.len() <= most))
    }

    /// Tells what changed since the last time, at one stream position: however many changed, a sync
    /// that waits is woken once.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn tell(&self) -> Result<(), StorageError> {
        let db = &self.shared.db;
        let now = self.shared.clock.now_ms();
        let mut changed: Vec<UserNumber> = {
            let known = self.shared.known.lock();
            let differs = |(user, person): (&UserNumber, &Person)| {
                (person.status(now) != person.told).then_some(*user)
            };
            known.people.iter().filter_map(differs).collect()
        };
        self.tell_others(changed.iter().copied().collect());
        if changed.is_empty() {
            return Ok(());
        }
        changed.sort_unstable();
        let mut concerned = BTreeSet::new();
        for user in &changed {
            for room in joined_rooms(db, *user).await? {
                let members = self.members(db, room).await?.unwrap_or_default();
                concerned.extend(members.into_iter().filter(|member| member != user));
            }
        }
        let position = db.position().await?;
        let mut batch = Batch::unsynced();
        {
            let mut known = self.shared.known.lock();
            let Known { people, changes } = &mut *known;
            // Of those who went long ago everybody has heard.
            people.retain(|user, person| {
                let is_kept = person.told.level != Level::Offline
                    || person.remote.is_none_or(|(_, _, heard_ms)| {
                        now.saturating_sub(heard_ms) <= 2 * REMOTE_FOR_MS
                    });
                if let Some(users) = changes.get_mut(&person.position).filter(|_| !is_kept) {
                    users.remove(user);
                    if users.is_empty() {
                        changes.remove(&person.position);
                    }
                }
                is_kept
            });
            for user in changed {
                let Some(person) = people.get_mut(&user) else { continue };
                if let Some(users) = changes.get_mut(&person.position) {
                    users.remove(&user);
                    if users.is_empty() {
                        changes.remove(&person.position);
                    }
                }
                person.told = person.status(now);
                person.position = position.value();
                changes.entry(person.position).or_default().insert(user);
                if person.told.level == Level::Offline {
                    // Devices come back by themselves.
                    person.devices.retain(|_, device| device.waiting > 0);
                }
                let seen =
                    LastSeen { active_ms: person.active_ms, message: person.message.clone() };
                LAST_SEEN.put(&mut batch, &user, &Json(seen));
            }
        }
        batch.hold(position);
        batch.wake(concerned);
        db.commit(batch).await
    }

    /// Forgets a device that is gone.
    pub(crate) fn forget(&self, user: UserNumber, device_id: &ruma::DeviceId) {
        if let Some(person) = self.shared.known.lock().people.get_mut(&user) {
            person.devices.remove(device_id);
        }
    }
}
