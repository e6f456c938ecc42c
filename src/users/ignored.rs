//! Users whom a user ignores.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;

use super::GLOBAL;
use crate::storage::{Db, Read, StorageError, intern::UserNumber, schema::ACCOUNT_DATA};

/// The type of the account data that names them.
pub(crate) const IGNORED_TYPE: &str = "m.ignored_user_list";

/// Whom one user ignores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored {
    users: Arc<HashSet<OwnedUserId>>,
}

impl Ignored {
    /// Reads whom `user` ignores; nobody if what the account data says makes no sense.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn load(at: &impl Read, user: UserNumber) -> Result<Self, StorageError> {
        let datum = ACCOUNT_DATA.get(at, &(user, GLOBAL, IGNORED_TYPE)).await?;
        Ok(datum.map_or_else(Self::default, |datum| Self::in_content(&datum.content)))
    }

    fn in_content(content: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Content {
            ignored_users: serde_json::Map<String, serde_json::Value>,
        }
        let Ok(content) = serde_json::from_slice::<Content>(content) else {
            return Self::default();
        };
        let users = content.ignored_users.keys().filter_map(|id| UserId::parse(id.as_str()).ok());
        Self { users: Arc::new(users.collect()) }
    }

    /// Whether `user` is ignored.
    pub(crate) fn contains(&self, user: &UserId) -> bool {
        !self.users.is_empty() && self.users.contains(user)
    }

    /// The numbers of those that are known here at all.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn numbers(&self, db: &Db) -> Result<HashSet<UserNumber>, StorageError> {
        let mut numbers = HashSet::new();
        // Each is in memory, or looked up once: a list has a few.
        let mut users: Vec<&OwnedUserId> = self.users.iter().collect();
        users.sort_unstable();
        for user in users {
            numbers.extend(db.users().find(db, &**user).await?);
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn those_in_the_list_are_ignored() {
        let content = br#"{"ignored_users":{"@troll:localhost":{},"nobody":{}}}"#;
        let ignored = Ignored::in_content(content);
        assert!(ignored.contains(user_id!("@troll:localhost")));
        assert!(!ignored.contains(user_id!("@alice:localhost")));
    }

    #[test]
    fn a_list_that_makes_no_sense_ignores_nobody() {
        for content in ["{}", r#"{"ignored_users":["@troll:localhost"]}"#, "[]"] {
            let ignored = Ignored::in_content(content.as_bytes());
            assert!(!ignored.contains(user_id!("@troll:localhost")), "{content}");
        }
    }
}
