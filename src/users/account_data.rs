//! Account data: what clients keep on the server, for the account as a whole or for one room.

use serde_json::value::RawValue;

use crate::storage::{
    Batch, Db, Position, Range, StorageError,
    intern::{RoomNumber, UserNumber},
    schema::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES},
};

use super::rows::AccountDatum;

/// Stands for no room: the account data of the account as a whole.
pub(crate) const GLOBAL: RoomNumber = RoomNumber(0);

/// The longest name of a type.
const MAX_TYPE_BYTES: usize = 255;
/// The largest content. It shares a row of at most 100 kB with its position.
const MAX_CONTENT_BYTES: usize = 96 * 1024;
/// How many types one user may keep for the account, and for each room.
const MAX_TYPES: usize = 500;
/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;
/// Rooms and tags of `m.tag` content.
const TAG_TYPE: &str = "m.tag";
/// The longest tag, by the spec.
const MAX_TAG_BYTES: usize = 255;
/// How many tags a room may have.
const MAX_TAGS: usize = 100;

/// Why account data was not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountDataError {
    /// The type is managed by the server; the client has other endpoints for it.
    #[error("account data of type {kind} is set through another endpoint")]
    ServerManaged {
        /// The type.
        kind: String,
    },
    /// The content is not a JSON object.
    #[error("account data must be a JSON object")]
    NotAnObject,
    /// The type's name is empty or too long.
    #[error("the type of account data must have 1 to {MAX_TYPE_BYTES} bytes")]
    InvalidType,
    /// The content is too large.
    #[error("account data may have at most {MAX_CONTENT_BYTES} bytes")]
    TooLarge,
    /// The user keeps too many types.
    #[error("at most {MAX_TYPES} types of account data may be kept in one place")]
    TooMany,
    /// The tag is empty or too long.
    #[error("a tag must have 1 to {MAX_TAG_BYTES} bytes")]
    InvalidTag,
    /// The room has too many tags.
    #[error("a room may have at most {MAX_TAGS} tags")]
    TooManyTags,
    /// Too many changes at once.
    #[error("the account data is being changed by others")]
    Busy,
    /// The database failed.
    #[error("cannot read or write account data")]
    Storage(#[from] StorageError),
}

/// The account data of all local users.
#[derive(Clone)]
pub(crate) struct AccountData {
    db: Db,
}

