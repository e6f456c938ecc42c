//! Accounts: what the parts of this area share, and finding an account.

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId, api::client::uiaa::UiaaInfo};

use super::{
    limits::{LimitExceeded, Limits},
    mail::{MailError, Mailer},
    password::{PasswordError, Passwords},
    rows::Account,
    session::{AuthError, Sessions},
    short_lived::ShortLivedFacts,
};
use crate::{
    appservice::Appservices,
    clock::{Clock, Random},
    config::{self, Config},
    storage::{Db, Json, StorageError, intern::UserNumber, schema::ACCOUNTS},
};

/// How often a change is tried again when another one was faster.
pub(super) const ATTEMPTS: usize = 16;

/// Why something about an account was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// The name is not one a user may choose.
    #[error("{reason}")]
    InvalidUsername {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It belongs to an application service, or not to the one that asks.
    #[error("{reason}")]
    Exclusive {
        /// Why.
        reason: &'static str,
    },
    /// An application service that manages devices wants a token.
    #[error("inhibit_login must be true: the application service manages devices itself")]
    AppserviceLoginUnsupported,
    /// The name is taken, or was once.
    #[error("the user ID is already taken")]
    UserInUse,
    /// Nobody may register here.
    #[error("registration is disabled on this server")]
    RegistrationDisabled,
    /// Guests may not register here.
    #[error("guest access is disabled on this server")]
    GuestsDisabled,
    /// A parameter is missing.
    #[error("{name} is missing")]
    MissingParam {
        /// Its name.
        name: &'static str,
    },
    /// A parameter is not acceptable.
    #[error("{reason}")]
    InvalidParam {
        /// Why.
        reason: &'static str,
    },
    /// Name and password do not fit, or there is no such user.
    #[error("invalid username or password")]
    BadCredentials,
    /// A login token was used before, has expired, or never was.
    #[error("invalid login token")]
    BadLoginToken,
    /// The account is closed.
    #[error("this account has been deactivated")]
    Deactivated,
    /// There is no such kind of login.
    #[error("unknown login type")]
    UnknownLoginType,
    /// More stages of user-interactive authentication are needed.
    #[error("user-interactive authentication is required")]
    Uia(Box<UiaaInfo>),
    /// A session of user-interactive authentication was used for another request.
    #[error("the operation has changed during user-interactive authentication")]
    UiaChanged,
    /// There is no shared secret to register with.
    #[error("shared secret registration is not enabled")]
    NoSharedSecret,
    /// The nonce of a registration by shared secret was used, has expired, or never was.
    #[error("unrecognised nonce")]
    UnknownNonce,
    /// The HMAC of a registration by shared secret is wrong.
    #[error("HMAC incorrect")]
    WrongMac,
    /// The request is for somebody else, or for administrators.
    #[error("{reason}")]
    Forbidden {
        /// Why.
        reason: &'static str,
    },
    /// There is no such thing.
    #[error("{what} not found")]
    NotFound {
        /// What was asked for.
        what: &'static str,
    },
    /// The address belongs to an account.
    #[error("the address is already in use")]
    ThreepidInUse,
    /// The address belongs to nobody.
    #[error("no account has this address")]
    ThreepidNotFound,
    /// The address was not proved.
    #[error("the address was not validated")]
    ThreepidAuthFailed,
    /// The server can't validate addresses of this medium.
    #[error("{reason}")]
    ThreepidMediumNotSupported {
        /// Why.
        reason: &'static str,
    },
    /// Too many attempts.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// A password could not be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A mail could not be sent.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// Tokens could not be given.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Too many changes at once.
    #[error("the account is being changed by others")]
    Busy,
    /// The database failed.
    #[error("cannot read or write an account")]
    Storage(#[from] StorageError),
}

/// The accounts of this server.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(super) shared: Arc<Shared>,
}

/// What the parts of this area use.
pub(super) struct Shared {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) server_name: OwnedServerName,
    pub(super) registration: config::Registration,
    pub(super) sessions: Sessions,
    pub(super) passwords: Passwords,
    pub(super) limits: Limits,
    pub(super) facts: ShortLivedFacts,
    /// None: the server sends no mail.
    pub(super) mailer: Option<Mailer>,
    pub(super) appservices: Appservices,
}

impl Accounts {
    /// The accounts in `db`.
    ///
    /// # Errors
    /// [`AccountError`] if the cost of passwords or the mail server is configured impossibly.
    pub(crate) fn new(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        sessions: Sessions,
        appservices: Appservices,
    ) -> Result<Self, AccountError> {
        Ok(Self {
            shared: Arc::new(Shared {
                server_name: config.server_name.clone(),
                registration: config.registration.clone(),
                sessions,
                passwords: Passwords::new(&config.password, random.clone())?,
                limits: Limits::new(&config.rate_limits, clock.clone()),
                facts: ShortLivedFacts::new(db.clone(), clock.clone()),
                mailer: Mailer::from_config(config)?,
                appservices,
                db,
                clock,
                random,
            }),
        })
    }

    /// The name of this server.
    pub(crate) fn server_name(&self) -> &ServerName {
        &self.shared.server_name
    }

    /// Whether the server sends mail, and so can prove e-mail addresses.
    pub(crate) fn sends_mail(&self) -> bool {
        self.shared.mailer.is_some()
    }

    /// What sends the server's mail, if anything does.
    pub(crate) fn mailer(&self) -> Option<Mailer> {
        self.shared.mailer.clone()
    }

    /// The sessions of the accounts.
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// The account of a local user; none if there never was one.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(&self, user: UserNumber) -> Result<Option<Account>, StorageError> {
        Ok(ACCOUNTS.get(&self.shared.db, &user).await?.map(|Json(account)| account))
    }

    /// The number and account of a local user, by the user ID.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn find(
        &self,
        user_id: &UserId,
    ) -> Result<Option<(UserNumber, Account)>, StorageError> {
        if user_id.server_name() != self.shared.server_name {
            return Ok(None);
        }
        let Some(user) = self.shared.db.users().find(&self.shared.db, user_id).await? else {
            return Ok(None);
        };
        Ok(self.get(user).await?.map(|account| (user, account)))
    }

    /// The user ID that somebody means who logs in: whole, or the part before the server's name.
    pub(super) fn user_id_of(&self, user: &str) -> Option<OwnedUserId> {
        if user.starts_with('@') {
            UserId::parse(user).ok()
        } else {
            let user = user.to_ascii_lowercase();
            UserId::parse(format!("@{user}:{}", self.shared.server_name)).ok()
        }
    }

    /// Whether the account may use what is for administrators.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn is_admin(&self, user: UserNumber) -> Result<bool, StorageError> {
        Ok(self.get(user).await?.is_some_and(|account| account.admin && !account.deactivated))
    }
}
