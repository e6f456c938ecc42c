//! Addresses that identity servers say are a user's: which of them were told so from here, so that
//! they can be told otherwise.
//!
//! Spec: <https://spec.matrix.org/v1.19/identity-service-api/#establishing-associations>

use std::time::Duration;

use http::{Method, StatusCode};
use ruma::{OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Access, Address, IdentityError, IdentityServers, bad_answer};
use crate::{
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, Range, StorageError, intern::UserNumber, schema::IDENTITY_BINDINGS,
    },
};

/// How many bindings a user may have.
const MAX_BINDINGS: usize = 100;
/// How long somebody waits for identity servers when all bindings are to end.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// How often it is tried again to end what could not be ended at once, and for how long.
const EVERY: Duration = Duration::from_hours(1);
const GIVEN_UP_AFTER_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many bindings are read at a time.
const PAGE: usize = 200;

/// An address that is bound.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Binding {
    /// Since when it is to be no longer, in ms since the Unix epoch; none: it is to stay.
    pub(crate) released_ms: Option<u64>,
}

/// What became of bindings that were to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unbound {
    /// There are none any more.
    All,
    /// An identity server does not do that, or it is not known which one to ask.
    NotAll,
}

type BindingKey = (UserNumber, OwnedServerName, String, String);

/// Queues that an address of a user is to be bound no more: at `server`, or else wherever it was
/// bound from here. Whether there is a server to ask.
pub(crate) async fn release(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    address: &Address,
    server: Option<&ServerName>,
    now_ms: u64,
) -> Result<bool, StorageError> {
    let released = Json(Binding { released_ms: Some(now_ms) });
    let Address { medium, address } = address;
    if let Some(server) = server {
        let key = (user, server.to_owned(), medium.clone(), address.clone());
        IDENTITY_BINDINGS.put(batch, &key, &released);
        return Ok(true);
    }
    let mut found = false;
    for (key, _) in bindings(db, user).await? {
        if key.2 == *medium && key.3 == *address {
            IDENTITY_BINDINGS.put(batch, &key, &released);
            found = true;
        }
    }
    Ok(found)
}

/// Queues that no address of a user is to be bound any more.
pub(crate) async fn release_all(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    now_ms: u64,
) -> Result<(), StorageError> {
    for (key, Json(old)) in bindings(db, user).await? {
        let released_ms = old.released_ms.or(Some(now_ms));
        IDENTITY_BINDINGS.put(batch, &key, &Json(Binding { released_ms }));
    }
    Ok(())
}

async fn bindings(
    db: &Db,
    user: UserNumber,
) -> Result<Vec<(BindingKey, Json<Binding>)>, StorageError> {
    IDENTITY_BINDINGS.scan(db, &Range::prefix(&(user,)), usize::MAX).await
}

