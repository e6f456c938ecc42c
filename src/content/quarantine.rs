//! Keeping media from people without removing it.

use media::blob::Hash;
use ruma::{OwnedServerName, ServerName, UserId};

use super::{
    Content, ContentError,
    rows::{MediaKey, MediaRecord, QuarantineRecord},
};
use crate::storage::{
    Batch, Json, Range, StorageError,
    intern::UserNumber,
    schema::{MEDIA, QUARANTINE},
};

/// What can be quarantined: what exists and what is yet to come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// One media; and with it every other with the same content.
    Media(OwnedServerName, String),
    /// A content, whoever uploads it.
    Hash(Hash),
    /// Whatever a local user uploads.
    User(UserNumber),
    /// Whatever comes from a server.
    Server(OwnedServerName),
}

const HASH: &str = "hash";
const MEDIA_ID: &str = "media";
const USER: &str = "user";
const SERVER: &str = "server";

type Row = (&'static str, String);

fn row(target: &Target) -> Row {
    match target {
        Target::Media(server, media_id) => media_row(server, media_id),
        Target::Hash(hash) => (HASH, hash.to_string()),
        Target::User(user) => (USER, user.0.to_string()),
        Target::Server(server) => (SERVER, server.to_string()),
    }
}

fn media_row(server: &ServerName, media_id: &str) -> Row {
    (MEDIA_ID, format!("{server}/{media_id}"))
}

/// What is quarantined, as the administration lists it: kind, what, by whom and when.
pub(crate) type Quarantine = (String, String, QuarantineRecord);

impl Content {
    /// Quarantines targets. The content of a media is quarantined with it, so that it does not come
    /// back under another ID. For a room: the media that its events name.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails; some may be quarantined then.
    pub(crate) async fn quarantine(
        &self,
        targets: &[Target],
        by: &UserId,
    ) -> Result<(), StorageError> {
        let shared = &*self.shared;
        let record = QuarantineRecord { by: by.to_string(), at_ms: shared.clock.now_ms() };
        for targets in targets.chunks(500) {
            let mut batch = Batch::new();
            let media = targets.iter().filter_map(|target| match target {
                Target::Media(server, media_id) => Some((&**server, media_id.as_str())),
                _ => None,
            });
            for found in MEDIA.multi_get(&shared.db, media).await?.into_iter().flatten() {
                if let Some(file) = found.0.file {
                    let hash = (HASH, file.hash.to_string());
                    QUARANTINE.put(&mut batch, &hash, &Json(record.clone()));
                }
            }
            for target in targets {
                QUARANTINE.put(&mut batch, &row(target), &Json(record.clone()));
            }
            shared.db.commit(batch).await?;
        }
        Ok(())
    }

    /// Ends a quarantine; that of a media also for its content.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn release(&self, target: &Target) -> Result<(), StorageError> {
        let shared = &*self.shared;
        let mut batch = Batch::new();
        QUARANTINE.delete(&mut batch, &row(target));
        if let Target::Media(server, media_id) = target {
            let found = MEDIA.get(&shared.db, &(&**server, media_id.as_str())).await?;
            if let Some(file) = found.and_then(|Json(record)| record.file) {
                QUARANTINE.delete(&mut batch, &(HASH, file.hash.to_string()));
            }
        }
        shared.db.commit(batch).await
    }

    /// Whether any content is quarantined, whatever it is.
    pub(super) async fn is_any_hash_quarantined(&self) -> Result<bool, StorageError> {
        let range = Range::prefix(&(HASH,));
        Ok(!QUARANTINE.scan(&self.shared.db, &range, 1).await?.is_empty())
    }

    /// What is quarantined, in pages: those after `after`.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn quarantined(
        &self,
        after: Option<&(String, String)>,
        limit: usize,
    ) -> Result<Vec<Quarantine>, StorageError> {
        let mut range = Range::all();
        if let Some(after) = after {
            range = range.after(after);
        }
        let rows = QUARANTINE.scan(&self.shared.db, &range, limit).await?;
        Ok(rows.into_iter().map(|((kind, what), Json(record))| (kind, what, record)).collect())
    }

    /// The media of a local user, oldest first, in pages: their keys, when they came (ms since the
    /// Unix epoch) and their sizes.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn of_user(
        &self,
        user: UserNumber,
        after: Option<(u64, String)>,
        limit: usize,
    ) -> Result<Vec<(MediaKey, u64, u64)>, StorageError> {
        use crate::storage::schema::USER_MEDIA;
        let mut range = Range::prefix(&(user,));
        if let Some((created_ms, media_id)) = after {
            range = range.after(&(user, created_ms, media_id));
        }
        let rows = USER_MEDIA.scan(&self.shared.db, &range, limit).await?;
        let server = &self.shared.server_name;
        let key = |media_id| (server.clone(), media_id);
        Ok(rows.into_iter().map(|((_, at, id), bytes)| (key(id), at, bytes)).collect())
    }

    /// Whether just this is quarantined.
    pub(super) async fn is_quarantined_target(
        &self,
        target: &Target,
    ) -> Result<bool, ContentError> {
        Ok(QUARANTINE.contains(&self.shared.db, &row(target)).await?)
    }

    /// Whether a media is quarantined for one reason or another, in one round trip.
    pub(super) async fn is_quarantined(
        &self,
        server: &ServerName,
        media_id: &str,
        record: &MediaRecord,
        hash: Hash,
    ) -> Result<bool, ContentError> {
        let mut rows = vec![
            media_row(server, media_id),
            (HASH, hash.to_string()),
            (SERVER, server.to_string()),
        ];
        rows.extend(record.user.map(|user| (USER, user.to_string())));
        let found = QUARANTINE.multi_get(&self.shared.db, rows).await?;
        Ok(found.iter().any(Option::is_some))
    }
}
