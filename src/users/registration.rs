//! Making accounts.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-registration-and-management>

use hmac::{Hmac, KeyInit, Mac};
use ruma::{
    OwnedUserId, UserId,
    api::client::uiaa::{AuthData, AuthType},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{
    account::{ATTEMPTS, AccountError, Accounts},
    account_data::AccountData,
    login::LoginDevice,
    profiles::Profiles,
    rows::{Account, Fact, RegistrationToken, Threepid},
    session::{Ended, NewSession, Tokens},
    short_lived::{self, ShortLivedFacts},
    threepid,
    uia::{Demand, Proof},
};
use crate::{
    api::extract::Caller,
    push::rules::{self, PUSH_RULES_TYPE},
    storage::{
        Batch, Json, StorageError,
        schema::{ACCOUNTS, META, REGISTRATION_TOKENS},
    },
};

/// How long a nonce of registration by shared secret lives.
const NONCE_LIFETIME_MS: u64 = 60_000;
/// The longest registration token, by the spec.
const MAX_TOKEN_BYTES: usize = 64;
/// Written once the token of the first start was made.
const FIRST_TOKEN_MADE: &str = "registration.first_token";

/// Who wants an account.
#[derive(Debug, Default)]
pub(crate) struct NewAccount {
    /// The part of the user ID before the server's name; none: the server chooses.
    pub(crate) username: Option<String>,
    /// The password.
    pub(crate) password: Option<String>,
    /// Where to log in at once; none: nowhere.
    pub(crate) device: Option<LoginDevice>,
}

/// A registration by shared secret, as scripts send it.
pub(crate) struct SharedSecretRegistration {
    /// The nonce that was asked for.
    pub(crate) nonce: String,
    /// The part of the user ID before the server's name.
    pub(crate) username: String,
    /// The password.
    pub(crate) password: String,
    /// What it is called at first.
    pub(crate) displayname: Option<String>,
    /// Whether it may use the administration API.
    pub(crate) admin: bool,
    /// A kind of user, signed like the rest.
    pub(crate) user_type: Option<String>,
    /// The HMAC in hex.
    pub(crate) mac: String,
}

impl Accounts {
    /// Makes an account for whoever passes user-interactive authentication.
    ///
    /// # Errors
    /// [`AccountError`]: registration is off, the name is taken or unacceptable (told before any
    /// stage is asked for), stages are missing, too many registrations.
    pub(crate) async fn register(
        &self,
        new: NewAccount,
        auth: Option<&AuthData>,
        caller: &Caller,
    ) -> Result<(OwnedUserId, Option<Tokens>), AccountError> {
        let settings = &self.shared.registration;
        if !settings.enabled {
            return Err(AccountError::RegistrationDisabled);
        }
        if let Some(device) = &new.device {
            device.check()?;
        }
        let user_id = match &new.username {
            Some(username) => self.check_available(username).await?,
            None => self.generated_user_id()?,
        };
        let stage =
            if settings.require_token { AuthType::RegistrationToken } else { AuthType::Dummy };
        let mut flows = vec![vec![stage.clone()]];
        if self.shared.mailer.is_some() {
            flows.push(vec![stage, AuthType::EmailIdentity]);
        }
        let proof = self
            .authenticate(Demand {
                endpoint: "POST /register",
                // A client finds the flows out first and has its user fill in the form later; until
                // the last stage is passed the request means nothing.
                body: None,
                user: None,
                flows,
                auth,
                caller,
            })
            .await?;
        let password =
            new.password.as_deref().ok_or(AccountError::MissingParam { name: "password" })?;
        self.shared.limits.registration_from(caller.address)?;
        let account = Account {
            password_hash: Some(self.shared.passwords.hash(password).await?),
            created_ms: self.shared.clock.now_ms(),
            ..Account::default()
        };
        self.create(&user_id, account, None, new.device.as_ref(), &proof).await
    }

    /// Makes a guest account: it can do little, and is gone with its token.
    ///
    /// # Errors
    /// [`AccountError::GuestsDisabled`] unless guests are allowed.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
    pub(crate) async fn register_guest(
        &self,
        display_name: Option<String>,
        caller: &Caller,
    ) -> Result<(OwnedUserId, Option<Tokens>), AccountError> {
        if !self.shared.registration.allow_guests {
            return Err(AccountError::GuestsDisabled);
        }
        self.shared.limits.registration_from(caller.address)?;
        // Names of digits only are kept for guests: no other user can have one.
        let number = u64::from_be_bytes(self.shared.random.bytes());
        let user_id = self.user_id(&number.to_string())?;
        let account =
            Account { created_ms: self.shared.clock.now_ms(), guest: true, ..Account::default() };
        // Spec: `device_id`, `username` and the like are ignored for guests.
        let device = LoginDevice { display_name, ..LoginDevice::default() };
        self.create(&user_id, account, None, Some(&device), &Proof::default()).await
    }

    /// Writes the account and all that comes with it, in one batch.
    pub(super) async fn create(
        &self,
        user_id: &UserId,
        account: Account,
        displayname: Option<String>,
        device: Option<&LoginDevice>,
        proof: &Proof,
    ) -> Result<(OwnedUserId, Option<Tokens>), AccountError> {
        let shared = &self.shared;
        let user = shared.db.users().intern(&shared.db, user_id).await?;
        let now = shared.clock.now_ms();
        // Clients take the rules from their first sync.
        let push_rules = rules::content(&rules::server_default(user_id)).to_string();
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            ACCOUNTS.require_absent(&mut batch, &user);
            ACCOUNTS.put(&mut batch, &user, &Json(account.clone()));
            let name = displayname.as_deref().unwrap_or_else(|| user_id.localpart());
            Profiles::create(&mut batch, user, name);
            proof.consume(&mut batch);
            if let Some(token) = &proof.registration_token {
                self.use_registration_token(&mut batch, token).await?;
            }
            if let Some(email) = &proof.email {
                if self.user_with_email(email).await?.is_some() {
                    return Err(AccountError::ThreepidInUse);
                }
                let row = Threepid { validated_ms: now, added_ms: now };
                threepid::put(&mut batch, user, email, row);
            }
            let (tokens, ended) = match device {
                Some(device) => {
                    let session = NewSession {
                        user,
                        device_id: device.device_id.clone(),
                        display_name: device.display_name.clone(),
                        refresh: device.refresh,
                        guest: account.guest,
                    };
                    let (tokens, ended) = shared.sessions.open(&mut batch, session).await?;
                    (Some(tokens), ended)
                }
                None => (None, Ended::default()),
            };
            let position = shared.db.position().await?;
            AccountData::create(&mut batch, position, user, PUSH_RULES_TYPE, &push_rules);
            match shared.sessions.commit(batch, ended).await {
                Ok(()) => return Ok((user_id.to_owned(), tokens)),
                // The name was taken, or a token used, in the meantime.
                Err(StorageError::Precondition { .. }) => {
                    if self.get(user).await?.is_some() {
                        return Err(AccountError::UserInUse);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(AccountError::Busy)
    }

    /// The user ID that `username` would give.
    ///
    /// # Errors
    /// [`AccountError::InvalidUsername`], [`AccountError::UserInUse`], [`AccountError::Exclusive`].
    pub(crate) async fn check_available(
        &self,
        username: &str,
    ) -> Result<OwnedUserId, AccountError> {
        // Spec: "must NOT contain uppercase characters". People type them all the same.
        let localpart = username.to_ascii_lowercase();
        let invalid = |reason| Err(AccountError::InvalidUsername { reason });
        if localpart.is_empty() {
            return invalid("a user name can't be empty");
        }
        let acceptable = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)
        };
        if !localpart.bytes().all(acceptable) {
            return invalid("a user name consists of a-z, 0-9 and the characters . _ = - / +");
        }
        let user_id = self.user_id(&localpart)?;
        self.check_not_reserved(&user_id)?;
        if localpart.starts_with('_') {
            return invalid("user names beginning with _ are kept for bridges");
        }
        if localpart.bytes().all(|byte| byte.is_ascii_digit()) {
            return invalid("user names of digits only are kept for guests");
        }
        match self.find(&user_id).await? {
            Some(_) => Err(AccountError::UserInUse),
            None => Ok(user_id),
        }
    }

    /// Says whether a name is free, but not too often: the answer tells who has an account.
    ///
    /// # Errors
    /// As [`Self::check_available`], and [`AccountError::Limit`].
    pub(crate) async fn is_available(
        &self,
        username: &str,
        caller: &Caller,
    ) -> Result<(), AccountError> {
        self.shared.limits.login_from(caller.address)?;
        self.check_available(username).await.map(|_| ())
    }

    pub(super) fn user_id(&self, localpart: &str) -> Result<OwnedUserId, AccountError> {
        let user_id = format!("@{localpart}:{}", self.shared.server_name);
        let too_long =
            AccountError::InvalidUsername { reason: "a user ID may have at most 255 characters" };
        if user_id.len() > 255 {
            return Err(too_long);
        }
        UserId::parse(user_id).map_err(|_| too_long)
    }

    fn generated_user_id(&self) -> Result<OwnedUserId, AccountError> {
        let letters = self.shared.random.bytes::<12>().map(|byte| char::from(b'a' + byte % 26));
        self.user_id(&letters.iter().collect::<String>())
    }

    /// Whether a registration token is good for one more account.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn registration_token_is_valid(
        &self,
        token: &str,
    ) -> Result<bool, StorageError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(false);
        }
        if self.is_configured_token(token) {
            return Ok(true);
        }
        let row = REGISTRATION_TOKENS.get(&self.shared.db, token).await?;
        Ok(row.is_some_and(|Json(row)| self.is_usable(&row)))
    }

    /// As [`Self::registration_token_is_valid`], for anybody who asks, but not too often.
    ///
    /// # Errors
    /// [`AccountError::RegistrationDisabled`], [`AccountError::Limit`].
    pub(crate) async fn registration_token_validity(
        &self,
        token: &str,
        caller: &Caller,
    ) -> Result<bool, AccountError> {
        self.shared.limits.login_from(caller.address)?;
        if !self.shared.registration.enabled || !self.shared.registration.require_token {
            return Err(AccountError::RegistrationDisabled);
        }
        Ok(self.registration_token_is_valid(token).await?)
    }

    fn is_configured_token(&self, token: &str) -> bool {
        // Hashes are compared, so the time says nothing about the tokens.
        let hash = Sha256::digest(token);
        let configured = &self.shared.registration.tokens;
        configured.iter().any(|known| Sha256::digest(known.expose()) == hash)
    }

    fn is_usable(&self, row: &RegistrationToken) -> bool {
        row.uses_allowed.is_none_or(|allowed| row.completed < allowed)
            && row.expires_ms.is_none_or(|expires| expires > self.shared.clock.now_ms())
    }

    /// Counts a use. The batch fails if the token is used by somebody else in the meantime.
    async fn use_registration_token(
        &self,
        batch: &mut Batch,
        token: &str,
    ) -> Result<(), AccountError> {
        if self.is_configured_token(token) {
            return Ok(());
        }
        let used_up = AccountError::Forbidden { reason: "this registration token is used up" };
        let Some(old) = REGISTRATION_TOKENS.get(&self.shared.db, token).await? else {
            return Err(used_up);
        };
        if !self.is_usable(&old.0) {
            return Err(used_up);
        }
        let new = RegistrationToken { completed: old.0.completed + 1, ..old.0.clone() };
        REGISTRATION_TOKENS.require_equals(batch, token, &old);
        REGISTRATION_TOKENS.put(batch, token, &Json(new));
        Ok(())
    }

    /// A registration token for whoever starts the server for the first time: made once, if nobody
    /// could register otherwise.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn first_registration_token(&self) -> Result<Option<String>, StorageError> {
        let shared = &self.shared;
        let settings = &shared.registration;
        if !settings.enabled
            || !settings.require_token
            || !settings.tokens.is_empty()
            || META.contains(&shared.db, FIRST_TOKEN_MADE).await?
        {
            return Ok(None);
        }
        let token = shared.random.token::<18>();
        let mut batch = Batch::new();
        META.require_absent(&mut batch, FIRST_TOKEN_MADE);
        META.put(&mut batch, FIRST_TOKEN_MADE, &Vec::new());
        REGISTRATION_TOKENS.put(&mut batch, &token, &Json(RegistrationToken::default()));
        match shared.db.commit(batch).await {
            Ok(()) => Ok(Some(token)),
            Err(StorageError::Precondition { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A nonce for one registration by shared secret.
    ///
    /// # Errors
    /// [`AccountError::NoSharedSecret`] if there is none.
    pub(crate) async fn registration_nonce(&self, caller: &Caller) -> Result<String, AccountError> {
        if self.shared.registration.shared_secret.is_none() {
            return Err(AccountError::NoSharedSecret);
        }
        self.shared.limits.login_from(caller.address)?;
        let nonce = self.shared.random.token::<32>();
        let key = short_lived::key("nonce", &nonce);
        let mut batch = Batch::unsynced();
        self.shared.facts.put(&mut batch, &key, NONCE_LIFETIME_MS, Fact::Nonce).await?;
        self.shared.db.commit(batch).await?;
        Ok(nonce)
    }

    /// Makes an account for a script that knows the shared secret, also if nobody else may
    /// register.
    ///
    /// # Errors
    /// [`AccountError::NoSharedSecret`], [`AccountError::UnknownNonce`], [`AccountError::WrongMac`];
    /// what is wrong with the name or the password.
    pub(crate) async fn register_by_shared_secret(
        &self,
        request: SharedSecretRegistration,
    ) -> Result<(OwnedUserId, Tokens), AccountError> {
        let secret = self.shared.registration.shared_secret.as_ref();
        let secret = secret.ok_or(AccountError::NoSharedSecret)?;
        let key = short_lived::key("nonce", &request.nonce);
        let nonce = self.shared.facts.get(&key).await?;
        let nonce =
            nonce.filter(|row| row.what == Fact::Nonce).ok_or(AccountError::UnknownNonce)?;
        if !is_right_mac(secret.expose(), &request) {
            return Err(AccountError::WrongMac);
        }
        let user_id = self.check_available(&request.username).await?;
        let account = Account {
            password_hash: Some(self.shared.passwords.hash(&request.password).await?),
            created_ms: self.shared.clock.now_ms(),
            admin: request.admin,
            ..Account::default()
        };
        let mut batch = Batch::new();
        ShortLivedFacts::consume(&mut batch, &key, &nonce);
        match self.shared.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => return Err(AccountError::UnknownNonce),
            done => done?,
        }
        let device = LoginDevice::default();
        let proof = Proof::default();
        let made =
            self.create(&user_id, account, request.displayname, Some(&device), &proof).await?;
        match made {
            (user_id, Some(tokens)) => Ok((user_id, tokens)),
            (_, None) => Err(AccountError::Busy),
        }
    }
}

/// HMAC-SHA1 over nonce, user, password, `admin` or `notadmin` and, if given, the user type, with
/// a zero byte between them.
fn is_right_mac(secret: &str, request: &SharedSecretRegistration) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return false };
    let admin = if request.admin { "admin" } else { "notadmin" };
    let mut parts = vec![&*request.nonce, &request.username, &request.password, admin];
    parts.extend(request.user_type.as_deref());
    mac.update(parts.join("\0").as_bytes());
    decode_hex(&request.mac).is_some_and(|given| mac.verify_slice(&given).is_ok())
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}