impl AccountData {
    /// The account data in `db`.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// The content of one type, a JSON object; `room` is [`GLOBAL`] for the account as a whole. None
    /// if it was never set, or was deleted.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(
        &self,
        user: UserNumber,
        room: RoomNumber,
        kind: &str,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        let datum = ACCOUNT_DATA.get(&self.db, &(user, room, kind)).await?;
        let Some(datum) = datum.filter(|datum| !datum.is_deleted()) else { return Ok(None) };
        let corrupt = || StorageError::Corrupt { table: ACCOUNT_DATA.id.name() };
        let text = String::from_utf8(datum.content).map_err(|_| corrupt())?;
        RawValue::from_string(text).map(Some).map_err(|_| corrupt())
    }

    /// Sets one type on behalf of a client.
    ///
    /// # Errors
    /// [`AccountDataError::ServerManaged`] for types that clients set through other endpoints, and
    /// the other variants for what is beyond the limits: nothing is changed then.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-13>
    pub(crate) async fn set(
        &self,
        user: UserNumber,
        room: RoomNumber,
        kind: &str,
        content: &RawValue,
    ) -> Result<(), AccountDataError> {
        if is_server_managed(kind) {
            return Err(AccountDataError::ServerManaged { kind: kind.to_owned() });
        }
        self.put(user, room, kind, content.get()).await
    }

    /// Sets one type, also one that clients may not set by themselves.
    ///
    /// The change takes a stream position and wakes the user's syncs.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(crate) async fn put(
        &self,
        user: UserNumber,
        room: RoomNumber,
        kind: &str,
        content: &str,
    ) -> Result<(), AccountDataError> {
        self.change(user, room, kind, |_| Ok(Some(content.trim().as_bytes().to_vec()))).await
    }

    /// Reads, decides and writes one type; `decide` may be called again when another change was
    /// faster, and says `None` if nothing is to change.
    ///
    /// # Errors
    /// Those of `decide`, and as [`Self::set`].
    pub(crate) async fn change<E: From<AccountDataError>>(
        &self,
        user: UserNumber,
        room: RoomNumber,
        kind: &str,
        decide: impl Fn(Option<&[u8]>) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        if kind.is_empty() || kind.len() > MAX_TYPE_BYTES {
            return Err(AccountDataError::InvalidType.into());
        }
        let key = (user, room, kind);
        for _ in 0..ATTEMPTS {
            let old = ACCOUNT_DATA.get(&self.db, &key).await.map_err(AccountDataError::from)?;
            let Some(content) = decide(old.as_ref().map(|datum| datum.content.as_slice()))? else {
                return Ok(());
            };
            if content.len() > MAX_CONTENT_BYTES {
                return Err(AccountDataError::TooLarge.into());
            }
            if content.first() != Some(&b'{') {
                return Err(AccountDataError::NotAnObject.into());
            }
            let mut batch = Batch::new();
            if let Some(old) = &old {
                ACCOUNT_DATA.require_equals(&mut batch, &key, old);
                // One change row per type: what changed since a position is read by a scan
                // that does not grow with how often it changed.
                ACCOUNT_DATA_CHANGES.delete(&mut batch, &(user, old.position));
            } else {
                self.check_count(user, room).await?;
                ACCOUNT_DATA.require_absent(&mut batch, &key);
            }
            let position = self.db.position().await.map_err(AccountDataError::from)?;
            write(&mut batch, position, (user, room, kind), content);
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map_err(AccountDataError::from)?),
            }
        }
        Err(AccountDataError::Busy.into())
    }

    /// Queues the account data that a new account begins with.
    pub(crate) fn create(
        batch: &mut Batch,
        position: Position,
        user: UserNumber,
        kind: &str,
        content: &str,
    ) {
        write(batch, position, (user, GLOBAL, kind), content.as_bytes().to_vec());
    }

    async fn check_count(
        &self,
        user: UserNumber,
        room: RoomNumber,
    ) -> Result<(), AccountDataError> {
        let rows = ACCOUNT_DATA.scan(&self.db, &Range::prefix(&(user, room)), MAX_TYPES).await?;
        if rows.len() < MAX_TYPES { Ok(()) } else { Err(AccountDataError::TooMany) }
    }

    /// Tags a room, or changes what is kept with the tag (`info`, a JSON object with `order`).
    ///
    /// # Errors
    /// [`AccountDataError::InvalidTag`], [`AccountDataError::TooManyTags`] beyond the limits.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-tagging>
    pub(crate) async fn set_tag(
        &self,
        user: UserNumber,
        room: RoomNumber,
        tag: &str,
        info: &serde_json::Value,
    ) -> Result<(), AccountDataError> {
        if tag.is_empty() || tag.len() > MAX_TAG_BYTES {
            return Err(AccountDataError::InvalidTag);
        }
        self.change(user, room, TAG_TYPE, |old| {
            let mut content = tag_content(old);
            let tags = tags_of(&mut content);
            if tags.len() >= MAX_TAGS && !tags.contains_key(tag) {
                return Err(AccountDataError::TooManyTags);
            }
            tags.insert(tag.to_owned(), info.clone());
            Ok(Some(serialised(&content)))
        })
        .await
    }

    /// Removes a tag from a room; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`AccountDataError::Storage`] if the database fails.
    pub(crate) async fn remove_tag(
        &self,
        user: UserNumber,
        room: RoomNumber,
        tag: &str,
    ) -> Result<(), AccountDataError> {
        self.change(user, room, TAG_TYPE, |old| {
            let mut content = tag_content(old);
            let removed = tags_of(&mut content).remove(tag);
            Ok(removed.map(|_| serialised(&content)))
        })
        .await
    }

    /// Queues the removal of everything a user keeps, for an account that is closed.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn clear(
        &self,
        batch: &mut Batch,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        let changes =
            ACCOUNT_DATA_CHANGES.scan(&self.db, &Range::prefix(&(user,)), usize::MAX).await?;
        for (change, (room, kind)) in changes {
            ACCOUNT_DATA_CHANGES.delete(batch, &change);
            ACCOUNT_DATA.delete(batch, &(user, room, kind));
        }
        Ok(())
    }
}

/// Queues the row of one type and that of its change.
fn write(
    batch: &mut Batch,
    position: Position,
    (user, room, kind): (UserNumber, RoomNumber, &str),
    content: Vec<u8>,
) {
    let datum = AccountDatum { position: position.value(), content };
    ACCOUNT_DATA.put(batch, &(user, room, kind), &datum);
    ACCOUNT_DATA_CHANGES.put(batch, &(user, position.value()), &(room, kind.to_owned()));
    batch.hold(position);
    batch.wake([user]);
}

/// Whether clients set `kind` through another endpoint only. The spec says so of both places, the
/// account and the rooms, for either type.
fn is_server_managed(kind: &str) -> bool {
    matches!(kind, "m.fully_read" | "m.push_rules")
}

type Object = serde_json::Map<String, serde_json::Value>;

/// The content of `m.tag`; whatever is no object counts as empty.
fn tag_content(old: Option<&[u8]>) -> Object {
    old.and_then(|old| serde_json::from_slice(old).ok()).unwrap_or_default()
}

