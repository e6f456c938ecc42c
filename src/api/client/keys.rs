//! The keys of end-to-end encryption.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, response::IntoResponse};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId, UInt,
    api::client::{
        keys::{
            claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures,
            upload_signing_keys,
        },
        uiaa::AuthType,
    },
    encryption::OneTimeKey,
    serde::Raw,
};
use serde_json::{json, value::RawValue};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    e2ee::{CrossSigningUpload, E2eeError, Keys, Upload},
    sync::{Sync, token::SyncToken},
    users::{
        Accounts,
        session::AuthError,
        uia::{Demand, body_hash},
    },
};

/// Keys as they were uploaded, by `algorithm:id`.
pub(super) fn by_id(
    keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> BTreeMap<String, Box<RawValue>> {
    keys.into_iter().map(|(id, key)| (id.to_string(), key.into_json())).collect()
}

/// `POST /_matrix/client/v3/keys/upload`
pub(crate) async fn upload_keys(
    State(keys): State<Keys>,
    Client { session, request, .. }: Client<upload_keys::v3::Request>,
) -> Result<Ruma<upload_keys::v3::Response>, ApiError> {
    session.device().ok_or(AuthError::NoDevice)?;
    let upload = Upload {
        identity: request.device_keys.map(Raw::into_json),
        one_time: by_id(request.one_time_keys),
        fallback: by_id(request.fallback_keys),
    };
    let counts = keys.upload(&session, &upload).await?;
    let counts = counts.one_time.iter().map(|(algorithm, count)| {
        (OneTimeKeyAlgorithm::from(algorithm.as_str()), UInt::new_saturating(*count))
    });
    Ok(Ruma(upload_keys::v3::Response::new(counts.collect())))
}

/// `POST /_matrix/client/v3/keys/query`
pub(crate) async fn get_keys(
    State(keys): State<Keys>,
    Client { session, request, .. }: Client<get_keys::v3::Request>,
) -> Result<Ruma<get_keys::v3::Response>, ApiError> {
    let found = keys.query(&session, &request.device_keys).await?;
    let mut response = get_keys::v3::Response::new();
    response.failures = failures(found.unreachable);
    for (user, devices) in found.device_keys {
        let devices: BTreeMap<OwnedDeviceId, _> =
            devices.into_iter().map(|(id, keys)| (id, Raw::from_json(keys))).collect();
        response.device_keys.insert(user, devices);
    }
    let raw = |keys: BTreeMap<OwnedUserId, Box<RawValue>>| {
        keys.into_iter().map(|(user, key)| (user, Raw::from_json(key))).collect()
    };
    response.master_keys = raw(found.master_keys);
    response.self_signing_keys = raw(found.self_signing_keys);
    response.user_signing_keys = raw(found.user_signing_keys);
    Ok(Ruma(response))
}

/// Servers that could not be asked, as clients are told of them.
fn failures(unreachable: Vec<OwnedServerName>) -> BTreeMap<String, serde_json::Value> {
    let reason = json!({ "status": 503, "message": "The server could not be reached" });
    unreachable.into_iter().map(|server| (server.to_string(), reason.clone())).collect()
}

/// `POST /_matrix/client/v3/keys/claim`
pub(crate) async fn claim_keys(
    State(keys): State<Keys>,
    Client { request, .. }: Client<claim_keys::v3::Request>,
) -> Result<impl IntoResponse, ApiError> {
    let wanted = request
        .one_time_keys
        .into_iter()
        .map(|(user, devices)| {
            let devices =
                devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string()));
            (user, devices.collect())
        })
        .collect();
    let claimed = keys.claim(&wanted).await?;
    let failures = failures(claimed.unreachable);
    Ok(Json(json!({ "one_time_keys": claimed.keys, "failures": failures })))
}

/// `GET /_matrix/client/v3/keys/changes`
pub(crate) async fn get_key_changes(
    State(sync): State<Arc<Sync>>,
    Client { session, request, .. }: Client<get_key_changes::v3::Request>,
) -> Result<Ruma<get_key_changes::v3::Response>, ApiError> {
    let from: SyncToken = request.from.parse().map_err(ApiError::invalid_param)?;
    let to: SyncToken = request.to.parse().map_err(ApiError::invalid_param)?;
    let lists = sync.key_changes(&session, from, to).await?;
    Ok(Ruma(get_key_changes::v3::Response::new(lists.changed, lists.left)))
}

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub(crate) async fn upload_signing_keys(
    State(keys): State<Keys>,
    State(accounts): State<Accounts>,
    Client { session, request, caller, body }: Client<upload_signing_keys::v3::Request>,
) -> Result<Ruma<upload_signing_keys::v3::Response>, ApiError> {
    let upload = CrossSigningUpload {
        master: request.master_key.map(Raw::into_json),
        self_signing: request.self_signing_key.map(Raw::into_json),
        user_signing: request.user_signing_key.map(Raw::into_json),
    };
    let plan = keys.plan_cross_signing(&session, &upload).await?;
    // An application service has proved who it is, and has no password.
    if plan.needs_proof && session.appservice.is_none() {
        let proof = accounts
            .authenticate(Demand {
                endpoint: "POST /keys/device_signing/upload",
                body: Some(body_hash(&body)),
                user: Some(session.user),
                flows: vec![vec![AuthType::Password]],
                auth: request.auth.as_ref(),
                caller: &caller,
            })
            .await?;
        accounts.spend(&proof).await?;
    }
    keys.store_cross_signing(plan).await?;
    Ok(Ruma(upload_signing_keys::v3::Response::new()))
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
pub(crate) async fn upload_signatures(
    State(keys): State<Keys>,
    Client { session, request, .. }: Client<upload_signatures::v3::Request>,
) -> Result<impl IntoResponse, ApiError> {
    let signed = request
        .signed_keys
        .into_iter()
        .map(|(user, keys)| {
            let keys = keys.iter().map(|(id, key)| (id.to_owned(), key.to_owned()));
            (user, keys.collect())
        })
        .collect();
    let failures: BTreeMap<OwnedUserId, BTreeMap<String, serde_json::Value>> = keys
        .add_signatures(&session, &signed)
        .await?
        .into_iter()
        .map(|(user, keys)| {
            let keys = keys.into_iter().map(|(id, error)| (id, failure(&error)));
            (user, keys.collect())
        })
        .collect();
    Ok(Json(json!({ "failures": failures })))
}

/// Why the signature of one key was not taken.
fn failure(error: &E2eeError) -> serde_json::Value {
    let errcode = match error {
        E2eeError::NotFound { .. } => "M_NOT_FOUND",
        E2eeError::InvalidSignature { .. } => "M_INVALID_SIGNATURE",
        E2eeError::TooLarge { .. } => "M_TOO_LARGE",
        _ => "M_INVALID_PARAM",
    };
    json!({ "errcode": errcode, "error": error.to_string() })
}
