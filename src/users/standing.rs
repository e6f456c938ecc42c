//! Accounts that an administrator has locked or suspended.

use ruma::UserId;

use super::{Accounts, account::AccountError, rows::Account, session::Sessions};
use crate::storage::{Batch, Json, StorageError, intern::UserNumber, schema::ACCOUNTS};

/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;

/// What an administrator has said about an account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Standing {
    /// It can't be used, its sessions stay.
    pub(crate) locked: bool,
    /// It can be used to read.
    pub(crate) suspended: bool,
}

impl From<&Account> for Standing {
    fn from(account: &Account) -> Self {
        Self { locked: account.locked, suspended: account.suspended }
    }
}

impl Sessions {
    /// What an administrator has said about a user.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn standing(&self, user: UserNumber) -> Result<Standing, StorageError> {
        let known = self.standings();
        if let Some(standing) = known.get(&user) {
            return Ok(standing);
        }
        let account = ACCOUNTS.get(self.db(), &user).await?;
        let standing = account.map_or_else(Standing::default, |Json(account)| (&account).into());
        // What was said in the meantime is newer.
        known.get_or_insert_with(&user, || Ok(standing))
    }
}

impl Accounts {
    /// What an administrator has said about a user of this server.
    ///
    /// # Errors
    /// [`AccountError::Forbidden`] unless `by` is an administrator, [`AccountError::NotFound`].
    pub(crate) async fn standing_for(
        &self,
        by: UserNumber,
        user_id: &UserId,
    ) -> Result<Standing, AccountError> {
        let (_, account) = self.moderated(by, user_id).await?;
        Ok((&account).into())
    }

    /// Changes that. Administrators lock neither themselves nor each other.
    ///
    /// # Errors
    /// As [`Accounts::standing_for`].
    pub(crate) async fn set_standing(
        &self,
        by: UserNumber,
        user_id: &UserId,
        change: impl Fn(&mut Account),
    ) -> Result<Standing, AccountError> {
        for _ in 0..ATTEMPTS {
            let (user, old) = self.moderated(by, user_id).await?;
            if user == by || old.admin {
                let reason = "administrators can't be locked or suspended";
                return Err(AccountError::Forbidden { reason });
            }
            let mut new = old.clone();
            change(&mut new);
            let standing = (&new).into();
            let mut batch = Batch::new();
            ACCOUNTS.require_equals(&mut batch, &user, &Json(old));
            ACCOUNTS.put(&mut batch, &user, &Json(new));
            match self.shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                outcome => {
                    outcome?;
                    self.shared.sessions.standings().insert(user, standing);
                    return Ok(standing);
                }
            }
        }
        Err(AccountError::Busy)
    }

    /// The account that an administrator asks about. Who is none learns nothing of it.
    async fn moderated(
        &self,
        by: UserNumber,
        user_id: &UserId,
    ) -> Result<(UserNumber, Account), AccountError> {
        if !self.is_admin(by).await? {
            return Err(AccountError::Forbidden { reason: "You are not a server admin" });
        }
        self.find(user_id).await?.ok_or(AccountError::NotFound { what: "the account" })
    }
}
