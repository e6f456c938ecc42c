//! Key backup: the keys of conversations, encrypted by the client, kept for its next device.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ATTEMPTS, E2eeError, signed::MAX_KEY_BYTES};
use crate::storage::{
    Batch, Db, Json, Range, StorageError,
    intern::UserNumber,
    schema::{BACKUP_KEYS, BACKUP_VERSIONS},
};

/// How many rows one batch writes or removes.
const ROWS_AT_ONCE: usize = 500;
/// How many bytes of keys one batch writes.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The longest session ID.
const MAX_SESSION_ID_BYTES: usize = 255;

/// The backups of all users.
#[derive(Clone)]
pub(crate) struct Backups {
    db: Db,
}

/// One version of a user's backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BackupVersion {
    /// How its keys are encrypted.
    pub(crate) algorithm: String,
    /// What belongs to the algorithm.
    pub(crate) auth_data: Box<RawValue>,
    /// Moves on with every change of its keys.
    pub(crate) etag: u64,
    /// How many keys it has.
    pub(crate) count: u64,
    /// It was deleted. The row stays, so that no number is given twice; its keys go.
    pub(crate) deleted: bool,
}

/// Which keys of a backup.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// All of them.
    All,
    /// Those of one room.
    Room(OwnedRoomId),
    /// That of one session.
    Session(OwnedRoomId, String),
}

/// A key to back up: room, session, and the data as the client sent it.
pub(crate) type NewKey = (OwnedRoomId, String, Box<RawValue>);

/// What is done to a version.
enum Change<'a> {
    /// Describe it anew.
    Describe { algorithm: &'a str, auth_data: &'a RawValue },
    /// Delete it; its keys go afterwards.
    Delete,
    /// Add keys, as many as one batch takes.
    Add(&'a [NewKey]),
    /// Remove keys, as many as one batch takes.
    Remove(&'a Part),
}

/// What decides which of two keys for one session is better.
#[derive(Debug, Deserialize)]
struct Quality {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
}

impl Quality {
    fn of(key: &str) -> Option<Self> {
        serde_json::from_str(key).ok()
    }

    /// A verified key is better than one that is not; then the one that opens earlier messages is;
    /// then the one that was forwarded less often.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid>
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |key: &Self| (!key.is_verified, key.first_message_index, key.forwarded_count);
        rank(self) < rank(other)
    }
}

