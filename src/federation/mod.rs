//! Other servers: who they are, what they ask, what is asked of them.
//!
//! The crate `federation` has what needs neither database nor rooms; here it meets both.

mod encryption;
pub(crate) mod exchange;
mod keys;
pub(crate) mod lists;
mod media;
mod peers;
mod policy;
mod signing;
mod verify;

#[cfg(test)]
mod media_tests;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use federation::{
    BadRequestSignature, HttpTransport, KeyRing, KeyRingError, Now, Purpose, ServerKeys, SystemDns,
    Transport, XMatrix,
};
use http::{HeaderMap, header};
use moka::sync::Cache;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedTransactionId, ServerName,
    serde::{Base64, base64::Standard},
    signatures::Ed25519KeyPair,
};

pub(crate) use encryption::FederatedKeys;
pub(crate) use keys::{ServerKeysRecord, queries as key_queries};
pub(crate) use media::FederatedMedia;
pub(crate) use peers::PeerError;

use crate::{
    clock::{Clock, Random},
    config::Config,
    outgoing::{Outgoing, OutgoingError},
    rooms::keys::{RetiredKey, ServerKey},
    storage::{Db, StorageError},
};
use keys::{FetchedKeys, StoredKeys};

/// How long others may go on with the keys they have of this server.
const KEY_VALIDITY_MS: u64 = 24 * 3_600_000;
/// The most `Authorization` headers of a request that are looked at: old servers send one for each
/// of their keys.
const MAX_SIGNATURES: usize = 4;
/// Of how many servers it is remembered that they do not answer.
const MAX_PAUSED: u64 = 50_000;

/// This server among others.
#[derive(Clone)]
pub(crate) struct Federation {
    shared: Arc<Shared>,
}

struct Shared {
    enabled: bool,
    faster_joins: bool,
    clock: Clock,
    random: Random,
    key: ServerKey,
    key_pair: Ed25519KeyPair,
    transport: Arc<dyn Transport>,
    key_ring: KeyRing<StoredKeys, FetchedKeys>,
    paused: Cache<OwnedServerName, federation::Backoff>,
}

