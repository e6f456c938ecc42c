//! Filters that clients store, to name them in requests.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::api::client::filter::{EventFormat, FilterDefinition};
use sha2::{Digest, Sha256};

use crate::storage::{Batch, Db, Range, StorageError, intern::UserNumber, schema::FILTERS};

/// The largest filter.
const MAX_FILTER_BYTES: usize = 64 * 1024;
/// The most paths that a filter may name in `event_fields`.
const MAX_EVENT_FIELDS: usize = 1_000;
/// How many filters a user may store.
const MAX_FILTERS: usize = 1_000;
/// How much of the hash of a filter is its ID.
const ID_BYTES: usize = 15;

/// Why a filter was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// It is too large.
    #[error("a filter may have at most {MAX_FILTER_BYTES} bytes")]
    TooLarge,
    /// It asks for events in a format that the spec does not have.
    #[error("event_format must be \"client\" or \"federation\"")]
    UnknownEventFormat,
    /// It names more parts of events than any has.
    #[error("event_fields may have at most {MAX_EVENT_FIELDS} entries")]
    TooManyFields,
    /// The user has too many.
    #[error("at most {MAX_FILTERS} filters may be stored")]
    TooMany,
    /// The database failed.
    #[error("cannot read or write a filter")]
    Storage(#[from] StorageError),
}

/// The filters of all users.
#[derive(Clone)]
pub(crate) struct Filters {
    db: Db,
}

impl Filters {
    /// The filters in `db`.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Refuses what ruma reads but the spec does not allow, and what is beyond the bounds.
    ///
    /// # Errors
    /// [`FilterError::UnknownEventFormat`], [`FilterError::TooManyFields`].
    pub(crate) fn check(filter: &FilterDefinition) -> Result<(), FilterError> {
        if filter.event_fields.as_ref().is_some_and(|fields| fields.len() > MAX_EVENT_FIELDS) {
            return Err(FilterError::TooManyFields);
        }
        match filter.event_format {
            EventFormat::Client | EventFormat::Federation => Ok(()),
            _ => Err(FilterError::UnknownEventFormat),
        }
    }

    /// Stores a filter; its ID. The ID is made of the content, so the same filter is stored once.
    ///
    /// # Errors
    /// [`FilterError`]: not of the spec, too large, too many.
    pub(crate) async fn create(
        &self,
        user: UserNumber,
        filter: &FilterDefinition,
    ) -> Result<String, FilterError> {
        Self::check(filter)?;
        let content = serde_json::to_vec(filter).map_err(|_| FilterError::TooLarge)?;
        if content.len() > MAX_FILTER_BYTES {
            return Err(FilterError::TooLarge);
        }
        // Spec: must not start with "{", so that it can be told from a filter; base64url does not.
        let hash = Sha256::digest(&content);
        let id = BASE64_URL_SAFE_NO_PAD.encode(hash.get(..ID_BYTES).unwrap_or_default());
        let key = (user, id.as_str());
        if !FILTERS.contains(&self.db, &key).await? {
            let stored = FILTERS.scan(&self.db, &Range::prefix(&(user,)), MAX_FILTERS).await?;
            if stored.len() >= MAX_FILTERS {
                return Err(FilterError::TooMany);
            }
            let mut batch = Batch::new();
            FILTERS.put(&mut batch, &key, &content);
            self.db.commit(batch).await?;
        }
        Ok(id)
    }

    /// A filter that the user stored.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(
        &self,
        user: UserNumber,
        id: &str,
    ) -> Result<Option<FilterDefinition>, StorageError> {
        if id.len() > MAX_FILTER_ID_BYTES {
            return Ok(None);
        }
        let Some(content) = FILTERS.get(&self.db, &(user, id)).await? else { return Ok(None) };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|_| StorageError::Corrupt { table: FILTERS.id.name() })
    }

    /// Queues the removal of all filters of a user.
    pub(super) async fn clear(
        &self,
        batch: &mut Batch,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        let stored = FILTERS.scan(&self.db, &Range::prefix(&(user,)), usize::MAX).await?;
        for (key, _) in stored {
            FILTERS.delete(batch, &key);
        }
        Ok(())
    }
}

/// The longest ID that is looked for.
const MAX_FILTER_ID_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserNumber = UserNumber(1);

    fn filter(limit: u64) -> FilterDefinition {
        serde_json::from_value(serde_json::json!({
            "room": { "timeline": { "limit": limit }, "state": { "lazy_load_members": true } },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_filter_is_read_back_by_its_owner_only() {
        let filters = Filters::new(Db::in_memory().await);
        let id = filters.create(ALICE, &filter(7)).await.unwrap();
        let read = filters.get(ALICE, &id).await.unwrap().unwrap();
        assert_eq!(read.room.timeline.limit, Some(ruma::uint!(7)));
        assert!(filters.get(UserNumber(2), &id).await.unwrap().is_none());
        assert!(filters.get(ALICE, "other").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_same_filter_is_stored_once_and_their_number_is_bounded() {
        let filters = Filters::new(Db::in_memory().await);
        for limit in 0..1_000 {
            let id = filters.create(ALICE, &filter(limit)).await.unwrap();
            assert_eq!(filters.create(ALICE, &filter(limit)).await.unwrap(), id);
        }
        let refused = filters.create(ALICE, &filter(1_000)).await;
        assert!(matches!(refused, Err(FilterError::TooMany)));
    }
}
