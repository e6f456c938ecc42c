//! Profiles of local users: display name, avatar, and fields of any name.

use std::collections::BTreeMap;

use ruma::OwnedMxcUri;
use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;

use super::profile_changes::queue_change;
use crate::storage::{
    Batch, Db, Json, StorageError,
    intern::UserNumber,
    schema::{PROFILE_UPDATES, PROFILES},
};

/// The largest profile as canonical JSON.
const MAX_PROFILE_BYTES: usize = 64 * 1024;
/// The longest name of a field.
const MAX_KEY_BYTES: usize = 255;
/// The longest display name: it is copied into a member event of every room.
const MAX_DISPLAYNAME_BYTES: usize = 1024;
/// The longest avatar URL, for the same reason.
const MAX_AVATAR_URL_BYTES: usize = 1024;
/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;

/// What a user tells about themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// The name shown beside messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) displayname: Option<String>,
    /// The picture shown beside messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) avatar_url: Option<OwnedMxcUri>,
    /// All other fields.
    #[serde(flatten)]
    pub(crate) custom: BTreeMap<String, JsonValue>,
}

/// Why a profile was not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// The field's name is too long.
    #[error("the name of a profile field may have at most {MAX_KEY_BYTES} bytes")]
    KeyTooLarge,
    /// The field's name is not a namespaced identifier.
    #[error("a profile field is named by lower-case letters, digits, dots, dashes and underscores")]
    InvalidKey,
    /// The value is not of the type the field has.
    #[error("{field} must be a string of at most {limit} bytes")]
    InvalidValue {
        /// The field.
        field: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// The profile would be too large.
    #[error("a profile may have at most {MAX_PROFILE_BYTES} bytes")]
    TooLarge,
    /// Too many changes at once.
    #[error("the profile is being changed by others")]
    Busy,
    /// The database failed.
    #[error("cannot read or write a profile")]
    Storage(#[from] StorageError),
}

/// The profiles.
#[derive(Clone)]
pub(crate) struct Profiles {
    db: Db,
}

impl Profile {
    /// A profile as another server tells it; fields that are no such fields are left out.
    pub(crate) fn of_fields(fields: impl IntoIterator<Item = (String, JsonValue)>) -> Self {
        let mut profile = Self::default();
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("displayname", JsonValue::String(name)) => profile.displayname = Some(name),
                ("avatar_url", JsonValue::String(url)) => profile.avatar_url = Some(url.into()),
                ("displayname" | "avatar_url", _) => {}
                (_, value) => {
                    profile.custom.insert(key, value);
                }
            }
        }
        profile
    }

    /// The value of one field.
    pub(crate) fn get(&self, field: &str) -> Option<JsonValue> {
        match field {
            "displayname" => self.displayname.clone().map(JsonValue::String),
            "avatar_url" => self.avatar_url.as_ref().map(|url| url.as_str().into()),
            custom => self.custom.get(custom).cloned(),
        }
    }

    /// All fields with their values.
    pub(crate) fn into_fields(self) -> BTreeMap<String, JsonValue> {
        let mut fields = self.custom;
        if let Some(name) = self.displayname {
            fields.insert("displayname".to_owned(), name.into());
        }
        if let Some(url) = self.avatar_url {
            fields.insert("avatar_url".to_owned(), url.as_str().into());
        }
        fields
    }

    /// Sets a field, or removes it (`None`).
    ///
    /// A name or avatar that is null or empty is none: clients remove them that way too.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>
    fn set(&mut self, field: &str, value: Option<JsonValue>) -> Result<(), ProfileError> {
        match field {
            "displayname" => {
                self.displayname = text(value, "displayname", MAX_DISPLAYNAME_BYTES)?;
            }
            "avatar_url" => {
                self.avatar_url =
                    text(value, "avatar_url", MAX_AVATAR_URL_BYTES)?.map(OwnedMxcUri::from);
            }
            custom => {
                check_key(custom)?;
                match value {
                    Some(value) => self.custom.insert(custom.to_owned(), value),
                    None => self.custom.remove(custom),
                };
            }
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), ProfileError> {
        // Spec: "A profile MUST NOT exceed 64 KiB, measured as canonical JSON"; the keys of a
        // `BTreeMap` are sorted and nothing is indented, so this is the same length.
        let bytes = serde_json::to_vec(self).map_err(|_| ProfileError::TooLarge)?;
        if bytes.len() > MAX_PROFILE_BYTES { Err(ProfileError::TooLarge) } else { Ok(()) }
    }
}

fn text(
    value: Option<JsonValue>,
    field: &'static str,
    limit: usize,
) -> Result<Option<String>, ProfileError> {
    match value {
        None | Some(JsonValue::Null) => Ok(None),
        Some(JsonValue::String(text)) if text.len() <= limit => {
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
        Some(_) => Err(ProfileError::InvalidValue { field, limit }),
    }
}

/// Spec: <https://spec.matrix.org/v1.19/appendices/#common-namespaced-identifier-grammar>
fn check_key(key: &str) -> Result<(), ProfileError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(ProfileError::KeyTooLarge);
    }
    let starts_well = key.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
    let grammatical =
        key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
    if starts_well && grammatical { Ok(()) } else { Err(ProfileError::InvalidKey) }
}

