//! Logging in: with a password, or with a token that another device asked for.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#login>

use std::time::Duration;

use ruma::{OwnedDeviceId, OwnedUserId, api::client::uiaa::UserIdentifier};

use super::{
    account::{ATTEMPTS, AccountError, Accounts},
    rows::{Account, Fact},
    session::{self, NewSession, Session, Tokens},
    short_lived::ShortLivedFacts,
    threepid::normalised_email,
    token::TokenUse,
    uia::Proof,
};
use crate::{
    api::extract::Caller,
    storage::{
        Batch, Json, StorageError,
        intern::UserNumber,
        schema::{ACCOUNTS, THREEPIDS},
    },
};

/// How long a login token can be used; the spec recommends two minutes at most.
pub(crate) const LOGIN_TOKEN_LIFETIME: Duration = Duration::from_mins(2);
/// How long an `OpenID` token can be used.
pub(crate) const OPENID_TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// The longest name that is looked for.
const MAX_NAME_BYTES: usize = 255;

/// Where somebody logs in.
#[derive(Debug, Default)]
pub(crate) struct LoginDevice {
    /// The device; none: a new one.
    pub(crate) device_id: Option<OwnedDeviceId>,
    /// What a new device is called.
    pub(crate) display_name: Option<String>,
    /// Whether the client can refresh tokens.
    pub(crate) refresh: bool,
}

impl LoginDevice {
    /// # Errors
    /// [`AccountError::InvalidParam`] for device IDs that are not acceptable.
    pub(super) fn check(&self) -> Result<(), AccountError> {
        if self.device_id.as_deref().is_none_or(session::is_acceptable_device_id) {
            Ok(())
        } else {
            let reason = "device_id must have 1 to 255 bytes and no control characters";
            Err(AccountError::InvalidParam { reason })
        }
    }
}

impl Accounts {
    /// Logs in with a password.
    ///
    /// # Errors
    /// [`AccountError::BadCredentials`], after the same time whether or not there is such a user;
    /// [`AccountError::Deactivated`]; [`AccountError::Limit`] after too many failures.
    pub(crate) async fn login_with_password(
        &self,
        identifier: &UserIdentifier,
        password: &str,
        device: LoginDevice,
        caller: &Caller,
    ) -> Result<(OwnedUserId, Tokens), AccountError> {
        device.check()?;
        self.shared.limits.login_from(caller.address)?;
        let (user, account) = self.check_password(identifier, password).await?;
        let account = self.with_current_cost(account, password).await?;
        self.open_session(user, account, device, |_| {}).await
    }

    /// Logs in with a token that was given to another device of the user.
    ///
    /// # Errors
    /// [`AccountError::BadLoginToken`] if the token was used before or has expired.
    pub(crate) async fn login_with_token(
        &self,
        token: &str,
        device: LoginDevice,
        caller: &Caller,
    ) -> Result<(OwnedUserId, Tokens), AccountError> {
        device.check()?;
        self.shared.limits.login_from(caller.address)?;
        let key = TokenUse::Login.hash(token).ok_or(AccountError::BadLoginToken)?;
        let row = self.shared.facts.get(&key).await?.ok_or(AccountError::BadLoginToken)?;
        let Fact::LoginToken { user } = row.what else { return Err(AccountError::BadLoginToken) };
        let account = self.get(user).await?.ok_or(AccountError::BadLoginToken)?;
        if account.deactivated {
            return Err(AccountError::Deactivated);
        }
        let found = (account.clone(), account);
        let consume = |batch: &mut Batch| ShortLivedFacts::consume(batch, &key, &row);
        match self.open_session(user, found, device, consume).await {
            // Used twice at the same time.
            Err(AccountError::Busy) => Err(AccountError::BadLoginToken),
            done => done,
        }
    }

    /// Exchanges a refresh token for new tokens.
    ///
    /// # Errors
    /// [`AccountError::Auth`] for a token that was never given, or was followed by another one;
    /// [`AccountError::Limit`] after too many of those from one address.
    pub(crate) async fn refresh(
        &self,
        token: &str,
        caller: &Caller,
    ) -> Result<Tokens, AccountError> {
        let attempt = self.shared.limits.refresh_from(caller.address)?;
        let tokens = self.shared.sessions.refresh(token).await?;
        attempt.succeeded();
        Ok(tokens)
    }

    /// The user behind a name and a password.
    ///
    /// Every attempt is counted before the password is looked at, those that succeed are given back:
    /// so guesses that come all at once are counted too.
    ///
    /// # Errors
    /// As [`Self::login_with_password`].
    pub(super) async fn check_password(
        &self,
        identifier: &UserIdentifier,
        password: &str,
    ) -> Result<(UserNumber, Account), AccountError> {
        let (name, found) = self.identified(identifier).await?;
        let attempt = self.shared.limits.login_to(found.as_ref().map(|(user, _)| *user), &name)?;
        let hash = found.as_ref().and_then(|(_, account)| account.password_hash.as_deref());
        let right = self.shared.passwords.verify(password, hash).await?;
        match found {
            // There is no password left to compare with.
            Some((_, account)) if account.deactivated => Err(AccountError::Deactivated),
            Some(found) if right => {
                attempt.succeeded();
                Ok(found)
            }
            _ => Err(AccountError::BadCredentials),
        }
    }

