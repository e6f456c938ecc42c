//! User-interactive authentication: whoever has a token proves once more who they are.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use std::collections::BTreeMap;

use ruma::api::{
    client::uiaa::{AuthData, AuthFlow, AuthType, ThirdpartyIdCredentials, UiaaInfo},
    error::{ErrorKind, StandardErrorBody},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    account::{AccountError, Accounts},
    rows::{Fact, ShortLived, UiaSession},
    short_lived::{self, ShortLivedFacts},
};
use crate::{
    api::extract::Caller,
    storage::{Batch, StorageError, intern::UserNumber},
};

/// How long a session lives: time enough to find a mail and follow its link.
const SESSION_LIFETIME_MS: u64 = 60 * 60 * 1000;
/// The longest ID of a session that is looked for.
const MAX_SESSION_BYTES: usize = 128;

/// What a request demands.
pub(crate) struct Demand<'a> {
    /// Method and path, the same for each try.
    pub(crate) endpoint: &'static str,
    /// [`body_hash`] of the request; none if it may change from stage to stage.
    pub(crate) body: Option<[u8; 32]>,
    /// Who is logged in.
    pub(crate) user: Option<UserNumber>,
    /// Ways to pass, each a list of stages.
    pub(crate) flows: Vec<Vec<AuthType>>,
    /// What the client sent as `auth`.
    pub(crate) auth: Option<&'a AuthData>,
    /// From where.
    pub(crate) caller: &'a Caller,
}

/// What was proved.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Proof {
    /// The registration token that was given.
    pub(crate) registration_token: Option<String>,
    /// The e-mail address that was proved.
    pub(crate) email: Option<String>,
    row: Option<([u8; 32], ShortLived)>,
}

impl Proof {
    /// Queues the end of the session: a proof is good for one request.
    pub(crate) fn consume(&self, batch: &mut Batch) {
        if let Some((key, row)) = &self.row {
            ShortLivedFacts::consume(batch, key, row);
        }
    }
}

/// A stage that was tried and not passed.
struct Failure {
    kind: ErrorKind,
    message: &'static str,
}

/// The hash of a request's body without `auth`, equal for equal JSON.
pub(crate) fn body_hash(body: &[u8]) -> [u8; 32] {
    let mut members: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(body).unwrap_or_default();
    members.remove("auth");
    let text = serde_json::to_vec(&members).unwrap_or_default();
    Sha256::digest(text).into()
}

