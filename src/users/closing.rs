//! Changing a password, and closing an account.

use ruma::{
    DeviceId, ServerName,
    api::client::uiaa::{AuthData, AuthType},
};

use super::{
    account::{ATTEMPTS, AccountError, Accounts},
    account_data::AccountData,
    filters::Filters,
    profiles::Profiles,
    rows::Account,
    session::{AuthError, Session},
    uia::{Demand, Proof},
};
use crate::{
    api::extract::Caller,
    e2ee,
    identity::{self, Address},
    rooms::subscriptions::clear_subscriptions,
    storage::{
        Batch, Json, Range, StorageError,
        intern::UserNumber,
        schema::{ACCOUNTS, CLOSED_ACCOUNTS, CLOSING_ACCOUNTS, LAST_SEEN},
    },
};

/// How many accounts that were being closed are read at a time.
const PAGE: usize = 100;

/// What is asked of an account by its user, logged in or not.
pub(crate) struct OwnRequest<'a> {
    /// Who is logged in.
    pub(crate) session: Option<&'a Session>,
    /// What the client sent as `auth`.
    pub(crate) auth: Option<&'a AuthData>,
    /// [`super::uia::body_hash`] of the request.
    pub(crate) body: [u8; 32],
    /// From where.
    pub(crate) caller: &'a Caller,
}

/// An account that was closed.
pub(crate) struct Closed {
    /// Whose.
    pub(crate) user: UserNumber,
    /// Whether it is known of each of the addresses where it was bound.
    pub(crate) are_bound_known: bool,
}

impl Accounts {
    /// Sets a new password, and logs out the user's other devices if asked to.
    ///
    /// Whoever has forgotten the password, and is not logged in, proves an e-mail address instead.
    ///
    /// # Errors
    /// [`AccountError::Uia`] with what must be proved; what is wrong with the password.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>
    pub(crate) async fn change_password(
        &self,
        request: OwnRequest<'_>,
        new_password: &str,
        logout_devices: bool,
    ) -> Result<(), AccountError> {
        let (user, proof) = self.prove_owner("POST /account/password", &request).await?;
        let hash = self.shared.passwords.hash(new_password).await?;
        self.change(user, &proof, |account, _| account.password_hash = Some(hash.clone())).await?;
        if logout_devices {
            let keep: Option<&DeviceId> = request.session.map(|session| &*session.device_id);
            self.shared.sessions.remove_all(user, keep).await?;
        }
        Ok(())
    }

    /// Closes an account for good.
    ///
    /// Nobody can log in any more, the name stays taken, and what the server kept for the user
    /// alone goes away: devices, addresses, profile, account data, filters, subscriptions. A row in
    /// `closed_accounts` has the user leave all rooms. Their addresses are to be unbound, at this
    /// identity server or wherever they were bound.
    ///
    /// # Errors
    /// [`AccountError::Uia`] with what must be proved.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
    pub(crate) async fn deactivate(
        &self,
        request: OwnRequest<'_>,
        erase: bool,
        id_server: Option<&ServerName>,
    ) -> Result<Closed, AccountError> {
        let (user, proof) = self.prove_owner("POST /account/deactivate", &request).await?;
        let (db, now_ms) = (&self.shared.db, self.shared.clock.now_ms());
        let mut released = Batch::new();
        let mut are_bound_known = true;
        for (address, _) in self.threepids(user).await? {
            let address = Address::email(address);
            are_bound_known &=
                identity::release(db, &mut released, user, &address, id_server, now_ms).await?;
        }
        if id_server.is_some() {
            db.commit(released).await?;
        }
        self.change(user, &proof, |account, batch| {
            account.deactivated = true;
            account.erased = erase;
            account.password_hash = None;
            account.admin = false;
            CLOSING_ACCOUNTS.put(batch, &user, &());
            CLOSED_ACCOUNTS.put(batch, &user, &());
        })
        .await?;
        self.finish_closing(user).await?;
        Ok(Closed { user, are_bound_known })
    }

    /// Goes on with what a crash may have interrupted. Called at start.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn resume_closing(&self) -> Result<(), StorageError> {
        loop {
            let closing = CLOSING_ACCOUNTS.scan(&self.shared.db, &Range::all(), PAGE).await?;
            if closing.is_empty() {
                return Ok(());
            }
            for (user, ()) in closing {
                self.finish_closing(user).await?;
            }
        }
    }

    async fn finish_closing(&self, user: UserNumber) -> Result<(), StorageError> {
        let db = &self.shared.db;
        self.shared.sessions.remove_all(user, None).await?;
        e2ee::Backups::clear(db, user).await?;
        let mut batch = Batch::new();
        Profiles::new(db.clone()).clear(&mut batch, user).await?;
        self.clear_threepids(&mut batch, user).await?;
        identity::release_all(db, &mut batch, user, self.shared.clock.now_ms()).await?;
        AccountData::new(db.clone()).clear(&mut batch, user).await?;
        Filters::new(db.clone()).clear(&mut batch, user).await?;
        e2ee::clear_user(db, &mut batch, user).await?;
        clear_subscriptions(db, &mut batch, user, None).await?;
        LAST_SEEN.delete(&mut batch, &user);
        CLOSING_ACCOUNTS.delete(&mut batch, &user);
        db.commit(batch).await
    }

    /// The user whose account is to be changed, once they have proved that it is theirs.
    async fn prove_owner(
        &self,
        endpoint: &'static str,
        request: &OwnRequest<'_>,
    ) -> Result<(UserNumber, Proof), AccountError> {
        let flows = match request.session {
            Some(_) => vec![vec![AuthType::Password]],
            // Without a token only a mail shows whose account it is.
            None if self.shared.mailer.is_some() => vec![vec![AuthType::EmailIdentity]],
            None => return Err(AuthError::Missing.into()),
        };
        let proof = self
            .authenticate(Demand {
                endpoint,
                body: Some(request.body),
                user: request.session.map(|session| session.user),
                flows,
                auth: request.auth,
                caller: request.caller,
            })
            .await?;
        let user = match (request.session, &proof.email) {
            (Some(session), _) => session.user,
            (None, Some(email)) => {
                let found = self.user_with_email(email).await?;
                found.ok_or(AccountError::ThreepidNotFound)?.0
            }
            (None, None) => return Err(AuthError::Missing.into()),
        };
        Ok((user, proof))
    }

    /// Changes an account's row, and uses up the proof with it.
    async fn change(
        &self,
        user: UserNumber,
        proof: &Proof,
        change: impl Fn(&mut Account, &mut Batch),
    ) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS {
            let old = self.get(user).await?.ok_or(AccountError::NotFound { what: "account" })?;
            if old.deactivated {
                return Err(AccountError::Deactivated);
            }
            let mut batch = Batch::new();
            let mut new = old.clone();
            change(&mut new, &mut batch);
            ACCOUNTS.require_equals(&mut batch, &user, &Json(old));
            ACCOUNTS.put(&mut batch, &user, &Json(new));
            proof.consume(&mut batch);
            match self.shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(AccountError::Busy)
    }
}