    /// The account that an identifier stands for, and the identifier as text.
    async fn identified(
        &self,
        identifier: &UserIdentifier,
    ) -> Result<(String, Option<(UserNumber, Account)>), StorageError> {
        let too_long = |name: &str| name.len() > MAX_NAME_BYTES;
        match identifier {
            UserIdentifier::Matrix(matrix) if !too_long(&matrix.user) => {
                let Some(user_id) = self.user_id_of(&matrix.user) else {
                    return Ok((matrix.user.clone(), None));
                };
                let found = self.find(&user_id).await?;
                Ok((user_id.to_string(), found))
            }
            UserIdentifier::Email(email) if !too_long(&email.address) => {
                let Some(address) = normalised_email(&email.address) else {
                    return Ok((email.address.clone(), None));
                };
                let found = self.user_with_email(&address).await?;
                Ok((address, found))
            }
            // No telephone number is ever validated here, so nobody has one.
            _ => Ok((String::new(), None)),
        }
    }

    /// The account with this (normalised) e-mail address.
    pub(super) async fn user_with_email(
        &self,
        address: &str,
    ) -> Result<Option<(UserNumber, Account)>, StorageError> {
        let Some(user) = THREEPIDS.get(&self.shared.db, &("email", address)).await? else {
            return Ok(None);
        };
        Ok(self.get(user).await?.map(|account| (user, account)))
    }

    /// The account as it is and as it shall be: with its password hashed at the cost of now.
    async fn with_current_cost(
        &self,
        old: Account,
        password: &str,
    ) -> Result<(Account, Account), AccountError> {
        let mut new = old.clone();
        if old.password_hash.as_deref().is_some_and(|hash| self.shared.passwords.is_outdated(hash))
        {
            new.password_hash = Some(self.shared.passwords.hash(password).await?);
        }
        Ok((old, new))
    }

    /// Gives tokens to a user's device. `(old, new)`: the account must still be as it was found.
    pub(super) async fn open_session(
        &self,
        user: UserNumber,
        (old, new): (Account, Account),
        device: LoginDevice,
        also: impl Fn(&mut Batch),
    ) -> Result<(OwnedUserId, Tokens), AccountError> {
        let shared = &self.shared;
        let user_id = shared.db.users().name(&shared.db, user).await?;
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            // A password that is changed, or an account closed, at the same time ends this login.
            ACCOUNTS.require_equals(&mut batch, &user, &Json(old.clone()));
            if new != old {
                ACCOUNTS.put(&mut batch, &user, &Json(new.clone()));
            }
            also(&mut batch);
            let session = NewSession {
                user,
                device_id: device.device_id.clone(),
                display_name: device.display_name.clone(),
                refresh: device.refresh,
                guest: old.guest,
            };
            let (tokens, ended) = shared.sessions.open(&mut batch, session).await?;
            match shared.sessions.commit(batch, ended).await {
                Err(StorageError::Precondition { .. }) => {
                    if self.get(user).await?.as_ref() != Some(&old) {
                        return Err(AccountError::BadCredentials);
                    }
                }
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok((user_id, tokens)),
            }
        }
        Err(AccountError::Busy)
    }

    /// A token with which another device of the user can log in, once.
    ///
    /// # Errors
    /// [`AccountError::Storage`] if the database fails.
    pub(crate) async fn login_token(
        &self,
        session: &Session,
        proof: &Proof,
    ) -> Result<String, AccountError> {
        self.spend(proof).await?;
        let fact = Fact::LoginToken { user: session.user };
        self.give_token(TokenUse::Login, LOGIN_TOKEN_LIFETIME, fact).await
    }

    /// A token by which others can ask this server who the user is.
    ///
    /// # Errors
    /// [`AccountError::Storage`] if the database fails.
    pub(crate) async fn openid_token(&self, session: &Session) -> Result<String, AccountError> {
        let fact = Fact::OpenId { user: session.user };
        self.give_token(TokenUse::OpenId, OPENID_TOKEN_LIFETIME, fact).await
    }

    /// Whom an `OpenID` token names; none if it has expired or never was.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn openid_user(
        &self,
        token: &str,
    ) -> Result<Option<OwnedUserId>, StorageError> {
        let Some(key) = TokenUse::OpenId.hash(token) else { return Ok(None) };
        match self.shared.facts.get(&key).await?.map(|row| row.what) {
            Some(Fact::OpenId { user }) => {
                Ok(Some(self.shared.db.users().name(&self.shared.db, user).await?))
            }
            _ => Ok(None),
        }
    }

    async fn give_token(
        &self,
        for_use: TokenUse,
        lifetime: Duration,
        fact: Fact,
    ) -> Result<String, AccountError> {
        let token = for_use.generate(&self.shared.random);
        let key = for_use.hash(&token).expect("a token that was just made has the right form");
        let lives_ms = lifetime.as_millis().try_into().unwrap_or(u64::MAX);
        let mut batch = Batch::new();
        self.shared.facts.put(&mut batch, &key, lives_ms, fact).await?;
        self.shared.db.commit(batch).await?;
        Ok(token)
    }
}
