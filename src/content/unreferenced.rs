//! Removing media whose last event is gone.
//!
//! An event that is removed or redacted leaves word of its own media. Such a media goes if no event
//! names it any more, if it is nobody's picture, and if it was uploaded by the sender of that event:
//! naming somebody else's media and redacting that is not a way to delete it.

use std::sync::Arc;

use ruma::ServerName;
use tokio::sync::Notify;

use super::{Content, ContentError, rows::MediaRecord};
use crate::{
    rooms::media_are_known,
    shutdown::Stopping,
    storage::{
        Batch, Json, Range,
        intern::UserNumber,
        schema::{MEDIA, MEDIA_REFERENCES, MEDIA_TO_REMOVE, PROFILES},
    },
};

/// How many are looked at at a time.
const STEP: usize = 100;

impl Content {
    /// Removes media whose last event is gone, whenever it is told that there may be some, until the
    /// server stops.
    pub(crate) async fn remove_unreferenced(self, freed: Arc<Notify>, stopping: Stopping) {
        loop {
            if let Err(error) = self.remove_freed().await {
                tracing::warn!(%error, "media of removed events was not removed");
            }
            tokio::select! {
                () = freed.notified() => {}
                () = stopping.wait() => return,
            }
        }
    }

    /// The same, once. How many were removed.
    ///
    /// # Errors
    /// [`ContentError`] if the database or the store fails.
    pub(crate) async fn remove_freed(&self) -> Result<usize, ContentError> {
        let db = &self.shared.db;
        if !media_are_known(db).await? {
            return Ok(0);
        }
        let mut removed = 0;
        loop {
            let rows = MEDIA_TO_REMOVE.scan(db, &Range::all(), STEP).await?;
            for ((server, id), sender) in &rows {
                let key = (&**server, id.as_str());
                if let Some(Json(record)) = MEDIA.get(db, &key).await?
                    && self.may_go(key, &record, *sender).await?
                    && self.remove_record(server, id, record).await?
                {
                    removed += 1;
                }
                let mut batch = Batch::unsynced();
                MEDIA_TO_REMOVE.delete(&mut batch, &key);
                db.commit(batch).await?;
            }
            if rows.len() < STEP {
                return Ok(removed);
            }
        }
    }

    async fn may_go(
        &self,
        (server, id): (&ServerName, &str),
        record: &MediaRecord,
        sender: UserNumber,
    ) -> Result<bool, ContentError> {
        let db = &self.shared.db;
        let named = MEDIA_REFERENCES.scan(db, &Range::prefix(&(server, id)), 1).await?;
        if !named.is_empty() {
            return Ok(false);
        }
        if server != self.shared.server_name {
            // A copy, which can be fetched again.
            let sender = db.users().name(db, sender).await?;
            return Ok(sender.server_name() == server);
        }
        if record.user() != Some(sender) {
            return Ok(false);
        }
        Ok(!self.is_picture(server, id, record).await?)
    }

    /// Whether a media of this server is the picture of who uploaded it.
    pub(super) async fn is_picture(
        &self,
        server: &ServerName,
        id: &str,
        record: &MediaRecord,
    ) -> Result<bool, ContentError> {
        let Some(user) = record.user() else { return Ok(false) };
        let profile = PROFILES.get(&self.shared.db, &user).await?.map(|Json(profile)| profile);
        let picture = profile.and_then(|profile| profile.avatar_url);
        Ok(picture.is_some_and(|url| url.parts().ok() == Some((server, id))))
    }
}
