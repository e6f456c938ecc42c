//! Removing media: rows first, then files that nothing refers to any more.

use media::blob::Hash;
use ruma::ServerName;

use super::{
    Content, ContentError,
    rows::{MediaRecord, ThumbnailRecord, Usage, media_reference, thumbnail_reference},
};
use crate::storage::{
    Batch, Json, Range, StorageError,
    schema::{
        BLOB_REFERENCES, BLOB_VERDICTS, MEDIA, MEDIA_ACCESS, MEDIA_USAGE, PENDING_MEDIA,
        THUMBNAILS, USER_MEDIA,
    },
};

/// A file that nothing refers to is left alone for so long: it may be about to be referred to by
/// another process that shares the store.
const GRACE_MS: u64 = 60 * 60 * 1000;
/// Rows looked at together.
const PAGE: usize = 500;

impl Content {
    /// Removes a media, its thumbnails, and its file if nothing else has the same content. False if
    /// there is none.
    ///
    /// # Errors
    /// [`ContentError`] if the database or the store fails.
    pub(crate) async fn remove(
        &self,
        server: &ServerName,
        media_id: &str,
    ) -> Result<bool, ContentError> {
        let record = MEDIA.get(&self.shared.db, &(server, media_id)).await?;
        let Some(Json(record)) = record else { return Ok(false) };
        self.remove_record(server, media_id, record).await
    }

    /// Removes a media of this server.
    ///
    /// # Errors
    /// As of [`Content::remove`].
    pub(crate) async fn remove_own(&self, media_id: &str) -> Result<bool, ContentError> {
        self.remove(&self.shared.server_name, media_id).await
    }

    pub(super) async fn remove_record(
        &self,
        server: &ServerName,
        media_id: &str,
        record: MediaRecord,
    ) -> Result<bool, ContentError> {
        let shared = &*self.shared;
        let hash = record.file.as_ref().map(|file| file.hash);
        let file = match &hash {
            Some(hash) => Some(shared.files.lock(hash).await),
            None => None,
        };
        let owner = match record.user() {
            Some(user) => Some(shared.owners.lock(&user).await),
            None => None,
        };
        let key = (server, media_id);
        let mut batch = Batch::new();
        MEDIA.require_equals(&mut batch, &key, &Json(record.clone()));
        MEDIA.delete(&mut batch, &key);
        MEDIA_ACCESS.delete(&mut batch, &key);
        if let Some(user) = record.user() {
            PENDING_MEDIA.delete(&mut batch, &(user, media_id));
            if let Some(file) = &record.file {
                USER_MEDIA.delete(&mut batch, &(user, record.created_ms, media_id));
                let usage = self.usage(user).await?;
                let usage = Usage {
                    bytes: usage.bytes.saturating_sub(file.bytes),
                    files: usage.files.saturating_sub(1),
                };
                MEDIA_USAGE.put(&mut batch, &user, &Json(usage));
            }
        }
        let mut thumbnails = Vec::new();
        let mut last = false;
        if let Some(hash) = hash {
            let reference = (hash.0, media_reference(server, media_id));
            BLOB_REFERENCES.delete(&mut batch, &reference);
            let others = BLOB_REFERENCES.scan(&shared.db, &Range::prefix(&(hash.0,)), 2).await?;
            last = others.iter().all(|(other, ())| *other == reference);
            if last {
                thumbnails = self.forget_thumbnails(&mut batch, hash).await?;
                BLOB_VERDICTS.delete(&mut batch, &hash.0);
            }
        }
        match shared.db.commit(batch).await {
            // Somebody else removed it.
            Err(StorageError::Precondition { .. }) => return Ok(false),
            done => done?,
        }
        if let (Some(hash), true) = (hash, last) {
            shared.store.delete(hash).await?;
        }
        drop((file, owner));
        for thumbnail in thumbnails {
            self.delete_unreferenced(thumbnail).await?;
        }
        Ok(true)
    }

    /// Queues the removal of all thumbnails of a file; their own files are returned.
    async fn forget_thumbnails(
        &self,
        batch: &mut Batch,
        source: Hash,
    ) -> Result<Vec<Hash>, StorageError> {
        let mut files = Vec::new();
        let range = Range::prefix(&(source.0,));
        for (key, Json(record)) in THUMBNAILS.scan(&self.shared.db, &range, usize::MAX).await? {
            THUMBNAILS.delete(batch, &key);
            if let ThumbnailRecord::Made(file) = record {
                let reference = (file.hash.0, thumbnail_reference(source, &key.1));
                BLOB_REFERENCES.delete(batch, &reference);
                files.push(file.hash);
            }
        }
        Ok(files)
    }

