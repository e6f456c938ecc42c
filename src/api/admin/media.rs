//! Keeping media from people, and removing it.

use axum::{
    Json,
    extract::{Query, State},
};
use media::blob::Hash;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use crate::{
    api::error::ApiError,
    content::{Content, QuarantineTarget as Target},
    rooms::Rooms,
    users::Accounts,
};

/// Media of one user that are read at a time.
const STEP: usize = 500;
/// Lines of a page of what is quarantined.
const PAGE: usize = 100;

/// `POST /_synapse/admin/v1/media/quarantine/{server_name}/{media_id}`
pub(crate) async fn quarantine(
    State(content): State<Content>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let target = Target::Media(admin.argument(0)?, admin.argument(1)?);
    content.quarantine(&[target], &admin.session.user_id).await?;
    Ok(Json(json!({})))
}

/// `POST /_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}`
pub(crate) async fn release(
    State(content): State<Content>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    content.release(&Target::Media(admin.argument(0)?, admin.argument(1)?)).await?;
    Ok(Json(json!({})))
}

/// `POST /_synapse/admin/v1/room/{room_id}/media/quarantine`
pub(crate) async fn quarantine_room(
    State(content): State<Content>,
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let media = rooms.media_of_room(&room_id).await?;
    let targets: Vec<Target> =
        media.into_iter().map(|(server, id)| Target::Media(server, id)).collect();
    content.quarantine(&targets, &admin.session.user_id).await?;
    Ok(Json(json!({ "num_quarantined": targets.len() })))
}

/// `GET /_synapse/admin/v1/room/{room_id}/media`
pub(crate) async fn get_room_media(
    State(rooms): State<Rooms>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let room_id: OwnedRoomId = admin.argument(0)?;
    let (local, remote): (Vec<_>, Vec<_>) = rooms
        .media_of_room(&room_id)
        .await?
        .into_iter()
        .partition(|(server, _)| server == rooms.server_name());
    let uris = |media: Vec<(OwnedServerName, String)>| -> Vec<String> {
        media.into_iter().map(|(server, id)| format!("mxc://{server}/{id}")).collect()
    };
    Ok(Json(json!({ "local": uris(local), "remote": uris(remote) })))
}

/// `POST /_synapse/admin/v1/user/{user_id}/media/quarantine`: what the user has uploaded by now.
pub(crate) async fn quarantine_user(
    State(content): State<Content>,
    State(accounts): State<Accounts>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let user_id: OwnedUserId = admin.argument(0)?;
    let (user, _) =
        accounts.find(&user_id).await?.ok_or_else(|| ApiError::not_found("Unknown user"))?;
    let (mut count, mut after) = (0, None);
    loop {
        let page = content.of_user(user, after, STEP).await?;
        after = page.last().map(|((_, id), at_ms, _)| (*at_ms, id.clone()));
        let targets: Vec<Target> =
            page.into_iter().map(|((server, id), ..)| Target::Media(server, id)).collect();
        content.quarantine(&targets, &admin.session.user_id).await?;
        count += targets.len();
        if targets.len() < STEP {
            return Ok(Json(json!({ "num_quarantined": count })));
        }
    }
}

/// `DELETE /_synapse/admin/v1/media/{server_name}/{media_id}`
pub(crate) async fn delete(
    State(content): State<Content>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let (server, id): (OwnedServerName, String) = (admin.argument(0)?, admin.argument(1)?);
    if !content.remove(&server, &id).await? {
        return Err(ApiError::not_found("Unknown media"));
    }
    Ok(Json(json!({ "deleted_media": [id], "total": 1 })))
}

/// Which media nobody wants.
#[derive(Deserialize)]
pub(crate) struct Unwanted {
    /// Nobody wanted it since, in ms since the Unix epoch.
    before_ts: u64,
    /// Only larger ones, in bytes.
    #[serde(default)]
    size_gt: u64,
    /// Whether the pictures of users stay.
    keep_profiles: Option<bool>,
}

/// `POST /_synapse/admin/v1/media/delete`
pub(crate) async fn delete_before(
    State(content): State<Content>,
    Query(unwanted): Query<Unwanted>,
    _admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let keep_profiles = unwanted.keep_profiles.unwrap_or(true);
    let removed = content
        .remove_unwanted_since(unwanted.before_ts, unwanted.size_gt, true, keep_profiles)
        .await?;
    Ok(Json(json!({ "total": removed.len(), "deleted_media": removed })))
}

/// `POST /_synapse/admin/v1/purge_media_cache`
pub(crate) async fn purge_cache(
    State(content): State<Content>,
    Query(unwanted): Query<Unwanted>,
    _admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let removed =
        content.remove_unwanted_since(unwanted.before_ts, unwanted.size_gt, false, false).await?;
    Ok(Json(json!({ "deleted": removed.len() })))
}

/// What else can be quarantined: a server, a content, or whatever a user uploads from now on too.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wide {
    /// A server's name.
    Server(OwnedServerName),
    /// The hash of a content, in hexadecimal.
    Sha256(String),
    /// A user of this server.
    User(OwnedUserId),
}

async fn wide(accounts: &Accounts, wide: &Wide) -> Result<Target, ApiError> {
    Ok(match wide {
        Wide::Server(server) => Target::Server(server.clone()),
        Wide::Sha256(hash) => {
            let hash: Option<Hash> = hash.parse().ok();
            Target::Hash(hash.ok_or_else(|| ApiError::invalid_param("this is no SHA-256"))?)
        }
        Wide::User(user) => {
            let found = accounts.find(user).await?;
            Target::User(found.ok_or_else(|| ApiError::not_found("Unknown user"))?.0)
        }
    })
}

/// `POST /_myelin/admin/v1/quarantine`
pub(crate) async fn quarantine_wide(
    State(content): State<Content>,
    State(accounts): State<Accounts>,
    admin: Admin<Wide>,
) -> Result<Json<Value>, ApiError> {
    let target = wide(&accounts, &admin.value).await?;
    content.quarantine(&[target], &admin.session.user_id).await?;
    Ok(Json(json!({})))
}

/// `DELETE /_myelin/admin/v1/quarantine`
pub(crate) async fn release_wide(
    State(content): State<Content>,
    State(accounts): State<Accounts>,
    admin: Admin<Wide>,
) -> Result<Json<Value>, ApiError> {
    content.release(&wide(&accounts, &admin.value).await?).await?;
    Ok(Json(json!({})))
}

/// A place in the list of what is quarantined.
#[derive(Deserialize)]
pub(crate) struct After {
    /// The last of the page before.
    after: Option<String>,
}

/// `GET /_myelin/admin/v1/quarantine`
pub(crate) async fn get_quarantine(
    State(content): State<Content>,
    Query(After { after }): Query<After>,
    _admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let after = after.as_deref().and_then(|after| after.split_once(':'));
    let after = after.map(|(kind, what)| (kind.to_owned(), what.to_owned()));
    let found = content.quarantined(after.as_ref(), PAGE).await?;
    let last = found.last().filter(|_| found.len() == PAGE);
    let next = last.map(|(kind, what, _)| format!("{kind}:{what}"));
    let listed: Vec<Value> = found
        .iter()
        .map(|(kind, what, record)| {
            json!({ "kind": kind, "what": what, "by": record.by, "at_ms": record.at_ms })
        })
        .collect();
    Ok(Json(json!({ "quarantined": listed, "next": next })))
}