/// Why this server can't be one among others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FederationStartError {
    /// Requests can't be made as configured.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    /// Its signing key can't be read.
    #[error("cannot read the signing key")]
    Storage(#[from] StorageError),
    /// Its signing key is none.
    #[error("the signing key in the database is none")]
    Key(#[from] ruma::signatures::Ed25519KeyPairParseError),
}

/// Why a request is not taken as that of a server. (`M_UNAUTHORIZED`, 401)
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAuthenticated {
    /// The signature is missing, malformed or wrong.
    #[error(transparent)]
    Signature(#[from] BadRequestSignature),
    /// The key that the signature names is not to be had.
    #[error(transparent)]
    Key(#[from] KeyRingError),
}

impl Federation {
    /// Connects to others by HTTPS.
    ///
    /// # Errors
    /// [`FederationStartError`].
    pub(crate) async fn new(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        outgoing: &Outgoing,
    ) -> Result<Self, FederationStartError> {
        let dns = SystemDns::new(outgoing.resolver());
        let clients = outgoing.clone();
        let permits = outgoing.clone();
        let draws = random.clone();
        let transport = HttpTransport::new(
            dns,
            move || clients.client(),
            Arc::new(move |address| permits.permits(address)),
            now_of(&clock),
            move || u64::from_be_bytes(draws.bytes()),
        )
        .map_err(OutgoingError::Client)?;
        Self::over(config, db, clock, random, Arc::new(transport)).await
    }

    /// Reaches others over `transport`.
    ///
    /// # Errors
    /// [`FederationStartError`].
    pub(crate) async fn over(
        config: &Config,
        db: Db,
        clock: Clock,
        random: Random,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, FederationStartError> {
        let key = ServerKey::load(&db, &random, &config.server_name).await?;
        let key_pair = key.key_pair()?;
        let key_ring = KeyRing::new(
            StoredKeys::new(db),
            FetchedKeys::new(Arc::clone(&transport)),
            config.federation.trusted_key_servers.clone(),
            now_of(&clock),
        );
        Ok(Self {
            shared: Arc::new(Shared {
                enabled: config.federation.enabled,
                faster_joins: config.federation.faster_joins,
                clock,
                random,
                key,
                key_pair,
                transport,
                key_ring,
                paused: Cache::new(MAX_PAUSED),
            }),
        })
    }

    /// Whether rooms are joined without waiting for all of their members.
    pub(crate) fn joins_faster(&self) -> bool {
        self.shared.faster_joins
    }

    /// Whether `federation.enabled` is set: if not, no other server is asked or answered.
    pub(crate) fn is_enabled(&self) -> bool {
        self.shared.enabled
    }

    /// This server's name.
    pub(crate) fn server_name(&self) -> &ServerName {
        self.shared.key.server_name()
    }

    /// Which server sent a request: the one whose signature it carries. `uri` is path and query as
    /// they came.
    ///
    /// # Errors
    /// [`NotAuthenticated`].
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
    pub(crate) async fn authenticate(
        &self,
        method: &http::Method,
        uri: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<OwnedServerName, NotAuthenticated> {
        let mut refused = NotAuthenticated::Signature(BadRequestSignature::Missing);
        for header in headers.get_all(header::AUTHORIZATION).iter().take(MAX_SIGNATURES) {
            let parsed = header
                .to_str()
                .map_err(|_| BadRequestSignature::Malformed("not ASCII"))
                .and_then(XMatrix::parse);
            match parsed {
                Ok(x_matrix) => match self.check(&x_matrix, method, uri, body).await {
                    Ok(()) => {
                        self.contacted(&x_matrix.origin).await;
                        return Ok(x_matrix.origin);
                    }
                    Err(error) => refused = error,
                },
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }

    async fn check(
        &self,
        x_matrix: &XMatrix,
        method: &http::Method,
        uri: &str,
        body: &[u8],
    ) -> Result<(), NotAuthenticated> {
        // Before the key is asked for: nobody makes this server fetch keys with a request that was
        // meant for another one.
        if x_matrix.destination.as_deref().is_some_and(|name| name != self.server_name()) {
            return Err(BadRequestSignature::Destination.into());
        }
        let key = self.request_key(&x_matrix.origin, &x_matrix.key).await?;
        x_matrix.verify(method.as_str(), uri, body, self.server_name(), &key)?;
        Ok(())
    }

    /// A key that signed an event.
    async fn event_key(
        &self,
        server: &ServerName,
        id: &str,
        purpose: Purpose,
        helper: Option<&ServerName>,
    ) -> Result<VerifyingKey, KeyRingError> {
        if server == self.server_name() {
            // Nobody has to be asked for one's own key.
            let key = &self.shared.key;
            let not_found =
                || KeyRingError::NotFound { server: server.to_owned(), key: id.to_owned() };
            if id == key.key_id() {
                return Ok(key.verifying_key());
            }
            let old = key.retired().iter().find(|old| old.key_id == id).ok_or_else(not_found)?;
            return match purpose {
                Purpose::AnyEvent => Ok(old.key),
                Purpose::Event { origin_server_ts } if origin_server_ts <= old.expired_ms => {
                    Ok(old.key)
                }
                Purpose::Event { .. } | Purpose::Request => Err(not_found()),
            };
        }
        self.shared.key_ring.key(server, id, purpose, helper).await
    }

    /// Random, to spread what would happen at the same time.
    pub(crate) fn spread(&self) -> u64 {
        u64::from_be_bytes(self.shared.random.bytes())
    }

    /// An ID for a transaction, never used before.
    pub(crate) fn transaction_id(&self) -> OwnedTransactionId {
        self.shared.random.token::<12>().into()
    }

    async fn request_key(
        &self,
        server: &ServerName,
        id: &str,
    ) -> Result<VerifyingKey, KeyRingError> {
        self.shared.key_ring.key(server, id, Purpose::Request, None).await
    }

    /// A request came from `server`: it is there, whatever was thought of it.
    async fn contacted(&self, server: &ServerName) {
        self.shared.paused.invalidate(server);
        self.shared.key_ring.contacted(server).await;
    }

    /// What this server publishes of its keys, signed.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server>
    pub(crate) fn own_keys(&self) -> CanonicalJsonObject {
        let key = &self.shared.key;
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let public = [("key".to_owned(), text(&key.public_key()))].into();
        let valid_until_ms = self.shared.clock.now_ms() + KEY_VALIDITY_MS;
        let mut object = CanonicalJsonObject::from([
            ("server_name".to_owned(), text(self.server_name().as_str())),
            (
                "verify_keys".to_owned(),
                CanonicalJsonValue::Object(
                    [(key.key_id().to_owned(), CanonicalJsonValue::Object(public))].into(),
                ),
            ),
            ("old_verify_keys".to_owned(), CanonicalJsonValue::Object(old_keys(key))),
            (
                "valid_until_ts".to_owned(),
                // Exact up to the year 287,396.
                CanonicalJsonValue::Integer(valid_until_ms.try_into().unwrap_or_default()),
            ),
        ]);
        self.sign(&mut object);
        object
    }

    /// The keys of `servers` as far as they can be had, each with this server's signature besides.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>
    pub(crate) async fn notarized_keys(
        &self,
        server: &ServerName,
        valid_until_ms: u64,
    ) -> Option<CanonicalJsonObject> {
        if server == self.server_name() {
            return Some(self.own_keys());
        }
        let keys: Arc<ServerKeys> = self.shared.key_ring.published(server, valid_until_ms).await?;
        let mut object: CanonicalJsonObject = serde_json::from_str(keys.json()).ok()?;
        self.sign(&mut object);
        Some(object)
    }

    /// Adds this server's signature.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/appendices/#signing-json>
    fn sign(&self, object: &mut CanonicalJsonObject) {
        let key = &self.shared.key;
        let signatures = object.remove("signatures");
        let unsigned = object.remove("unsigned");
        let signed = serde_json::to_vec(object).expect("canonical JSON has string keys only");
        let mut signatures = match signatures {
            Some(CanonicalJsonValue::Object(signatures)) => signatures,
            _ => CanonicalJsonObject::new(),
        };
        let own = signatures.entry(self.server_name().to_string());
        let own = own.or_insert_with(|| CanonicalJsonValue::Object([].into()));
        if !matches!(own, CanonicalJsonValue::Object(_)) {
            *own = CanonicalJsonValue::Object([].into());
        }
        if let CanonicalJsonValue::Object(own) = own {
            own.insert(key.key_id().to_owned(), key.sign(&signed).into());
        }
        object.insert("signatures".to_owned(), CanonicalJsonValue::Object(signatures));
        if let Some(unsigned) = unsigned {
            object.insert("unsigned".to_owned(), unsigned);
        }
    }
}

/// The keys that events were signed with before, as they are published.
fn old_keys(key: &ServerKey) -> CanonicalJsonObject {
    let published = |old: &RetiredKey| {
        let key = Base64::<Standard>::new(old.key.as_bytes().to_vec()).encode();
        let expired_ms = old.expired_ms.try_into().unwrap_or_default();
        let old_key = CanonicalJsonObject::from([
            ("key".to_owned(), CanonicalJsonValue::String(key)),
            ("expired_ts".to_owned(), CanonicalJsonValue::Integer(expired_ms)),
        ]);
        (old.key_id.clone(), CanonicalJsonValue::Object(old_key))
    };
    key.retired().iter().map(published).collect()
}

fn now_of(clock: &Clock) -> Now {
    let clock = clock.clone();
    Arc::new(move || clock.now_ms())
}
