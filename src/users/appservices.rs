//! Accounts of application services: their bots, and the users they make.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#server-admin-style-permissions>

use ruma::{OwnedUserId, UserId, api::client::uiaa::UserIdentifier};

use super::{
    account::{AccountError, Accounts},
    login::LoginDevice,
    registration::NewAccount,
    rows::Account,
    session::Tokens,
    uia::Proof,
};
use crate::{
    appservice::Service,
    storage::{StorageError, intern::UserNumber},
};

/// What is said of users and aliases that are not the asker's.
const OUTSIDE: AccountError =
    AccountError::Exclusive { reason: "the user is not in the application service's namespace" };

impl Accounts {
    /// Makes the accounts of the bots that have none.
    ///
    /// # Errors
    /// [`AccountError::Storage`] if the database fails.
    pub(crate) async fn make_bots(&self) -> Result<(), AccountError> {
        let Some(registry) = self.shared.appservices.registry() else { return Ok(()) };
        for service in registry.services() {
            if self.get(service.bot).await?.is_some() {
                continue;
            }
            match self
                .create(&service.registration.bot, self.made_now(), None, None, &Proof::default())
                .await
            {
                Ok(_) | Err(AccountError::UserInUse) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As [`Self::find`]; a user who is not there may be made on the spot by an application service.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn find_or_ask(
        &self,
        user_id: &UserId,
    ) -> Result<Option<(UserNumber, Account)>, StorageError> {
        let found = self.find(user_id).await?;
        if found.is_some() || !self.shared.appservices.user_exists(user_id).await {
            return Ok(found);
        }
        self.find(user_id).await
    }

    fn made_now(&self) -> Account {
        Account { created_ms: self.shared.clock.now_ms(), ..Account::default() }
    }

    /// Whether a user ID is kept for an application service.
    ///
    /// # Errors
    /// [`AccountError::Exclusive`].
    pub(super) fn check_not_reserved(&self, user: &UserId) -> Result<(), AccountError> {
        let registry = self.shared.appservices.registry();
        if registry.is_some_and(|registry| registry.owner_of_user(user).is_some()) {
            let reason = "the user ID is kept for an application service";
            return Err(AccountError::Exclusive { reason });
        }
        Ok(())
    }

    /// Makes an account for a user of an application service, without a password.
    ///
    /// # Errors
    /// [`AccountError::Exclusive`] for a user outside its namespace or of another one's own,
    /// [`AccountError::AppserviceLoginUnsupported`] if it manages devices and wants a token all the
    /// same, [`AccountError::UserInUse`], [`AccountError::InvalidUsername`].
    pub(crate) async fn register_for_appservice(
        &self,
        service: &Service,
        new: NewAccount,
    ) -> Result<(OwnedUserId, Option<Tokens>), AccountError> {
        if let Some(device) = &new.device {
            if service.registration.manages_devices {
                return Err(AccountError::AppserviceLoginUnsupported);
            }
            device.check()?;
        }
        let name = new.username.ok_or(AccountError::MissingParam { name: "username" })?;
        let invalid = AccountError::InvalidUsername { reason: "this makes no user ID" };
        let user_id = self.user_id(&name)?;
        if name.is_empty() || user_id.validate_strict().is_err() {
            return Err(invalid);
        }
        if !service.speaks_for(&user_id) {
            return Err(OUTSIDE);
        }
        if !service.owns(&user_id) {
            self.check_not_reserved(&user_id)?;
        }
        if self.find(&user_id).await?.is_some() {
            return Err(AccountError::UserInUse);
        }
        let (account, device) = (self.made_now(), new.device.as_ref());
        self.create(&user_id, account, None, device, &Proof::default()).await
    }

    /// Logs a user of an application service in, without a password.
    ///
    /// # Errors
    /// [`AccountError::Exclusive`] for a user outside its namespace,
    /// [`AccountError::AppserviceLoginUnsupported`] if it manages devices,
    /// [`AccountError::BadCredentials`] if there is no such user, [`AccountError::Deactivated`].
    pub(crate) async fn login_for_appservice(
        &self,
        service: &Service,
        identifier: &UserIdentifier,
        device: LoginDevice,
    ) -> Result<(OwnedUserId, Tokens), AccountError> {
        if service.registration.manages_devices {
            return Err(AccountError::AppserviceLoginUnsupported);
        }
        device.check()?;
        let UserIdentifier::Matrix(matrix) = identifier else {
            let reason = "an application service names users by their ID";
            return Err(AccountError::InvalidParam { reason });
        };
        let user_id = self.user_id_of(&matrix.user).ok_or(OUTSIDE)?;
        if !service.speaks_for(&user_id) {
            return Err(OUTSIDE);
        }
        let (user, account) = self.find(&user_id).await?.ok_or(AccountError::BadCredentials)?;
        if account.deactivated {
            return Err(AccountError::Deactivated);
        }
        self.open_session(user, (account.clone(), account), device, |_| {}).await
    }
}