impl Profiles {
    /// The profiles in `db`.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// The user's profile; empty if nothing was ever set.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(&self, user: UserNumber) -> Result<Profile, StorageError> {
        Ok(PROFILES.get(&self.db, &user).await?.map(|Json(profile)| profile).unwrap_or_default())
    }

    /// Sets a field of a local user's profile, or removes it (`None`).
    ///
    /// A changed name or avatar leaves a row in `profile_updates`, from which member events are
    /// written.
    ///
    /// # Errors
    /// [`ProfileError`] for a name, value or size beyond the limits: nothing is changed then.
    pub(crate) async fn set(
        &self,
        user: UserNumber,
        field: &str,
        value: Option<JsonValue>,
    ) -> Result<(), ProfileError> {
        for _ in 0..ATTEMPTS {
            let old = PROFILES.get(&self.db, &user).await?;
            let mut new = old.as_ref().map(|Json(profile)| profile.clone()).unwrap_or_default();
            new.set(field, value.clone())?;
            new.check_size()?;
            let before = old.as_ref().map(|Json(profile)| profile);
            if before == Some(&new) || (before.is_none() && new == Profile::default()) {
                return Ok(());
            }
            let mut batch = Batch::new();
            match &old {
                Some(old) => PROFILES.require_equals(&mut batch, &user, old),
                None => PROFILES.require_absent(&mut batch, &user),
            }
            if matches!(field, "displayname" | "avatar_url") {
                PROFILE_UPDATES.put(&mut batch, &user, &());
            }
            queue_change(&self.db, &mut batch, user, [field.to_owned()], &new).await?;
            PROFILES.put(&mut batch, &user, &Json(new));
            match self.db.commit(batch).await {
                // Somebody else changed the profile in the meantime: look again.
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(ProfileError::Busy)
    }

    /// Queues the first profile of a new account: its name.
    pub(crate) fn create(batch: &mut Batch, user: UserNumber, displayname: &str) {
        let profile = Profile { displayname: Some(displayname.to_owned()), ..Profile::default() };
        PROFILES.put(batch, &user, &Json(profile));
    }

    /// Queues the removal of everything in the profile, for an account that is closed.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn clear(
        &self,
        batch: &mut Batch,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        let fields = self.get(user).await?.into_fields();
        queue_change(&self.db, batch, user, fields.into_keys(), &Profile::default()).await?;
        PROFILES.delete(batch, &user);
        PROFILE_UPDATES.put(batch, &user, &());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALICE: UserNumber = UserNumber(1);

    async fn profiles() -> Profiles {
        Profiles::new(Db::in_memory().await)
    }

    #[tokio::test]
    async fn fields_of_any_name_are_kept_beside_name_and_avatar() {
        let profiles = profiles().await;
        profiles.set(ALICE, "displayname", Some(json!("Alice"))).await.unwrap();
        profiles.set(ALICE, "m.tz", Some(json!("Europe/Vienna"))).await.unwrap();
        let profile = profiles.get(ALICE).await.unwrap();
        assert_eq!(profile.displayname.as_deref(), Some("Alice"));
        assert_eq!(profile.get("m.tz"), Some(json!("Europe/Vienna")));
        profiles.set(ALICE, "m.tz", None).await.unwrap();
        assert_eq!(profiles.get(ALICE).await.unwrap().get("m.tz"), None);
    }

    #[tokio::test]
    async fn only_a_changed_name_or_avatar_goes_out_to_rooms() {
        let profiles = profiles().await;
        profiles.set(ALICE, "m.tz", Some(json!("Europe/Vienna"))).await.unwrap();
        assert!(!PROFILE_UPDATES.contains(&profiles.db, &ALICE).await.unwrap());
        profiles.set(ALICE, "avatar_url", Some(json!("mxc://localhost/a"))).await.unwrap();
        assert!(PROFILE_UPDATES.contains(&profiles.db, &ALICE).await.unwrap());
    }

    #[tokio::test]
    async fn an_empty_name_is_none() {
        let profiles = profiles().await;
        profiles.set(ALICE, "displayname", Some(json!("Alice"))).await.unwrap();
        profiles.set(ALICE, "displayname", Some(json!(""))).await.unwrap();
        assert_eq!(profiles.get(ALICE).await.unwrap(), Profile::default());
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let profiles = profiles().await;
        let set = |key: String, value: JsonValue| {
            let profiles = profiles.clone();
            async move { profiles.set(ALICE, &key, Some(value)).await }
        };
        assert!(matches!(set("a".repeat(256), json!(1)).await, Err(ProfileError::KeyTooLarge)));
        assert!(set("a".repeat(255), json!(1)).await.is_ok());
        assert!(matches!(set("No".into(), json!(1)).await, Err(ProfileError::InvalidKey)));
        assert!(matches!(
            set("displayname".into(), json!({})).await,
            Err(ProfileError::InvalidValue { .. })
        ));
        assert!(set("a.b".into(), json!("x".repeat(60_000))).await.is_ok());
        assert!(matches!(
            set("a.c".into(), json!("x".repeat(6_000))).await,
            Err(ProfileError::TooLarge)
        ));
    }

    #[tokio::test]
    async fn changes_at_the_same_time_are_all_kept() {
        let profiles = profiles().await;
        let changes = (0..8).map(|i| {
            let profiles = profiles.clone();
            async move { profiles.set(ALICE, &format!("f{i}"), Some(json!(i))).await }
        });
        for done in futures::future::join_all(changes).await {
            done.unwrap();
        }
        assert_eq!(profiles.get(ALICE).await.unwrap().custom.len(), 8);
    }
}