impl Backups {
    /// The backups in `db`.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Begins a new version, which is the current one from then on. Returns its number.
    ///
    /// # Errors
    /// [`E2eeError`] if the algorithm's data is too large.
    pub(crate) async fn create(
        &self,
        user: UserNumber,
        algorithm: &str,
        auth_data: &RawValue,
    ) -> Result<u64, E2eeError> {
        check_size(auth_data)?;
        for _ in 0..ATTEMPTS {
            let last = BACKUP_VERSIONS.scan_back(&self.db, &Range::prefix(&(user,)), 1).await?;
            let version = last.first().map_or(1, |((_, last), _)| last + 1);
            let mut batch = Batch::new();
            let row = BackupVersion {
                algorithm: algorithm.to_owned(),
                auth_data: auth_data.to_owned(),
                etag: 0,
                count: 0,
                deleted: false,
            };
            BACKUP_VERSIONS.require_absent(&mut batch, &(user, version));
            BACKUP_VERSIONS.put(&mut batch, &(user, version), &Json(row));
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map(|()| version)?),
            }
        }
        Err(E2eeError::Busy)
    }

    /// The current version: the newest that was not deleted.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if there is none.
    pub(crate) async fn latest(&self, user: UserNumber) -> Result<(u64, BackupVersion), E2eeError> {
        let mut range = Range::prefix(&(user,));
        loop {
            let Some(((_, number), Json(version))) =
                BACKUP_VERSIONS.scan_back(&self.db, &range, 1).await?.pop()
            else {
                return Err(E2eeError::NotFound { what: "there is no backup" });
            };
            if !version.deleted {
                return Ok((number, version));
            }
            range = range.before(&(user, number));
        }
    }

    /// One version.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if it was never made, or deleted.
    pub(crate) async fn version(
        &self,
        user: UserNumber,
        version: u64,
    ) -> Result<BackupVersion, E2eeError> {
        let row = BACKUP_VERSIONS.get(&self.db, &(user, version)).await?;
        row.map(|Json(row)| row)
            .filter(|row| !row.deleted)
            .ok_or(E2eeError::NotFound { what: "there is no such backup version" })
    }

    /// Replaces what belongs to a version's algorithm.
    ///
    /// # Errors
    /// [`E2eeError::Invalid`] for another algorithm, [`E2eeError::NotFound`].
    pub(crate) async fn update(
        &self,
        user: UserNumber,
        version: u64,
        algorithm: &str,
        auth_data: &RawValue,
    ) -> Result<(), E2eeError> {
        check_size(auth_data)?;
        let change = Change::Describe { algorithm, auth_data };
        self.change(user, version, &change).await.map(|_| ())
    }

    /// Deletes a version with its keys; nothing happens if it is deleted already.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if it was never made.
    pub(crate) async fn delete(&self, user: UserNumber, version: u64) -> Result<(), E2eeError> {
        match BACKUP_VERSIONS.get(&self.db, &(user, version)).await? {
            None => return Err(E2eeError::NotFound { what: "there is no such backup version" }),
            Some(Json(row)) if row.deleted => {}
            Some(_) => match self.change(user, version, &Change::Delete).await {
                // At the same time by somebody else.
                Ok(_) | Err(E2eeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        // Nobody sees these any more. After a crash in the middle the rest goes with the next
        // deletion, or with the account.
        self.remove_keys(user, version).await
    }

    async fn remove_keys(&self, user: UserNumber, version: u64) -> Result<(), E2eeError> {
        loop {
            let keys = Range::prefix(&(user, version));
            let rows = BACKUP_KEYS.scan(&self.db, &keys, ROWS_AT_ONCE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::unsynced();
            for (key, _) in &rows {
                BACKUP_KEYS.delete(&mut batch, key);
            }
            self.db.commit(batch).await?;
        }
    }

    /// Removes all of a user's backups: the account is closed.
    ///
    /// # Errors
    /// [`E2eeError::Storage`] if the database fails.
    pub(crate) async fn clear(db: &Db, user: UserNumber) -> Result<(), StorageError> {
        loop {
            let rows = BACKUP_KEYS.scan(db, &Range::prefix(&(user,)), ROWS_AT_ONCE).await?;
            let mut batch = Batch::new();
            for (key, _) in &rows {
                BACKUP_KEYS.delete(&mut batch, key);
            }
            if rows.is_empty() {
                let all = Range::prefix(&(user,));
                for (key, _) in BACKUP_VERSIONS.scan(db, &all, usize::MAX).await? {
                    BACKUP_VERSIONS.delete(&mut batch, &key);
                }
                return db.commit(batch).await;
            }
            db.commit(batch).await?;
        }
    }

    /// Adds keys to the current version; of two for one session the better one stays.
    ///
    /// # Errors
    /// [`E2eeError::WrongBackupVersion`] if `version` is not the current one,
    /// [`E2eeError::Invalid`] for data that is no key. Keys before that one may be stored then.
    pub(crate) async fn add(
        &self,
        user: UserNumber,
        version: u64,
        keys: &[NewKey],
    ) -> Result<BackupVersion, E2eeError> {
        for (_, session, key) in keys {
            check_size(key)?;
            if session.is_empty() || session.len() > MAX_SESSION_ID_BYTES {
                return Err(E2eeError::Invalid { what: "a session ID has 1 to 255 bytes" });
            }
            if Quality::of(key.get()).is_none() {
                return Err(E2eeError::Invalid { what: "this is no backed up key" });
            }
        }
        let (current, mut state) = self.latest(user).await?;
        if current != version {
            return Err(E2eeError::WrongBackupVersion { current });
        }
        let mut rest = keys;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, _, key): &&NewKey| {
                bytes += key.get().len();
                bytes <= BYTES_AT_ONCE
            };
            let count = rest.iter().take(ROWS_AT_ONCE).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count.min(rest.len()));
            rest = later;
            state = self.change(user, version, &Change::Add(now)).await?;
        }
        Ok(state)
    }

    /// Queues those keys that are new or better. False if there are none.
    async fn queue_keys(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        version: u64,
        state: &mut BackupVersion,
        keys: &[NewKey],
    ) -> Result<bool, E2eeError> {
        let rows = || keys.iter().map(|(room, session, _)| (user, version, &**room, session));
        let known = BACKUP_KEYS.multi_get(&self.db, rows()).await?;
        let mut changed = false;
        for ((row, (_, _, key)), old) in rows().zip(keys).zip(known) {
            let old = old.map(|old| String::from_utf8_lossy(&old).into_owned());
            let better = match (old.as_deref().and_then(Quality::of), Quality::of(key.get())) {
                (Some(old), Some(new)) => new.is_better_than(&old),
                _ => true,
            };
            if better {
                changed = true;
                state.count += u64::from(old.is_none());
                BACKUP_KEYS.put(batch, &row, &key.get().as_bytes().to_vec());
            }
        }
        state.etag += u64::from(changed);
        Ok(changed)
    }

    /// Keys of a version, by room and session.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if there is no such version.
    pub(crate) async fn keys(
        &self,
        user: UserNumber,
        version: u64,
        part: &Part,
    ) -> Result<Vec<NewKey>, E2eeError> {
        self.version(user, version).await?;
        let mut found = Vec::new();
        let mut range = Range::prefix(&(user, version));
        if let Part::Room(room) | Part::Session(room, _) = part {
            range = Range::prefix(&(user, version, &**room));
        }
        if let Part::Session(room, session) = part {
            let row = BACKUP_KEYS.get(&self.db, &(user, version, &**room, session)).await?;
            if let Some(key) = row {
                found.push((room.clone(), session.clone(), raw(key)?));
            }
            return Ok(found);
        }
        loop {
            let rows = BACKUP_KEYS.scan(&self.db, &range, ROWS_AT_ONCE).await?;
            let more = rows.len() == ROWS_AT_ONCE;
            for ((_, _, room, session), key) in rows {
                found.push((room, session, raw(key)?));
            }
            let Some((room, session, _)) = found.last().filter(|_| more) else {
                return Ok(found);
            };
            range = range.after(&(user, version, &**room, session));
        }
    }

    /// Removes keys from a version.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if there is no such version.
    pub(crate) async fn remove(
        &self,
        user: UserNumber,
        version: u64,
        part: &Part,
    ) -> Result<BackupVersion, E2eeError> {
        loop {
            let state = self.change(user, version, &Change::Remove(part)).await?;
            if self.some_rows(user, version, part).await?.is_empty() {
                return Ok(state);
            }
        }
    }

    /// Some of the keys of a part; none if it has none.
    async fn some_rows(
        &self,
        user: UserNumber,
        version: u64,
        part: &Part,
    ) -> Result<Vec<(OwnedRoomId, String)>, StorageError> {
        let range = match part {
            Part::Session(room, session) => {
                let key = (user, version, &**room, session);
                let known = BACKUP_KEYS.contains(&self.db, &key).await?;
                return Ok(known.then(|| (room.clone(), session.clone())).into_iter().collect());
            }
            Part::Room(room) => Range::prefix(&(user, version, &**room)),
            Part::All => Range::prefix(&(user, version)),
        };
        let rows = BACKUP_KEYS.scan(&self.db, &range, ROWS_AT_ONCE).await?;
        Ok(rows.into_iter().map(|((_, _, room, session), _)| (room, session)).collect())
    }

    /// Queues a change, but for the version's row. False if there is nothing to change.
    async fn queue(
        &self,
        batch: &mut Batch,
        (user, version): (UserNumber, u64),
        row: &mut BackupVersion,
        change: &Change<'_>,
    ) -> Result<bool, E2eeError> {
        match change {
            Change::Describe { algorithm, .. } if row.algorithm != *algorithm => {
                Err(E2eeError::Invalid { what: "a backup's algorithm does not change" })
            }
            Change::Describe { auth_data, .. } => {
                row.auth_data = (*auth_data).to_owned();
                Ok(true)
            }
            Change::Delete => {
                row.deleted = true;
                row.count = 0;
                Ok(true)
            }
            Change::Add(keys) => self.queue_keys(batch, user, version, row, keys).await,
            Change::Remove(part) => {
                let rows = self.some_rows(user, version, part).await?;
                for (room, session) in &rows {
                    BACKUP_KEYS.delete(batch, &(user, version, &**room, session));
                }
                row.count = row.count.saturating_sub(rows.len() as u64);
                row.etag += u64::from(!rows.is_empty());
                Ok(!rows.is_empty())
            }
        }
    }

    /// Changes a version, unless there is nothing to change.
    async fn change(
        &self,
        user: UserNumber,
        version: u64,
        change: &Change<'_>,
    ) -> Result<BackupVersion, E2eeError> {
        let key = (user, version);
        for _ in 0..ATTEMPTS {
            let old = self.version(user, version).await?;
            let mut new = old.clone();
            let mut batch = Batch::new();
            BACKUP_VERSIONS.require_equals(&mut batch, &key, &Json(old));
            if !self.queue(&mut batch, (user, version), &mut new, change).await? {
                return Ok(new);
            }
            BACKUP_VERSIONS.put(&mut batch, &key, &Json(new.clone()));
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map(|()| new)?),
            }
        }
        Err(E2eeError::Busy)
    }
}

fn check_size(raw: &RawValue) -> Result<(), E2eeError> {
    if raw.get().len() > MAX_KEY_BYTES {
        return Err(E2eeError::TooLarge { what: "a backed up key may have at most 64 KiB" });
    }
    Ok(())
}

fn raw(key: Vec<u8>) -> Result<Box<RawValue>, StorageError> {
    let corrupt = || StorageError::Corrupt { table: BACKUP_KEYS.id.name() };
    let text = String::from_utf8(key).map_err(|_| corrupt())?;
    RawValue::from_string(text).map_err(|_| corrupt())
}
