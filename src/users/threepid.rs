//! Third-party identifiers: e-mail addresses, proved by following a link.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::ServerName;
use sha2::{Digest, Sha256};

use super::{
    account::{ATTEMPTS, AccountError, Accounts},
    rows::{Fact, ShortLived, Threepid, Validation},
    short_lived::{self, ShortLivedFacts},
    uia::Proof,
};
use crate::{
    api::extract::Caller,
    identity::{self, Address},
    push,
    storage::{
        Batch, Json, Range, StorageError,
        intern::UserNumber,
        schema::{THREEPIDS, USER_THREEPIDS},
    },
};

/// The only medium there is.
pub(crate) const EMAIL: &str = "email";
/// How long a mail can be answered, and how long what it proved can be used.
const VALIDATION_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest address.
const MAX_EMAIL_BYTES: usize = 254;
/// The longest link to go on to.
const MAX_LINK_BYTES: usize = 2_048;
/// How many addresses an account may have.
const MAX_THREEPIDS: usize = 50;

/// What an address is proved for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// A new account.
    Register,
    /// Setting a password without knowing the old one.
    ResetPassword,
    /// A further address of an account.
    Add,
}

/// What a client asks for to prove an address.
pub(crate) struct TokenRequest {
    /// The address.
    pub(crate) email: String,
    /// The client's secret; whoever asks for the result must know it.
    pub(crate) client_secret: String,
    /// A mail goes out only if this grows.
    pub(crate) send_attempt: u64,
    /// Where to send the user afterwards.
    pub(crate) next_link: Option<String>,
}

