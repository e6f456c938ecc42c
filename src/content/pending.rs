//! Media that are announced first and uploaded later.

use bytes::Bytes;
use futures::Stream;
use ruma::ServerName;

use super::{Content, ContentError, Declared, is_media_id, rows::MediaRecord, upload::describe};
use crate::{
    http::BodyError,
    storage::{
        Batch, Json, Range, StorageError,
        schema::{MEDIA, PENDING_MEDIA},
    },
    users::{limits::LimitExceeded, session::Session},
};

impl Content {
    /// Announces a media: its ID, and when it is forgotten if it does not arrive (ms since the Unix
    /// epoch).
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create>
    ///
    /// # Errors
    /// [`ContentError::Limit`] if too many have not arrived yet.
    pub(crate) async fn announce(&self, session: &Session) -> Result<(String, u64), ContentError> {
        let shared = &*self.shared;
        let user = session.user;
        if let Some(user) = session.limited_as() {
            shared.limits.upload_by(user)?;
        }
        let now_ms = shared.clock.now_ms();
        let settings = &shared.settings;
        let _owner = shared.owners.lock(&user).await;
        let pending = PENDING_MEDIA.scan(&shared.db, &Range::prefix(&(user,)), usize::MAX).await?;
        let alive = pending.iter().map(|(_, expires_ms)| *expires_ms).filter(|at| *at > now_ms);
        if alive.clone().count() >= settings.max_pending_uploads as usize {
            let wait_ms = alive.min().unwrap_or(now_ms).saturating_sub(now_ms);
            let retry_after = std::time::Duration::from_millis(wait_ms);
            return Err(LimitExceeded { retry_after }.into());
        }
        let media_id = self.new_media_id();
        let expires_ms = now_ms + settings.unused_expires_seconds.saturating_mul(1000);
        let record = MediaRecord {
            file: None,
            user: Some(user.0),
            created_ms: now_ms,
            expires_ms: Some(expires_ms),
            open: !settings.freeze_unauthenticated,
        };
        let key = (&*shared.server_name, media_id.as_str());
        let mut batch = Batch::new();
        MEDIA.require_absent(&mut batch, &key);
        MEDIA.put(&mut batch, &key, &Json(record));
        PENDING_MEDIA.put(&mut batch, &(user, media_id.as_str()), &expires_ms);
        shared.db.commit(batch).await?;
        Ok((media_id, expires_ms))
    }

    /// Takes in the file of an announced media.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid>
    ///
    /// # Errors
    /// [`ContentError`] if it was not announced, not by this user, or has arrived already; and those
    /// of [`Content::upload`].
    pub(crate) async fn upload_announced(
        &self,
        session: &Session,
        server: &ServerName,
        media_id: &str,
        declared: &Declared,
        body: impl Stream<Item = Result<Bytes, BodyError>>,
    ) -> Result<(), ContentError> {
        let before = self.announced(session, server, media_id).await?;
        self.check_before(session, declared).await?;
        let staged = self.receive(body, self.max_upload_bytes()).await?;
        let record = MediaRecord {
            file: Some(describe(&staged, declared)),
            expires_ms: None,
            ..before.clone()
        };
        self.keep(server, media_id, Some(before), record, staged).await?;
        self.shared.arrived.notify_waiters();
        Ok(())
    }

    async fn announced(
        &self,
        session: &Session,
        server: &ServerName,
        media_id: &str,
    ) -> Result<MediaRecord, ContentError> {
        let shared = &*self.shared;
        if server != shared.server_name || !is_media_id(media_id) {
            return Err(ContentError::NotFound);
        }
        let record = MEDIA.get(&shared.db, &(server, media_id)).await?;
        let Some(Json(record)) = record else { return Err(ContentError::NotFound) };
        if record.user != Some(session.user.0) {
            return Err(ContentError::NotYours);
        }
        if record.file.is_some() {
            return Err(ContentError::CannotOverwrite);
        }
        if record.expires_ms.is_some_and(|expires_ms| expires_ms <= shared.clock.now_ms()) {
            return Err(ContentError::NotFound);
        }
        Ok(record)
    }

    /// Forgets what was announced and has not arrived in time. At most so many at once.
    pub(super) async fn forget_expired(&self, limit: usize) -> Result<usize, StorageError> {
        let shared = &*self.shared;
        let now_ms = shared.clock.now_ms();
        let pending = PENDING_MEDIA.scan(&shared.db, &Range::all(), usize::MAX).await?;
        let expired = pending.into_iter().filter(|(_, expires_ms)| *expires_ms <= now_ms);
        let expired: Vec<_> = expired.take(limit).collect();
        for (key, _) in &expired {
            let media = (&*shared.server_name, key.1.as_str());
            let mut batch = Batch::unsynced();
            PENDING_MEDIA.delete(&mut batch, key);
            // It may arrive just now.
            if let Some(record) = MEDIA.get(&shared.db, &media).await?
                && record.0.file.is_none()
            {
                MEDIA.require_equals(&mut batch, &media, &record);
                MEDIA.delete(&mut batch, &media);
            }
            match shared.db.commit(batch).await {
                Ok(()) | Err(StorageError::Precondition { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(expired.len())
    }
}