impl IdentityServers {
    /// Has the identity server say that the address which was proved there is the user's.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) async fn bind(
        &self,
        access: &Access,
        (user, user_id): (UserNumber, &UserId),
        sid: &str,
        client_secret: &str,
    ) -> Result<(), IdentityError> {
        #[derive(Deserialize)]
        struct Bound {
            medium: String,
            address: String,
            mxid: String,
        }
        if bindings(&self.shared.db, user).await?.len() >= MAX_BINDINGS {
            let what = "an account may have at most 100 addresses at identity servers";
            return Err(IdentityError::Invalid { what });
        }
        let body = json!({ "sid": sid, "client_secret": client_secret, "mxid": user_id });
        let bound: Bound = self.ask(access, Method::POST, "/3pid/bind", Some(&body)).await?;
        let server = access.server.as_str();
        let address = Address::new(&bound.medium, &bound.address);
        let address = address.map_err(|error| bad_answer(server, error))?;
        if bound.mxid != user_id.as_str() {
            return Err(bad_answer(server, "it bound another user"));
        }
        let mut batch = Batch::new();
        let key = (user, access.server.clone(), address.medium, address.address);
        IDENTITY_BINDINGS.put(&mut batch, &key, &Json(Binding::default()));
        Ok(self.shared.db.commit(batch).await?)
    }

    /// Has an identity server no longer say that an address is the user's: this one, or all that
    /// were told so from here.
    ///
    /// # Errors
    /// [`IdentityError`], among them what an identity server has against it.
    pub(crate) async fn unbind(
        &self,
        (user, user_id): (UserNumber, &UserId),
        address: &Address,
        server: Option<OwnedServerName>,
    ) -> Result<Unbound, IdentityError> {
        let Address { medium, address } = address;
        let servers: Vec<_> = if let Some(server) = server {
            vec![server]
        } else {
            let known = bindings(&self.shared.db, user).await?.into_iter();
            let of_address = known.filter(|(key, _)| key.2 == *medium && key.3 == *address);
            of_address.map(|(key, _)| key.1).collect()
        };
        let mut outcome = if servers.is_empty() { Unbound::NotAll } else { Unbound::All };
        for server in servers {
            let key = (user, server, medium.clone(), address.clone());
            match self.ask_to_unbind(user_id, &key).await {
                Ok(()) => self.forget(&key).await?,
                Err(IdentityError::Status { status, .. }) if has_no_unbinding(status) => {
                    outcome = Unbound::NotAll;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcome)
    }

    /// Ends the bindings of a user that were released. What can't be done now is tried again.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn settle(&self, user: UserNumber) -> Result<Unbound, StorageError> {
        let settled = tokio::time::timeout(SETTLED_WITHIN, self.settle_all(user)).await;
        settled.unwrap_or(Ok(Unbound::NotAll))
    }

    async fn settle_all(&self, user: UserNumber) -> Result<Unbound, StorageError> {
        let mut outcome = Unbound::All;
        let released = bindings(&self.shared.db, user).await?;
        for (key, Json(binding)) in released {
            let Some(since_ms) = binding.released_ms else { continue };
            if !self.end(&key, since_ms).await? {
                outcome = Unbound::NotAll;
            }
        }
        Ok(outcome)
    }

    /// Ends a binding; whether that is done. One that can't be ended is forgotten.
    async fn end(&self, key: &BindingKey, since_ms: u64) -> Result<bool, StorageError> {
        let user_id = self.shared.db.users().name(&self.shared.db, key.0).await?;
        let error = match self.ask_to_unbind(&user_id, key).await {
            Ok(()) => return self.forget(key).await.map(|()| true),
            Err(error) => error,
        };
        let final_word = match &error {
            IdentityError::Refused { status, .. } => *status != StatusCode::TOO_MANY_REQUESTS,
            IdentityError::Status { status, .. } => has_no_unbinding(*status),
            IdentityError::Invalid { .. } | IdentityError::NotTrusted { .. } => true,
            _ => false,
        };
        tracing::info!(
            error = &error as &dyn std::error::Error,
            server = %key.1,
            final_word,
            "an address was not unbound"
        );
        let late = self.shared.clock.now_ms().saturating_sub(since_ms) > GIVEN_UP_AFTER_MS;
        if final_word || late {
            self.forget(key).await?;
        }
        Ok(false)
    }

    async fn ask_to_unbind(&self, user_id: &UserId, key: &BindingKey) -> Result<(), IdentityError> {
        let (_, server, medium, address) = key;
        let server = self.named(server.as_str())?;
        let body = json!({ "mxid": user_id, "threepid": { "medium": medium, "address": address } });
        self.ask_signed::<serde::de::IgnoredAny>(&server, "/3pid/unbind", &body).await.map(drop)
    }

    async fn forget(&self, key: &BindingKey) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        IDENTITY_BINDINGS.delete(&mut batch, key);
        self.shared.db.commit(batch).await
    }

    /// Tries again to end bindings that were released, until the server stops.
    pub(crate) async fn keep_unbinding(self, stopping: Stopping) {
        while tokio::time::timeout(EVERY, stopping.wait()).await.is_err() {
            if let Err(error) = self.end_released().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "bound addresses can't be read");
            }
        }
    }

    async fn end_released(&self) -> Result<(), StorageError> {
        let mut range = Range::all();
        loop {
            let page = IDENTITY_BINDINGS.scan(&self.shared.db, &range, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range = range.after(last);
            for (key, Json(binding)) in page {
                if let Some(since_ms) = binding.released_ms {
                    self.end(&key, since_ms).await?;
                }
            }
        }
    }
}

/// Whether an answer without a Matrix error means that the identity server unbinds nothing.
fn has_no_unbinding(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED)
}