/// An address as it is compared: in lower case. None if it is none.
pub(crate) fn normalised_email(address: &str) -> Option<String> {
    let address = address.trim().to_lowercase();
    let (local, domain) = address.rsplit_once('@')?;
    let plain = |text: &str| {
        !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let fine = address.len() <= MAX_EMAIL_BYTES && plain(local) && plain(domain);
    fine.then_some(address)
}

/// Queues an address of a user. The batch fails if somebody else gets it in the meantime.
pub(super) fn put(batch: &mut Batch, user: UserNumber, email: &str, row: Threepid) {
    THREEPIDS.require_absent(batch, &(EMAIL, email));
    THREEPIDS.put(batch, &(EMAIL, email), &user);
    USER_THREEPIDS.put(batch, &(user, EMAIL, email), &Json(row));
}

impl Accounts {
    /// Sends a mail with a link that proves the address; the ID of the validation.
    ///
    /// The same client secret and address give the same validation, and a mail goes out only for a
    /// `send_attempt` above the last one: so a request can be repeated.
    ///
    /// # Errors
    /// [`AccountError::ThreepidMediumNotSupported`] if the server sends no mail;
    /// [`AccountError::ThreepidInUse`], [`AccountError::ThreepidNotFound`] as the purpose demands;
    /// [`AccountError::Mail`] if the mail server does not take it.
    pub(crate) async fn request_email_token(
        &self,
        purpose: Purpose,
        request: TokenRequest,
        caller: &Caller,
    ) -> Result<String, AccountError> {
        let shared = &self.shared;
        let reason = "this server can't validate e-mail addresses";
        let mailer =
            shared.mailer.as_ref().ok_or(AccountError::ThreepidMediumNotSupported { reason })?;
        if purpose == Purpose::Register && !shared.registration.enabled {
            return Err(AccountError::RegistrationDisabled);
        }
        let invalid = |reason| AccountError::InvalidParam { reason };
        let email =
            normalised_email(&request.email).ok_or(invalid("email is not an e-mail address"))?;
        if request.client_secret.is_empty() || request.client_secret.len() > 255 {
            return Err(invalid("client_secret must have 1 to 255 characters"));
        }
        let next_link = request.next_link.filter(|link| !link.is_empty());
        if let Some(link) = &next_link {
            let web = link.starts_with("https://") || link.starts_with("http://");
            if !web || link.len() > MAX_LINK_BYTES || link.contains(char::is_control) {
                return Err(invalid("next_link must be a web address"));
            }
        }
        shared.limits.registration_from(caller.address)?;
        let in_use = self.user_with_email(&email).await?.is_some();
        match purpose {
            Purpose::Register | Purpose::Add if in_use => return Err(AccountError::ThreepidInUse),
            Purpose::ResetPassword if !in_use => return Err(AccountError::ThreepidNotFound),
            _ => {}
        }

        let sid = sid(purpose, &request.client_secret, &email);
        let key = short_lived::key("validation", &sid);
        let old = self.validation(&sid, &request.client_secret).await?;
        if let Some((_, validation)) = &old
            && request.send_attempt <= validation.send_attempt
        {
            return Ok(sid);
        }
        let token = shared.random.token::<32>();
        mailer.send_link(&email, purpose, &sid, &token).await?;
        let validation = Validation {
            client_secret: Sha256::digest(&request.client_secret).into(),
            email,
            send_attempt: request.send_attempt,
            token: Sha256::digest(&token).into(),
            next_link,
            validated_ms: old.as_ref().and_then(|(_, validation)| validation.validated_ms),
        };
        let fact = Fact::Validation(validation);
        let mut batch = Batch::new();
        match &old {
            Some((row, _)) => ShortLivedFacts::replace(&mut batch, &key, row, fact),
            None => shared.facts.put(&mut batch, &key, VALIDATION_LIFETIME_MS, fact).await?,
        }
        match shared.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => Err(AccountError::Busy),
            done => Ok(done.map(|()| sid)?),
        }
    }

    /// The validation of this ID, for whoever knows the client's secret.
    pub(super) async fn validation(
        &self,
        sid: &str,
        client_secret: &str,
    ) -> Result<Option<(ShortLived, Validation)>, StorageError> {
        let secret: [u8; 32] = Sha256::digest(client_secret).into();
        let found = self.any_validation(sid).await?;
        Ok(found.filter(|(_, validation)| validation.client_secret == secret))
    }

    async fn any_validation(
        &self,
        sid: &str,
    ) -> Result<Option<(ShortLived, Validation)>, StorageError> {
        let row = self.shared.facts.get(&short_lived::key("validation", sid)).await?;
        Ok(row.and_then(|row| match &row.what {
            Fact::Validation(validation) => Some((row.clone(), validation.clone())),
            _ => None,
        }))
    }

    /// Follows the link of a mail: the address is proved. Where to go on to, if anywhere.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] if the link was never sent or is too old.
    pub(crate) async fn validate_email(
        &self,
        sid: &str,
        token: &str,
    ) -> Result<Option<String>, AccountError> {
        let given: [u8; 32] = Sha256::digest(token).into();
        for _ in 0..ATTEMPTS {
            let Some((row, old)) = self.any_validation(sid).await? else { break };
            if old.token != given {
                break;
            }
            if old.validated_ms.is_some() {
                return Ok(old.next_link);
            }
            let new = Validation { validated_ms: Some(self.shared.clock.now_ms()), ..old.clone() };
            let key = short_lived::key("validation", sid);
            let mut batch = Batch::new();
            ShortLivedFacts::replace(&mut batch, &key, &row, Fact::Validation(new));
            match self.shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map(|()| old.next_link)?),
            }
        }
        Err(AccountError::NotFound { what: "validation" })
    }

    /// Adds the address that was proved in a validation to a user's account.
    ///
    /// # Errors
    /// [`AccountError::ThreepidAuthFailed`] if it was not proved; [`AccountError::ThreepidInUse`].
    pub(crate) async fn add_threepid(
        &self,
        user: UserNumber,
        sid: &str,
        client_secret: &str,
        proof: Option<&Proof>,
    ) -> Result<(), AccountError> {
        let shared = &self.shared;
        for _ in 0..ATTEMPTS {
            let found = self.validation(sid, client_secret).await?;
            let (row, validation) = found.ok_or(AccountError::ThreepidAuthFailed)?;
            let validated_ms = validation.validated_ms.ok_or(AccountError::ThreepidAuthFailed)?;
            let email = validation.email;
            match THREEPIDS.get(&shared.db, &(EMAIL, email.as_str())).await? {
                Some(owner) if owner == user => return Ok(()),
                Some(_) => return Err(AccountError::ThreepidInUse),
                None => {}
            }
            if self.threepids(user).await?.len() >= MAX_THREEPIDS {
                let reason = "an account may have at most 50 addresses";
                return Err(AccountError::InvalidParam { reason });
            }
            let mut batch = Batch::new();
            let threepid = Threepid { validated_ms, added_ms: shared.clock.now_ms() };
            put(&mut batch, user, &email, threepid);
            let key = short_lived::key("validation", sid);
            ShortLivedFacts::consume(&mut batch, &key, &row);
            if let Some(proof) = proof {
                proof.consume(&mut batch);
            }
            match shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(AccountError::Busy)
    }

    /// The addresses of a user.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn threepids(
        &self,
        user: UserNumber,
    ) -> Result<Vec<(String, Threepid)>, StorageError> {
        let range = Range::prefix(&(user,));
        let rows = USER_THREEPIDS.scan(&self.shared.db, &range, usize::MAX).await?;
        Ok(rows.into_iter().map(|((_, _, address), Json(row))| (address, row)).collect())
    }

    /// Takes an address from a user; nothing happens if it is not theirs. It is to be unbound as
    /// well, at this identity server or wherever it was bound: whether one is known.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn remove_threepid(
        &self,
        user: UserNumber,
        address: &Address,
        server: Option<&ServerName>,
    ) -> Result<bool, StorageError> {
        let db = &self.shared.db;
        let now_ms = self.shared.clock.now_ms();
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            let known = identity::release(db, &mut batch, user, address, server, now_ms).await?;
            let key = (EMAIL, address.address.as_str());
            if address.medium == EMAIL && THREEPIDS.get(db, &key).await? == Some(user) {
                THREEPIDS.require_equals(&mut batch, &key, &user);
                THREEPIDS.delete(&mut batch, &key);
                USER_THREEPIDS.delete(&mut batch, &(user, EMAIL, address.address.as_str()));
                push::queue_address_removal(db, &mut batch, user, &address.address).await?;
            }
            match db.commit(batch).await {
                // Removed at the same time.
                Err(StorageError::Precondition { .. }) => {}
                done => return done.map(|()| known),
            }
        }
        Ok(false)
    }

    /// Queues the removal of all addresses of a user.
    pub(super) async fn clear_threepids(
        &self,
        batch: &mut Batch,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        for (address, _) in self.threepids(user).await? {
            THREEPIDS.delete(batch, &(EMAIL, address.as_str()));
            USER_THREEPIDS.delete(batch, &(user, EMAIL, address.as_str()));
        }
        Ok(())
    }
}

fn sid(purpose: Purpose, client_secret: &str, email: &str) -> String {
    let mut hash = Sha256::new();
    for part in [&format!("{purpose:?}"), client_secret, email] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}