fn tags_of(content: &mut Object) -> &mut Object {
    let tags = content.entry("tags").or_insert_with(|| Object::new().into());
    if !tags.is_object() {
        *tags = Object::new().into();
    }
    tags.as_object_mut().expect("it was just made one")
}

fn serialised(content: &Object) -> Vec<u8> {
    serde_json::to_vec(content).expect("a map of JSON values has string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALICE: UserNumber = UserNumber(1);
    const ROOM: RoomNumber = RoomNumber(7);

    async fn account_data() -> AccountData {
        AccountData::new(Db::in_memory().await)
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    async fn changes(data: &AccountData) -> Vec<(RoomNumber, String)> {
        let rows = ACCOUNT_DATA_CHANGES.scan(&data.db, &Range::prefix(&(ALICE,)), 100).await;
        rows.unwrap().into_iter().map(|(_, change)| change).collect()
    }

    #[tokio::test]
    async fn what_was_set_is_read_back_and_has_one_change_row() {
        let data = account_data().await;
        data.set(ALICE, GLOBAL, "a", &raw(r#"{"x":1}"#)).await.unwrap();
        data.set(ALICE, ROOM, "b", &raw(r#"{"y":1}"#)).await.unwrap();
        data.set(ALICE, GLOBAL, "a", &raw(r#"{"x":2}"#)).await.unwrap();
        assert_eq!(data.get(ALICE, GLOBAL, "a").await.unwrap().unwrap().get(), r#"{"x":2}"#);
        assert_eq!(changes(&data).await, [(ROOM, "b".to_owned()), (GLOBAL, "a".to_owned())]);
    }

    #[tokio::test]
    async fn a_change_wakes_the_users_syncs_at_a_visible_position() {
        let data = account_data().await;
        let waiter = data.db.wait_for(ALICE);
        let before = data.db.visible_position();
        data.set(ALICE, GLOBAL, "a", &raw("{}")).await.unwrap();
        waiter.woken().await;
        assert!(data.db.visible_position() > before);
    }

    #[tokio::test]
    async fn types_with_endpoints_of_their_own_are_refused() {
        let data = account_data().await;
        for kind in ["m.fully_read", "m.push_rules"] {
            for room in [ROOM, GLOBAL] {
                let refused = data.set(ALICE, room, kind, &raw("{}")).await;
                assert!(matches!(refused, Err(AccountDataError::ServerManaged { .. })));
            }
        }
        data.put(ALICE, ROOM, "m.fully_read", "{}").await.unwrap();
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let data = account_data().await;
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_CONTENT_BYTES));
        let set = |kind: String, content: String| {
            let data = data.clone();
            async move { data.set(ALICE, GLOBAL, &kind, &raw(&content)).await }
        };
        assert!(matches!(set("a".into(), large).await, Err(AccountDataError::TooLarge)));
        assert!(matches!(set("a".into(), "[]".into()).await, Err(AccountDataError::NotAnObject)));
        assert!(matches!(
            set("a".repeat(256), "{}".into()).await,
            Err(AccountDataError::InvalidType)
        ));
        for i in 0..MAX_TYPES {
            set(format!("t{i}"), "{}".into()).await.unwrap();
        }
        assert!(matches!(set("more".into(), "{}".into()).await, Err(AccountDataError::TooMany)));
        set("t0".into(), r#"{"still":"changes"}"#.into()).await.unwrap();
    }

    #[tokio::test]
    async fn tags_are_the_content_of_m_tag() {
        let data = account_data().await;
        data.set_tag(ALICE, ROOM, "m.favourite", &json!({ "order": 0.5 })).await.unwrap();
        data.set_tag(ALICE, ROOM, "u.work", &json!({})).await.unwrap();
        data.remove_tag(ALICE, ROOM, "m.favourite").await.unwrap();
        let content = data.get(ALICE, ROOM, "m.tag").await.unwrap().unwrap();
        assert_eq!(content.get(), r#"{"tags":{"u.work":{}}}"#);
        let before = changes(&data).await;
        data.remove_tag(ALICE, ROOM, "not there").await.unwrap();
        assert_eq!(changes(&data).await, before);
    }

    #[tokio::test]
    async fn changes_at_the_same_time_are_all_kept() {
        let data = account_data().await;
        let changing = (0..8).map(|i| {
            let data = data.clone();
            async move { data.set_tag(ALICE, ROOM, &format!("u.{i}"), &json!({})).await }
        });
        for done in futures::future::join_all(changing).await {
            done.unwrap();
        }
        assert_eq!(changes(&data).await.len(), 1);
        let content = data.get(ALICE, ROOM, "m.tag").await.unwrap().unwrap();
        assert_eq!(content.get().matches("u.").count(), 8);
    }
}
