//! Keys of other servers: kept in the database, fetched over the network.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use federation::{KeyFetch, KeyStore, Limits, ServerKeys, Transport};
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode, header};
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::storage::{Batch, Db, Json, schema::SERVER_KEYS};

/// What asking for keys may take.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 64 * 1024 };
/// The most answers of a notary that are looked at.
const MAX_ANSWERS: usize = 8;

/// What a server published of its keys, and when it was asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ServerKeysRecord {
    /// As it came, signatures included.
    json: String,
    /// In ms since the Unix epoch.
    fetched_at_ms: u64,
}

/// Keys in the database.
pub(super) struct StoredKeys {
    db: Db,
}

impl StoredKeys {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }
}

impl KeyStore for StoredKeys {
    fn load<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<(String, u64)>> {
        Box::pin(async move {
            // What can't be read is fetched.
            let row = SERVER_KEYS.get(&self.db, server).await.unwrap_or_else(|error| {
                tracing::error!(%error, "keys of another server can't be read");
                None
            });
            row.map(|Json(row)| (row.json, row.fetched_at_ms))
        })
    }

    fn store<'a>(&'a self, keys: &'a ServerKeys, fetched_at_ms: u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let row = ServerKeysRecord { json: keys.json().to_owned(), fetched_at_ms };
            // If it is lost it is fetched again.
            let mut batch = Batch::unsynced();
            SERVER_KEYS.put(&mut batch, keys.server(), &Json(row));
            if let Err(error) = self.db.commit(batch).await {
                tracing::error!(%error, "keys of another server can't be kept");
            }
        })
    }
}

/// Keys from the network.
pub(super) struct FetchedKeys {
    transport: Arc<dyn Transport>,
}

impl FetchedKeys {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    async fn ask(&self, server: &ServerName, request: Request<Bytes>) -> Option<Bytes> {
        match self.transport.send(server, request, LIMITS).await {
            Ok(answer) if answer.status() == StatusCode::OK => Some(answer.into_body()),
            Ok(answer) => {
                tracing::debug!(%server, status = %answer.status(), "no keys");
                None
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(%server, error, "no keys");
                None
            }
        }
    }
}

impl KeyFetch for FetchedKeys {
    fn direct<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let request = Request::builder().uri("/_matrix/key/v2/server").body(Bytes::new());
            let body = self.ask(server, request.ok()?).await?;
            String::from_utf8(body.into()).ok()
        })
    }

    fn notary<'a>(
        &'a self,
        notary: &'a ServerName,
        server: &'a ServerName,
        valid_until_ms: u64,
    ) -> BoxFuture<'a, Vec<String>> {
        #[derive(Serialize)]
        struct Criteria {
            minimum_valid_until_ts: u64,
        }
        #[derive(Serialize)]
        struct Query<'a> {
            server_keys: BTreeMap<&'a ServerName, BTreeMap<&'a str, Criteria>>,
        }
        #[derive(Deserialize)]
        struct Answer {
            server_keys: Vec<Box<RawValue>>,
        }
        let asking = async move {
            // No key is named: the notary tells of all. The time needs one, and any will do.
            let criteria = Criteria { minimum_valid_until_ts: valid_until_ms };
            let keys = BTreeMap::from([("ed25519:", criteria)]);
            let query = Query { server_keys: BTreeMap::from([(server, keys)]) };
            let request = Request::builder()
                .method(Method::POST)
                .uri("/_matrix/key/v2/query")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Bytes::from(serde_json::to_vec(&query).ok()?))
                .ok()?;
            let body = self.ask(notary, request).await?;
            let answer: Answer = serde_json::from_slice(&body).ok()?;
            let keys = answer.server_keys.into_iter().take(MAX_ANSWERS);
            Some(keys.map(|json| json.get().to_owned()).collect())
        };
        Box::pin(async move { asking.await.unwrap_or_default() })
    }
}

/// The queries of a notary's request, with the latest time that each asks for.
pub(crate) fn queries(
    request: ruma::api::federation::discovery::get_remote_server_keys_batch::v2::Request,
    now_ms: u64,
) -> Vec<(OwnedServerName, u64)> {
    let until = |criteria: Option<ruma::MilliSecondsSinceUnixEpoch>| {
        criteria.map_or(now_ms, |time| u64::from(time.0))
    };
    request
        .server_keys
        .into_iter()
        .map(|(server, keys)| {
            let times = keys.into_values().map(|key| until(key.minimum_valid_until_ts));
            (server, times.max().unwrap_or(now_ms))
        })
        .collect()
}