    /// Deletes a file if nothing refers to it. True if it is gone.
    async fn delete_unreferenced(&self, hash: Hash) -> Result<bool, ContentError> {
        let shared = &*self.shared;
        let _file = shared.files.lock(&hash).await;
        let range = Range::prefix(&(hash.0,));
        if !BLOB_REFERENCES.scan(&shared.db, &range, 1).await?.is_empty() {
            return Ok(false);
        }
        shared.store.delete(hash).await?;
        Ok(true)
    }

    /// Looks at every file in the store and deletes those that nothing refers to: what a crash
    /// between a file and its rows has left. Returns how many.
    ///
    /// # Errors
    /// [`ContentError`] if the database or the store fails.
    pub(crate) async fn sweep(&self) -> Result<u64, ContentError> {
        self.forget_orphaned_thumbnails().await?;
        let mut deleted = 0;
        for shard in 0..=u8::MAX {
            let now_ms = self.shared.clock.now_ms();
            for file in self.shared.store.list(shard).await? {
                let old = file.modified_ms.saturating_add(GRACE_MS) <= now_ms;
                if old && self.delete_unreferenced(file.hash).await? {
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Thumbnails that were made just while their picture was removed.
    async fn forget_orphaned_thumbnails(&self) -> Result<(), ContentError> {
        let db = &self.shared.db;
        let mut range = Range::all();
        loop {
            let page = THUMBNAILS.scan(db, &range, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range = range.after(last);
            let mut sources: Vec<[u8; 32]> = page.iter().map(|((source, _), _)| *source).collect();
            sources.dedup();
            for source in sources {
                let _file = self.shared.files.lock(&Hash(source)).await;
                let used = BLOB_REFERENCES.scan(db, &Range::prefix(&(source,)), 1).await?;
                if used.is_empty() {
                    let mut batch = Batch::unsynced();
                    self.forget_thumbnails(&mut batch, Hash(source)).await?;
                    db.commit(batch).await?;
                }
            }
        }
    }

    /// Removes media of this server, or of others, that nobody wanted since a time (ms since the Unix
    /// epoch) and that are larger than `size_gt_bytes`; those that are somebody's picture only if
    /// those are not kept. Their IDs.
    ///
    /// # Errors
    /// [`ContentError`] if the database or the store fails.
    pub(crate) async fn remove_unwanted_since(
        &self,
        before_ms: u64,
        size_gt_bytes: u64,
        own: bool,
        keep_pictures: bool,
    ) -> Result<Vec<String>, ContentError> {
        let shared = &*self.shared;
        let mut removed = Vec::new();
        let mut range = Range::all();
        loop {
            let page = MEDIA.scan(&shared.db, &range, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(removed) };
            range = range.after(last);
            let keys = page.iter().map(|((server, id), _)| (&**server, id.as_str()));
            let accessed = MEDIA_ACCESS.multi_get(&shared.db, keys).await?;
            for (((server, id), Json(record)), accessed_ms) in page.into_iter().zip(accessed) {
                let wanted_ms = accessed_ms.unwrap_or(0).max(record.created_ms);
                let bytes = record.file.as_ref().map_or(0, |file| file.bytes);
                let meant = (server == shared.server_name) == own
                    && record.file.is_some()
                    && wanted_ms < before_ms
                    && (size_gt_bytes == 0 || bytes > size_gt_bytes);
                if !meant || keep_pictures && self.is_picture(&server, &id, &record).await? {
                    continue;
                }
                if self.remove_record(&server, &id, record).await? {
                    removed.push(id);
                }
            }
        }
    }

    /// Removes media that nobody wanted for as long as is configured, local and remote ones each by
    /// their own setting. Returns how many.
    ///
    /// # Errors
    /// [`ContentError`] if the database or the store fails.
    pub(crate) async fn remove_unused(&self) -> Result<u64, ContentError> {
        let shared = &*self.shared;
        let settings = &shared.settings;
        let day = |days: u64| days.saturating_mul(24 * 60 * 60 * 1000);
        let (local, remote) =
            (settings.local_retention_days.map(day), settings.remote_retention_days.map(day));
        if local.is_none() && remote.is_none() {
            return Ok(0);
        }
        let mut removed = 0;
        let mut range = Range::all();
        loop {
            let page = MEDIA.scan(&shared.db, &range, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(removed) };
            range = range.after(last);
            let keys = page.iter().map(|((server, id), _)| (&**server, id.as_str()));
            let accessed = MEDIA_ACCESS.multi_get(&shared.db, keys).await?;
            for (((server, media_id), Json(record)), accessed_ms) in page.into_iter().zip(accessed)
            {
                let kept = if server == shared.server_name { local } else { remote };
                let wanted_ms = accessed_ms.unwrap_or(0).max(record.created_ms);
                let unused = kept.is_some_and(|kept_ms| {
                    wanted_ms.saturating_add(kept_ms) <= shared.clock.now_ms()
                });
                if unused
                    && record.file.is_some()
                    && self.remove_record(&server, &media_id, record).await?
                {
                    removed += 1;
                }
            }
        }
    }
}
