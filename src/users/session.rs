//! Who is behind an access token.

use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{
    api::extract::Caller,
    storage::{Db, StorageError, intern::UserNumber},
};

/// A user on a device, as an access token proves it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The user.
    pub(crate) user_id: OwnedUserId,
    /// The same, as tables know it.
    pub(crate) user: UserNumber,
    /// The device the token was given to.
    pub(crate) device_id: OwnedDeviceId,
    /// Guests may do little.
    pub(crate) guest: bool,
}

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// There is no token.
    #[error("no access token")]
    Missing,
    /// The token was never given, has expired or was logged out.
    #[error("unknown access token")]
    Unknown {
        /// The device may log in again and keep its keys.
        soft_logout: bool,
    },
    /// It can't be known.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The sessions of this server's users.
#[derive(Clone)]
pub(crate) struct Sessions {
    db: Db,
}

impl Sessions {
    /// Sessions kept in `db`.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Who is behind `token`.
    ///
    /// # Errors
    /// [`AuthError::Unknown`] if the token opens nothing.
    pub(crate) async fn authenticate(
        &self,
        _token: &str,
        _caller: &Caller,
    ) -> Result<Session, AuthError> {
        let _ = &self.db;
        Err(AuthError::Unknown { soft_logout: false })
    }
}