impl Accounts {
    /// Lets a request pass if one of the flows is complete.
    ///
    /// # Errors
    /// [`AccountError::Uia`] with what is still needed, or with a new session if the one that was
    /// named is unknown; [`AccountError::UiaChanged`] if the session belongs to another request.
    pub(crate) async fn authenticate(&self, demand: Demand<'_>) -> Result<Proof, AccountError> {
        let asked = demand.auth.and_then(AuthData::session);
        let found = match asked.filter(|id| id.len() <= MAX_SESSION_BYTES) {
            Some(id) => self.uia_session(id).await?,
            None => None,
        };
        let is_unknown = asked.is_some() && found.is_none();
        let (id, row, mut session) = if let (Some(id), Some((row, session))) = (asked, found) {
            // Spec: "the homeserver should check that the session is for the same request"; so
            // nobody can have another request approved than the one that was shown.
            let same = session.endpoint == demand.endpoint
                && session.user == demand.user.map(|user| user.0)
                && session.body == demand.body;
            if !same {
                return Err(AccountError::UiaChanged);
            }
            (id.to_owned(), Some(row), session)
        } else {
            // A stage may be passed at once, without asking for a session first.
            let session = UiaSession {
                endpoint: demand.endpoint.to_owned(),
                body: demand.body,
                user: demand.user.map(|user| user.0),
                ..UiaSession::default()
            };
            (self.shared.random.token::<18>(), None, session)
        };

        let before = session.clone();
        let failure = match demand.auth {
            // Whoever comes with a session that has expired begins anew, and proves nothing yet.
            Some(_) if is_unknown => Some(Failure {
                kind: ErrorKind::Unknown,
                message: "This authentication session is unknown or has expired",
            }),
            Some(auth) => self.try_stage(&demand, auth, &mut session).await?.err(),
            None => None,
        };

        let key = short_lived::key("uia", &id);
        let complete = demand.flows.iter().any(|flow| {
            flow.iter().all(|stage| session.completed.iter().any(|done| *done == stage.as_str()))
        });
        if complete && failure.is_none() {
            return Ok(Proof {
                registration_token: session.registration_token,
                email: session.email,
                row: row.map(|row| (key, row)),
            });
        }

        let mut batch = Batch::new();
        match &row {
            None => {
                if demand.user.is_none() {
                    self.shared.limits.login_from(demand.caller.address)?;
                }
                // A question alone is lost without harm; a stage that was passed is not.
                if session.completed.is_empty() {
                    batch = Batch::unsynced();
                }
                let fact = Fact::Uia(session.clone());
                self.shared.facts.put(&mut batch, &key, SESSION_LIFETIME_MS, fact).await?;
            }
            Some(row) if session != before => {
                ShortLivedFacts::replace(&mut batch, &key, row, Fact::Uia(session.clone()));
            }
            Some(_) => {}
        }
        if !batch.is_empty() {
            match self.shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => return Err(AccountError::Busy),
                done => done?,
            }
        }
        Err(AccountError::Uia(Box::new(challenge(demand.flows, session, id, failure))))
    }

    /// Ends the session of a proof, for what is then done in several batches.
    ///
    /// # Errors
    /// [`AccountError::UiaChanged`] if it was used at the same time.
    pub(crate) async fn spend(&self, proof: &Proof) -> Result<(), AccountError> {
        let mut batch = Batch::unsynced();
        proof.consume(&mut batch);
        if batch.is_empty() {
            return Ok(());
        }
        match self.shared.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => Err(AccountError::UiaChanged),
            done => Ok(done?),
        }
    }

    async fn uia_session(
        &self,
        id: &str,
    ) -> Result<Option<(ShortLived, UiaSession)>, StorageError> {
        let row = self.shared.facts.get(&short_lived::key("uia", id)).await?;
        Ok(row.and_then(|row| match &row.what {
            Fact::Uia(session) => Some((row.clone(), session.clone())),
            _ => None,
        }))
    }

    /// Tries the stage that the client sent; what it proves goes into `session`.
    async fn try_stage(
        &self,
        demand: &Demand<'_>,
        auth: &AuthData,
        session: &mut UiaSession,
    ) -> Result<Result<(), Failure>, AccountError> {
        // The client asks whether stages it passed elsewhere (a page of the server) are done.
        let Some(stage) = auth.auth_type() else { return Ok(Ok(())) };
        let name = stage.as_str().to_owned();
        if session.completed.contains(&name) {
            return Ok(Ok(()));
        }
        if !demand.flows.iter().flatten().any(|offered| *offered == stage) {
            let message = "This authentication stage is not offered here";
            return Ok(Err(Failure { kind: ErrorKind::Unrecognized, message }));
        }
        let passed = match auth {
            AuthData::Dummy(_) => Ok(()),
            AuthData::Password(password) => {
                self.password_stage(demand, &password.identifier, &password.password).await?
            }
            AuthData::RegistrationToken(data) => {
                if self.registration_token_is_valid(&data.token).await? {
                    session.registration_token = Some(data.token.clone());
                    Ok(())
                } else {
                    self.shared.limits.registration_from(demand.caller.address)?;
                    let message = "This registration token is not valid";
                    Err(Failure { kind: ErrorKind::Unauthorized, message })
                }
            }
            AuthData::EmailIdentity(data) => {
                if let Some(email) = self.proved_email(&data.thirdparty_id_creds).await? {
                    session.email = Some(email);
                    Ok(())
                } else {
                    let message = "The e-mail address has not been validated";
                    Err(Failure { kind: ErrorKind::ThreepidAuthFailed, message })
                }
            }
            _ => {
                let message = "This authentication stage is not supported";
                Err(Failure { kind: ErrorKind::Unrecognized, message })
            }
        };
        if passed.is_ok() {
            session.completed.push(name);
        }
        Ok(passed)
    }

    async fn password_stage(
        &self,
        demand: &Demand<'_>,
        identifier: &ruma::api::client::uiaa::UserIdentifier,
        password: &str,
    ) -> Result<Result<(), Failure>, AccountError> {
        let failure = Failure { kind: ErrorKind::Forbidden, message: "Invalid password" };
        match self.check_password(identifier, password).await {
            // It must be the user's own password, not just somebody's.
            Ok((user, _)) if demand.user.is_none_or(|asking| asking == user) => Ok(Ok(())),
            Ok(_) | Err(AccountError::BadCredentials | AccountError::Deactivated) => {
                Ok(Err(failure))
            }
            Err(error) => Err(error),
        }
    }

    /// The e-mail address that was proved in a validation.
    pub(super) async fn proved_email(
        &self,
        credentials: &ThirdpartyIdCredentials,
    ) -> Result<Option<String>, StorageError> {
        let validation = self
            .validation(credentials.sid.as_str(), credentials.client_secret.as_str())
            .await?
            .map(|(_, validation)| validation);
        Ok(validation
            .filter(|validation| validation.validated_ms.is_some())
            .map(|validation| validation.email))
    }
}

fn challenge(
    flows: Vec<Vec<AuthType>>,
    session: UiaSession,
    id: String,
    failure: Option<Failure>,
) -> UiaaInfo {
    let mut info = UiaaInfo::new(flows.into_iter().map(AuthFlow::new).collect());
    info.completed = session.completed.into_iter().map(AuthType::from).collect();
    // Spec: a required object; no stage of ours has parameters.
    info.params = RawValue::from_string("{}".to_owned()).ok();
    info.session = Some(id);
    info.auth_error = failure.map(|Failure { kind, message }| {
        Box::new(StandardErrorBody::new(kind, message.to_owned()))
    });
    info
}
